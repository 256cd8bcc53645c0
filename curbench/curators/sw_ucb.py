"""SW-UCB: UCB on the latest draws only, for means that change abruptly."""

from __future__ import annotations

from math import ceil, log, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import (
    IndexPolicy,
    add_,
    check_positive,
    counter,
    log_clock,
    optimism_,
    play_best_,
    replace_oldest_,
)
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.types import Array, Bank


class SwUcbCore(NamedTuple):
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
    kept_arm: Array  # i64[window], the latest draws
    kept_y: Array
    xi: float


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: mean_i + sqrt(xi ln min(t, window) / N_i), mean_i and N_i over the latest ``window`` draws."""
    for j in range(arm.size):
        y = unit_interval(utility[j], core.low, core.high)
        old, old_y = replace_oldest_(core.kept_arm, core.kept_y, core.draws, arm[j], y)
        if old >= 0:
            add_(old, -1.0, -old_y, core.plays, core.total, core.mean, core.radius)
        add_(arm[j], 1.0, y, core.plays, core.total, core.mean, core.radius)
    seen = min(core.draws[0], core.kept_arm.size)
    optimism_(core.score, core.mean, core.radius, np.sqrt(core.xi * log_clock(seen)))
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class SwUcb(IndexPolicy):
    """Sliding-window UCB. O(K) per round, memory O(K + window).

    window     tau, draws that are remembered; default 2 sqrt(n ln n / segments) with n = T m, at most n
    xi         exploration; the theorem needs xi > 1/2
    segments   pieces between abrupt changes (breakpoints + 1), if known
    low, high  range of the utility that is mapped to [0, 1]

    Raises ValueError for a parameter that is not positive or a window below 1.
    Source  Garivier & Moulines 2011, section 3 and theorem 2, whose tuning divides by the breakpoints; B = 1.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        window: int | None = None,
        xi: float = 0.6,
        segments: int = 1,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        check_positive(window=window, xi=xi, segments=segments)
        n = self.draws
        if window is None:
            window = min(n, ceil(2 * sqrt(n * log(max(n, 2)) / segments)))
        self.core = SwUcbCore(
            **self.play(),
            **self.means(),
            draws=counter(),
            kept_arm=np.full(window, -1),
            kept_y=np.zeros(window),
            xi=float(xi),
        )

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator not in ("switching", "dynamic"):
            return None
        return "sw_ucb", {"window": self.core.kept_arm.size, "xi": self.core.xi}

    def resolved(self) -> dict[str, float]:
        return {**super().resolved(), "window": self.core.kept_arm.size}
