"""A grid of simulations: read from YAML, expanded to units of work, each kept in a file named by what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict

from curbench.config import convert, parse_hyper, validate
from curbench.curators import curator_class
from curbench.sim import axes, learner_grid
from curbench.sim.arms import ARMS, FIXED_ARMS, Arms, make_arms, parse_noise
from curbench.sim.axes import (
    Count,
    Entries,
    Late,
    Listed,
    Scatter,
    Whole,
    choices,
    label,
    read_row,
    unit_path,
    write_row,
)
from curbench.sim.comparator import advantage_over
from curbench.sim.simulate import failed, make_curator, result_curves, simulate

SHIPPED = Path(__file__).parent.parent / "data" / "grids"
HARNESS_GIVES = frozenset({"arms", "horizon", "rng"})
"""Arguments of a test-bed that are axes of every grid; the others are its parameters."""


class Axes(BaseModel):
    """What is varied for every test-bed and curator; a single value need not be a list.

    horizon        T, rounds
    arms_count     K, for test-beds that leave it open; null is the test-bed's own
    batch          m, draws per round
    delay          rounds until feedback arrives, or "ROUNDS:JITTER:LOSS" in quotes: YAML reads 5:2 as a time
    noise          of rewards, KIND[:SCALE[:shared]], see ``arms.parse_noise``; null is the test-bed's own
    comparator     what regret is measured against, see ``comparator.COMPARATORS``; null is the test-bed's own
    instance_seed  what is random about the test-bed itself
    """

    model_config = ConfigDict(extra="forbid")

    horizon: Listed[Whole] = [10_000]
    arms_count: Listed[Whole | None] = [None]
    batch: Listed[Whole] = [1]
    delay: Listed[Late] = [0]
    noise: Listed[Scatter] = [None]
    comparator: Listed[str | None] = [None]
    instance_seed: Listed[Count] = [0]


class Grid(Axes):
    """The product of test-beds, curators and axes.

    arms      names, files of means or MODULE:FUNCTION, see ``make_arms``; each may bring parameters of the test-bed,
              and axes of its own in place of those of the grid
    curators  names; a name may bring hyper-parameters
    seeds     independent runs of every unit
    """

    arms: Entries
    curators: Entries
    seeds: Whole = 100


@dataclass(frozen=True)
class Unit:
    """One simulation of a grid: everything that its numbers depend on."""

    arms: str
    parameter: dict[str, Any]
    horizon: int
    arms_count: int | None
    batch: int
    delay: int | str
    noise: str | None
    comparator: str | None
    instance_seed: int
    curator: str
    hyper: dict[str, Any]
    seeds: int

    HEAD: ClassVar[tuple[str, ...]] = (
        *("test-bed", "K", "T", "m", "delay", "noise", "curator", "regret to", "regret", "interval"),
        *("bound", "value", "bound/regret", "min slack", "verdict"),
    )

    @cached_property
    def path(self) -> Path:
        """Where it is kept: in sweep, under a name for everything asked for, the content of a file included."""
        file = Path(self.arms)
        content = file.read_bytes() if file.is_file() else b""
        return unit_path("sweep", file.stem, self.curator, asdict(self), content)

    def make_arms(self) -> Arms:
        """The test-bed."""
        return make_arms(
            self.arms,
            horizon=self.horizon,
            arms=self.arms_count,
            instance_seed=self.instance_seed,
            noise=None if self.noise is None else parse_noise(self.noise),
            **self.parameter,
        )

    def run(self, out: Path, environment: dict[str, Any]) -> dict[str, Any]:
        """Simulates it on one thread, keeps it under ``out`` and returns its row."""
        result = simulate(
            self.make_arms(),
            self.curator,
            seeds=self.seeds,
            batch=self.batch,
            hyper=self.hyper,
            delay=self.delay,
            comparator=self.comparator,
            threads=1,
        )
        own = {"unit": self.path.stem, "parameter": self.parameter, "instance_seed": self.instance_seed}
        row = result.row() | own | {"delay": self.delay}
        write_unit(out / self.path, {"row": row, "environment": environment}, result_curves(result))
        return row

    def read(self, out: Path) -> dict[str, Any]:
        """Its row, from the file."""
        return read_unit(out / self.path)["row"]

    @staticmethod
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        """One line of the table under ``HEAD``."""
        regret, bound = row["regret"], row["bound"]["value"]
        return (
            label(row["arms"], row["parameter"]),
            str(row["arms_count"]),
            str(row["horizon"]),
            str(row["batch"]),
            str(row["delay"]),
            row["noise"],
            label(row["curator"], row["hyper"]),
            regret["comparator"],
            f"{regret['mean']:.1f}",
            "" if regret["lo"] is None else f"[{regret['lo']:.1f}, {regret['hi']:.1f}]",
            "" if bound is None else row["bound"]["name"],
            "" if bound is None else f"{bound:.1f}",
            "" if bound is None or regret["mean"] <= 0 else f"{bound / regret['mean']:.2f}",
            "" if row["certificate"]["min_slack"] is None else f"{row['certificate']['min_slack']:.0e}",
            verdict(row),
        )

    @staticmethod
    def failed(row: dict[str, Any]) -> bool:
        """True when a proved bound, a certificate or a part of the budget is violated."""
        return failed(row)


def read_grid(path: Path) -> list[axes.Unit]:
    """The units of a YAML grid or list of grids, or of a shipped one by name, in its order and without repetitions.

    A mapping with ``learners`` in place of ``arms`` is a grid of learners, see ``learner_grid``.

    Raises ValueError, with the name of the file, for bad YAML, an unknown key, name or parameter, or a value out of
    range: whatever can be known to be wrong without running anything.
    """
    shipped = {grid.stem: grid for grid in SHIPPED.glob("*.yaml")}
    source = path if path.exists() else shipped.get(str(path))
    if source is None:
        raise ValueError(f"{path} does not exist; give a YAML file, or one of: {', '.join(sorted(shipped))}")
    try:
        content = yaml.safe_load(source.read_text())
        grids = content if isinstance(content, list) else [content]
        if not grids or not all(isinstance(one, dict) for one in grids):
            raise ValueError(f"a grid is a mapping of {', '.join(Grid.model_fields)}, or a list of such")
        units = list({unit.path: unit for one in grids for unit in _units(one)}.values())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return units


def _units(content: dict[str, Any]) -> list[axes.Unit]:
    """The units of one mapping, checked."""
    if "learners" in content:
        return [*learner_grid.read(content)]
    units = expand(validate(Grid, content))
    check(units)
    return [*units]


def expand(grid: Grid) -> list[Unit]:
    """The product of a grid, without repetitions.

    >>> [u.batch for u in expand(Grid(arms="switching", curators=["uniform"], batch=[1, 8]))]
    [1, 8]
    """
    unit: dict[Path, Unit] = {}
    for name, given in grid.arms:
        own = {key: value for key, value in given.items() if key in Axes.model_fields}
        parameter = {key: value for key, value in given.items() if key not in own}
        axis = {key: getattr(grid, key) for key in Axes.model_fields}
        if name in FIXED_ARMS or Path(name).is_file():
            axis["arms_count"] = [None]
        axis |= {key: getattr(validate(Axes, own), key) for key in own}
        for where in choices(axis):
            for setting in choices(parameter):
                if name in ARMS:
                    setting = convert(ARMS[name], setting, reserved=HARNESS_GIVES)
                for curator, hyper in _policies(grid):
                    one = Unit(name, setting, curator=curator, hyper=hyper, seeds=grid.seeds, **where)
                    unit.setdefault(one.path, one)
    return list(unit.values())


def _policies(grid: Grid) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, given in grid.curators:
        curator_class(name)
        for hyper in choices(given):
            yield name, parse_hyper(curator_class(name), hyper)


def check(units: list[Unit]) -> None:
    """Raises ValueError for a test-bed or a curator that refuses its values; makes each test-bed once."""
    for _, same in groupby(units, lambda unit: (unit.arms, unit.parameter, unit.horizon, unit.arms_count, unit.noise)):
        made = list(same)
        arms = made[0].make_arms()
        bank = arms.bank()
        for one in made:
            advantage_over(arms, one.comparator or arms.comparator, one.batch, np.array([1]))
            make_curator(arms, bank, one.curator, seed=0, batch=one.batch, hyper=one.hyper)


PLAIN = ("unit", "arms", "curator", "arms_count", "horizon", "batch", "noise", "seeds", "instance_seed")
CURVES = ("round", "bound_curve", "lower_curve")


def write_unit(path: Path, content: dict[str, Any], curves: dict[str, Any]) -> None:
    """One row per file and one schema for all, so that a folder reads as one table of plain columns and curves.

    content  row and environment;  curves  see ``simulate.result_curves``
    """
    row = content["row"]
    column = {name: row[name] for name in PLAIN}
    column |= {"delay": str(row["delay"]), "regret": row["regret"]["mean"], "bound": row["bound"]["value"]}
    column |= {name: curves[name] for name in CURVES}
    column |= dict(zip(("mean", "lo", "hi"), zip(*curves["curve"], strict=True), strict=True))
    write_row(path, column, content, TYPE)


TYPE = {"bound": pa.float64(), "noise": pa.string()}
TYPE |= dict.fromkeys(("bound_curve", "lower_curve", "lo", "hi"), pa.list_(pa.float64()))


def read_unit(path: Path) -> dict[str, Any]:
    """What a unit left: row, round [n], curve [n, 3] as (mean, lo, hi), bound_curve and lower_curve, environment.

    Raises ValueError, with the name of the file, if it is no such file.
    """
    kept = read_row(path, *CURVES, "mean", "lo", "hi")
    return kept | {"curve": [list(point) for point in zip(*map(kept.pop, ("mean", "lo", "hi")), strict=True)]}


def verdict(row: dict[str, Any]) -> str:
    """What became of the bound and the certificate."""
    if failed(row):
        if row["certificate"]["holds"] is False:
            return "CERTIFICATE VIOLATED"
        return "VIOLATED" if row["holds"] is False else "BUDGET VIOLATED"
    if row["bound"]["value"] is None:
        return "no theorem"
    if row["bound"]["status"] != "proved":
        return f"{row['bound']['status']}: not tested"
    open_or_holds = "open: too few seeds" if row["holds"] is None else "holds"
    return open_or_holds + (", vacuous" if row["bound"]["vacuous"] else "")
