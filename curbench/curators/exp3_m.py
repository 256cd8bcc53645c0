"""EXP3.M: EXP3 in gain form, m distinct plays a round; weights are capped so that no play is surer than certain."""

from __future__ import annotations

from math import e, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.exponential import check_range, chosen
from curbench.curators.osmd_mset import check_distinct, set_entropy
from curbench.curators.tabular import Design, TabularCurator, unit_interval
from curbench.mirror import SMALLEST, copy_, exponentiated_step_, mix_, project_on_box_, project_on_floor_
from curbench.types import Array, Bank


class Exp3MCore(NamedTuple):
    p: Array  # inclusion probability / m
    weight: Array  # sums to 1
    eta: float  # m gamma / K
    mix: float  # gamma
    cap: float  # weight at which an inclusion probability is 1: (1/m - gamma/K) / (1 - gamma)
    low: float
    high: float


@nb.njit
def update_core(core, arm, expected, utility, step):
    """w_i *= exp(m gamma ghat_i / K), but for arms that were certain; p = (1 - gamma) capped w + gamma / K."""
    for j in range(utility.size):
        if expected[j] < 1.0 - 1e-9:
            gain = unit_interval(utility[j], core.low, core.high)
            exponentiated_step_(core.weight, arm[j], -gain / expected[j], core.eta)
    project_on_floor_(core.weight, SMALLEST)
    copy_(core.p, core.weight)
    project_on_box_(core.p, 0.0, core.cap, 1.0)
    mix_(core.p, core.p, core.mix)


class Exp3M(TabularCurator):
    """EXP3.M (Uchiya, Nakamura & Kudo 2010, algorithm 1 and corollary 1), with systematic draws in place of DepRound.

    Both designs have the same inclusion probabilities m p_i, which is all that the analysis uses. Every problem is an
    arm. With "iid" draws problems may repeat, and no theorem applies.

    mix        gamma; default min(1, sqrt(K ln(K / m) / ((e - 1) m T)))
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for a parameter outside its range, or a batch larger than the bank.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        mix: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
        design: Design = "systematic",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit="problem", design=design, **common)
        k, m, t = self.arm_count, self.batch, self.horizon
        check_distinct(m, k)
        mix = chosen("mix", mix, sqrt(k * set_entropy(k, m) / ((e - 1) * m * m * t)), largest=1.0)
        cap = (1 / m - mix / k) / (1 - mix) if mix < 1.0 else 1.0
        p = np.full(k, 1.0 / k)
        self.core = Exp3MCore(p, p.copy(), m * mix / k, mix, min(cap, 1.0), **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        used = {"eta": self.core.eta, "floor": self.core.mix}
        if self.batch == 1:
            return ("exp3_gain", used) if comparator == "static" else None
        return ("exp3_m", used) if comparator == "top_m" and self.design != "iid" else None
