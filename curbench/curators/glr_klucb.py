"""GLR-klUCB: kl-UCB that forgets when a generalised likelihood ratio test finds a change in an arm's draws."""

from __future__ import annotations

from math import sqrt
from typing import Any, Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.index import IndexPolicy, check_positive, counter, force_, log_clock, play_best_
from curbench.curators.tabular import Design, Unit, unit_interval
from curbench.types import Array, Bank


class GlrKlUcbCore(NamedTuple):
    p: Array
    best: Array
    capacity: Array
    batch: int
    score: Array
    low: float
    high: float
    plays: Array  # i64[K], draws of each arm since it was forgotten
    total: Array
    origin: Array  # i64[K], the clock when each arm was forgotten
    prefix: Array  # f64[K, splits], sums of the first stride, 2 stride, ... draws
    kept: Array  # i64[K], how many of them there are
    stride: Array  # i64[K]
    draws: Array  # i64[1]
    rounds: Array  # i64[1], since the last restart of any arm
    restarts: Array  # i64[1]
    every: int
    first_stride: int
    log_confidence: float
    exploration: float
    everywhere: bool


@nb.njit(error_model="numpy")
def negative_entropy(total, n):
    """n (q ln q + (1 - q) ln(1 - q)) with q = total / n: the best Bernoulli log-likelihood of n draws."""
    if total <= 0.0 or total >= n:
        return 0.0
    return total * np.log(total / n) + (n - total) * np.log((n - total) / n)


@nb.njit(error_model="numpy")
def likelihood_ratio(prefix, kept, stride, total, n):
    """max_s [s kl(mean of the first s, mean of all) + (n - s) kl(mean of the others, mean of all)] over the splits.

    prefix  f64[splits], sums of the first stride, 2 stride, ... draws, of which ``kept`` are valid
    """
    largest, whole = 0.0, negative_entropy(total, n)
    for j in range(kept):
        s = (j + 1) * stride
        if s < n:
            apart = negative_entropy(prefix[j], s) + negative_entropy(total - prefix[j], n - s)
            largest = max(largest, apart - whole)
    return largest


@nb.njit(error_model="numpy")
def kl_upper(mean, budget):
    """The largest q in [mean, 1] with kl(mean, q) <= budget, kl between Bernoulli distributions.

    Newton from the right of the root of a convex increasing function, hence monotone; the start is the smaller of
    Pinsker's bound and 1 - exp(-(budget + entropy) / (1 - mean)).
    """
    if mean >= 1.0 or budget <= 0.0:
        return min(mean, 1.0)
    entropy = -negative_entropy(mean, 1.0)
    q = min(mean + np.sqrt(0.5 * budget), 1.0 - np.exp(-(budget + entropy) / (1.0 - mean)))
    if mean <= 0.0:
        return 1.0 - np.exp(-budget)
    for _ in range(50):
        if q >= 1.0 or q <= mean:
            return min(max(q, mean), 1.0)
        step = (-mean * np.log(q) - (1.0 - mean) * np.log(1.0 - q) - entropy - budget) * q * (1.0 - q) / (q - mean)
        q -= step
        if step < 1e-12:
            break
    return q


@nb.njit(error_model="numpy")
def forget_(core, i):
    core.plays[i], core.total[i], core.kept[i] = 0, 0.0, 0
    core.stride[i] = core.first_stride
    core.origin[i] = core.draws[0]


