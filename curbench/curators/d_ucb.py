"""D-UCB: UCB on discounted sums, for means that change abruptly."""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import IndexPolicy, add_, check_positive, log_clock, optimism_, play_best_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.types import Array, Bank


class DUcbCore(NamedTuple):
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
    weight: Array  # f64[1], sum of the discounted counts
    discount: float
    xi: float


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: mean_i + 2 sqrt(xi ln n / N_i), n = sum_i N_i; every draw first multiplies all sums by ``discount``."""
    m = arm.size
    fade = core.discount**m
    grow = 1.0 / np.sqrt(fade)
    for i in range(core.plays.size):
        core.plays[i] *= fade
        core.total[i] *= fade
        core.radius[i] *= grow
    core.weight[0] *= fade
    for j in range(m):
        w = core.discount ** (m - 1 - j)
        add_(
            arm[j],
            w,
            w * unit_interval(utility[j], core.low, core.high),
            core.plays,
            core.total,
            core.mean,
            core.radius,
        )
        core.weight[0] += w
    optimism_(core.score, core.mean, core.radius, 2.0 * np.sqrt(core.xi * log_clock(core.weight[0])))
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class DUcb(IndexPolicy):
    """Discounted UCB. O(K) per round.

    discount   gamma, per draw; default 1 - sqrt(segments / n) / 4 with n = T m
    xi         exploration; the theorem needs xi > 1/2
    segments   pieces between abrupt changes (breakpoints + 1), if known
    low, high  range of the utility that is mapped to [0, 1]

    Raises ValueError for a discount outside (0, 1] or another parameter that is not positive.
    Source  Garivier & Moulines 2011, section 2 and theorem 1, whose tuning has the breakpoints; B = 1.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        discount: float | None = None,
        xi: float = 0.6,
        segments: int = 1,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        check_positive(xi=xi, segments=segments)
        if discount is None:
            discount = 1 - min(1.0, sqrt(segments / self.draws)) / 4
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount must be in (0, 1]; got {discount}")
        self.core = DUcbCore(**self.play(), **self.means(), weight=np.zeros(1), discount=float(discount), xi=float(xi))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator not in ("switching", "dynamic"):
            return None
        return "d_ucb", {"discount": self.core.discount, "xi": self.core.xi}
