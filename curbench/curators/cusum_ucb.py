"""CUSUM-UCB: UCB whose arms forget when a two-sided CUSUM test says that their mean has changed."""

from __future__ import annotations

from math import log, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import (
    IndexPolicy,
    add_,
    check_positive,
    counter,
    forget_,
    log_clock,
    optimism_,
    play_best_,
)
from curbench.curators.tabular import Design, Unit, draw_from_table, unit_interval
from curbench.mirror import share_
from curbench.types import Array, Bank


class CusumUcbCore(NamedTuple):
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
    base: Array  # mean of the first ``samples`` draws of each arm since it was forgotten
    rise: Array
    fall: Array
    draws: Array  # i64[1], sum of the counts
    restarts: Array  # i64[1]
    samples: int
    drift: float
    threshold: float
    exploration: float


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: mean_i + sqrt(ln n / N_i), n = sum_i N_i; uniform with probability ``exploration``.

    With u the mean of the first ``samples`` draws: rise <- max(0, rise + y - u - drift), fall <- max(0, fall + u - y -
    drift); when one reaches ``threshold`` the arm, and only that arm, is forgotten.
    """
    for j in range(arm.size):
        i, y = arm[j], unit_interval(utility[j], core.low, core.high)
        add_(i, 1.0, y, core.plays, core.total, core.mean, core.radius)
        core.draws[0] += 1
        if core.plays[i] == core.samples:
            core.base[i] = core.mean[i]
        elif core.plays[i] > core.samples:
            core.rise[i] = max(0.0, core.rise[i] + y - core.base[i] - core.drift)
            core.fall[i] = max(0.0, core.fall[i] + core.base[i] - y - core.drift)
            if max(core.rise[i], core.fall[i]) >= core.threshold:
                core.draws[0] -= np.int64(core.plays[i])
                core.restarts[0] += 1
                core.rise[i], core.fall[i] = 0.0, 0.0
                forget_(i, core.plays, core.total, core.mean, core.radius)
    optimism_(core.score, core.mean, core.radius, np.sqrt(log_clock(core.draws[0])))
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)
    share_(core.p, core.exploration)


class CusumUcb(IndexPolicy):
    """CUSUM-UCB. O(K) per round. It explores at random, so unlike other index policies its p has no zeros.

    samples      M, draws of an arm that fix the mean it is tested against
    drift        epsilon, half the smallest change worth detecting
    threshold    h; default ln(n / segments) with n = T m
    exploration  alpha, share of uniform draws; default sqrt(segments / n ln(n / segments)), at most 1
    segments     pieces between abrupt changes (breakpoints + 1), if known
    low, high    range of the utility that is mapped to [0, 1]

    Raises ValueError for an exploration outside [0, 1] or another parameter that is not positive.
    Source  Liu, Lee & Shroff 2018, algorithms 2 and 3, with xi = 1; h and alpha in the order of their corollary 2,
            whose constants need the size of the changes and the time between them.
    """

    update_core = staticmethod(update_core)
    draw_core = staticmethod(draw_from_table)
    explores = True

    def __init__(
        self,
        bank: Bank,
        *,
        samples: int = 100,
        drift: float = 0.1,
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
        check_positive(samples=samples, drift=drift, threshold=threshold, segments=segments)
        length = max(self.draws / segments, 2.0)
        exploration = min(1.0, sqrt(log(length) / length)) if exploration is None else exploration
        if not 0.0 <= exploration <= 1.0:
            raise ValueError(f"exploration must be in [0, 1]; got {exploration}")
        k = self.arm_count
        self.core = CusumUcbCore(
            **self.play(),
            **self.means(),
            base=np.zeros(k),
            rise=np.zeros(k),
            fall=np.zeros(k),
            draws=counter(),
            restarts=counter(),
            samples=samples,
            drift=float(drift),
            threshold=float(log(length) if threshold is None else threshold),
            exploration=float(exploration),
        )
        share_(self.core.p, self.core.exploration)

    def metrics(self) -> dict[str, float]:
        return {**super().metrics(), "restarts": float(self.core.restarts[0])}
