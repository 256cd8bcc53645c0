"""Tabular curators: one probability per arm, with the arithmetic in compiled functions over a named tuple (the core).

The shell here draws and translates feedback; ``sim.driver`` runs the same compiled functions in one jitted loop, so a
curator validated in the simulator is, number for number, the one that trains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.compiled import hot
from curbench.curators.base import Curator
from curbench.curators.samplers import Draw
from curbench.philox import DRAW, uniform_
from curbench.regret import mirror_slack
from curbench.sampling import (
    capped_expectation,
    expected_count_,
    iid_arm_,
    problem_with_replacement_,
    select_iid_,
    select_systematic_,
    systematic_fits,
)
from curbench.types import Array, Bank, Feedback, Selection

Design = Literal["auto", "iid", "systematic"]
Unit = Literal["stratum", "problem"]


@hot
def unit_interval(utility, low, high):
    """The utility mapped from [low, high] to [0, 1]; what lies outside is clipped.

    >>> unit_interval(0.5, -1.0, 1.0), unit_interval(3.0, -1.0, 1.0)
    (0.75, 1.0)
    """
    y, width = utility - low, high - low
    if width != 1.0:  # a division would take as long as drawing the arm
        y /= width
    return min(max(y, 0.0), 1.0)


@nb.njit
def draw_from_table(core, arm, q, u, step):
    """Fills arm i64[m] with iid draws from ``core.p`` and q f64[m] with their probabilities.

    u  f64[m], uniform numbers in [0, 1): those of stream DRAW in round ``step``
    """
    iid_arm_(arm, core.p, u)
    for j in range(arm.size):
        q[j] = core.p[arm[j]]


@nb.njit
def nothing_to_fill(core):
    """The table is always up to date."""


class MirrorStep(NamedTuple):
    """What the pathwise certificate of a mirror step needs.

    eta, floor  step size; gamma of the clipped simplex, 0 without one
    stepped     f64[K], where ``update_core`` leaves the step, before any sharing or restart
    slack       compiled inequality: (p, arm, expected, y, stepped, eta, floor) -> (slack, scale), see ``regret``
    """

    eta: float
    floor: float
    stepped: Array
    slack: Callable[..., tuple[float, float]] = mirror_slack


class Arms(NamedTuple):
    """Which problems each arm holds: ``member[start[c] : start[c] + size[c]]``; ``of[problem]`` is the arm."""

    member: Array
    start: Array
    size: Array
    of: Array


def make_arms(bank: Bank, unit: Unit) -> Arms:
    """Arms of a bank: its non-empty strata, or its problems.

    >>> make_arms(Bank(key=["a", "b", "c"], stratum=[1, 1, 4]), "stratum").size
    array([2, 1])
    """
    return group_arms(bank.stratum if unit == "stratum" else np.arange(len(bank)))


def group_arms(label: Array) -> Arms:
    """Arms of problems with equal labels i64[N], in the order of the labels."""
    _, of, size = np.unique(label, return_inverse=True, return_counts=True)
    member = np.argsort(of, kind="stable")
    return Arms(member, np.concatenate([[0], np.cumsum(size)[:-1]]), size, of.astype(np.int64))


def draws_iid(p: Array, arms: Arms, batch: int, design: Design) -> bool:
    """Whether a design comes to iid draws: "auto" does where a systematic one would ask an arm for more than it has."""
    if design == "auto":
        return batch > arms.of.size or not systematic_fits(p, arms.size, batch)
    return design == "iid"


def draw_arms(p: Array, arms: Arms, batch: int, design: Design, seed: np.uint64, step: int) -> Draw:
    """``batch`` problems: arms from p f64[K], problems of an arm uniformly. Place and propensity are of problems."""
    iid = draws_iid(p, arms, batch, design)
    problem, propensity = np.empty(batch, np.int64), np.empty(batch)
    fill = select_iid_ if iid else select_systematic_
    fill(problem, propensity, p, *arms[:3], seed, step)
    return Draw(problem, propensity, "iid" if iid else "systematic")


def expected_slots(p: Array, arms: Arms, batch: int, design: Design) -> Array:
    """f64[N] with sum ``batch``, slots that ``draw_arms`` gives to each problem in expectation.

    >>> expected_slots(np.array([0.75, 0.25]), group_arms(np.array([0, 0, 0, 1])), 4, "systematic")
    array([1., 1., 1., 1.])
    """
    expected = batch * p if draws_iid(p, arms, batch, design) else capped_expectation(p, arms.size, batch)
    return (expected / arms.size)[arms.of]


class TabularCurator(Curator):
    """A curator that is a distribution p f64[K] over arms plus a compiled update.

    unit    "stratum": arms are strata and a stratum's problems are drawn uniformly; "problem": every problem is an arm
    design  "systematic" (no duplicates), "iid", or "auto": systematic while no cap binds, else iid

    Subclasses set ``core`` (a named tuple of arrays and numbers whose field ``p`` is what is drawn from) and
    ``update_core(core, arm, expected, utility, step)``, which must leave ``core.p`` summing to 1.

    A curator whose rounds must not cost O(K) keeps another structure beside ``p``, draws from it in ``draw_core`` and
    writes ``p`` out in ``fill_core``, which is called wherever p is looked at: after every update here, and in the
    compiled driver only for regret and certificate.
    """

    core: Any
    update_core: ClassVar[Callable[..., None]]
    draw_core: ClassVar[Callable[..., None]] = staticmethod(draw_from_table)
    fill_core: ClassVar[Callable[..., None]] = staticmethod(nothing_to_fill)

    def __init__(self, bank: Bank, *, unit: Unit = "stratum", design: Design = "auto", **common: Any) -> None:
        super().__init__(bank, **common)
        if unit not in ("stratum", "problem"):
            raise ValueError(f"unit must be stratum or problem; got {unit!r}")
        if design not in ("auto", "iid", "systematic"):
            raise ValueError(f"design must be auto, iid or systematic; got {design!r}")
        if design == "systematic" and self.batch > len(bank):
            raise ValueError(f"a systematic draw of {self.batch} problems needs as many; the bank has {len(bank)}")
        self.unit = unit
        self.design = design
        self.arms = make_arms(bank, unit)

    @property
    def arm_count(self) -> int:
        """K, the number of arms."""
        return int(self.arms.size.size)

    def mirror_step(self) -> MirrorStep | None:
        """What the certificate checks after every update, or None: only mirror descent has one."""
        return None

    def select(self, batch: int) -> Selection:
        iid = draws_iid(self.core.p, self.arms, batch, self.design)
        problem, propensity = np.empty(batch, np.int64), np.empty(batch)
        if iid:
            u = np.empty(batch)
            uniform_(u, self.seed, DRAW, self.step)
            type(self).draw_core(self.core, problem, propensity, u, self.step)
            propensity /= self.arms.size[problem]
            problem_with_replacement_(problem, *self.arms[:3], self.seed, self.step)
        else:
            select_systematic_(problem, propensity, self.core.p, *self.arms[:3], self.seed, self.step)
        return self.selected(problem, propensity, design="iid" if iid else "systematic")

    def expected_slots(self, batch: int) -> Array:
        return expected_slots(self.core.p, self.arms, batch, self.design)

    def update(self, feedback: Feedback) -> None:
        selection = feedback.selection
        arm, expected = self.expected_count(selection)
        type(self).update_core(self.core, arm, expected, feedback.utility, selection.step)
        type(self).fill_core(self.core)

    def expected_count(self, selection: Selection) -> tuple[Array, Array]:
        """(arm i64[B], expected f64[B]) of the slots of a selection, see ``sampling.expected_count_``."""
        arm, expected = np.empty(len(selection), np.int64), np.empty(len(selection))
        iid = selection.design == "iid"
        expected_count_(arm, expected, selection.problem, selection.propensity, self.arms.of, self.arms.size, iid)
        return arm, expected

    def resolved(self) -> dict[str, float]:
        return {name: value for name, value in self.core._asdict().items() if not isinstance(value, np.ndarray)}

    def state(self) -> dict[str, Any]:
        core = {name: value.copy() for name, value in self.core._asdict().items() if isinstance(value, np.ndarray)}
        return {**super().state(), "core": core}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        for name, value in state["core"].items():
            getattr(self.core, name)[...] = value

    def metrics(self) -> dict[str, float]:
        """Effective number of arms exp(entropy of p), and the smallest probability."""
        p = self.core.p
        positive = p[p > 0]
        return super().metrics() | {
            "effective_arms": float(np.exp(-np.sum(positive * np.log(positive)))),
            "smallest_probability": float(p.min()),
        }
