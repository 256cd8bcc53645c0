"""Estimators: what a curator remembers of each arm (a problem or a stratum). Any sampler goes with any of them.

The compiled functions serve tabular cores; the classes are ``base.Part``s over problems, in plain numpy. An arm may
appear several times in one update.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from curbench.types import Array


@nb.njit
def moving_average_(average, arm, value, rate, decay):
    """Q_c <- (1 - rate) Q_c + rate r_c with r_c the mean value of the slots of arm c; Q f64[K], arm i64[B].

    decay  bool: arms without a slot forget, Q_c <- (1 - rate) Q_c; else they stay
    """
    k = average.size
    total, count = np.zeros(k), np.zeros(k, np.int64)
    for j in range(arm.size):
        total[arm[j]] += value[j]
        count[arm[j]] += 1
    for c in range(k):
        if count[c] > 0:
            average[c] += rate * (total[c] / count[c] - average[c])
        elif decay:
            average[c] *= 1.0 - rate


@nb.njit
def push_(ring, pushed, arm, value):
    """Puts a value into the ring of an arm, over its oldest one. ring f64[K, W]; pushed i64[K], values so far."""
    ring[arm, pushed[arm] % ring.shape[1]] = value
    pushed[arm] += 1


@nb.njit(error_model="numpy")
def window_mean(ring, pushed, arm, last):
    """Mean of an arm's ring, the oldest value of a full ring with weight ``last`` in (0, 1]; 0 for an empty one."""
    size = ring.shape[1]
    count = min(pushed[arm], size)
    total, weight = 0.0, 0.0
    for i in range(count):
        w = last if count == size and i == pushed[arm] % size else 1.0
        total += w * ring[arm, i]
        weight += w
    return total / weight if count > 0 else 0.0


class BetaPosterior:
    """A Beta posterior of each arm's pass rate that may fade towards its prior.

    Visits:  a <- discount a + (1 - discount) a0 + successes,  b likewise with failures; other arms stay.
    A discount of 1 never forgets, one of 0 remembers the last visit only.

    Raises ValueError unless the prior is at least 1 and the discount is in [0, 1].
    """

    def __init__(self, arms: int, *, prior: tuple[float, float] = (1.0, 1.0), discount: float = 1.0) -> None:
        if min(prior) < 1.0:
            raise ValueError(f"the prior of a pass rate needs Beta parameters of at least 1; got {prior}")
        if not 0.0 <= discount <= 1.0:
            raise ValueError(f"discount must be in [0, 1]; got {discount}")
        self.prior, self.discount = prior, discount
        self.a, self.b = np.empty(arms), np.empty(arms)
        self.reset()

    def reset(self) -> None:
        """Goes back to the prior."""
        self.a[:], self.b[:] = self.prior

    def update(self, arm: Array, success: Array, n: Array) -> None:
        """Adds success i64[B] of n i64[B] rollouts. An arm that appears twice fades once."""
        if self.discount < 1.0:
            visited = np.unique(arm)
            for count, prior in ((self.a, self.prior[0]), (self.b, self.prior[1])):
                count[visited] = self.discount * count[visited] + (1.0 - self.discount) * prior
        np.add.at(self.a, arm, success)
        np.add.at(self.b, arm, n - success)

    def mean(self, arm: Array | slice = slice(None)) -> Array:
        """f64, the posterior mean of the pass rate: a / (a + b)."""
        return self.a[arm] / (self.a[arm] + self.b[arm])

    def state(self) -> dict[str, Any]:
        return {"a": self.a.copy(), "b": self.b.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.a, self.b = state["a"].copy(), state["b"].copy()


class LatestValue:
    """A moving average of each arm's values, and the step of its last visit.

    rate  weight of the newest value; 1 keeps the last one. The first visit sets the average.

    value       f64[K], 0 before the first visit
    last_visit  i64[K], -1 before the first visit

    Raises ValueError for a rate outside (0, 1].
    """

    def __init__(self, arms: int, *, rate: float = 1.0) -> None:
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate must be in (0, 1]; got {rate}")
        self.rate = rate
        self.value, self.last_visit = np.zeros(arms), np.full(arms, -1)

    @property
    def seen(self) -> Array:
        """bool[K], which arms were ever visited."""
        return self.last_visit >= 0

    def update(self, arm: Array, value: Array, step: int) -> None:
        """Moves the averages by value f64[B]; slots of one arm are averaged first."""
        visited, slot, count = np.unique(arm, return_inverse=True, return_counts=True)
        mean = np.bincount(slot, value, visited.size) / count
        rate = np.where(self.seen[visited], self.rate, 1.0)
        self.value[visited] += rate * (mean - self.value[visited])
        self.last_visit[visited] = np.maximum(self.last_visit[visited], step)

    def state(self) -> dict[str, Any]:
        return {"value": self.value.copy(), "last_visit": self.last_visit.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.value, self.last_visit = state["value"].copy(), state["last_visit"].copy()


class Recent:
    """The latest groups in a ring, in the order in which they arrived.

    arm i64, success i64, n i64, at most ``capacity`` of each.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"the memory needs room for at least 1 group; got {capacity}")
        self.capacity = capacity
        self.arm = self.success = self.n = np.empty(0, np.int64)

    def update(self, arm: Array, success: Array, n: Array) -> None:
        """Appends groups and drops the oldest."""
        self.arm, self.success, self.n = (
            np.concatenate([kept, new])[-self.capacity :]
            for kept, new in ((self.arm, arm), (self.success, success), (self.n, n))
        )

    def state(self) -> dict[str, Any]:
        return {"arm": self.arm.copy(), "success": self.success.copy(), "n": self.n.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.arm, self.success, self.n = state["arm"].copy(), state["success"].copy(), state["n"].copy()
