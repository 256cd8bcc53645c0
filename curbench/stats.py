"""Intervals for means over seeds and for paired differences; never a bare mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

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


def interquartile_mean(score: Array) -> Array:
    """Mean of the middle half of f64[..., n] along the last axis: a quarter of the values is cut off at either end.

    int(n / 4) values are cut, as in ``scipy.stats.trim_mean(score, 0.25, axis=-1)``, which this equals.
    Source  Agarwal et al. 2021 (2108.13264) section 4.

    >>> float(interquartile_mean(np.array([0.0, 1.0, 2.0, 90.0])))
    1.5
    """
    n = score.shape[-1]
    cut = n // 4
    return np.partition(score, (cut, n - cut - 1), axis=-1)[..., cut : n - cut].mean(axis=-1)


def aggregate_iqm(
    score: list[Array], *, generator: np.random.Generator, draws: int = 2000, level: float = 0.95
) -> Interval:
    """The interquartile mean over all runs of all tasks, with a stratified percentile-bootstrap interval.

    score      one f64[S] per task, comparable between tasks; tasks may have different numbers of seeds
    generator  of the resampling: runs are drawn with replacement within each task
    draws      bootstrap samples
    Returns    over n runs in all; infinitely wide if a task has a single run, which says nothing of its spread
    Source     Agarwal et al. 2021 (2108.13264) sections 4 and 5.

    >>> aggregate_iqm([np.ones(4), np.ones(6)], generator=np.random.default_rng(0), draws=10)
    Interval(mean=1.0, lo=1.0, hi=1.0, n=10)
    """
    resampled = [task[generator.integers(task.size, size=(draws, task.size))] for task in score]
    value = interquartile_mean(np.concatenate(resampled, axis=1))
    lo, hi = np.quantile(value, [0.5 - level / 2, 0.5 + level / 2])
    every = np.concatenate(score)
    if min(task.size for task in score) == 1:
        lo, hi = -np.inf, np.inf
    return Interval(float(interquartile_mean(every)), float(lo), float(hi), every.size)


def improvement_probability(score: list[Array], rival: list[Array], level: float = 0.95) -> Interval:
    """P(a run scores higher than a run of the rival), ties counting half, averaged over tasks.

        U = mean_ij [x_i > y_j] + [x_i = y_j] / 2,   interval U +- z sqrt(sum over tasks of var U) / tasks

    score, rival  one f64[S] per task, run s of both under the same luck
    Returns       with n tasks; the variance of U is that of its projection on pairs of runs (Hoeffding 1948), so the
                  pairing is accounted for; clipped to [0, 1]; infinitely wide with a single seed
    Raises        ValueError unless both have the same tasks and seeds.
    Source        Agarwal et al. 2021 (2108.13264) section 4, there with independent runs and a bootstrap.

    >>> improvement_probability([np.array([2.0, 3.0])], [np.array([1.0, 2.0])]).mean
    0.875
    """
    if [x.shape for x in score] != [y.shape for y in rival]:
        raise ValueError("runs are compared in pairs: both sides need the same tasks and seeds")
    total, variance = 0.0, 0.0
    for x, y in zip(score, rival, strict=True):
        above = 0.5 * (np.sign(x[:, None] - y) + 1.0)
        u = above.mean()
        influence = above.mean(axis=1) + above.mean(axis=0) - 2.0 * u
        total += u
        variance += influence.var(ddof=1) / x.size if x.size > 1 else np.inf
    mean, tasks = float(total / len(score)), len(score)
    half = float(ndtri(0.5 + level / 2)) * float(variance) ** 0.5 / tasks
    if not np.isfinite(half):
        return Interval(mean, -np.inf, np.inf, tasks)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), tasks)


def mean_difference(score: list[Array], rival: list[Array], level: float = 0.95) -> Interval:
    """By how much runs score above the rival's under the same luck, averaged over tasks, with a normal interval.

    score, rival  one f64[S] per task, run s of both under the same luck
    Returns       with n tasks; the interval holds the spread over runs within tasks, none between tasks; infinitely
                  wide with a single seed

    >>> mean_difference([np.array([2.0, 3.0]), np.ones(2)], [np.array([1.0, 2.0]), np.ones(2)])
    Interval(mean=0.5, lo=0.5, hi=0.5, n=2)
    """
    difference, tasks = [x - y for x, y in zip(score, rival, strict=True)], len(score)
    mean = float(np.mean([task.mean() for task in difference]))
    if min(task.size for task in difference) == 1:
        return Interval(mean, -np.inf, np.inf, tasks)
    variance = sum(task.var(ddof=1) / task.size for task in difference)
    half = float(ndtri(0.5 + level / 2)) * float(variance) ** 0.5 / tasks
    return Interval(mean, mean - half, mean + half, tasks)


def performance_profile(score: list[Array], threshold: Array) -> Array:
    """f64[n], the share of runs above each threshold f64[n], averaged over tasks.

    Source  Agarwal et al. 2021 (2108.13264) section 4, run-score distributions.

    >>> performance_profile([np.array([0.2, 0.8]), np.array([0.6])], np.array([0.0, 0.5, 0.7]))
    array([1.  , 0.75, 0.25])
    """
    return np.mean([(task[:, None] > threshold).mean(axis=0) for task in score], axis=0)
