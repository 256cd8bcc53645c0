"""Reads what ``sim --out``, ``bench --out`` and ``train --out`` wrote; files are untrusted and errors name them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curbench.types import Array


@dataclass(frozen=True)
class TrainingRun:
    """One run directory: spec, environments, rows per step, evaluations and the slots it selected."""

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
    kernel: list[dict[str, Any]] = field(default_factory=list)
    training: list[TrainingRun] = field(default_factory=list)
    environment: list[dict[str, Any]] = field(default_factory=list)


def collect(paths: list[Path]) -> Collection:
    """All results under the given folders and files, in the order of their paths.

    Raises ValueError if a path does not exist, a file is malformed, or nothing is found.
    """
    found = Collection()
    for root in paths:
        if not root.exists():
            raise ValueError(f"{root} does not exist; give folders that sim, bench or train wrote with --out")
        for path in [root] if root.is_file() else sorted(root.rglob("*.json")):
            _add(found, path)
    if not (found.simulation or found.kernel or found.training):
        names = ", ".join(str(path) for path in paths)
        raise ValueError(f"no results in {names}; give folders that sim, bench or train wrote with --out")
    return found


def _add(found: Collection, path: Path) -> None:
    content = _read_json(path)
    if not isinstance(content, dict):
        return
    if path.name == "run.json":
        run = _read_run(path, content)
        if run.evaluation:
            found.training.append(run)
            found.environment.extend(run.environment)
    elif {"row", "round", "curve"} <= content.keys():
        found.simulation.append(content)
        found.environment.append(content["environment"])
    elif {"rows", "environment"} <= content.keys():
        found.kernel.extend(content["rows"])
        found.environment.append(content["environment"])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno} is not JSON: {error.msg}") from None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON: {error.msg}") from None
    return rows


def _read_run(path: Path, content: dict[str, Any]) -> TrainingRun:
    missing = {"spec", "environment", "status"} - content.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; it is not the run.json of a training run")
    files = sorted((path.parent / "selections").glob("*.parquet"))
    parts = [pq.read_table(file, columns=["step", "problem"]) for file in files]
    column = {
        name: np.concatenate([np.empty(0, np.int64), *(part[name].to_numpy() for part in parts)]).astype(np.int64)
        for name in ("step", "problem")
    }
    return TrainingRun(
        spec=content["spec"],
        environment=content["environment"],
        status=content["status"],
        step=_read_lines(path.parent / "steps.jsonl"),
        evaluation=_read_lines(path.parent / "evals.jsonl"),
        selected_step=column["step"],
        selected_problem=column["problem"],
    )
