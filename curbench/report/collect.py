"""Reads what sim, sweep, bench and train wrote to --out; files are untrusted and errors name them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curbench.record import read_evaluations, read_json, read_lines, require_keys
from curbench.sim.grid import read_unit
from curbench.sim.learner_grid import read_learner_unit
from curbench.types import Array


@dataclass(frozen=True)
class TrainingRun:
    """One finished run: spec, environments, rows per step, evaluations and the slots it selected."""

    directory: Path
    spec: dict[str, Any]
    environment: list[dict[str, Any]]
    status: str
    step: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]
    selected_step: Array
    selected_problem: Array


@dataclass(frozen=True)
class Collection:
    """Everything a report shows."""

    simulation: list[dict[str, Any]] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    learner: list[dict[str, Any]] = field(default_factory=list)
    kernel: list[dict[str, Any]] = field(default_factory=list)
    training: list[TrainingRun] = field(default_factory=list)
    environment: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    """Directories of training runs that have not used up their budget; nothing else of them is read."""


def collect(paths: list[Path]) -> Collection:
    """All results under the given folders and files, in the order of their paths; a file given twice counts once.

    Raises ValueError if a path does not exist, a file is malformed, or nothing is found.
    """
    found, seen = Collection(), set[Path]()
    for root in paths:
        if not root.exists():
            raise ValueError(f"{root} does not exist; give folders that sim, sweep, bench or train wrote with --out")
        units = [path for path in root.rglob("*.parquet") if path.parent.name in UNITS]
        for path in [root] if root.is_file() else sorted([*root.rglob("*.json"), *units]):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _add(found, path)
    if not (found.simulation or found.sweep or found.learner or found.kernel or found.training):
        names = ", ".join(str(path) for path in paths)
        if found.unfinished:
            count = len(found.unfinished)
            raise ValueError(f"no results in {names}; {count} unfinished run(s): continue with train --resume")
        raise ValueError(f"no results in {names}; give folders that sim, sweep, bench or train wrote with --out")
    return found


def _add(found: Collection, path: Path) -> None:
    if path.suffix == ".parquet":
        kind = path.parent.name if path.parent.name in UNITS else "sweep"
        read, keys = UNITS[kind]
        unit = read(path)
        _check(path, unit, keys)
        (found.learner if kind == "learn" else found.sweep).append(unit)
        found.environment.append(unit["environment"])
        return
    content = read_json(path)
    if not isinstance(content, dict):
        return
    if path.name == "run.json":
        require_keys(path, content, "spec", "environment", "status")
        if "learner" in content["spec"]:
            return  # the steps of a simulated run, whose results are in the file of its unit
        if content["status"] == "complete":
            run = _read_run(path, content)
            found.training.append(run)
            found.environment.extend(run.environment)
        else:
            found.unfinished.append(path.parent)
    elif {"row", "round", "curve"} <= content.keys():
        require_keys(path, content, "bound_curve", "lower_curve")
        _check(path, content, SIMULATION)
        found.simulation.append(content)
        found.environment.append(content["environment"])
    elif {"rows", "environment"} <= content.keys():
        _check(path, content, {"environment": ENVIRONMENT})
        for row in content["rows"]:
            require_keys(f"{path}: a row", row, *KERNEL.split())
        found.kernel.extend(content["rows"])
        found.environment.append(content["environment"])


ENVIRONMENT = "command commit versions python machine"
SIMULATION = {
    "environment": ENVIRONMENT,
    "row": "arms curator arms_count horizon batch noise seeds regret bound holds certificate budget hyper "
    "us_per_round driver",
    "row.hyper": "",
    "row.regret": "mean lo hi kind comparator",
    "row.bound": "name value source status vacuous informative_from",
    "row.certificate": "min_slack holds",
}
SWEEP = SIMULATION | {"row": SIMULATION["row"] + " parameter delay instance_seed", "row.parameter": ""}
LEARNER = {
    "environment": ENVIRONMENT,
    "row": "learner curator batch group delay estimator instance_seed parameter budget hyper chosen_signal seeds steps "
    "tokens start competence area target reached tokens_to_target wasted regret",
    **{f"row.{name}": "mean lo hi" for name in ("competence", "area", "wasted", "regret")},
}
KERNEL = "op variant shape size dtype threads backend peer us peer_us ratio bytes fraction_of_ceiling"
"""What the page reads, by the dotted place of the object that holds it."""


UNITS: dict[str, tuple[Callable[[Path], dict[str, Any]], dict[str, str]]] = {
    "sweep": (read_unit, SWEEP),
    "learn": (read_learner_unit, LEARNER),
}
"""How the Parquet files of a folder are read, and what the page reads of them."""


def _check(path: Path, content: dict[str, Any], keys: dict[str, str]) -> None:
    """Raises ValueError, naming the file, if an object in ``content`` lacks one of its keys."""
    for place, names in keys.items():
        value: Any = content
        for part in place.split("."):
            require_keys(path, value, part)
            value = value[part]
        require_keys(f"{path}: {place}", value, *names.split())


def _read_run(path: Path, content: dict[str, Any]) -> TrainingRun:
    require_keys(f"{path}: spec", content["spec"], "suite", "curator", "seed")
    for one in content["environment"]:
        require_keys(f"{path}: environment", one, *ENVIRONMENT.split())
    step = read_lines(path.parent / "steps.jsonl", "step", "degenerate", "seconds")
    evaluation = read_evaluations(path.parent)
    files = sorted((path.parent / "selections").glob("*.parquet"))
    selected = np.concatenate([np.empty((2, 0), np.int64), *map(_read_slots, files)], axis=1)
    return TrainingRun(
        directory=path.parent,
        spec=content["spec"],
        environment=content["environment"],
        status=content["status"],
        step=step,
        evaluation=evaluation,
        selected_step=selected[0],
        selected_problem=selected[1],
    )


def _read_slots(path: Path) -> Array:
    """i64[2, n], step and problem of the slots in one part of a run's selections."""
    try:
        table = pq.read_table(path, columns=["step", "problem"])
        return np.array([table["step"], table["problem"]], np.int64)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
