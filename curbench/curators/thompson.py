"""Thompson sampling: play the arms that are best in a sample from the posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import IndexPolicy, play_best_
from curbench.curators.posterior import sample_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.types import Array, Bank


class ThompsonCore(NamedTuple):
    p: Array
    best: Array
    capacity: Array
    batch: int
    score: Array  # the posterior sample
    low: float
    high: float
    success: Array
    failure: Array
    seed: Array  # u64[1]


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: a sample from Beta(1 + sum y, 1 + sum (1 - y)) of each arm."""
    for j in range(arm.size):
        y = unit_interval(utility[j], core.low, core.high)
        core.success[arm[j]] += y
        core.failure[arm[j]] += 1.0 - y
    sample_(core.score, core.success, core.failure, core.seed[0], step + 1)
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class Thompson(IndexPolicy):
    """Thompson sampling with Beta posteriors, uniform prior and fractional updates (see ``posterior``).

    One sample decides a round, and all its draws. The stated propensity is conditional on that sample: it is that of
    the draw that was made, and not usable for off-policy evaluation.

    low, high  range of the utility that is mapped to [0, 1]

    Source  Thompson 1933; Agrawal & Goyal 2012, algorithms 1 and 2.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        self.core = ThompsonCore(**self.play(), **self.posterior())
        self.sample_first_round()

    def posterior(self) -> dict[str, Any]:
        """Core fields of a Beta posterior: success, failure f64[K] and the seed of the samples."""
        k = self.arm_count
        return {"success": np.zeros(k), "failure": np.zeros(k), "seed": np.array([self.seed], np.uint64)}

    def sample_first_round(self) -> None:
        """Leaves in ``core.p`` what a sample from the prior plays."""
        core = self.core
        sample_(core.score, core.success, core.failure, core.seed[0], 0)
        play_best_(core.p, core.best, core.capacity, core.batch, core.score)
