"""Sliding-window Thompson sampling: posteriors of the latest draws only, for means that change."""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import check_positive, counter, play_best_, replace_oldest_
from curbench.curators.posterior import sample_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.curators.thompson import Thompson
from curbench.types import Array, Bank


class SwThompsonCore(NamedTuple):
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
    draws: Array  # i64[1]
    kept_arm: Array  # i64[window], the latest draws
    kept_y: Array


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: a sample from Beta(1 + sum y, 1 + sum (1 - y)), the sums over the latest ``window`` draws."""
    for j in range(arm.size):
        y = unit_interval(utility[j], core.low, core.high)
        old, old_y = replace_oldest_(core.kept_arm, core.kept_y, core.draws, arm[j], y)
        if old >= 0:  # max: rounding must not leave less than the prior
            core.success[old] = max(0.0, core.success[old] - old_y)
            core.failure[old] = max(0.0, core.failure[old] - (1.0 - old_y))
        core.success[arm[j]] += y
        core.failure[arm[j]] += 1.0 - y
    sample_(core.score, core.success, core.failure, core.seed[0], step + 1)
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class SwThompson(Thompson):
    """Sliding-window Thompson sampling. The propensity is conditional on the posterior sample, as in ``Thompson``.

    window     tau, draws that are remembered; default sqrt(n / segments) with n = T m, the order of the analysis
    segments   pieces between abrupt changes (breakpoints + 1), if known
    low, high  range of the utility that is mapped to [0, 1]

    Raises ValueError for a window or segments below 1.
    Source  Trovò, Paladino, Restelli & Gatti 2020, algorithm 1; with n^a changes their window is n^((1 - a) / 2).
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        window: int | None = None,
        segments: int = 1,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        check_positive(window=window, segments=segments)
        if window is None:
            window = ceil(sqrt(self.draws / segments))
        self.core = SwThompsonCore(
            **self.core._asdict(), draws=counter(), kept_arm=np.full(window, -1), kept_y=np.zeros(window)
        )

    def resolved(self) -> dict[str, float]:
        return {**super().resolved(), "window": self.core.kept_arm.size}
