"""Imports go strictly downwards, and the light path stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "curbench"
LAYERS = [
    {"provenance", "types", "compiled", "philox", "sumtree", "sampling", "mirror", "stats", "settings"},
    {"kernels"},
    {"advantage", "signals", "regret", "features"},
    {"curators", "suites"},
    {"loop", "record", "config", "schedules", "averaging", "track"},
    {"sim", "train", "integrations"},
    {"report", "bench", "doctor", "replay", "serve"},
    {"engine", "sweep", "quickstart", "console"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SEPARATE = {"sim", "train", "integrations"}


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Top-level units of curbench that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "curbench":
            names = [f"curbench.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("curbench.")}
    return found - {"__version__"}


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    own = unit(path)
    for other in imports(path) - {own}:
        assert LEVEL[other] <= LEVEL[own], f"{path.name} (layer {LEVEL[own]}) imports {other} (layer {LEVEL[other]})"
        assert not (own in SEPARATE and other in SEPARATE), f"{own} must not import {other}"


def test_units_of_one_layer_do_not_import_each_other_in_circles():
    graph = {name: set() for name in LEVEL}
    for path in FILES:
        graph[unit(path)] |= {other for other in imports(path) if other != unit(path)}
    done = set()
    while len(done) < len(graph):
        ready = {name for name in graph if name not in done and graph[name] <= done}
        assert ready, f"import cycle among {sorted(set(graph) - done)}"
        done |= ready


def test_only_the_suites_and_those_who_train_or_report_import_suites():
    users = {unit(path) for path in FILES if "suites" in imports(path)} - {"suites"}
    assert users <= {"train", "replay", "serve", "report", "quickstart", "cli", "doctor"}


def test_simulator_and_tabular_curators_never_import_torch():
    code = (
        "import sys, curbench.sim.simulate, curbench.curators.osmd, curbench.curators.sec;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command_line_imports_nothing_heavy():
    code = (
        "import sys, curbench.cli;"
        "assert not {'torch', 'numba', 'numpy', 'matplotlib', 'pyarrow'} & set(sys.modules), set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
