"""EXP3.S: EXP3 in gain form whose weights share a little with each other, to follow a best arm that changes."""

from __future__ import annotations

from math import e, log, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.exponential import check_range, chosen, exponential_step_
from curbench.curators.tabular import Design, TabularCurator, Unit
from curbench.mirror import mix_, project_on_floor_
from curbench.types import Array, Bank


class Exp3SCore(NamedTuple):
    p: Array
    weight: Array
    eta: float
    mix: float
    share: float  # alpha
    low: float
    high: float


@nb.njit
def update_core(core, arm, expected, utility, step):
    """w_i <- w_i exp(gamma ghat_i / K) + e alpha / K, where the w summed to 1; p mixes in a share of uniform draws."""
    exponential_step_(core, arm, expected, utility)
    for i in range(core.weight.size):
        core.weight[i] += np.e * core.share / core.weight.size
    project_on_floor_(core.weight, 0.0)
    mix_(core.p, core.weight, core.mix)


class Exp3S(TabularCurator):
    """EXP3.S (Auer et al. 2002, figure 4; tunings of corollaries 8.3 and 8.4).

    segments   S, number of constant pieces of the comparator, if known; default 1
    mix        gamma; default min(1, sqrt(K (S ln(K T) + e) / ((e - 1) T)))
    share      alpha; default 1 / T
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for a parameter outside its range.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        segments: int = 1,
        mix: float | None = None,
        share: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        if segments < 1:
            raise ValueError(f"segments must be at least 1; got {segments}")
        k, t = self.arm_count, self.horizon
        mix = chosen("mix", mix, sqrt(k * (segments * log(k * t) + e) / ((e - 1) * t)), largest=1.0)
        share = chosen("share", share, 1.0 / t, largest=1.0)
        p = np.full(k, 1.0 / k)
        self.core = Exp3SCore(p, p.copy(), mix / k, mix, share, **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator not in ("static", "switching"):
            return None
        return "exp3_s", {"eta": self.core.eta, "floor": self.core.mix, "share": self.core.share}
