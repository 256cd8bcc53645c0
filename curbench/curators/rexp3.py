"""Rexp3: EXP3 in gain form, restarted, for means that drift within a variation budget."""

from __future__ import annotations

from math import ceil, log
from typing import Any, NamedTuple

import numpy as np

from curbench.compiled import hot
from curbench.curators.exp3 import tuned_mix
from curbench.curators.exponential import (
    check_range,
    chosen,
    draw_from_tree,
    fill_from_tree,
    keep_in_range_,
    multiply_,
    start_again_,
)
from curbench.curators.tabular import Design, TabularCurator, Unit, unit_interval
from curbench.sumtree import sum_tree
from curbench.types import Array, Bank


class Rexp3Core(NamedTuple):
    p: Array  # what is drawn from, written out by ``fill_core``
    weight: Array  # exponential weights, unnormalised
    tree: Array  # their sum tree
    eta: float
    mix: float
    restart_every: int
    low: float
    high: float


@hot
def update_core(core, arm, expected, utility, step):
    """One round of EXP3 in gain form; back to uniform weights after every ``restart_every`` rounds."""
    for j in range(utility.size):
        y = unit_interval(utility[j], core.low, core.high)
        if y != 0.0:
            multiply_(core, arm[j], core.eta * y / expected[j])
    keep_in_range_(core)
    if (step + 1) % core.restart_every == 0:
        start_again_(core)


class Rexp3(TabularCurator):
    """Rexp3 (Besbes, Gur & Zeevi 2014, 1405.3316, section 4 and theorem 2).

    variation      V, sum over rounds of the largest change of a mean; default 1
    restart_every  L; default ceil((K ln K)^(1/3) (T / V)^(2/3)), at most T
    mix            gamma; default min(1, sqrt(K ln K / ((e - 1) L)))
    low, high      range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for a parameter outside its range.
    """

    draw_core = staticmethod(draw_from_tree)
    update_core = staticmethod(update_core)
    fill_core = staticmethod(fill_from_tree)

    def __init__(
        self,
        bank: Bank,
        *,
        variation: float = 1.0,
        restart_every: int | None = None,
        mix: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        if variation <= 0:
            raise ValueError(f"variation must be positive; got {variation}")
        if restart_every is not None and restart_every < 1:
            raise ValueError(f"restart_every must be at least 1; got {restart_every}")
        k, t = self.arm_count, self.horizon
        tuned = ceil((k * log(max(k, 2))) ** (1 / 3) * (t / variation) ** (2 / 3))
        every = min(t, tuned) if restart_every is None else int(restart_every)
        mix = chosen("mix", mix, tuned_mix(k, every), largest=1.0)
        p = np.full(k, 1.0 / k)
        self.core = Rexp3Core(p, p.copy(), sum_tree(p), mix / k, mix, every, **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator not in ("static", "switching", "dynamic"):
            return None
        core = self.core
        return "rexp3", {"eta": core.eta, "floor": core.mix, "restart_every": core.restart_every}
