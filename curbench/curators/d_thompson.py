"""Discounted Thompson sampling: posteriors that fade, for means that change."""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numba as nb

from curbench.curators.index import check_positive, play_best_
from curbench.curators.posterior import sample_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.curators.thompson import Thompson
from curbench.types import Array, Bank


class DThompsonCore(NamedTuple):
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
    discount: float


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: a sample from Beta(1 + S_i, 1 + F_i); every draw first multiplies all S and F by ``discount``."""
    m = arm.size
    fade = core.discount**m
    for i in range(core.success.size):
        core.success[i] *= fade
        core.failure[i] *= fade
    for j in range(m):
        w, y = core.discount ** (m - 1 - j), unit_interval(utility[j], core.low, core.high)
        core.success[arm[j]] += w * y
        core.failure[arm[j]] += w * (1.0 - y)
    sample_(core.score, core.success, core.failure, core.seed[0], step + 1)
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class DThompson(Thompson):
    """Discounted Thompson sampling. The propensity is conditional on the posterior sample, as in ``Thompson``.

    discount   gamma, per draw; default 1 - sqrt(segments / n) with n = T m, the order of the later analyses
    segments   pieces between abrupt changes (breakpoints + 1), if known
    low, high  range of the utility that is mapped to [0, 1]

    Raises ValueError for a discount outside (0, 1] or segments below 1.
    Source  Raj & Kalyani 2017, algorithm 1; the tuning follows Qi, Guo & Zhu 2025, whose bound is of this order.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        discount: float | None = None,
        segments: int = 1,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        check_positive(segments=segments)
        if discount is None:
            discount = 1 - min(0.5, sqrt(segments / self.draws))
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount must be in (0, 1]; got {discount}")
        self.core = DThompsonCore(**self.core._asdict(), discount=float(discount))
