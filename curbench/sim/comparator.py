"""What regret is measured against, on a test-bed whose means are known."""

from __future__ import annotations

import numpy as np

from curbench.sim.arms import Arms, model
from curbench.types import Array

COMPARATORS = (*model.COMPARATORS, "top_m")
"""The best fixed arm; the best arm of every round, in S pieces; the same, under a variation budget; the best m arms."""


def advantage_over(arms: Arms, comparator: str, batch: int, grid: Array) -> Array:
    """f64[n], how much more than the comparator the best arm of every round earns in the first grid[i] rounds.

    Regret to the best arm of every round minus this is regret to the comparator, per draw. The best fixed arm is that
    of the whole horizon; "top_m" is the mean of the best ``batch`` arms of every round.

    Raises ValueError for a comparator other than "dynamic" on rested arms, whose means depend on who is played, or for
    more draws than arms with "top_m".
    """
    if comparator not in COMPARATORS:
        raise ValueError(f"unknown comparator {comparator!r}; choose from {', '.join(COMPARATORS)}")
    if arms.rested and comparator != "dynamic":
        raise ValueError(f"the means of {arms.name} depend on who is played: only the dynamic comparator exists")
    if comparator == "top_m" and batch > arms.count:
        raise ValueError(f"there are no {batch} best arms among {arms.count}; use a smaller batch")
    if comparator in ("switching", "dynamic"):
        return np.zeros(grid.size)
    if comparator == "static":
        other = arms.mean[:, best_fixed_arm(arms)]
    else:
        other = np.sort(arms.mean, axis=1)[:, -batch:].mean(axis=1)
    return total_until(arms, arms.mean.max(axis=1) - other, grid)


def total_until(arms: Arms, value: Array, grid: Array) -> Array:
    """f64[n], sum over the first grid[i] >= 1 rounds of ``value`` f64[segments of the means]."""
    before = np.concatenate([[0.0], np.cumsum(value * np.diff(arms.start, append=arms.horizon))])
    segment = np.searchsorted(arms.start, grid, side="left") - 1
    return before[segment] + value[segment] * (grid - arms.start[segment])


def price(arms: Arms, comparator: str, batch: int) -> dict[str, Array]:
    """What bounds charge for the comparator, f64 or i64[segments of the means], up to the end of each segment."""
    moved = {"breaks": np.cumsum(np.diff(arms.mean, axis=0, prepend=arms.mean[:1]).any(axis=1))}
    if comparator == "static":
        return moved
    moved |= {"segments": arms.comparator_pieces, "variation": arms.cumulative_variation}
    return moved | ({"swaps": swaps(arms, batch)} if comparator == "top_m" else {})


def gaps(arms: Arms, comparator: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(smallest, largest) distances to the comparator of each arm that can be worse; ((), ()) if they say nothing.

    To a fixed arm over all rounds, and nothing if another arm is better in some round; to the best arm of a round over
    those in which an arm is not best; nothing for "top_m".

    >>> from curbench.sim.arms import make_arms
    >>> gaps(make_arms("square_wave", horizon=40, segments=2), "dynamic")[0]
    (0.19999999999999996, 0.19999999999999996)
    """
    if comparator == "top_m":
        return (), ()
    fixed = best_fixed_arm(arms) if comparator == "static" else None
    reference = arms.mean.max(axis=1) if fixed is None else arms.mean[:, fixed]
    smallest, largest = [], []
    for i, mean in enumerate(arms.mean.T):  # arm by arm: the table may be large
        distance = reference - mean
        if fixed is None:
            distance = distance[distance > 0]
        elif i == fixed:
            continue
        elif distance.min() < 0:
            return (), ()
        if distance.size:
            smallest.append(float(distance.min()))
            largest.append(float(distance.max()))
    return tuple(smallest), tuple(largest)


def best_fixed_arm(arms: Arms) -> int:
    """The arm of largest mean over the whole horizon."""
    length = np.diff(np.append(arms.start, arms.horizon))
    return int(np.argmax(length @ arms.mean))


def path(arms: Arms, comparator: str, block: int) -> Array:
    """i64[T], the arm that theorems 1 and 2 compare with in every round.

    comparator  "static", or the best arm of every round in as few pieces as possible
    block       rounds for which the arm that is best at the middle of a block is kept instead; 0: no blocks
    """
    if comparator == "static":
        return np.full(arms.horizon, best_fixed_arm(arms))
    if block:
        first = np.arange(0, arms.horizon, block)
        length = np.diff(np.append(first, arms.horizon))
        middle = np.searchsorted(arms.start, first + length // 2, side="right") - 1
        return np.repeat(np.argmax(arms.mean[middle], axis=1), length)
    kept = np.empty(len(arms.mean), np.int64)
    best = arms.mean == arms.mean.max(axis=1, keepdims=True)
    start = np.flatnonzero(np.diff(arms.comparator_pieces, prepend=0))
    for piece in np.split(np.arange(len(best)), start[1:]):
        kept[piece] = np.argmax(best[piece].all(axis=0))
    return np.repeat(kept, np.diff(np.append(arms.start, arms.horizon)))


def swaps(arms: Arms, count: int) -> Array:
    """i64[segments of the means], arms that the best set of ``count`` has exchanged by the end of each segment.

    Ties keep whoever is in the set, which makes the swaps few; exact for a sequence chosen greedily.
    """
    kept, total, out = np.zeros(arms.count, bool), 0, []
    for s, row in enumerate(arms.mean):
        order = np.lexsort((~kept, -row))  # best first; among equals, members first
        best = np.zeros(arms.count, bool)
        best[order[:count]] = True
        total += int((best & ~kept).sum()) if s else 0
        kept = best
        out.append(total)
    return np.array(out)
