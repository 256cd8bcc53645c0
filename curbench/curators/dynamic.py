"""What methods share that reject groups after seeing them: fresh problems for a further round, the first good ones."""

from __future__ import annotations

import numpy as np

from curbench.curators.samplers import Draw, Seed, simple
from curbench.types import Array

ROUND = 1 << 24
"""Distance between the counters of the rounds of one step: no run has as many steps."""


NOBODY = np.empty(0, np.int64)


def fresh(drawn: Array, total: int, count: int, *, seed: Seed, step: int, round: int) -> Draw:
    """A simple random sample of at most ``count`` problems out of the ``total`` that are not among ``drawn`` i64[n].

    round  0 for the first of a step; ``place`` of the draw is that of a problem. Empty when all were drawn.

    >>> fresh(np.array([0, 2]), 4, 9, seed=0, step=0, round=1).place.tolist() in ([1, 3], [3, 1])
    True
    """
    known = np.unique(drawn)
    left = total - known.size
    if left == 0:
        return Draw(NOBODY, np.empty(0), "systematic")
    place, propensity, design = simple(left, min(count, left), seed=seed, step=step + round * ROUND)
    # The i-th problem that was not drawn has as many drawn ones before it as have fewer than i others before them.
    return Draw(place + np.searchsorted(known - np.arange(known.size), place, side="right"), propensity, design)


def first(good: Array, count: int) -> Array:
    """bool[B], the first ``count`` that are good.

    >>> first(np.array([False, True, True, True]), 2)
    array([False,  True,  True, False])
    """
    return good & (np.cumsum(good) <= count)
