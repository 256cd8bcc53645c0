"""Intervals for means over seeds and for paired differences; never a bare mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from curbench.types import Array


class Interval(NamedTuple):
    """A mean with a two-sided interval [lo, hi] over ``n`` independent values."""

    mean: float
    lo: float
    hi: float
    n: int


def mean_interval(value: Array, level: float = 0.95) -> Interval:
    """The mean of f64[n] with Student's t interval; infinitely wide for a single value.

    Raises ValueError if there is no value.

    >>> mean_interval(np.array([1.0, 1.0, 1.0]))
    Interval(mean=1.0, lo=1.0, hi=1.0, n=3)
    """
    value = np.asarray(value, float)
    n = value.size
    if n == 0:
        raise ValueError("an interval needs at least one value")
    mean = float(value.mean())
    if n == 1:
        return Interval(mean, -np.inf, np.inf, 1)
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(value.std(ddof=1)) / n**0.5
    return Interval(mean, mean - half, mean + half, n)


def upper_limit(value: Array, level: float = 0.999) -> float:
    """One-sided upper confidence limit (Student t) of the mean of f64[n]; infinite for a single value."""
    return mean_interval(value, 2 * level - 1).hi


def paired_difference(after: Array, before: Array, level: float = 0.95) -> Interval:
    """Mean change per problem, first averaged over training seeds, with an interval over problems.

    after   f64[S, E], pass rate of each held-out problem after training, per training seed
    before  f64[E] or f64[S, E], the same problems with the same sampling seeds before training

    The interval says what to expect on other problems of this kind for these very training runs; it holds no variance
    between further training seeds, which S = 2 cannot estimate.

    >>> paired_difference(np.ones((2, 4)), np.ones(4)).mean
    0.0
    """
    difference = np.asarray(after, float) - np.asarray(before, float)
    return mean_interval(np.atleast_2d(difference).mean(axis=0), level)
