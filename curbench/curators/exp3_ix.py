"""EXP3-IX: implicit exploration, a loss estimate that is biased downwards so that regret concentrates; O(m log K)."""

from __future__ import annotations

from math import log, sqrt
from typing import Any, NamedTuple

import numpy as np

from curbench.compiled import hot
from curbench.curators.exponential import (
    check_range,
    chosen,
    draw_from_tree,
    fill_from_tree,
    keep_in_range_,
    multiply_,
)
from curbench.curators.osmd import effective_arms
from curbench.curators.tabular import Design, TabularCurator, Unit, unit_interval
from curbench.sumtree import sum_tree
from curbench.types import Array, Bank


class Exp3IxCore(NamedTuple):
    p: Array  # what is drawn from, written out by ``fill_core``
    weight: Array  # exponential weights, unnormalised
    tree: Array  # their sum tree
    eta: float
    bias: float  # gamma
    mix: float  # 0: the exploration is implicit
    low: float
    high: float


@hot
def update_core(core, arm, expected, utility, step):
    """weight_i *= exp(-eta lhat_i), lhat_i = sum of the losses of the draws of i / (expected_i + m gamma)."""
    for j in range(utility.size):
        loss = 1.0 - unit_interval(utility[j], core.low, core.high)
        if loss != 0.0:
            multiply_(core, arm[j], -core.eta * loss / (expected[j] + utility.size * core.bias))
    keep_in_range_(core)


class Exp3Ix(TabularCurator):
    """EXP3-IX (Neu 2015, 1506.03271, algorithm 1): lhat_i = 1{I = i} l / (p_i + gamma).

    With m draws p_i becomes the expected count m p_i, and gamma m gamma: the average of m single-draw estimates.

    eta        step size; default sqrt(2 ln K / (kappa T)), kappa = K for one draw a round (theorem 1)
    bias       gamma; default eta / 2
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for a parameter outside its range.
    """

    draw_core = staticmethod(draw_from_tree)
    update_core = staticmethod(update_core)
    fill_core = staticmethod(fill_from_tree)

    def __init__(
        self,
        bank: Bank,
        *,
        eta: float | None = None,
        bias: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        k = self.arm_count
        self.as_published = eta is None and bias is None
        eta = chosen("eta", eta, sqrt(2 * log(max(k, 2)) / (effective_arms(k, self.batch) * self.horizon)))
        bias, p = chosen("bias", bias, eta / 2), np.full(k, 1.0 / k)
        self.core = Exp3IxCore(p, p.copy(), sum_tree(p), eta, bias, 0.0, **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator != "static" or not self.as_published:
            return None
        return "exp3_ix", {"eta": self.core.eta, "bias": self.core.bias}
