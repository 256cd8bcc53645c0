"""CombUCB1: UCB for the best set of m arms, each of which shows its own reward."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from curbench.curators.index import IndexPolicy, add_, counter, log_clock, optimism_, play_best_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.curators.ucb1 import Ucb1Core
from curbench.types import Bank


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: mean_i + sqrt(1.5 ln t / N_i), t the rounds so far."""
    for j in range(arm.size):
        y = unit_interval(utility[j], core.low, core.high)
        add_(arm[j], 1.0, y, core.plays, core.total, core.mean, core.radius)
    core.draws[0] += 1
    optimism_(core.score, core.mean, core.radius, np.sqrt(1.5 * log_clock(core.draws[0])))
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class CombUcb1(IndexPolicy):
    """CombUCB1 on sets of m problems, so the design is systematic unless said otherwise.

    Its first rounds play the arms that were never played, lowest first, which the paper leaves open.

    low, high  range of the utility that is mapped to [0, 1]

    Source  Kveton, Wen, Ashkan & Szepesvari 2015, algorithm 1, with the m-sets (a uniform matroid) as feasible sets.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "systematic",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        self.core = Ucb1Core(**self.play(), **self.means(), draws=counter())

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        return ("comb_ucb1", {}) if comparator == "top_m" and self.design != "iid" else None
