"""EXP3: exponential weights for exploration and exploitation, in loss form or in gain form.

An importance-weighted estimate changes the weights of the drawn arms only, so with the weights in a sum tree a round
costs O(m log K), whatever K is.
"""

from __future__ import annotations

from math import e, log, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.exponential import Form, check_range, chosen
from curbench.curators.osmd import effective_arms
from curbench.curators.tabular import Design, MirrorStep, TabularCurator, Unit, unit_interval
from curbench.mirror import SMALLEST
from curbench.philox import DRAW, uniform
from curbench.sumtree import find, refresh_, set_, sum_tree
from curbench.types import Array, Bank


def tuned_mix(arms: int, horizon: int) -> float:
    """min(1, sqrt(K ln K / ((e - 1) T))), the gamma of EXP3 in gain form. Auer et al. 2002, corollary 3.2."""
    return min(1.0, sqrt(arms * log(max(arms, 2)) / ((e - 1) * horizon)))


class Exp3Core(NamedTuple):
    p: Array  # what is drawn from, written out by ``fill_core``
    tree: Array  # sum tree over unnormalised exponential weights
    eta: float
    mix: float  # gamma: the share of uniform draws, of all arms together
    shift: float  # 1: losses 1 - y; 0: gains
    low: float
    high: float


@nb.njit
def draw_core(core, arm, q, seed, step):
    """Draws from (1 - mix) weight / total + mix / K, with one uniform per slot."""
    tree, k = core.tree, core.p.size
    leaves = tree.size >> 1
    for j in range(arm.size):
        u = uniform(seed, DRAW, step, j)
        if core.mix == 0.0:
            arm[j] = find(tree, u * tree[1])
            q[j] = tree[leaves + arm[j]] / tree[1]
            continue
        if u < core.mix:
            arm[j] = min(int(u / core.mix * k), k - 1)
        else:
            arm[j] = find(tree, (u - core.mix) / (1.0 - core.mix) * tree[1])
        q[j] = (1.0 - core.mix) * tree[leaves + arm[j]] / tree[1] + core.mix / k


@nb.njit
def update_core(core, arm, expected, utility, step):
    """weight_i *= exp(eta sum_j (y_j - shift) / expected_j) over the draws j of arm i."""
    tree = core.tree
    leaves = tree.size >> 1
    for j in range(utility.size):
        loss = core.shift - unit_interval(utility[j], core.low, core.high)
        if loss != 0.0:
            factor = np.exp(-core.eta * loss / expected[j])
            set_(tree, arm[j], max(tree[leaves + arm[j]] * factor, SMALLEST))
    if not 1e-100 < tree[1] < 1e100:  # long before a weight that matters underflows
        total = tree[1]
        for i in range(leaves, leaves + core.p.size):
            tree[i] = max(tree[i] / total, SMALLEST)
        refresh_(tree)


@nb.njit
def fill_core(core):
    """Writes the distribution to ``core.p``."""
    k, leaves = core.p.size, core.tree.size >> 1
    for i in range(k):
        core.p[i] = (1.0 - core.mix) * core.tree[leaves + i] / core.tree[1] + core.mix / k


class Exp3(TabularCurator):
    """EXP3.

    form       "loss": w_i *= exp(-eta lhat_i), no mixing (Bubeck & Cesa-Bianchi 2012, figure 3.1);
               "gain": w_i *= exp(gamma ghat_i / K), p = (1 - gamma) w + gamma / K (Auer et al. 2002, figure 1)
    eta        step size of "loss"; default sqrt(2 ln K / (kappa T)), kappa the effective arms of m draws
    mix        gamma of "gain"; default min(1, sqrt(K ln K / ((e - 1) T)))
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for an unknown form, a parameter outside its range or one the form does not use.
    """

    draw_core = staticmethod(draw_core)
    update_core = staticmethod(update_core)
    fill_core = staticmethod(fill_core)

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
            self.core = Exp3Core(p, sum_tree(p), eta, 0.0, 1.0, **check_range(low, high))
        else:
            mix = chosen("mix", mix, tuned_mix(k, t), largest=1.0)
            self.core = Exp3Core(p, sum_tree(p), mix / k, mix, 0.0, **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator != "static":
            return None
        name = "exp3_static" if self.form == "loss" else "exp3_gain"
        return name, {"eta": self.core.eta, "floor": self.core.mix}

    def mirror_step(self) -> MirrorStep | None:
        return MirrorStep(self.core.eta, 0.0, self.core.p) if self.form == "loss" else None