@nb.njit(error_model="numpy")
def remember_(core, i, y):
    """Adds a draw to an arm; a full row of prefix sums keeps every second one."""
    core.plays[i] += 1
    core.total[i] += y
    if core.plays[i] % core.stride[i] == 0:
        core.prefix[i, core.kept[i]] = core.total[i]
        core.kept[i] += 1
        if core.kept[i] == core.prefix.shape[1]:
            core.kept[i] //= 2
            core.stride[i] *= 2
            for j in range(core.kept[i]):
                core.prefix[i, j] = core.prefix[i, 2 * j + 1]


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """Index: the largest q with N_i kl(mean_i, q) <= f(t - tau_i), f(x) = ln x + 3 ln ln x, tau_i the arm's restart.

    Every ``every`` draws of an arm: a change if the ratio exceeds ln(3 n^(3/2) / confidence). Forced exploration: the
    first K rounds of every floor(K / alpha_k) after the k-th start, alpha_k = exploration sqrt(k).
    """
    k = core.score.size
    for j in range(arm.size):
        i = arm[j]
        core.draws[0] += 1
        remember_(core, i, unit_interval(utility[j], core.low, core.high))
        n = core.plays[i]
        if n % core.every == 0:
            ratio = likelihood_ratio(core.prefix[i], core.kept[i], core.stride[i], core.total[i], n)
            if ratio >= np.log(3.0) + 1.5 * np.log(float(n)) - core.log_confidence:
                core.restarts[0] += 1
                core.rounds[0] = -1
                for other in range(k):
                    if core.everywhere or other == i:
                        forget_(core, other)
    core.rounds[0] += 1
    for i in range(k):
        core.score[i] = np.inf
        if core.plays[i] > 0:
            log_age = log_clock(core.draws[0] - core.origin[i])
            budget = log_age + 3.0 * log_clock(log_age)
            core.score[i] = kl_upper(core.total[i] / core.plays[i], budget / core.plays[i])
    alpha = min(1.0, core.exploration * np.sqrt(1.0 + core.restarts[0]))
    force_(core.score, core.rounds[0], np.int64(k / alpha))
    play_best_(core.p, core.best, core.capacity, core.batch, core.score)


class GlrKlUcb(IndexPolicy):
    """GLR-klUCB: no knowledge of the changes needed.

    Cost: a round solves K kl equations (about 0.1 us each) and a test adds 4 logarithms per split, so a draw costs
    O(K + splits / every). The published algorithm keeps every draw since a restart; here an arm keeps at most
    ``splits`` sums, and beyond stride * splits draws the places where a change is looked for become coarser.

    every        draws of an arm between two tests
    stride       draws between two places where a change is looked for
    splits       even, the largest number of such places
    confidence   delta of the test; default 1 / sqrt(n) with n = T m
    exploration  alpha_1, share of forced rounds before the first restart; default 0.1 sqrt(K ln n / n), at most 1
    restart      "local": the arm that changed is forgotten; "global": all arms are
    low, high    range of the utility that is mapped to [0, 1], where the Bernoulli test stays valid

    Raises ValueError for odd splits, an exploration outside (0, 1], an unknown restart or a parameter that is not
    positive.
    Source  Besson, Kaufmann, Maillard & Seznec 2022, algorithm 1, with the threshold, factor 0.1 and sub-sampling of
            their experiments.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        every: int = 10,
        stride: int = 10,
        splits: int = 512,
        confidence: float | None = None,
        exploration: float | None = None,
        restart: Literal["local", "global"] = "local",
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, low=low, high=high, unit=unit, design=design, **common)
        check_positive(every=every, stride=stride, splits=splits, confidence=confidence)
        if splits % 2:
            raise ValueError(f"splits must be even; got {splits}")
        if restart not in ("local", "global"):
            raise ValueError(f"restart must be local or global; got {restart!r}")
        n, k = self.draws, self.arm_count
        if exploration is None:
            exploration = min(1.0, 0.1 * sqrt(k * np.log(max(n, 2)) / n))
        if not 0.0 < exploration <= 1.0:
            raise ValueError(f"exploration must be in (0, 1]; got {exploration}")
        self.core = GlrKlUcbCore(
            **self.play(),
            plays=np.zeros(k, np.int64),
            total=np.zeros(k),
            origin=np.zeros(k, np.int64),
            prefix=np.zeros((k, splits)),
            kept=np.zeros(k, np.int64),
            stride=np.full(k, stride),
            draws=counter(),
            rounds=counter(),
            restarts=counter(),
            every=every,
            first_stride=stride,
            log_confidence=float(np.log(1 / sqrt(n) if confidence is None else confidence)),
            exploration=float(exploration),
            everywhere=restart == "global",
        )

    def metrics(self) -> dict[str, float]:
        return {**super().metrics(), "restarts": float(self.core.restarts[0])}
