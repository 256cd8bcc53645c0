"""A logged run as replay needs it: feedback step by step, the bank, and what the curator of the run was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curbench.config import validate
from curbench.curators import curator_class, split_admission
from curbench.curators.base import Curator
from curbench.record import GROUP, read_json, require_keys
from curbench.signals import SIGNALS
from curbench.types import Array, Bank, Feedback, GroupStats, Selection

COLUMNS = (
    *("step", "ticket", "design", "problem", "propensity", "candidate_propensity", "probe", "rollouts"),
    *GROUP,
    *("utility", "admitted", "staleness", "tokens"),
)

OF_STATS = ("mean_reward", "mean_abs_advantage", "pass_rate", "success_variance")
"""Signals that the logged group statistics determine, so that a log can be replayed under them."""


@dataclass(frozen=True)
class Log:
    """What a run left.

    directory  of the run
    bank       of the problems that it drew from, with the features that curators were told
    common     batch, horizon and group: constructor arguments of every curator on this run
    seed       of the run
    curator    name of the one that drew
    signal     of the utilities
    feedback   of every step, in order
    """

    directory: Path
    bank: Bank
    common: dict[str, Any]
    seed: int
    curator: str
    signal: str
    feedback: list[Feedback]


def read_log(directory: Path, *, signal: str | None = None) -> Log:
    """The log of a run directory that ``train`` or ``learn --log`` wrote.

    signal  utilities under this signal in place of the logged one (``OF_STATS``)
    Raises  ValueError, naming the file, for a directory that is no such run, a damaged file, a log without steps or
            from before the columns that replay needs, or a signal that the log does not determine.
    """
    path = Path(directory) / "run.json"
    if not path.exists():
        raise ValueError(f"{directory} holds no run.json; give the directory of one run of train or of learn --log")
    content = read_json(path)
    require_keys(path, content, "spec")
    require_keys(f"{path}: spec", content["spec"], "curator", "seed")
    spec = content["spec"]
    if "learner" in spec:
        open_run = _open_learner
    elif "suite" in spec:
        open_run = _open_training
    else:
        raise ValueError(f"{path} names neither a learner nor a suite, so its problems are not known")
    bank, common = open_run(Path(directory), spec)
    name, _ = split_admission(spec["curator"])
    logged = spec.get("signal") or curator_class(name).signal
    if signal is not None and signal != logged and signal not in OF_STATS:
        raise ValueError(
            f"the log holds utilities under {logged}, and its statistics give {', '.join(OF_STATS)}; not {signal}"
        )
    table = _read_selections(Path(directory))
    if int(table["problem"].max()) >= len(bank):
        raise ValueError(f"{directory} names problem {int(table['problem'].max())}; its bank has {len(bank)}")
    feedback = _feedback(table, None if signal in (None, logged) else SIGNALS[str(signal)])
    return Log(Path(directory), bank, common, spec["seed"], name, signal or logged, feedback)


def _open_learner(directory: Path, spec: dict[str, Any]) -> tuple[Bank, dict[str, Any]]:
    from curbench.sim.learner_grid import LearnerUnit, course_of

    require_keys(f"{directory / 'run.json'}: spec", spec, *LearnerUnit.LOGGED)
    course = course_of(spec)
    bank = course.bank if spec["instance_seed"] is not None else course.draw(spec["seed"])[1]
    return bank, {name: course.common[name] for name in ("batch", "horizon", "group")}


def _open_training(directory: Path, spec: dict[str, Any]) -> tuple[Bank, dict[str, Any]]:
    from curbench.train.run import TrainSpec, featured_bank

    known = validate(TrainSpec, spec)
    suite = known.load_suite("train")
    bank = suite.bank
    if known.features is not None:
        out = directory.resolve().parents[2]
        bank = featured_bank(known, suite, known.load_policy(), out)
    return bank, {"batch": known.batch, "horizon": known.horizon, "group": known.group}


def _read_selections(directory: Path) -> dict[str, Array]:
    """The columns of all parts, in the order of the steps."""
    part = []
    for path in sorted((directory / "selections").glob("*.parquet")):
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        missing = sorted(set(COLUMNS) - set(table.column_names))
        if missing:
            raise ValueError(
                f"{path} lacks {', '.join(missing)}: it was logged by an earlier version; run it again to replay it"
            )
        part.append({name: table[name].to_numpy() for name in COLUMNS})
    if not part:
        raise ValueError(f"{directory / 'selections'} holds no steps yet; replay needs a run with a checkpoint")
    return {name: np.concatenate([one[name] for one in part]) for name in COLUMNS}


def _feedback(table: dict[str, Array], signal: Callable[..., Array] | None) -> list[Feedback]:
    first = np.flatnonzero(np.diff(table["step"], prepend=-1))
    feedback = []
    for begin, end in zip(first, [*first[1:], table["step"].size], strict=True):
        row = {name: column[begin:end] for name, column in table.items()}
        selection = Selection(
            ticket=int(row["ticket"][0]),
            step=int(row["ticket"][0]),  # what a curator calls its step; the log's own counts from 1
            problem=row["problem"],
            propensity=row["propensity"],
            rollouts=row["rollouts"],
            design=str(row["design"][0]),
            candidate_propensity=float(row["candidate_propensity"][0]),
            probe=row["probe"] if row["probe"].any() else None,
        )
        stats = GroupStats(n=row["rollouts"].astype(np.int64), **{name: row[name] for name in GROUP})
        feedback.append(
            Feedback(
                selection=selection,
                stats=stats,
                utility=row["utility"] if signal is None else signal(None, None, stats, None),
                **{name: row[name] for name in ("admitted", "staleness", "tokens")},
            )
        )
    return feedback


def check_support(log: Log) -> None:
    """Raises ValueError, in one sentence, if the propensities of a log cannot say what was not drawn.

    That is so for deterministic choices, for curators that leave problems out, and for steps of several rounds, where
    rewards decided how often was drawn.
    """
    cls: type[Curator] = curator_class(log.curator)
    who = f"the log was drawn by {log.curator}, which"
    if any(one.selection.design == "fixed" for one in log.feedback):
        raise ValueError(f"{who} chose deterministically: what it did not choose had propensity 0 and cannot be valued")
    if not cls.explores:
        raise ValueError(f"{who} leaves problems out at every step: their propensity is 0 and they cannot be valued")
    if cls.refill is not Curator.refill:
        raise ValueError(f"{who} draws further rounds after it saw rewards: its propensities hold for the first only")
