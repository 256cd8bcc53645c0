"""Results on disk: written by the loop, never overwritten, resumed exactly.

A run directory holds run.json (spec, environment, status), steps.jsonl and evals.jsonl (append-only), selections/ (one
Parquet part per checkpoint: enough for off-policy evaluation later), checkpoint.safetensors (the latest one; replaced
atomically, no pickle) and tensorboard/. What was written after the last checkpoint is cut when the run is resumed, so
that N steps equal k steps, a kill and a resume.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from curbench.loop import Spent, StepResult
from curbench.provenance import environment, memory_mb
from curbench.track import Tracker, trackers
from curbench.types import Bank, Evaluation

State = dict[str, Any]

GROUP = ("success", "mean", "var", "abs_advantage", "degenerate", "length")
"""Statistics of a group (``types.GroupStats``) that a record keeps beside its number of rollouts."""


def flatten(state: State, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, scalars) of a nested state, keyed by their path.

    Raises ValueError for a key with a slash or a value that is neither an array nor JSON.

    >>> flatten({"a": {"b": np.zeros(1), "c": 2}})
    ({'a/b': array([0.])}, {'a/c': 2})
    """
    array: dict[str, np.ndarray] = {}
    scalar: dict[str, Any] = {}
    for key, value in state.items():
        path = f"{prefix}{key}"
        if "/" in str(key):
            raise ValueError(f"state keys must not contain '/'; got {key!r}")
        if isinstance(value, dict):
            inner = flatten(value, path + "/")
            array |= inner[0]
            scalar |= inner[1]
            if not value:
                scalar[path] = {}
        elif isinstance(value, np.ndarray):
            array[path] = np.ascontiguousarray(value).reshape(value.shape)
        elif value is None or isinstance(value, bool | int | float | str | list):
            scalar[path] = value
        else:
            raise ValueError(f"state entry {path} must be an array or JSON; got {type(value).__name__}")
    return array, scalar


def unflatten(flat: dict[str, Any]) -> State:
    """The nested state whose paths are the keys of ``flat``.

    >>> unflatten({"a/b": 1, "a/c": 2})
    {'a': {'b': 1, 'c': 2}}
    """
    state: State = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = state
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return state


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces ``path`` by ``data`` in one step: a reader, a kill or a full disk leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritten(path, error) from None
    os.replace(temporary, path)


def _unwritten(path: Path, error: OSError) -> OSError:
    return OSError(f"{path} could not be written ({error.strerror}); what was complete before is as it was: make room")


def append_line(file: TextIO, row: dict[str, Any]) -> None:
    """Appends one JSON object to an open log, so that a reader sees it at once; raises OSError, naming the file."""
    try:
        file.write(json.dumps(row) + "\n")
        file.flush()
    except OSError as error:
        raise _unwritten(Path(file.name), error) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises ValueError, naming the file, if it is none."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path} is not JSON: {error}") from None


