"""What index policies share: playing the best indices, running means, windows, restarts, forced exploration.

An index policy keeps one number per arm and plays the arms where it is largest; ties go to the lowest arm, and an arm
that was never played (or forgotten) has index +infinity. Among iid draws all m slots of a round go to the best arm.
Otherwise a round takes m different problems, those of the best arm first: arms of one problem give the m best arms
with p = 1/m each. That allocation is deterministic, so p has zeros, propensities say nothing about arms that are not
played, and a batch counts as m plays of the single-play algorithm whose clock is the number of draws.

Functions ending in ``_`` change the arrays they are given; arrays of K arms unless said otherwise. They and the cores
are compiled with numpy's division (no check for zero): the exception path of each check makes numba count references,
which takes longer than the arithmetic of a round.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from curbench.curators.tabular import Design, TabularCurator, Unit
from curbench.types import Array, Bank


@nb.njit(error_model="numpy")
def largest(value):
    """max_i value_i of f64[K], in four interleaved lanes: one running maximum would wait for itself."""
    k = value.size
    a = b = c = d = value[0]
    for i in range(0, k - 3, 4):
        w, x, y, z = value[i], value[i + 1], value[i + 2], value[i + 3]
        a, b, c, d = w if w > a else a, x if x > b else b, y if y > c else c, z if z > d else d
    for i in range(k - k % 4, k):
        a = value[i] if value[i] > a else a
    return max(max(a, b), max(c, d))


@nb.njit(error_model="numpy")
def rank_(best, value):
    """Fills best i64[n] with the places of the n largest of f64[K], in falling order, the lowest first among equals."""
    if best.size == 1:
        top, i = largest(value), 0
        while value[i] != top:
            i += 1
        best[0] = i
        return
    filled, threshold = 0, -np.inf
    for i in range(value.size):
        if filled == best.size and value[i] <= threshold:
            continue
        filled = min(filled + 1, best.size)
        j = filled - 1
        while j > 0 and value[i] > value[best[j - 1]]:
            best[j] = best[j - 1]
            j -= 1
        best[j] = i
        threshold = value[best[filled - 1]]


@nb.njit(error_model="numpy")
def play_best_(p, best, capacity, batch, index):
    """Gives the draws of a round to the arms with the largest index, at most ``capacity`` of them to an arm.

    p         f64[K], filled with the share of each arm
    best      i64[n], filled with the n arms of largest index in falling order, lowest arm first among equals
    capacity  i64[K]; those of any n arms must add up to ``batch`` or more
    index     f64[K], not NaN
    """
    for i in range(p.size):
        p[i] = 0.0
    rank_(best, index)
    left = batch
    for j in range(best.size):
        taken = min(capacity[best[j]], left)
        p[best[j]] = taken / batch
        left -= taken


@nb.njit(error_model="numpy")
def add_(arm, weight, y, count, total, mean, radius):
    """Adds a draw of weight w to an arm (a negative weight takes it back); ``y`` comes multiplied by w.

    Keeps mean = total / count and radius = 1 / sqrt(count), so that an index costs no division and no root. Nothing
    left of an arm: mean +infinity, radius 0.
    """
    count[arm] += weight
    total[arm] += y
    n = count[arm]
    total[arm] = total[arm] if n > 0.0 else 0.0
    mean[arm] = total[arm] / n if n > 0.0 else np.inf
    radius[arm] = 1.0 / np.sqrt(n) if n > 0.0 else 0.0


@nb.njit(error_model="numpy")
def forget_(arm, count, total, mean, radius):
    """Makes an arm one that was never played."""
    add_(arm, -count[arm], -total[arm], count, total, mean, radius)


@nb.njit(error_model="numpy")
def optimism_(index, mean, radius, width):
    """index = mean + width radius, the index of every policy of the UCB kind."""
    for i in range(index.size):
        index[i] = mean[i] + width * radius[i]


@nb.njit(error_model="numpy")
def log_clock(draws):
    """ln max(1, draws): the exploration clock, also right after a restart."""
    return np.log(max(float(draws), 1.0))


@nb.njit(error_model="numpy")
def replace_oldest_(kept_arm, kept_y, draws, arm, y):
    """Puts a draw into a ring of the latest ``kept_arm.size`` ones; (arm, y) of the one that leaves, arm -1 if none.

    kept_arm  i64[window], -1 where empty;  kept_y  f64[window];  draws  i64[1], draws so far
    """
    slot = draws[0] % kept_arm.size
    leaving = kept_arm[slot], kept_y[slot]
    kept_arm[slot], kept_y[slot] = arm, y
    draws[0] += 1
    return leaving


@nb.njit(error_model="numpy")
def force_(index, rounds, period):
    """Puts arm ``rounds mod period`` first if there is one: each arm once per period of at least K rounds."""
    turn = rounds % period
    if turn < index.size:
        index[turn] = np.inf


@nb.njit(error_model="numpy")
def draw_best(core, arm, q, u, step):
    """Fills arm i64[m] with the best arm and q f64[m] with 1: what drawing from a point mass comes to, in O(1)."""
    for j in range(arm.size):
        arm[j] = core.best[0]
        q[j] = 1.0


class IndexPolicy(TabularCurator):
    """A curator that plays the arms with the largest index.

    low, high  range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError unless low < high.
    """

    draw_core = staticmethod(draw_best)
    explores = False

    def __init__(
        self,
        bank: Bank,
        *,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        if not low < high:
            raise ValueError(f"the utility range needs low < high; got [{low}, {high}]")
        self.low, self.high = float(low), float(high)

    @property
    def draws(self) -> int:
        """T m, the draws of the whole run: what published tunings call the horizon."""
        return self.horizon * self.batch

    def play(self) -> dict[str, Any]:
        """Core fields of every index policy, ``score`` being the index; in the first round all arms are tied."""
        k, iid = self.arm_count, self.design == "iid" or self.batch > len(self.bank)
        capacity = np.full(k, self.batch) if iid else self.arms.size.astype(np.int64)
        best = np.arange(1 if iid else min(self.batch, k))
        p = np.diff(np.minimum(np.cumsum(capacity), self.batch), prepend=0) / self.batch
        return {
            "p": p,
            "best": best,
            "capacity": capacity,
            "batch": self.batch,
            "score": np.full(k, np.inf),
            "low": self.low,
            "high": self.high,
        }

    def means(self) -> dict[str, Any]:
        """Core fields of ``add_``: plays, total, mean, radius, each f64[K]."""
        k = self.arm_count
        return {"plays": np.zeros(k), "total": np.zeros(k), "mean": np.full(k, np.inf), "radius": np.zeros(k)}


def counter(*, value: int = 0) -> Array:
    """i64[1], a number that a core may change and a state keeps."""
    return np.array([value])


def check_positive(**value: float | None) -> None:
    """Raises ValueError naming the first value that is given and not above 0.

    >>> check_positive(xi=0.6, window=None)
    """
    for name, number in value.items():
        if number is not None and number <= 0:
            raise ValueError(f"{name} must be positive; got {number}")
