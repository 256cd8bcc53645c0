"""EXP3.P: gains with a bonus for every arm, so that regret is small with high probability."""

from __future__ import annotations

from math import log, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.exponential import check_range, chosen, exponential_step_
from curbench.curators.tabular import Design, TabularCurator, Unit
from curbench.mirror import SMALLEST, exponentiated_step_, mix_, project_on_floor_
from curbench.types import Array, Bank


class Exp3PCore(NamedTuple):
    p: Array
    weight: Array
    eta: float
    mix: float
    bias: float  # beta
    low: float
    high: float


@nb.njit
def update_core(core, arm, expected, utility, step):
    """weight_i *= exp(eta (ghat_i + beta / p_i)), ghat_i the estimated gain; p mixes in a share of uniform draws."""
    for i in range(core.p.size):
        exponentiated_step_(core.weight, i, -core.bias / core.p[i], core.eta)
    exponential_step_(core, arm, expected, utility)
    project_on_floor_(core.weight, SMALLEST)
    mix_(core.p, core.weight, core.mix)


class Exp3P(TabularCurator):
    """EXP3.P (Auer et al. 2002, section 6; Bubeck & Cesa-Bianchi 2012, figure 3.2 and theorem 3.3).

    bias       beta; default sqrt(ln K / (T K)), which needs no confidence level
    eta        step size; default 0.95 sqrt(ln K / (T K))
    mix        gamma; default 1.05 sqrt(K ln K / T), at most 1/2
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for a parameter outside its range, or (1 + beta) K eta > gamma: then an exponent may exceed 1, and
    the theorem does not hold. Default step sizes are cut to satisfy it.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        bias: float | None = None,
        eta: float | None = None,
        mix: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        k, t = self.arm_count, self.horizon
        entropy = log(max(k, 2))
        bias = chosen("bias", bias, sqrt(entropy / (t * k)))
        mix = chosen("mix", mix, min(0.5, 1.05 * sqrt(k * entropy / t)), largest=1.0)
        largest = mix / ((1 + bias) * k)
        eta = chosen("eta", eta, min(0.95 * sqrt(entropy / (t * k)), largest), largest=largest)
        p = np.full(k, 1.0 / k)
        self.core = Exp3PCore(p, p.copy(), eta, mix, bias, **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator != "static":
            return None
        return "exp3_p", {"eta": self.core.eta, "floor": self.core.mix, "bias": self.core.bias}
