"""Reads what sim, sweep, bench and train wrote to --out; files are untrusted and errors name them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curbench.record import read_evaluations, read_json, read_lines, require_keys, write_atomic
from curbench.sim.grid import read_unit
from curbench.sim.learner_grid import read_learner_unit

PACK = ".runs.parquet"
"""How the name of a pack of training runs ends."""

Lines = Path | str
"""A file of JSON lines, or their text."""


@dataclass(frozen=True)
class TrainingRun:
    """One run: spec, environments, rows per step, evaluations; strata are the names of its bank's, where it said."""

    directory: Path
    spec: dict[str, Any]
    environment: list[dict[str, Any]]
    status: str
    step: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]
    strata: tuple[str, ...] = ()

    def until(self, tokens: int) -> TrainingRun:
        """The run as it stood at its last evaluation within so many tokens."""
        evaluation = [row for row in self.evaluation if row["tokens"] <= tokens]
        step = [row for row in self.step if row["step"] <= evaluation[-1]["step"]]
        return replace(self, evaluation=evaluation, step=step)


@dataclass(frozen=True)
class Collection:
    """Everything a report shows."""

    simulation: list[dict[str, Any]] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    learner: list[dict[str, Any]] = field(default_factory=list)
    replay: list[dict[str, Any]] = field(default_factory=list)
    kernel: list[dict[str, Any]] = field(default_factory=list)
    training: list[TrainingRun] = field(default_factory=list)
    environment: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    """Directories of training runs that have not used up their budget."""


def collect(paths: list[Path]) -> Collection:
    """All results under the given folders and files, in the order of their paths; a file given twice counts once.

    Raises ValueError if a path does not exist, a file is malformed, or nothing is found.
    """
    found, seen = Collection(), set[Path]()
    for root in paths:
        if not root.exists():
            raise ValueError(f"{root} does not exist; give folders that sim, sweep, bench or train wrote with --out")
        parquet = root.rglob("*.parquet")
        runs = any(root.rglob("run.json"))  # a pack beside them was made of them
        units = [path for path in parquet if path.parent.name in UNITS or (path.name.endswith(PACK) and not runs)]
        for path in [root] if root.is_file() else sorted([*root.rglob("*.json"), *units]):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _add(found, path)
    if not (found.simulation or found.sweep or found.learner or found.replay or found.kernel or found.training):
        names = ", ".join(str(path) for path in paths)
        if found.unfinished:
            count = len(found.unfinished)
            raise ValueError(f"no results in {names}; {count} unfinished run(s): continue with train --resume")
        raise ValueError(f"no results in {names}; give folders that sim, sweep, bench or train wrote with --out")
    return found


def _add(found: Collection, path: Path) -> None:
    if path.name.endswith(PACK):
        for where, run, step, evaluation in read_pack(path):
            _add_run(found, where, run, step, evaluation)
        return
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
        if "learner" in content.get("spec", {}):
            return  # the steps of a simulated run, kept for replay; its results are in the file of its unit
        _add_run(found, path, content, *(path.parent / name for name in ("steps.jsonl", "evals.jsonl")))
    elif {"row", "round", "curve"} <= content.keys():
        require_keys(path, content, "bound_curve", "lower_curve")
        _check(path, content, SIMULATION)
        found.simulation.append(content)
        found.environment.append(content["environment"])
    elif {"replay", "environment"} <= content.keys():
        _check(path, content, {"environment": ENVIRONMENT})
        for row in content["replay"]:
            require_keys(f"{path}: a row", row, *REPLAY.split())
            _check(path, row, {"estimates": "ips snips dr"})
            for one in (row["logged"], *row["estimates"].values()):
                require_keys(f"{path}: an estimate", one, "mean", "lo", "hi")
        found.replay.extend(content["replay"])
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
REPLAY = "run logged_by curator hyper signal slots effective_slots logged estimates says"
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


def _add_run(found: Collection, path: Path, run: dict[str, Any], step: Lines, evaluation: Lines) -> None:
    """Adds a training run. path: of its run.json, for errors; step and evaluation: files or their text."""
    require_keys(path, run, "spec", "environment", "status")
    require_keys(f"{path}: spec", run["spec"], "suite", "curator", "seed")
    for one in run["environment"]:
        require_keys(f"{path}: environment", one, *ENVIRONMENT.split())
    complete = run["status"] == "complete"
    if not complete:
        found.unfinished.append(path.parent)
        if isinstance(evaluation, Path) and not evaluation.exists():
            return
    evaluations = read_evaluations(path.parent, evaluation, torn=not complete)
    if not evaluations:
        return
    one = TrainingRun(
        directory=path.parent,
        spec=run["spec"],
        environment=run["environment"],
        status=run["status"],
        step=read_lines(step, "step", "degenerate", "seconds", where=path.parent / "steps.jsonl", torn=not complete),
        evaluation=evaluations,
        strata=tuple(run.get("bank", {}).get("strata", ())),
    )
    found.training.append(one)
    found.environment.extend(one.environment)


def write_pack(out: Path, runs: list[TrainingRun]) -> None:
    """Puts training runs into one compressed file from which the page can be made again, floats to six digits.

    Raises ValueError unless the name of ``out`` ends in ``.runs.parquet``.
    """
    if not out.name.endswith(PACK):
        raise ValueError(f"a pack of runs is named SOMETHING{PACK}; got {out.name}")
    root = os.path.commonpath([run.directory for run in runs]) if len(runs) > 1 else runs[0].directory.parent
    row = [
        {
            "directory": str(run.directory.relative_to(root)),
            "run": json.dumps(
                {"spec": run.spec, "environment": run.environment, "status": run.status, "bank": {"strata": run.strata}}
            ),
            "steps": _lines(run.step),
            "evaluations": _lines(run.evaluation),
        }
        for run in runs
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(row), sink, compression="zstd", compression_level=19)
    write_atomic(out, sink.getvalue().to_pybytes())


def _lines(rows: list[dict[str, Any]]) -> str:
    """One JSON object per line, floats to six digits."""
    return "".join(json.dumps(_rounded(row)) + "\n" for row in rows)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def read_pack(path: Path) -> Iterator[tuple[Path, dict[str, Any], str, str]]:
    """(where its run.json was, run, steps, evaluations) of every run in a pack; raises ValueError, naming the file."""
    try:
        table = pq.read_table(path, columns=["directory", "run", "steps", "evaluations"]).to_pylist()
        for row in table:
            yield path / row["directory"] / "run.json", json.loads(row["run"]), row["steps"], row["evaluations"]
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a pack of training runs: {error}") from None
