"""R-ed-UCB: rising arms, whose means grow with their own plays, ever more slowly; the trend is extrapolated to now."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import IndexPolicy, check_positive, counter, log_clock, play_best_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.types import Array, Bank


class REdUcbCore(NamedTuple):
    p: Array
    best: Array
    capacity: Array
    batch: int
    score: Array
    low: float
    high: float
    plays: Array  # i64[K]
    latest: Array  # f64[K, 2 window], ring of each arm's draws y(1), y(2), ...
    span: Array  # i64[K], h: draws in each of the two windows
    newer: Array  # sum of y(l) over the latest h draws
    older: Array  # sum of y(l) over the h draws before them
    newer_timed: Array  # sum of l y(l) over the latest h draws
    older_timed: Array  # sum of l y(l - h) over the same l
    draws: Array  # i64[1]
    fraction: float
    alpha: float
    sigma: float


@nb.njit(error_model="numpy")
def slide_(core, i, y):
    """Adds draw n of arm i, in O(1); the ring holds 2 h draws, so the oldest is read before it is overwritten."""
    size = core.latest.shape[1]
    core.plays[i] += 1
    n, h = core.plays[i], core.span[i]
    if min(np.int64(core.fraction * n), size // 2) > h:  # both windows grow: one by the new draw, one backwards
        oldest = core.latest[i, (n - 2 * h - 1) % size]
        core.newer[i] += y
        core.newer_timed[i] += n * y
        core.older_timed[i] += core.older[i] + (n - h) * oldest
        core.older[i] += oldest
        core.span[i] += 1
    elif h > 0:  # both windows move one draw ahead
        cross, leave = core.latest[i, (n - h) % size], core.latest[i, (n - 2 * h) % size]
        core.newer[i] += y - cross
        core.newer_timed[i] += n * y - (n - h) * cross
        core.older[i] += cross - leave
        core.older_timed[i] += n * cross - (n - h) * leave
    core.latest[i, n % size] = y


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: (1/h) sum over the latest h draws l of [y(l) + (t - l) (y(l) - y(l - h)) / h]
    + sigma (t - N + h - 1) sqrt(10 alpha ln t / h^3), t the draw to come; +infinity while h = 0.
    """
    for j in range(arm.size):
        core.draws[0] += 1
        slide_(core, arm[j], unit_interval(utility[j], core.low, core.high))
    t = core.draws[0] + 1
    width = core.sigma * np.sqrt(10.0 * core.alpha * log_clock(t))
    for i in range(core.score.size):
        core.score[i] = np.inf
        if core.span[i] > 0:
            h = float(core.span[i])
            rise = t * (core.newer[i] - core.older[i]) - (core.newer_timed[i] - core.older_timed[i])
            reach = t - core.plays[i] + h - 1.0
            core.score[i] = core.newer[i] / h + rise / (h * h) + width * reach / (h * np.sqrt(h))
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class REdUcb(IndexPolicy):
    """R-ed-UCB. O(K) per round; each arm remembers 2 ``window`` draws, 16 K window bytes in all.

    fraction   epsilon of the window h = floor(epsilon N_i), below 1/2
    alpha      exploration; the theorem needs alpha > 2
    sigma      sub-Gaussian constant of the rewards after the mapping; 1/2 holds for anything in [0, 1]
    window     largest h; default floor(epsilon T m), which never binds
    low, high  range of the utility that is mapped to [0, 1]

    Raises ValueError for a fraction outside (0, 1/2) or another parameter that is not positive.
    Source  Metelli, Trovò, Pirola & Restelli 2022, algorithm 1 and theorem 4.4 (rested arms).
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        fraction: float = 0.25,
        alpha: float = 2.01,
        sigma: float = 0.5,
        window: int | None = None,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        check_positive(alpha=alpha, sigma=sigma, window=window)
        if not 0.0 < fraction < 0.5:
            raise ValueError(f"fraction must be in (0, 1/2); got {fraction}")
        k = self.arm_count
        window = max(1, int(fraction * self.draws)) if window is None else window
        self.core = REdUcbCore(
            **self.play(),
            plays=np.zeros(k, np.int64),
            latest=np.zeros((k, 2 * window)),
            span=np.zeros(k, np.int64),
            newer=np.zeros(k),
            older=np.zeros(k),
            newer_timed=np.zeros(k),
            older_timed=np.zeros(k),
            draws=counter(),
            fraction=float(fraction),
            alpha=float(alpha),
            sigma=float(sigma),
        )

    def resolved(self) -> dict[str, float]:
        return {**super().resolved(), "window": self.core.latest.shape[1] // 2}
