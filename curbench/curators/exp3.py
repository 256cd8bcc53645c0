"""EXP3: exponential weights for exploration and exploitation, in loss form or in gain form; O(m log K) a round."""

from __future__ import annotations

from math import e, log, sqrt
from typing import Any, NamedTuple

import numpy as np

from curbench.compiled import hot
from curbench.curators.exponential import (
    Form,
    check_range,
    chosen,
    draw_from_tree,
    fill_from_tree,
    keep_in_range_,
    multiply_,
)
from curbench.curators.osmd import effective_arms
from curbench.curators.tabular import Design, MirrorStep, TabularCurator, Unit, unit_interval
from curbench.sumtree import sum_tree
from curbench.types import Array, Bank


def tuned_mix(arms: int, horizon: int) -> float:
    """min(1, sqrt(K ln K / ((e - 1) T))), the gamma of EXP3 in gain form. Auer et al. 2002, corollary 3.2."""
    return min(1.0, sqrt(arms * log(max(arms, 2)) / ((e - 1) * horizon)))


class Exp3Core(NamedTuple):
    p: Array  # what is drawn from, written out by ``fill_core``
    weight: Array  # exponential weights, unnormalised
    tree: Array  # their sum tree
    eta: float
    mix: float  # gamma: the share of uniform draws, of all arms together
    shift: float  # 1: losses 1 - y; 0: gains
    low: float
    high: float


@hot
def update_core(core, arm, expected, utility, step):
    """weight_i *= exp(eta sum_j (y_j - shift) / expected_j) over the draws j of arm i."""
    for j in range(utility.size):
        loss = core.shift - unit_interval(utility[j], core.low, core.high)
        if loss != 0.0:
            multiply_(core, arm[j], -core.eta * loss / expected[j])
    keep_in_range_(core)


class Exp3(TabularCurator):
    """EXP3.

    form       "loss": w_i *= exp(-eta lhat_i), no mixing (Bubeck & Cesa-Bianchi 2012, figure 3.1);
               "gain": w_i *= exp(gamma ghat_i / K), p = (1 - gamma) w + gamma / K (Auer et al. 2002, figure 1)
    eta        step size of "loss"; default sqrt(2 ln K / (kappa T)), kappa the effective arms of m draws
    mix        gamma of "gain"; default min(1, sqrt(K ln K / ((e - 1) T)))
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for an unknown form, a parameter outside its range or one the form does not use.
    """

    draw_core = staticmethod(draw_from_tree)
    update_core = staticmethod(update_core)
    fill_core = staticmethod(fill_from_tree)

    def __init__(
        self,
        bank: Bank,
        *,
        form: Form = "loss",
        eta: float | None = None,
        mix: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        if form not in ("loss", "gain"):
            raise ValueError(f"form must be loss or gain; got {form!r}")
        for name, value, owner in (("eta", eta, "loss"), ("mix", mix, "gain")):
            if value is not None and form != owner:
                raise ValueError(f"{name} belongs to form {owner!r}; leave it out")
        self.form = form
        k, t = self.arm_count, self.horizon
        p = np.full(k, 1.0 / k)
        if form == "loss":
            eta = chosen("eta", eta, sqrt(2 * log(max(k, 2)) / (effective_arms(k, self.batch) * t)))
            self.core = Exp3Core(p, p.copy(), sum_tree(p), eta, 0.0, 1.0, **check_range(low, high))
        else:
            mix = chosen("mix", mix, tuned_mix(k, t), largest=1.0)
            self.core = Exp3Core(p, p.copy(), sum_tree(p), mix / k, mix, 0.0, **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator != "static":
            return None
        name = "exp3_static" if self.form == "loss" else "exp3_gain"
        return name, {"eta": self.core.eta, "floor": self.core.mix}

    def mirror_step(self) -> MirrorStep | None:
        return MirrorStep(self.core.eta, 0.0, self.core.p) if self.form == "loss" else None
