"""OSMD over sets: m distinct problems a round, from the inclusion probabilities on a capped simplex."""

from __future__ import annotations

from math import log, sqrt
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.exponential import check_range, chosen
from curbench.curators.tabular import Design, MirrorStep, TabularCurator, unit_interval
from curbench.mirror import copy_, exponentiated_step_, project_on_box_
from curbench.regret import mset_slack
from curbench.types import Array, Bank


class OsmdMsetCore(NamedTuple):
    p: Array  # inclusion / m
    inclusion: Array  # x f64[K], probability to be in the set; sums to m
    eta: float
    floor: float  # of one inclusion probability: gamma m / K
    batch: float  # m
    low: float
    high: float


@nb.njit
def update_core(core, arm, expected, utility, step):
    """x_i *= exp(-eta l_i / x_i) for the drawn arms, then the KL projection min(1, max(floor, c x_i)) summing to m."""
    for j in range(utility.size):
        loss = 1.0 - unit_interval(utility[j], core.low, core.high)
        exponentiated_step_(core.inclusion, arm[j], loss / expected[j], core.eta)
    project_on_box_(core.inclusion, core.floor, 1.0, core.batch)
    copy_(core.p, core.inclusion)
    for i in range(core.p.size):
        core.p[i] /= core.batch


def set_entropy(arms: int, batch: int) -> float:
    """m ln(K / m), what the first set costs; at least 1, since choosing all K arms leaves nothing to tune."""
    return max(batch * log(arms / batch), 1.0)


def check_distinct(batch: int, arms: int) -> None:
    """Raises ValueError if there are fewer problems than draws."""
    if batch > arms:
        raise ValueError(f"a set of {batch} distinct problems needs as many; the bank has {arms}")


class OsmdMset(TabularCurator):
    """OSMD with negative entropy on {floor <= x_i <= 1, sum x = m}; every problem is an arm.

    eta        step size; default sqrt(2 (m ln(K / m) + W ln(K / (gamma m))) / (K T))
    floor      gamma: every problem keeps an inclusion probability of at least gamma m / K; default 1 / T
    swaps      W, problems that the best set of m exchanges over the horizon, if known; default 0
    low, high  range of the utility that is mapped to [0, 1]; outside is clipped
    design     "systematic" draws m distinct problems with these inclusion probabilities; "iid" draws from x / m

    Raises ValueError for a parameter outside its range, or a batch larger than the bank.
    Source  Audibert, Bubeck & Lugosi 2014 (1204.4710), semi-bandits; docs/maths.md, theorem 3.
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        eta: float | None = None,
        floor: float | None = None,
        swaps: int = 0,
        low: float = 0.0,
        high: float = 1.0,
        design: Design = "systematic",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit="problem", design=design, **common)
        k, m, t = self.arm_count, self.batch, self.horizon
        check_distinct(m, k)
        if swaps < 0:
            raise ValueError(f"swaps must be at least 0; got {swaps}")
        gamma = chosen("floor", floor, 1.0 / t, largest=1.0)
        budget = set_entropy(k, m) + swaps * log(k / (gamma * m))
        self.core = OsmdMsetCore(
            p=np.full(k, 1.0 / k),
            inclusion=np.full(k, m / k),
            eta=chosen("eta", eta, sqrt(2 * budget / (k * t))),
            floor=gamma * m / k,
            batch=float(m),
            **check_range(low, high),
        )

    @property
    def _gamma(self) -> float:
        return self.core.floor * self.arm_count / self.batch

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        used = {"eta": self.core.eta, "floor": self._gamma}
        if self.batch == 1 and comparator in ("static", "switching"):  # a set of one arm; the cap of 1 never binds
            return "tracking_clip", used
        return ("mset", used | {"distinct": self.design != "iid"}) if comparator == "top_m" else None

    def mirror_step(self) -> MirrorStep:
        return MirrorStep(self.core.eta, self._gamma, self.core.inclusion, mset_slack)
