"""RAW-UCB: rotting arms, whose means only fall; the most pessimistic window of an arm's latest draws decides."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import IndexPolicy, check_positive, counter, log_clock, play_best_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.types import Array, Bank


class RawUcbCore(NamedTuple):
    p: Array
    best: Array
    capacity: Array
    batch: int
    score: Array
    low: float
    high: float
    plays: Array  # i64[K]
    recent: Array  # f64[K, levels], sum of 2^l consecutive draws that ended less than max(1, 2^(l-1)) draws ago
    before: Array  # f64[K, levels], the half of it that will be the older one
    draws: Array  # i64[1]
    spread: float  # sigma sqrt(2 alpha)


@nb.njit(error_model="numpy")
def double_(recent, before, arm, n, y):
    """Adds the n-th draw of an arm: every 2^(l-1) draws, the sum over 2^l is made of the latest two sums over half."""
    recent[arm, 0] = y
    level, half = 1, 1
    while level < recent.shape[1] and n % half == 0:
        latest = recent[arm, level - 1]
        if n >= 2 * half:
            recent[arm, level] = before[arm, level] + latest
        before[arm, level] = latest
        level, half = level + 1, 2 * half


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: min over windows h = 1, 2, 4, ... <= N_i of (mean of h recent draws) + sigma sqrt(2 alpha ln t / h)."""
    for j in range(arm.size):
        core.draws[0] += 1
        core.plays[arm[j]] += 1
        y = unit_interval(utility[j], core.low, core.high)
        double_(core.recent, core.before, arm[j], core.plays[arm[j]], y)
    width = core.spread * np.sqrt(log_clock(core.draws[0]))
    for i in range(core.score.size):
        lowest, share, root = np.inf, 1.0, 1.0
        for level in range(core.recent.shape[1]):
            if core.plays[i] * share < 1.0:
                break
            lowest = min(lowest, core.recent[i, level] * share + width * root)
            share *= 0.5
            root *= np.sqrt(0.5)
        core.score[i] = lowest
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class RawUcb(IndexPolicy):
    """RAW-UCB in its efficient form: windows of 1, 2, 4, ... draws. O(K log n) time and memory, n = T m.

    alpha      exploration; 4 in the theorem, 1.4 in the published experiments
    sigma      sub-Gaussian constant of the rewards after the mapping; 1/2 holds for anything in [0, 1]
    low, high  range of the utility that is mapped to [0, 1]

    Raises ValueError for a parameter that is not positive.
    Source  Seznec, Ménard, Lazaric & Valko 2020, RAW-UCB and EFF-RAW-UCB; the windows are those of EFF-FEWA, Seznec et
            al. 2019, appendix on the efficient algorithm.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        alpha: float = 1.4,
        sigma: float = 0.5,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        check_positive(alpha=alpha, sigma=sigma)
        k, levels = self.arm_count, self.draws.bit_length()
        self.core = RawUcbCore(
            **self.play(),
            plays=np.zeros(k, np.int64),
            recent=np.zeros((k, levels)),
            before=np.zeros((k, levels)),
            draws=counter(),
            spread=float(sigma * np.sqrt(2 * alpha)),
        )
