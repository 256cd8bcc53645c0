"""EXP3-IX: implicit exploration, a loss estimate that is biased downwards so that regret concentrates."""

from __future__ import annotations

from math import log, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.exponential import check_range, chosen
from curbench.curators.osmd import effective_arms
from curbench.curators.tabular import Design, TabularCurator, Unit, unit_interval
from curbench.mirror import exponentiated_step_, project_on_floor_
from curbench.types import Array, Bank


class Exp3IxCore(NamedTuple):
    p: Array
    eta: float
    bias: float  # gamma
    low: float
    high: float


@nb.njit
def update_core(core, arm, expected, utility, step):
    """p_i *= exp(-eta lhat_i), lhat_i = sum of the losses of the draws of i / (expected_i + m gamma)."""
    for j in range(utility.size):
        loss = 1.0 - unit_interval(utility[j], core.low, core.high)
        exponentiated_step_(core.p, arm[j], loss / (expected[j] + utility.size * core.bias), core.eta)
    project_on_floor_(core.p, 0.0)


class Exp3Ix(TabularCurator):
    """EXP3-IX (Neu 2015, 1506.03271, algorithm 1): lhat_i = 1{I = i} l / (p_i + gamma).

    With m draws p_i becomes the expected count m p_i, and gamma m gamma: the average of m single-draw estimates.

    eta        step size; default sqrt(2 ln K / (kappa T)), kappa = K for one draw a round (theorem 1)
    bias       gamma; default eta / 2
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for a parameter outside its range.
    """

    update_core = staticmethod(update_core)

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
        self.core = Exp3IxCore(np.full(k, 1.0 / k), eta, chosen("bias", bias, eta / 2), **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator != "static" or not self.as_published:
            return None
        return "exp3_ix", {"eta": self.core.eta, "bias": self.core.bias}
