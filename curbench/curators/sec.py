"""SEC, self-evolving curriculum: a softmax over an exponential moving average of each category's mean |advantage|."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.estimators import moving_average_
from curbench.curators.samplers import softmax_
from curbench.curators.tabular import Design, TabularCurator, Unit
from curbench.types import Array, Bank


class SecCore(NamedTuple):
    p: Array
    q: Array  # moving average of the utility of each category
    alpha: float
    temperature: float
    decay: bool  # whether categories without a draw forget


@nb.njit
def update_core(core, arm, expected, utility, step):
    """Q_c <- alpha r_c + (1 - alpha) Q_c with r_c the mean utility of the category's slots; p = softmax(Q / tau)."""
    moving_average_(core.q, arm, utility, core.alpha, core.decay)
    softmax_(core.p, core.q, core.temperature)


class Sec(TabularCurator):
    """Self-Evolving Curriculum (Chen et al. 2025, 2505.14970), section 3.

    alpha          step size of the moving average; 0.5 in the published runs
    temperature    tau of the softmax; published 1.0 (Countdown), 0.4 (MATH), 0.2 (puzzles)
    variant        "paper": a category without a draw in a step keeps its average, as in the formula; "released": the
                   average of the code runs over all categories with zero for the absent ones, so that they decay
    update_absent  "hold" or "decay" by name, whatever the variant

    Raises ValueError for a parameter outside its range. The paper draws categories iid; "auto" avoids duplicates.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        alpha: float = 0.5,
        temperature: float = 1.0,
        variant: Literal["paper", "released"] = "paper",
        update_absent: Literal["hold", "decay"] | None = None,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"alpha must be in (0, 1]; got {alpha}")
        if temperature <= 0.0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        if variant not in ("paper", "released"):
            raise ValueError(f"variant must be paper or released; got {variant!r}")
        if update_absent is None:
            update_absent = "hold" if variant == "paper" else "decay"
        if update_absent not in ("hold", "decay"):
            raise ValueError(f"update_absent must be hold or decay; got {update_absent!r}")
        k = self.arm_count
        self.core = SecCore(
            np.full(k, 1.0 / k), np.zeros(k), float(alpha), float(temperature), update_absent == "decay"
        )