def require_keys(where: object, value: Any, *keys: str) -> None:
    """Raises ValueError, naming ``where``, if ``value`` is not a JSON object with these keys."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a JSON object")
    missing = sorted(set(keys) - value.keys())
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")


def read_lines(source: Path | str, *keys: str, where: Path | None = None, torn: bool = False) -> list[dict[str, Any]]:
    """The JSON objects of a file, or text, one per line; raises ValueError, naming file and line, if one lacks a key.

    where  what errors name; default the file
    torn   leave out a last line that a kill has cut short
    """
    text = source.read_text(errors="replace") if isinstance(source, Path) else source
    rows = []
    line = text.split("\n")
    if torn or not line[-1]:
        line.pop()
    for number, one in enumerate(line, start=1):
        place = f"{where or source} line {number}"
        try:
            rows.append(json.loads(one))
        except ValueError as error:
            raise ValueError(f"{place} is not JSON: {error}") from None
        require_keys(place, rows[-1], *keys)
    return rows


def read_evaluations(directory: Path, source: Path | str | None = None, *, torn: bool = False) -> list[dict[str, Any]]:
    """The evaluations of a run, at least one unless ``torn``, and all on as many problems.

    source  file or text, see ``read_lines``; default that of the directory
    torn    of a run that has not ended
    Raises  ValueError, naming the file
    """
    path = directory / "evals.jsonl"
    keys = ("step", "rollouts", "tokens", "pass_rate", "success", "n")
    rows = read_lines(path if source is None else source, *keys, where=path, torn=torn)
    if not rows and not torn:
        raise ValueError(f"{path} holds no evaluation, though the run is complete; run it again with another --out")
    sizes = sorted({len(row[name]) for row in rows for name in ("success", "n")})
    if len(sizes) > 1:
        raise ValueError(f"{path} holds evaluations on {' and '.join(map(str, sizes))} problems")
    return rows


def previous_run(directory: Path, spec: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """The run.json of the run to continue in a directory, or None when a new run can begin there.

    Raises ValueError if a run exists and ``resume`` is False, if it is damaged or was made from another spec, or if
    the directory holds anything else.
    """
    path = directory / "run.json"
    if not path.exists():
        if directory.exists() and any(file.name != "run.json.part" for file in directory.iterdir()):
            raise ValueError(f"{directory} holds files but no run.json; move them away, or choose another --out")
        return None
    if not resume:
        raise ValueError(f"a run exists in {directory}; pass --resume to continue it, or another --out")
    run = read_json(path)
    require_keys(path, run, "spec", "environment", "status")
    require_keys(f"{path}: spec", run["spec"])
    asked = json.loads(json.dumps(spec))
    changed = sorted(k for k in asked.keys() | run["spec"].keys() if asked.get(k) != run["spec"].get(k))
    if changed:
        raise ValueError(
            f"the run in {directory} was made with other settings ({', '.join(changed)}); "
            "resume it with its own, or choose another --out"
        )
    return run


class RunRecord:
    """The record of one run, opened for writing; the loop's ``Recorder``.

    directory  of the run; created when absent
    spec       JSON object that identifies the run: everything that its numbers depend on
    resume     continue what is there; without it an existing run is refused
    bank       of the run: says in which strata the selected problems lie
    track      names of ``track.TRACKERS``, where the numbers can be watched

    Raises ValueError for what ``previous_run`` refuses or a damaged checkpoint, and ModuleNotFoundError without a
    tracker's package, before anything is written.
    """

    def __init__(
        self,
        directory: Path,
        spec: dict[str, Any],
        *,
        resume: bool = False,
        bank: Bank | None = None,
        track: tuple[str, ...] = ("tensorboard",),
    ) -> None:
        self.directory = Path(directory)
        self._bank = bank
        self.spec = json.loads(json.dumps(spec))
        self._parts: list[dict[str, np.ndarray]] = []
        self._tracker: list[Tracker] = []
        self.spent: Spent | None = None
        self.state: State | None = None
        previous = previous_run(self.directory, spec, resume=resume)
        self.complete = previous is not None and previous["status"] == "complete"
        if self.complete:
            return
        make = trackers(track)
        checkpoint = self.directory / "checkpoint.safetensors"
        if checkpoint.exists():
            self.spent, self.state = load_checkpoint(checkpoint)
        # One entry for each process that has worked on the run, with its first step: the one that compiles.
        entry = environment() | {"first_step": 1 if self.spent is None else self.spent.steps + 1}
        self._environment = [*(previous["environment"] if previous else []), entry]
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_run("running")
        self._cut(self.spent)
        (self.directory / "selections").mkdir(exist_ok=True)
        self._steps = (self.directory / "steps.jsonl").open("a")
        self._evals = (self.directory / "evals.jsonl").open("a")
        first = None if self.spent is None else self.spent.steps + 1
        self._tracker = [one(self.directory, self.spec, first) for one in make]

    def _write_run(self, status: str) -> None:
        run = {"spec": self.spec, "environment": self._environment, "status": status}
        if self._bank is not None:
            size = self._bank.stratum_size.tolist()
            run["bank"] = {"problems": len(self._bank), "strata": dict(zip(self._bank.stratum_name, size, strict=True))}
        write_atomic(self.directory / "run.json", json.dumps(run, indent=1).encode())

    def _cut(self, spent: Spent | None) -> None:
        """Drops what was written after the checkpoint at ``spent``; everything, if there is none."""
        last = -1 if spent is None else spent.steps
        for name in ("steps.jsonl", "evals.jsonl"):
            path = self.directory / name
            if path.exists():
                kept = [line for line in path.read_text().splitlines() if _step_of(line) <= last]
                write_atomic(path, "".join(line + "\n" for line in kept).encode())
        for part in (self.directory / "selections").glob("*.parquet"):
            if int(part.stem) > last:
                part.unlink()

    def step(self, result: StepResult, spent: Spent, metrics: dict[str, float]) -> None:
        """Appends one row to steps.jsonl and keeps the slots for the next selections part."""
        selection, feedback, stats = result.selection, result.feedback, result.feedback.stats
        row: dict[str, Any] = {
            "step": spent.steps,
            "rollouts": spent.rollouts,
            "tokens": spent.tokens,
            "policy_step": result.report.policy_step,
            "design": selection.design,
            "reward": float(stats.mean.mean()),
            "pass_rate": float((stats.success / stats.n).mean()),
            "utility": float(feedback.utility.mean()),
            "degenerate": float(stats.degenerate.mean()),
            "admitted": float(feedback.admitted.mean()),
            "length": float(stats.length.mean()),
            "smallest_propensity": float(selection.propensity.min()),
            "actor": {k: float(v) for k, v in result.report.metrics.items()},
            "curator": metrics,
            "seconds": {k: round(v, 6) for k, v in result.seconds.items()},
            "cost": _cost(result.seconds),
        }
        if self._bank is not None:
            row["strata"] = np.bincount(
                self._bank.stratum[selection.problem], minlength=len(self._bank.stratum_name)
            ).tolist()
        append_line(self._steps, row)
        count = len(selection)
        self._parts.append(
            {
                "step": np.full(count, spent.steps),
                "ticket": np.full(count, selection.ticket),
                "design": np.full(count, selection.design),
                "problem": selection.problem,
                "propensity": selection.propensity,
                "candidate_propensity": np.full(count, selection.candidate_propensity),
                "probe": np.zeros(count, bool) if selection.probe is None else selection.probe,
                "rollouts": selection.rollouts,
                **{name: getattr(stats, name) for name in GROUP},
                "utility": feedback.utility,
                "admitted": feedback.admitted,
                "staleness": feedback.staleness,
                "tokens": feedback.tokens,
            }
        )
        number = {f"train/{name}": row[name] for name in ("reward", "pass_rate", "utility", "degenerate", "length")}
        for group in ("actor", "curator", "cost"):
            number |= {f"{group}/{name}": value for name, value in row[group].items()}
        if self._bank is not None:
            share = zip(self._bank.stratum_name, row["strata"], strict=True)
            number |= {f"strata/{name}": count / len(selection) for name, count in share}
        self._track(number, spent.steps)

    def _track(self, number: dict[str, float], step: int) -> None:
        for one in self._tracker:
            one.numbers(number, step)

    def evaluation(self, evaluation: Evaluation, spent: Spent) -> None:
        """Appends one evaluation to evals.jsonl, problem by problem, so that runs can be compared in pairs."""
        row = {
            "step": spent.steps,
            "rollouts": spent.rollouts,
            "tokens": spent.tokens,
            "pass_rate": evaluation.pass_rate,
            "success": evaluation.success.tolist(),
            "n": evaluation.n.tolist(),
            "stratum": evaluation.stratum.tolist(),
            "eval_tokens": evaluation.tokens,
        }
        if evaluation.shown:
            row["shown"] = [one._asdict() for one in evaluation.shown]
        if evaluation.averaged is not None:
            row["averaged"] = {
                "pass_rate": evaluation.averaged.pass_rate,
                "success": evaluation.averaged.success.tolist(),
                "eval_tokens": evaluation.averaged.tokens,
            }
        append_line(self._evals, row)
        number = {"eval/pass_rate": evaluation.pass_rate}
        if evaluation.averaged is not None:
            number["eval/pass_rate_averaged"] = evaluation.averaged.pass_rate
        self._track(number, spent.steps)

    def checkpoint(self, state: State, spent: Spent) -> None:
        """Writes the slots since the last checkpoint, then the state; a kill in between loses nothing but time."""
        if self._parts:
            column = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table(column), sink)
            part = self.directory / "selections" / f"{spent.steps:08d}.parquet"
            write_atomic(part, sink.getvalue().to_pybytes())
            self._parts = []
        for log in (self._steps, self._evals):
            os.fsync(log.fileno())
        save_state(self.directory / "checkpoint.safetensors", state, spent=vars(spent))
        for one in self._tracker:
            one.flush()

    def close(self, complete: bool) -> None:
        """Closes the logs; ``complete`` marks the run as finished."""
        self._steps.close()
        self._evals.close()
        for one in self._tracker:
            one.close()
        if complete:
            self._write_run("complete")
            self.complete = True


def save_state(path: Path, state: State, **note: Any) -> None:
    """Replaces ``path`` by a safetensors file of a nested state, with a JSON note; a kill leaves the old or the new."""
    array, scalar = flatten(state)
    text = json.dumps({**note, "scalars": scalar})  # one entry: safetensors orders several at random
    write_atomic(path, save(array, {"state": text}))


def load_state(path: Path) -> tuple[State, dict[str, Any]]:
    """(nested state, note) of what ``save_state`` wrote; raises ValueError, naming the file, if it is damaged."""
    try:
        with safe_open(path, "np") as file:
            note = json.loads(file.metadata()["state"])
            array = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        return unflatten(array | note.pop("scalars")), note
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}) and cannot be restored") from None


CURATOR_PHASES = ("select", "signal", "curator_update")
"""What a step costs because of its curator: selecting, the utility's extra passes, and learning."""


def _cost(seconds: dict[str, float]) -> dict[str, float]:
    """What the curator costs of a step, and the peak of memory so far."""
    curator, total = sum(seconds[phase] for phase in CURATOR_PHASES), sum(seconds.values())
    share = curator / total if total else 0.0
    return {
        "curator_ms": round(1e3 * curator, 3),
        "curator_share": round(share, 5),
        "step_s": round(total, 4),
        "memory_mb": round(memory_mb(), 1),
    }


def load_checkpoint(path: Path) -> tuple[Spent, State]:
    """(what was spent, nested state) of a checkpoint file.

    Raises ValueError, naming the file, if it is damaged.
    """
    try:
        state, note = load_state(path)
        return Spent(**note["spent"]), state
    except ValueError as error:
        raise ValueError(f"{error}; choose another --out") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); choose another --out") from None


def _step_of(line: str) -> int:
    """The step of a JSON line; a line that a kill cut short counts as later than everything."""
    try:
        return int(json.loads(line)["step"])
    except json.JSONDecodeError:
        return sys.maxsize
