"""A grid of simulated learners: read from YAML, expanded to units, each kept in a file named by what was asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from curbench.averaging import Averaging
from curbench.config import convert, parse_hyper, validate
from curbench.curators import curator_class, split_admission
from curbench.loop import Budget
from curbench.record import RunRecord, previous_run
from curbench.schedules import Schedule
from curbench.sim.axes import Count, Entries, Late, Listed, Whole, choices, label, read_row, unit_path, write_row
from curbench.sim.learner import LEARNERS, Recipe
from curbench.sim.simulate_learner import GREEDY, Course, LearnerSimulation, check, simulate_learner

MODELS = ("schedule", "averaging")
"""Axes whose values have parameters."""

FIXED = frozenset({"source", "noisy", "impossible"})
"""Parts of a recipe that are texts or lists, hence no axes."""


class Axes(BaseModel):
    """What is varied for every learner and curator; a single value need not be a list.

    steps, rollouts, tokens  budget: stop at the first limit that is reached; null is no limit, 200 steps if all are
    batch          B, problems per step
    group          G, rollouts per problem
    delay          steps until feedback arrives, or "STEPS:JITTER:LOSS" in quotes
    estimator      of the advantage, see ``advantage.ESTIMATORS``
    signal         utility of a group, see ``signals.SIGNALS``; null is the curator's own
    features       what neural curators are told, see ``features.SOURCES``; null is the latent loadings
    schedule       of the learning rate: {name: wsd, decay: 0.2}, see ``schedules.Schedule``
    averaging      of checkpoints: {every: 5}, see ``averaging.Averaging``; null is none
    instance_seed  which problems are drawn; null: every seed draws its own
    """

    model_config = ConfigDict(extra="forbid")

    steps: Listed[Whole | None] = [None]
    rollouts: Listed[Whole | None] = [None]
    tokens: Listed[Whole | None] = [None]
    batch: Listed[Whole] = [32]
    group: Listed[Whole] = [8]
    delay: Listed[Late] = [0]
    estimator: Listed[str] = ["grpo"]
    signal: Listed[str | None] = [None]
    features: Listed[str | None] = [None]
    schedule: Listed[Schedule] = [Schedule()]
    averaging: Listed[Averaging | None] = [None]
    instance_seed: Listed[Count | None] = [0]


class LearnerGrid(Axes):
    """The product of learners, curators and axes.

    learners  names of ``LEARNERS``; each may bring parameters of its recipe, and axes in place of those of the grid
    curators  names, with an admission rule as in ``sec+nondegenerate``, or greedy; a name may bring hyper-parameters
    seeds     independent runs of every unit, the seeds first_seed, first_seed + 1, ...
    measure_regret  against the greedy oracle, see ``simulate_learner``
    log       keep every step of every seed as well, for replay; it changes no result
    """

    learners: Entries
    curators: Entries
    seeds: Whole = 20
    first_seed: Count = 0
    measure_regret: bool = True
    log: bool = False


@dataclass(frozen=True)
class LearnerUnit:
    """One curator that trains one learner: everything that its numbers depend on."""

    learner: str
    parameter: dict[str, Any]
    steps: int | None
    rollouts: int | None
    tokens: int | None
    batch: int
    group: int
    delay: int | str
    estimator: str
    signal: str | None
    features: str | None
    schedule: Schedule
    averaging: Averaging | None
    instance_seed: int | None
    curator: str
    hyper: dict[str, Any]
    seeds: int
    first_seed: int = 0
    measure_regret: bool = True
    log: bool = False

    LOGGED: ClassVar[tuple[str, ...]] = (
        *("learner", "parameter", "steps", "rollouts", "tokens", "batch", "group", "delay", "estimator", "signal"),
        *("features", "schedule", "averaging", "instance_seed", "curator", "hyper"),
    )
    """Fields in the spec of a logged run, beside its seed."""

    HEAD: ClassVar[tuple[str, ...]] = (
        *("learner", "B", "G", "delay", "curator", "rate", "seeds", "start", "competence", "interval"),
        *("averaged", "tokens to target", "reached", "wasted", "oracle regret"),
    )

    @cached_property
    def path(self) -> Path:
        """Where it is kept: in learn, under a name for everything asked for."""
        asked = asdict(self) | self._models()
        del asked["log"]
        return unit_path("learn", self.learner, self.curator, asked)

    def _models(self) -> dict[str, Any]:
        return {name: value and value.model_dump() for name, value in vars(self).items() if name in MODELS}

    def log_directory(self, out: Path, seed: int) -> Path:
        """Where the steps of a seed are kept, if they are: beside the file of the unit."""
        return out / self.path.with_suffix("") / str(seed)

    def _open_record(self, out: Path, seed: int) -> RunRecord | None:
        """The record of a seed, None if it is complete; what a kill cut short is begun anew."""
        directory = self.log_directory(out, seed)
        spec = {name: value for name, value in (asdict(self) | self._models()).items() if name in self.LOGGED}
        spec["seed"] = seed
        previous = previous_run(directory, spec, resume=True)
        if previous is not None:
            if previous["status"] == "complete":
                return None
            shutil.rmtree(directory)
        return RunRecord(directory, spec, track=())

    @property
    def question(self) -> dict[str, Any]:
        """Arguments of ``simulate_learner`` and ``check``, but for the seeds."""
        names = ("parameter", "batch", "group", "delay", "estimator", "signal", "features", *MODELS, "instance_seed")
        budget = Budget(self.steps, self.rollouts, self.tokens) if self.steps or self.rollouts or self.tokens else None
        return {name: getattr(self, name) for name in names} | {"budget": budget, "hyper": self.hyper}

    def simulate(self, progress: Callable[[], None] = lambda: None, *, out: Path | None = None) -> LearnerSimulation:
        """Runs it. ``progress`` is called after every seed; ``out`` is where a unit with ``log`` keeps its steps."""
        how: dict[str, Any] = {name: getattr(self, name) for name in ("seeds", "first_seed", "measure_regret")}
        if self.log and out is not None:
            how["open_record"] = partial(self._open_record, out)
        return simulate_learner(self.learner, self.curator, progress=progress, **how, **self.question)

    def row(self, result: LearnerSimulation) -> dict[str, Any]:
        """The result as JSON scalars, with what was asked for."""
        own = {"unit": self.path.stem, "parameter": self.parameter, "instance_seed": self.instance_seed}
        budget = {name: getattr(self, name) for name in ("steps", "rollouts", "tokens")}
        return result.row() | own | {"chosen_signal": self.signal, "budget": budget}

    def run(self, out: Path, environment: dict[str, Any]) -> dict[str, Any]:
        """Simulates it on one thread, keeps it under ``out`` and returns its row."""
        result = self.simulate(out=out)
        row = self.row(result)
        write_learner_unit(out / self.path, {"row": row, "environment": environment}, result)
        return row

    def read(self, out: Path) -> dict[str, Any]:
        """Its row, from the file.

        Raises ValueError, with the name of the file, if it is no such file, or was kept without the steps asked for.
        """
        last = self.log_directory(out, self.first_seed + self.seeds - 1)
        if self.log and not last.exists():
            raise ValueError(f"{out / self.path} was kept without its steps; choose another --out to log them")
        return read_learner_unit(out / self.path)["row"]

    @staticmethod
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        """One line of the table under ``HEAD``."""
        competence, tokens = row["competence"], row["tokens_to_target"]
        rate = {name: value for name, value in row["schedule"].items() if name != "name"}
        return (
            label(row["learner"], row["parameter"]),
            *(str(row[name]) for name in ("batch", "group", "delay")),
            label(row["curator"], row["hyper"]),
            label(row["schedule"]["name"], {name: value for name, value in rate.items() if value or name != "warmup"}),
            str(row["seeds"]),
            f"{row['start']:.3f}",
            f"{competence['mean']:.3f}",
            "" if competence["lo"] is None else f"[{competence['lo']:.3f}, {competence['hi']:.3f}]",
            "" if row["averaged"] is None else f"{row['averaged']['mean']:.3f}",
            "" if tokens is None else f"{tokens:.0f}",
            f"{row['reached']}/{row['seeds']}",
            f"{row['wasted']['mean']:.2f}",
            "" if row["regret"] is None else f"{row['regret']['mean']:.2f}",
        )

    @staticmethod
    def failed(row: dict[str, Any]) -> bool:
        """Never: nothing about learners is proved."""
        return False


def course_of(spec: dict[str, Any]) -> Course:
    """The course of a logged run, from the spec in its run.json.

    Raises ValueError for what ``simulate_learner`` would refuse.
    """
    models: dict[str, Any] = {
        "schedule": validate(Schedule, spec["schedule"]),
        "averaging": spec["averaging"] and validate(Averaging, spec["averaging"]),
    }
    unit = LearnerUnit(**{name: spec[name] for name in LearnerUnit.LOGGED} | models, seeds=1)
    return Course(unit.learner, unit.curator, **unit.question)


def read(content: dict[str, Any]) -> list[LearnerUnit]:
    """The units of one mapping of a YAML grid, checked: whatever can be known to be wrong without running anything.

    Raises ValueError for an unknown key, name or parameter, or a value that is refused.
    """
    units = expand(validate(LearnerGrid, content))
    for unit in units:
        check(unit.learner, unit.curator, **unit.question)
    return units


def expand(grid: LearnerGrid) -> list[LearnerUnit]:
    """The product of a grid, without repetitions.

    >>> [u.group for u in expand(LearnerGrid(learners="plain", curators=["uniform"], group=[4, 8]))]
    [4, 8]
    """
    unit: dict[Path, LearnerUnit] = {}
    for name, given in grid.learners:
        if name not in LEARNERS:
            raise ValueError(f"unknown learner {name!r}; choose from {', '.join(LEARNERS)}")
        own = {key: value for key, value in given.items() if key in Axes.model_fields}
        parameter = {key: value for key, value in given.items() if key not in own}
        axis = {key: getattr(grid, key) for key in Axes.model_fields}
        axis |= {key: getattr(validate(Axes, own), key) for key in own}
        for where in choices(axis):
            for setting in choices(parameter):
                setting = convert(Recipe, setting, reserved=FIXED)
                for curator, hyper in _policies(grid):
                    one = LearnerUnit(
                        name,
                        setting,
                        curator=curator,
                        hyper=hyper,
                        seeds=grid.seeds,
                        first_seed=grid.first_seed,
                        measure_regret=grid.measure_regret,
                        log=grid.log,
                        **where,
                    )
                    unit.setdefault(one.path, one)
    return list(unit.values())


def _policies(grid: LearnerGrid) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, given in grid.curators:
        curator, _ = split_admission(name)
        if curator == GREEDY and given:
            raise ValueError(f"{GREEDY} has no settings; got {', '.join(given)}")
        for hyper in choices(given):
            yield name, {} if curator == GREEDY else parse_hyper(curator_class(curator), hyper)


CURVES = ("tokens", "mean", "lo", "hi")
RUNS = ("begin", "final", "early")
PLAIN = ("unit", "learner", "curator", "batch", "group", "seeds", "instance_seed", "start", "tokens_to_target")
KIND = {"tokens_to_target": pa.float64(), "regret": pa.float64(), "instance_seed": pa.int64()} | dict.fromkeys(
    (*CURVES, *RUNS), pa.list_(pa.float64())
)


def write_learner_unit(path: Path, content: dict[str, Any], result: LearnerSimulation) -> None:
    """Keeps one unit. ``content``: row and environment."""
    row = content["row"]
    column = {name: row[name] for name in PLAIN} | {"delay": str(row["delay"]), "curation_s": result.curation_s}
    column |= {name: row[name] and row[name]["mean"] for name in ("competence", "regret", "wasted")}
    column |= dict(zip(CURVES, result.curve.T.tolist(), strict=True))
    column |= {name: getattr(result, name).tolist() for name in RUNS}
    write_row(path, column, content, KIND)


def read_learner_unit(path: Path) -> dict[str, Any]:
    """What a unit left: row, environment, the curve as lists tokens, mean, lo and hi, and begin, final and early of
    every seed.

    Raises ValueError, with the name of the file, if it is no such file.
    """
    return read_row(path, *CURVES, *RUNS, "curation_s")
