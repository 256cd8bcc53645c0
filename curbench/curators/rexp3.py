"""Rexp3: EXP3 in gain form, restarted, for means that drift within a variation budget."""

from __future__ import annotations

from math import ceil, log
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.exp3 import tuned_mix
from curbench.curators.exponential import check_range, chosen, exponential_step_
from curbench.curators.tabular import Design, TabularCurator, Unit
from curbench.mirror import SMALLEST, mix_, project_on_floor_
from curbench.types import Array, Bank


class Rexp3Core(NamedTuple):
    p: Array
    weight: Array
    eta: float
    mix: float
    restart_every: int
    low: float
    high: float


@nb.njit
def update_core(core, arm, expected, utility, step):
    """One round of EXP3 in gain form; back to uniform weights after every ``restart_every`` rounds."""
    exponential_step_(core, arm, expected, utility)
    project_on_floor_(core.weight, SMALLEST)
    if (step + 1) % core.restart_every == 0:
        core.weight.fill(1.0 / core.weight.size)
    mix_(core.p, core.weight, core.mix)


class Rexp3(TabularCurator):
    """Rexp3 (Besbes, Gur & Zeevi 2014, 1405.3316, section 4 and theorem 2).

    variation      V, sum over rounds of the largest change of a mean; default 1
    restart_every  L; default ceil((K ln K)^(1/3) (T / V)^(2/3)), at most T
    mix            gamma; default min(1, sqrt(K ln K / ((e - 1) L)))
    low, high      range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for a parameter outside its range.
    """

    update_core = staticmethod(update_core)

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
        self.core = Rexp3Core(p, p.copy(), mix / k, mix, every, **check_range(low, high))

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator not in ("static", "switching", "dynamic"):
            return None
        core = self.core
        return "rexp3", {"eta": core.eta, "floor": core.mix, "restart_every": core.restart_every}
