"""M-UCB: UCB that starts again when the two halves of an arm's latest draws differ too much."""

from __future__ import annotations

from math import ceil, log, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import (
    IndexPolicy,
    add_,
    check_positive,
    counter,
    force_,
    forget_,
    log_clock,
    optimism_,
    play_best_,
)
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.types import Array, Bank


class MUcbCore(NamedTuple):
    p: Array
    best: Array
    capacity: Array
    batch: int
    score: Array
    low: float
    high: float
    plays: Array
    total: Array
    mean: Array
    radius: Array
    latest: Array  # f64[K, window], ring of each arm's latest draws
    older: Array  # sum over the older half of the ring
    newer: Array
    draws: Array  # i64[1], since the last restart
    rounds: Array  # i64[1], since the last restart
    restarts: Array  # i64[1]
    threshold: float
    period: int


@nb.njit(error_model="numpy")
def half_difference_(latest, older, newer, arm, seen, y):
    """Adds a draw to an arm's ring; |newer half - older half| of the sums, 0 until the window is full.

    seen  draws of the arm before this one, since the last restart
    """
    window = latest.shape[1]
    half = window // 2
    slot = seen % window
    leaving = latest[arm, slot] if seen >= window else 0.0
    crossing = latest[arm, (slot + half) % window] if seen >= half else 0.0
    latest[arm, slot] = y
    older[arm] += crossing - leaving
    newer[arm] += y - crossing
    return abs(newer[arm] - older[arm]) if seen + 1 >= window else 0.0


@nb.njit(error_model="numpy")
def restart_(core):
    """Everything is forgotten, for all arms."""
    for i in range(core.plays.size):
        forget_(i, core.plays, core.total, core.mean, core.radius)
        core.older[i], core.newer[i] = 0.0, 0.0
    core.draws[0], core.rounds[0] = 0, -1
    core.restarts[0] += 1


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: mean_i + sqrt(2 ln t / N_i), t the draws since the restart; K of every ``period`` rounds are forced."""
    for j in range(arm.size):
        i, y = arm[j], unit_interval(utility[j], core.low, core.high)
        change = half_difference_(core.latest, core.older, core.newer, i, np.int64(core.plays[i]), y)
        add_(i, 1.0, y, core.plays, core.total, core.mean, core.radius)
        core.draws[0] += 1
        if change > core.threshold:
            restart_(core)
    core.rounds[0] += 1
    optimism_(core.score, core.mean, core.radius, np.sqrt(2.0 * log_clock(core.draws[0])))
    force_(core.score, core.rounds[0], core.period)
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class MUcb(IndexPolicy):
    """Monitored UCB. O(K) per round, memory K window.

    change       delta, the smallest change of a mean that has to be detected
    window       w, even, draws of an arm that are tested; default (4 / delta^2) (sqrt(ln 2Kn^2) + sqrt(ln 2n))^2 with
                 n = T m, rounded up. Where that is more than an arm gets between changes nothing is ever detected, and
                 a smaller window by hand does better than the theory
    threshold    b; default sqrt(window / 2 ln 2Kn^2)
    exploration  gamma, share of rounds that are forced; default sqrt(segments K (2b + 3 sqrt w) / 2n), at most 1
    segments     M, pieces between abrupt changes, if known
    low, high    range of the utility that is mapped to [0, 1]

    Raises ValueError for an odd window, an exploration outside (0, 1] or another parameter that is not positive.
    Source  Cao, Wen, Kveton & Xie 2019, algorithms 1 and 2, remark 1 and corollary 2.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        change: float = 0.5,
        window: int | None = None,
        threshold: float | None = None,
        exploration: float | None = None,
        segments: int = 1,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        check_positive(change=change, window=window, threshold=threshold, segments=segments)
        n, k = self.draws, self.arm_count
        union = log(2 * k * n**2)
        if window is None:
            window = 2 * ceil(2 / change**2 * (sqrt(union) + sqrt(log(2 * n))) ** 2)
        if window % 2:
            raise ValueError(f"window must be even; got {window}")
        b = sqrt(window / 2 * union) if threshold is None else threshold
        if exploration is None:
            exploration = min(1.0, sqrt(segments * k * (2 * b + 3 * sqrt(window)) / (2 * n)))
        if not 0.0 < exploration <= 1.0:
            raise ValueError(f"exploration must be in (0, 1]; got {exploration}")
        self.core = MUcbCore(
            **self.play(),
            **self.means(),
            latest=np.zeros((k, window)),
            older=np.zeros(k),
            newer=np.zeros(k),
            draws=counter(),
            rounds=counter(),
            restarts=counter(),
            threshold=float(b),
            period=int(k / exploration),
        )

    def resolved(self) -> dict[str, float]:
        return {**super().resolved(), "window": self.core.latest.shape[1]}

    def metrics(self) -> dict[str, float]:
        return {**super().metrics(), "restarts": float(self.core.restarts[0])}
