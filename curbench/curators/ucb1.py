"""UCB1: optimism in the face of uncertainty, for means that stand still."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import IndexPolicy, add_, counter, log_clock, optimism_, play_best_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.types import Array, Bank


class Ucb1Core(NamedTuple):
    p: Array
    best: Array
    capacity: Array
    batch: int
    score: Array
    low: float
    high: float
    plays: Array
    total: Array
    mean: Array
    radius: Array
    draws: Array  # i64[1]


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: mean_i + sqrt(2 ln t / N_i), t the draws so far."""
    for j in range(arm.size):
        y = unit_interval(utility[j], core.low, core.high)
        add_(arm[j], 1.0, y, core.plays, core.total, core.mean, core.radius)
        core.draws[0] += 1
    optimism_(core.score, core.mean, core.radius, np.sqrt(2.0 * log_clock(core.draws[0])))
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class Ucb1(IndexPolicy):
    """UCB1. O(K) per round, no parameter.

    low, high  range of the utility that is mapped to [0, 1]

    Source  Auer, Cesa-Bianchi & Fischer 2002, figure 1; its theorem 1 covers iid rewards and one draw per round.
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
        self.core = Ucb1Core(**self.play(), **self.means(), draws=counter())

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        return None if comparator == "top_m" else ("ucb1_gap", {})
