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

    def row(self) -> dict[str, float | None]:
        """Mean, lo and hi for a JSON row, which has no infinity: a single value has no interval.

        >>> Interval(0.5, -np.inf, np.inf, 1).row()
        {'mean': 0.5, 'lo': None, 'hi': None}
        """
        finite = bool(np.isfinite(self.lo))
        return {"mean": self.mean, "lo": self.lo if finite else None, "hi": self.hi if finite else None}


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


def log_slope(x: Array, y: Array, level: float = 0.95) -> Interval:
    """The exponent b of y = a x^b: least squares of log y on log x, with Student's t interval from the residuals.

    x, y     f64[n], positive, with at least two different x
    Returns  b with n - 2 degrees of freedom: noise and departures from a power law both widen the interval, which is
             infinite for two points
    Raises   ValueError for other shapes, values that are not positive, or a single x.

    >>> log_slope(np.array([1.0, 4.0, 16.0]), np.array([3.0, 6.0, 12.0])).mean
    0.5
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or x.shape != y.shape or np.unique(x).size < 2:
        raise ValueError(f"a slope needs as many y as x and at least two different x; got {x.shape} and {y.shape}")
    if not ((x > 0).all() and (y > 0).all()):
        raise ValueError("a slope on log axes needs positive values")
    centred, value = np.log(x) - np.log(x).mean(), np.log(y) - np.log(y).mean()
    spread = float(centred @ centred)
    slope = float(centred @ value) / spread
    free = x.size - 2
    if free == 0:
        return Interval(slope, -np.inf, np.inf, 2)
    residual = value - slope * centred
    half = float(stdtrit(free, 0.5 + level / 2)) * (float(residual @ residual) / free / spread) ** 0.5
    return Interval(slope, slope - half, slope + half, x.size)
