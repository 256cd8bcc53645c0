"""VCRL: groups of little reward variance give way to problems from a memory of high variance."""

from __future__ import annotations

from typing import Any

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.dynamic import NOBODY, ROUND, fresh
from curbench.curators.estimators import LatestValue
from curbench.curators.samplers import lowest
from curbench.types import Array, Bank, Feedback, GroupStats, Selection


def relative_variance(success: Array, n: Array) -> Array:
    """f64[B] in [0, 1], k (G - k) / (G (G - 1)) over its largest value floor(G/2) ceil(G/2) / (G (G - 1)); 0 for G = 1.

    >>> relative_variance(np.array([0, 2, 1]), np.array([4, 4, 3]))
    array([0., 1., 1.])
    """
    return success * (n - success) / np.maximum((n // 2) * ((n + 1) // 2), 1)


class Vcrl(Curator):
    """Variance-based curriculum reinforcement learning (Jiang et al. 2025, 2509.19803), section 3.

    A step rolls out B uniform problems. Groups with relative variance v < kappa are rejected, and as many problems of
    the highest priority are rolled out in their place from a memory of those with priority >= kappa; the priority of a
    problem is a moving average of v. Rejected rollouts count towards the budget.

    kappa     threshold in [0, 1]
    momentum  of the moving average, in [0, 1): the weight of the past

    Raises ValueError for a parameter outside its range. The published kappa and momentum could not be verified: 0.3 and
    0.9 are ours. While the memory is short the batch stays short. No code was found.
    """

    oversamples = True
    kept = ("_first",)
    filters = True

    def __init__(self, bank: Bank, *, kappa: float = 0.3, momentum: float = 0.9, **common: Any) -> None:
        super().__init__(bank, **common)
        if not 0.0 <= kappa <= 1.0:
            raise ValueError(f"kappa must be in [0, 1]; got {kappa}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1); got {momentum}")
        if self.batch > len(bank):
            raise ValueError(f"{self.batch} problems cannot be drawn without repetition from {len(bank)}")
        self.kappa = kappa
        self.priority = LatestValue(len(bank), rate=1.0 - momentum)
        self.parts = {"priority": self.priority}
        self._first = self.batch

    def select(self, batch: int) -> Selection:
        self._first = batch
        return self.selected(*fresh(NOBODY, len(self.bank), batch, seed=self.seed, step=self.step, round=0))

    def refill(self, selection: Selection, stats: GroupStats) -> Selection | None:
        if len(selection) > self._first:
            return None
        rejected = int((relative_variance(stats.success, stats.n) < self.kappa).sum())
        known = self.priority.seen & (self.priority.value >= self.kappa)
        known[selection.problem] = False
        memory = np.flatnonzero(known)
        count = min(rejected, memory.size)
        if count == 0:
            return None
        place, propensity, _ = lowest(-self.priority.value[memory], count, seed=self.seed, step=selection.step + ROUND)
        return self.refilled(selection, memory[place], propensity, "fixed")

    def admit(self, stats: GroupStats) -> Array:
        good = relative_variance(stats.success, stats.n) >= self.kappa
        good[self._first :] = True
        return good & super().admit(stats)

    def update(self, feedback: Feedback) -> None:
        selection, stats = feedback.selection, feedback.stats
        self.priority.update(selection.problem, relative_variance(stats.success, stats.n), selection.step)

    def metrics(self) -> dict[str, float]:
        memory = self.priority.seen & (self.priority.value >= self.kappa)
        return super().metrics() | {"memory": float(memory.sum())}
