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
    end = np.append(arms.start[1:], arms.horizon)
    if comparator == "static":
        fixed = int(np.argmax((end - arms.start) @ arms.mean))
        other = arms.mean[:, fixed]
    else:
        other = np.sort(arms.mean, axis=1)[:, -batch:].mean(axis=1)
    gap = arms.mean.max(axis=1) - other
    before = np.concatenate([[0.0], np.cumsum(gap * (end - arms.start))])
    segment = np.searchsorted(arms.start, grid, side="left") - 1
    return before[segment] + gap[segment] * (grid - arms.start[segment])


def price(arms: Arms, comparator: str, batch: int) -> dict[str, Array]:
    """What bounds charge for the comparator, f64 or i64[segments of the means], up to the end of each segment."""
    if comparator == "static":
        return {}
    moved = {"segments": arms.comparator_pieces, "variation": arms.cumulative_variation}
    return moved | ({"swaps": swaps(arms, batch)} if comparator == "top_m" else {})


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
