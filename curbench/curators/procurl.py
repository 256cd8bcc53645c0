"""ProCuRL: a softmax over Q (1 - Q), Q a moving average of the success rate of each arm."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.estimators import moving_average_
from curbench.curators.samplers import softmax_
from curbench.curators.tabular import Design, TabularCurator, Unit, unit_interval
from curbench.types import Array, Bank


class ProcurlCore(NamedTuple):
    p: Array
    q: Array  # moving average of the success rate
    score: Array
    alpha: float
    temperature: float


@nb.njit
def update_core(core, arm, expected, utility, step):
    """Q_c <- alpha r_c + (1 - alpha) Q_c over the drawn arms, clipped to [0, 1]; p = softmax(Q (1 - Q) / tau)."""
    rate = np.empty(utility.size)
    for j in range(utility.size):
        rate[j] = unit_interval(utility[j], 0.0, 1.0)
    moving_average_(core.q, arm, rate, core.alpha, False)
    for c in range(core.q.size):
        core.score[c] = core.q[c] * (1.0 - core.q[c])
    softmax_(core.p, core.score, core.temperature)


class Procurl(TabularCurator):
    """Proximal curriculum (Tzannetos et al. 2023, 2304.12877): tasks are chosen in proportion to
    exp(PoS (1 - PoS) / tau), PoS their probability of success.

    alpha        step size of the moving average of the success rate
    temperature  tau; the score is at most 1/4, so values above about 0.5 are nearly uniform
    start        Q before the first visit; 0.5 tries what is unknown first

    Raises ValueError for a parameter outside its range. The signal is the pass rate. With unit="stratum" the score is
    that of the mean rate, which takes an arm that is half solved and half impossible for the best one: SEC's mean
    |advantage| does not. The paper averages rollouts of every task; the moving average is that of SEC's reviews.
    """

    update_core = staticmethod(update_core)
    signal = "pass_rate"

    def __init__(
        self,
        bank: Bank,
        *,
        alpha: float = 0.5,
        temperature: float = 0.1,
        start: float = 0.5,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"alpha must be in (0, 1]; got {alpha}")
        if temperature <= 0.0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        if not 0.0 <= start <= 1.0:
            raise ValueError(f"start must be in [0, 1]; got {start}")
        k = self.arm_count
        self.core = ProcurlCore(np.full(k, 1.0 / k), np.full(k, start), np.zeros(k), float(alpha), float(temperature))
