"""Rewards of simulated arms: pure functions of (seed, arm, visit), with exactly the mean they are given.

Two curators with the same seed see the same luck (common random numbers), so paired differences have little variance.
"""

import numba as nb
import numpy as np

from curbench.compiled import cold, hot
from curbench.philox import NOISE, REWARD, uniform, uniform_inline, uniform_run_

KINDS = ("bernoulli", "beta", "gaussian", "power")
BERNOULLI_, BETA_, GAUSSIAN_, POWER_ = range(4)

_ATTEMPTS = 1 << 10  # numbers set aside for one reward; a rejection sampler needs a handful

AHEAD = 32
_LARGEST_LUCK = 1 << 12


@nb.njit
def luck_table(arms):
    """f64[32 K], room for the next numbers of every arm: computing 32 at once takes hardly longer than eight or one.

    Empty for so many arms that fetching a number from memory would cost more than computing it.
    """
    return np.empty(AHEAD * arms if arms <= _LARGEST_LUCK else 0)


@hot
def reward_(y, mean, problem, visit, luck, seed, step, kind, scale, shared):
    """Fills y f64[m] in [0, 1] with a reward of conditional mean mean[arm] per slot, and advances ``visit`` i64[K].

    luck    ``luck_table(K)``, which must stay with ``visit``
    kind    index into ``KINDS``; scale as in ``arms.Noise``
    shared  True: all draws of a round take their noise from the same numbers, keyed by (seed, step), not by arm and
            visit. The theorems allow it: they only need the *indices* to be drawn independently.
    """
    if kind != BERNOULLI_ or shared:
        _noisy_rewards_(y, mean, problem, visit, seed, step, kind, scale, shared)
        return
    if luck.size == 0:
        _bernoulli_(y, mean, problem, visit, seed)
        return
    for j in range(problem.size):
        arm = problem[j]
        at = visit[arm] & (AHEAD - 1)
        if at == 0:
            uniform_run_(luck, AHEAD * arm, AHEAD, seed, REWARD, arm, visit[arm])
        y[j] = 1.0 if luck[AHEAD * arm + at] < mean[arm] else 0.0
        visit[arm] += 1


@cold
def _bernoulli_(y, mean, problem, visit, seed):
    """Three loops, so that the numbers are vector code and the fetches from memory overlap."""
    for j in range(problem.size):
        y[j] = visit[problem[j]]
        visit[problem[j]] += 1
    for j in range(problem.size):
        y[j] = uniform_inline(seed, REWARD, problem[j], int(y[j]))
    for j in range(problem.size):
        y[j] = 1.0 if y[j] < mean[problem[j]] else 0.0


@cold
def _noisy_rewards_(y, mean, problem, visit, seed, step, kind, scale, shared):
    for j in range(problem.size):
        arm = problem[j]
        if shared:
            y[j] = noisy(mean[arm], seed, NOISE, step, 0, kind, scale)
        else:
            y[j] = noisy(mean[arm], seed, REWARD, arm, visit[arm], kind, scale)
        visit[arm] += 1


@nb.njit
def noisy(mean, seed, stream, step, index, kind, scale):
    """One reward in [0, 1] with that mean.

    bernoulli  1 with probability mean
    power      u^((1 - mean) / mean): mostly near 0 and now and then near 1 when the mean is small
    beta       Beta(scale mean, scale (1 - mean))
    gaussian   normal of standard deviation ``scale``, truncated to mean +- min(mean, 1 - mean): symmetric, so the mean
               is exact, and certain at 0 and 1
    """
    if kind == BERNOULLI_:
        return 1.0 if uniform(seed, stream, step, index) < mean else 0.0
    if mean <= 0.0 or mean >= 1.0:
        return mean
    if kind == POWER_:
        return uniform(seed, stream, step, index) ** ((1.0 - mean) / mean)
    first = index * _ATTEMPTS
    if kind == GAUSSIAN_:
        width = min(mean, 1.0 - mean)
        return mean + truncated_normal(scale, width, seed, stream, step, first)
    a = gamma(scale * mean, seed, stream, step, first)
    b = gamma(scale * (1.0 - mean), seed, stream, step, first + _ATTEMPTS // 2)
    return a / (a + b) if a + b > 0.0 else mean


@nb.njit
def truncated_normal(scale, width, seed, stream, step, index):
    """A centred normal of standard deviation ``scale`` given that it lies in [-width, width], by rejection.

    The proposal is uniform on the interval, or on +-6 standard deviations if that is narrower.
    """
    reach = min(width, 6.0 * scale)
    for i in range(0, _ATTEMPTS, 2):
        x = (2.0 * uniform(seed, stream, step, index + i) - 1.0) * reach
        if uniform(seed, stream, step, index + i + 1) < np.exp(-0.5 * (x / scale) ** 2):
            return x
    return 0.0  # with probability below 0.8^500


@nb.njit
def gamma(shape, seed, stream, step, index):
    """A Gamma(shape, 1) variate. Source: Marsaglia & Tsang, ACM TOMS 2000; shapes below 1 by u^(1/shape)."""
    boost, a = 1.0, shape
    if a < 1.0:
        boost = (1.0 - uniform(seed, stream, step, index)) ** (1.0 / a)
        a += 1.0
    d = a - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    for i in range(1, _ATTEMPTS // 2 - 3, 3):
        radius = np.sqrt(-2.0 * np.log(1.0 - uniform(seed, stream, step, index + i)))
        x = radius * np.cos(2.0 * np.pi * uniform(seed, stream, step, index + i + 1))
        v = (1.0 + c * x) ** 3
        if v > 0.0 and np.log(1.0 - uniform(seed, stream, step, index + i + 2)) < 0.5 * x * x + d - d * v + d * np.log(
            v
        ):
            return boost * d * v
    return boost * d  # with probability below 0.05^160
