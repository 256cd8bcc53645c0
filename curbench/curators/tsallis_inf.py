"""Tsallis-INF: follow the regularised leader with 1/2-Tsallis entropy, near optimal for hostile and for fixed means."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.exponential import check_range
from curbench.curators.tabular import Design, TabularCurator, Unit, unit_interval
from curbench.types import Array, Bank

NEWTON_STEPS = 60
"""Many more than are ever taken: the iteration is monotone and ends when rounding stops it."""


class TsallisInfCore(NamedTuple):
    p: Array
    loss: Array  # cumulative estimates
    rounds: Array  # i64[1], feedback received
    rate: float  # eta_t = rate / sqrt(t)
    reduced: bool
    low: float
    high: float


@nb.njit
def tsallis_(p, loss, eta):
    """p_i <- 4 (eta (loss_i - x))^-2 with x < min loss such that the p_i sum to 1; f64[K] arrays.

    Newton from x = min loss - 2 / eta, where the best arm alone has weight 1: the sum is convex and increasing in x, so
    x falls monotonically. Source: Zimmert & Seldin 2021, algorithm 2.
    """
    least = loss[0]
    for i in range(1, loss.size):
        least = min(least, loss[i])
    x = -2.0 / eta  # relative to the least loss
    for _ in range(NEWTON_STEPS):
        total, slope = 0.0, 0.0
        for i in range(loss.size):
            root = 2.0 / (eta * (loss[i] - least - x))
            p[i] = root * root
            total += p[i]
            slope += p[i] * root
        if total <= 1.0 + 1e-13:
            break
        x -= (total - 1.0) / (eta * slope)
    for i in range(loss.size):
        p[i] /= total


@nb.njit
def update_core(core, arm, expected, utility, step):
    """Adds the loss estimates of the round and solves for the next distribution.

    iw  lhat_i = sum_j l_j / expected_i over the draws j of arm i
    rv  lhat_i = sum_j (l_j - B_i) / expected_i + B_i, B_i = 1/2 where p_i >= eta_t^2 and 0 elsewhere
    """
    eta = core.rate / np.sqrt(core.rounds[0] + 1.0)
    threshold = eta * eta if core.reduced else np.inf
    for j in range(utility.size):
        loss = 1.0 - unit_interval(utility[j], core.low, core.high)
        base = 0.5 if core.p[arm[j]] >= threshold else 0.0
        core.loss[arm[j]] += (loss - base) / expected[j]
    if core.reduced:
        for i in range(core.p.size):
            core.loss[i] += 0.5 if core.p[i] >= threshold else 0.0
    core.rounds[0] += 1
    tsallis_(core.p, core.loss, core.rate / np.sqrt(core.rounds[0] + 1.0))


class TsallisInf(TabularCurator):
    """Tsallis-INF (Zimmert & Seldin 2021, 1807.07623, algorithm 1 and theorem 1); anytime, nothing to tune.

    The theorem is for one draw a round. With m draws the estimates are averaged (``expected`` is m p_i) and the step
    size is the same: sensible, but covered by no theorem.

    estimator  "iw": importance weighting, eta_t = 2 / sqrt(t); "rv": reduced variance, eta_t = 4 / sqrt(t)
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for an unknown estimator.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        estimator: Literal["iw", "rv"] = "iw",
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        if estimator not in ("iw", "rv"):
            raise ValueError(f"estimator must be iw or rv; got {estimator!r}")
        k, reduced = self.arm_count, estimator == "rv"
        self.core = TsallisInfCore(
            p=np.full(k, 1.0 / k),
            loss=np.zeros(k),
            rounds=np.zeros(1, np.int64),
            rate=4.0 if reduced else 2.0,
            reduced=reduced,
            **check_range(low, high),
        )

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        if comparator != "static":
            return None
        return "tsallis_rv" if self.core.reduced else "tsallis_iw", {}
