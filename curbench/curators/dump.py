"""DUMP: a softmax over upper confidence bounds of each distribution's windowed mean |advantage|."""

from __future__ import annotations

from math import ceil
from typing import Any, Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.estimators import push_, window_mean
from curbench.curators.samplers import softmax_
from curbench.curators.tabular import Design, TabularCurator, Unit
from curbench.types import Array, Bank


class DumpCore(NamedTuple):
    p: Array
    score: Array
    mean: Array  # windowed mean of the utility
    ring: Array  # f64[K, W], the latest groups of each arm
    pushed: Array  # i64[K], groups so far
    last: float  # weight of the oldest group of a full ring
    per_group: float  # what a group adds to n
    bonus: float
    temperature: float


@nb.njit(error_model="numpy")
def update_core(core, arm, expected, utility, step):
    """U_d = L_d + bonus sqrt(2 ln(n + 1) / (n_d + 1)), p = softmax(U / tau); n_d counts over the whole run."""
    for j in range(arm.size):
        push_(core.ring, core.pushed, arm[j], utility[j])
    total = 0
    for c in range(core.p.size):
        total += core.pushed[c]
    for j in range(arm.size):
        core.mean[arm[j]] = window_mean(core.ring, core.pushed, arm[j], core.last)
    log_total = np.log(total * core.per_group + 1.0)
    for c in range(core.p.size):
        core.score[c] = core.mean[c] + core.bonus * np.sqrt(2.0 * log_total / (core.pushed[c] * core.per_group + 1.0))
    softmax_(core.p, core.score, core.temperature)


class Dump(TabularCurator):
    """Distribution-level curriculum learning (Wang et al. 2025, 2504.09710), section 3 and algorithm 1.

    window       k, the latest rollouts of a distribution whose |advantage| is averaged; published 300. A group that is
                 only partly inside counts with that part
    temperature  tau of the softmax; published 0.1. It is what explores once the bonus has faded
    bonus        weight of the confidence bound; published 1, while its theorem needs the range of |advantage|,
                 (G - 1) / sqrt(G)
    count_unit   what n counts: "rollout", as published, or "prompt"

    Raises ValueError for a parameter outside its range. Distributions are the strata; slots are drawn iid in the paper,
    "auto" avoids duplicates. The released code also feeds validation results to the bandit: not reproduced.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        window: int = 300,
        temperature: float = 0.1,
        bonus: float = 1.0,
        count_unit: Literal["rollout", "prompt"] = "rollout",
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        if window < 1:
            raise ValueError(f"window must be at least 1; got {window}")
        if temperature <= 0.0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        if bonus < 0.0:
            raise ValueError(f"bonus must not be negative; got {bonus}")
        if count_unit not in ("rollout", "prompt"):
            raise ValueError(f"count_unit must be rollout or prompt; got {count_unit!r}")
        k, size = self.arm_count, ceil(window / self.group)
        self.core = DumpCore(
            p=np.full(k, 1.0 / k),
            score=np.zeros(k),
            mean=np.zeros(k),
            ring=np.zeros((k, size)),
            pushed=np.zeros(k, np.int64),
            last=window / self.group - (size - 1),
            per_group=float(self.group if count_unit == "rollout" else 1),
            bonus=float(bonus),
            temperature=float(temperature),
        )
