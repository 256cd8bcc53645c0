"""The tables of the README are those of the results that are committed."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "benchmarks" / "readme_tables.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_readme_shows_the_committed_results(tables):
    text = (ROOT / "README.md").read_text()
    assert text == tables.written(text, tables.RESULTS), "run python benchmarks/readme_tables.py"


def test_committed_results_name_no_folder_and_no_commit_with_changes():
    results = ROOT / "benchmarks" / "results"
    for path in [*results.glob("*/bench.json"), *results.glob("*/campaign.json")]:
        environment = json.loads(path.read_text())["environment"]
        assert " /" not in environment["command"], path
        assert not (environment["commit"] or "").endswith("+"), f"{path} was measured with uncommitted changes"


ROW = {"op": "draw", "shape": "9", "variant": "race", "dtype": "float32", "backend": "cpu", "us": 1500.0}
ROW |= {"peer": "numpy", "ratio": 21.0, "fraction_of_ceiling": 0.5, "ceiling": "read", "note": None}


def test_tables_hold_what_the_files_hold(tables, tmp_path):
    marked = (
        "a\n<!-- cpu table -->\nold\n<!-- end of cpu table -->\nb\n<!-- gpu table -->\nx\n<!-- end of gpu table -->\n"
    )
    assert tables.written(marked, tmp_path).count("not measured yet") == 2
    timed = [
        ROW | {"target": 20, "target_row": 10, "met": True},
        ROW | {"peer": "torch", "ratio": None, "note": "unable to run", "target": None, "target_row": None},
        ROW | {"shape": "7", "target": None, "target_row": None},
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bench.json").write_text(json.dumps({"environment": {"machine": "mine"}, "rows": timed}))
    late = ROW | {"target_us": 1000.0, "target_row": 14, "met": False}
    campaign = {"device": {"name": "H200"}, "environment": {}, "rows": [late]}
    (tmp_path / "mine" / "campaign.json").write_text(json.dumps(campaign))
    text = tables.written(marked, tmp_path)
    assert "mine, one thread:\n" in text
    assert "| 10 | `draw` | 9 race float32 | 1.5 ms | 50 % read | numpy 21.0 (20), torch: unable to run |" in text
    assert "| 14 | `draw` | 9 race float32 | 1.5 ms | 1.0 ms, missed | 50 % | numpy 21.0 |" in text
    assert "| 7 race" not in text
    assert tables.written(text, tmp_path) == text
    with pytest.raises(ValueError, match="has no part between"):
        tables.written("nothing", tmp_path)
