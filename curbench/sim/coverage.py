"""Which theorem covers a curator on a test-bed, what it says there, and what the regret consists of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.tabular import TabularCurator
from curbench.regret import BOUNDS, Bound, Setting, mirror_slack
from curbench.sim.arms import Arms
from curbench.sim.comparator import advantage_over, gaps, path, price, total_until
from curbench.stats import Interval, mean_interval, upper_limit
from curbench.types import Array

FEW_SEEDS = 20
"""With fewer, an upper limit above the bound proves nothing and a run is only failed by its mean."""
CONFIDENCE = 0.999
ROUNDING = 1e-9
"""Allowance of what holds seed by seed, relative to its bound: sums of T float64 terms."""


@dataclass(frozen=True)
class Standard:
    """What the regret to one comparator on one test-bed is held against.

    batch  m, draws per round
    grid   i64[n], increasing round counts
    """

    arms: Arms
    comparator: str
    batch: int
    grid: Array

    @cached_property
    def ahead(self) -> Array:
        """f64[n], how much more than the comparator the best arm of every round earns."""
        return advantage_over(self.arms, self.comparator, self.batch, self.grid)

    @cached_property
    def worst(self) -> Array:
        """f64[n], regret of always playing the worst arm: a bound that is no smaller is vacuous."""
        gap = self.arms.mean.max(axis=1) - self.arms.mean.min(axis=1)
        return total_until(self.arms, gap, self.grid) - self.ahead

    @cached_property
    def lower(self) -> tuple[Bound, Array] | None:
        """(minimax lower bound, f64[n]): what some test-bed with these K, T, m, S and V_T costs every algorithm.

        This one may cost less. NaN where it says nothing; None for comparators and arms for which none is known.
        """
        if self.arms.rested or self.comparator not in LOWER:
            return None
        bound = BOUNDS[LOWER[self.comparator]]
        curve = self.curve(bound, Setting(arms=self.arms.count, batch=self.batch, horizon=self.arms.horizon))
        return bound, np.where(curve > 0, curve, np.nan)

    @cached_property
    def _price(self) -> dict[str, Array]:
        return price(self.arms, self.comparator, self.batch)

    def setting(self, setting: Setting, rounds: int) -> Setting:
        """A setting with the price of the comparator over the first ``rounds`` rounds."""
        segment = int(np.searchsorted(self.arms.start, rounds, side="left")) - 1
        return setting._replace(horizon=rounds, **{name: value[segment].item() for name, value in self._price.items()})

    def curve(self, bound: Bound, setting: Setting) -> Array:
        """f64[n], the bound after the first grid[i] rounds, with the step size and floor of the whole run."""
        return np.array([bound.value(self.setting(setting, int(t))) for t in self.grid])

    def cover(self, curator: Curator, *, late: bool = False) -> tuple[Coverage | None, str]:
        """(the bound that covers this curator here at the parameters that really run, why there is none).

        Of several bounds, the smallest. ``late``: whether feedback is late or lost.
        """
        if self.arms.rested:
            return None, "the means depend on who is played"
        named = curator.bound(self.comparator)
        if named is None:
            return None, "none known against this comparator"
        if late:
            return None, "feedback is late"
        name, used = named
        setting = Setting(arms=self.arms.count, batch=self.batch, horizon=self.arms.horizon, **used)
        gap, worst_gap = gaps(self.arms, self.comparator)
        setting = self.setting(setting._replace(gap=gap, worst_gap=worst_gap), self.arms.horizon)
        choice = [BOUNDS[name], *(bound for bound in BOUNDS.values() if bound.sharpens == name)]
        best = min(choice, key=lambda bound: bound.value(setting))
        if not np.isfinite(best.value(setting)):
            return None, f"the conditions of {name} do not hold here"
        return Coverage(self, best, setting), ""


LOWER = {"static": "lower_static", "switching": "lower_switching", "dynamic": "lower_variation"}


@dataclass(frozen=True)
class Coverage:
    """A bound that covers a run, with everything it depends on."""

    standard: Standard
    bound: Bound
    setting: Setting

    @cached_property
    def value(self) -> float:
        """The bound at the end."""
        return self.bound.value(self.setting)

    @cached_property
    def curve(self) -> Array:
        """f64[n], the bound over rounds."""
        return self.standard.curve(self.bound, self.setting)

    @cached_property
    def informative_from(self) -> int | None:
        """First round of the grid from which on the bound is not vacuous; None if it is at the end."""
        vacuous = np.flatnonzero(~(self.curve < self.standard.worst))
        first = 0 if vacuous.size == 0 else int(vacuous[-1]) + 1
        return None if first == self.curve.size else int(self.standard.grid[first])

    def holds(self, regret: Array) -> bool | None:
        """Whether the mean of f64[seeds] is below a proved bound: its one-sided 99.9 % upper limit is.

        None when too few seeds leave it open, or the bound is not a proved one.
        """
        if self.bound.status != "proved":
            return None
        if upper_limit(regret, CONFIDENCE) <= self.value:
            return True
        return None if regret.size < FEW_SEEDS and regret.mean() <= self.value else False

    def path(self, curator: Curator) -> Array | None:
        """i64[T], whom the parts of the bound compare with; None unless it has parts, of a step on p itself."""
        step = curator.mirror_step() if isinstance(curator, TabularCurator) else None
        if self.bound.terms is None or step is None or step.slack is not mirror_slack:
            return None
        return path(self.standard.arms, self.standard.comparator, self.bound.terms(self.setting).block)

    def spending(self, compared: Array, spent: list[Array]) -> Spending:
        """What the regret consisted of. ``compared`` i64[T] as in ``path``; ``spent`` f64[4] of every seed."""
        assert self.bound.terms is not None, "only bounds with parts have a path to compare with"
        arms, terms = self.standard.arms, self.bound.terms(self.setting)
        penalty, stability, floor, _ = np.array(spent).T  # ``certificates.Budget``
        segment = np.searchsorted(arms.start, np.arange(arms.horizon), side="right") - 1
        missed = arms.mean.max(axis=1)[segment] - arms.mean[segment, compared]
        drift = float(np.sum(missed) - self.standard.ahead[-1])
        value = {"penalty": penalty, "stability": stability, "floor": floor, "drift": np.full(len(spent), drift)}
        part = {name: getattr(terms, name) for name in value}
        scale = ROUNDING * terms.total
        pathwise = all(value[name].max() <= part[name] + scale for name in ("penalty", "floor", "drift"))
        above = mean_interval(stability, 2 * CONFIDENCE - 1).lo > part["stability"] + scale
        term = {name: (mean_interval(value[name]), part[name]) for name in value}
        return Spending(term, len(spent), bool(pathwise and not above))


@dataclass(frozen=True)
class Spending:
    """What the regret of a mirror step consisted of, beside the parts of its bound.

    term   (mean and interval over seeds, part of the bound) of penalty, stability, floor and drift
    seeds  for which it was kept
    holds  penalty, floor and drift of every seed are within their parts; the mean stability is not above its own, by a
           one-sided 99.9 % limit
    """

    term: dict[str, tuple[Interval, float]]
    seeds: int
    holds: bool

    def row(self) -> dict[str, Any]:
        """JSON scalars only."""
        term = {name: value.row() | {"bound": part} for name, (value, part) in self.term.items()}
        return term | {"seeds": self.seeds, "holds": self.holds}
