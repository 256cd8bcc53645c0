"""Posterior sampling for rewards in [0, 1]: Beta posteriors under a uniform prior, sampled by counter.

A reward y adds y to the successes and 1 - y to the failures. For y in {0, 1} that is the exact posterior; in between
it has the mean of Agrawal & Goyal's Bernoulli trial without its noise, and their proof is about the trial.

The sample that decides a round is a function of (seed, step, arm). What is stated as propensity is conditional on it:
1 for the arms that are played, never the probability over samples that an arm would be played. It is correct for the
draw that was made and useless for off-policy evaluation.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from curbench.philox import POSTERIOR, uniform_pair

ATTEMPTS = 1 << 16


@nb.njit(error_model="numpy")
def gamma_attempt(shape, normal, u):
    """One attempt at a Gamma(shape) variate, shape >= 1, from a normal and a uniform; -1 if rejected.

    Source: Marsaglia & Tsang, "A simple method for generating gamma variables", ACM TOMS 2000; rejects at most 5 %.
    """
    d = shape - 1.0 / 3.0
    v = (1.0 + normal / np.sqrt(9.0 * d)) ** 3
    if v <= 0.0 or np.log(1.0 - u) >= 0.5 * normal * normal + d - d * v + d * np.log(v):
        return -1.0
    return d * v


@nb.njit(error_model="numpy")
def beta_sample(a, b, seed, step, arm):
    """A Beta(a, b) variate for a, b >= 1, as X / (X + Y) with X, Y gamma variates: the one at (seed, step, arm).

    >>> x = beta_sample(2.0, 3.0, 7, 0, 0); 0 < x < 1, x == beta_sample(2.0, 3.0, 7, 0, 0)
    (True, True)
    """
    for attempt in range(ATTEMPTS):
        at = 2 * (arm * ATTEMPTS + attempt)
        u, v = uniform_pair(seed, POSTERIOR, step, at)
        length, angle = np.sqrt(-2.0 * np.log(1.0 - u)), 2.0 * np.pi * v  # Box & Muller: two normals
        u, v = uniform_pair(seed, POSTERIOR, step, at + 1)
        x = gamma_attempt(a, length * np.cos(angle), u)
        y = gamma_attempt(b, length * np.sin(angle), v)
        if x >= 0.0 and y >= 0.0:
            return x / (x + y)
    return a / (a + b)  # probability below 1e-60000


@nb.njit(error_model="numpy")
def sample_(index, success, failure, seed, step):
    """index_i = a draw from Beta(1 + success_i, 1 + failure_i), all f64[K], for round ``step``."""
    for i in range(index.size):
        index[i] = beta_sample(1.0 + success[i], 1.0 + failure[i], seed, step, i)
