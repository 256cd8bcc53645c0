"""Samplers: from scores to problems, with the probability of what was drawn. Any estimator goes with any of them.

Order sampling (Rosén 1997): every problem gets an independent random key with a known distribution F_i, and the B
smallest are taken. The probability of having been taken *given the keys of all others* is F_i(T), T the smallest key
left out; dividing by it is unbiased, as by an inclusion probability (priority sampling: Duffield, Lund & Thorup 2007).
    race        exponential keys: successive draws without replacement, P(next) proportional to weight
    acceptance  uniform keys among the accepted: the first B that pass a random filter
    thompson    distance of a posterior sample from a target
So methods that are published without propensities have exact ones. Systematic draws are in ``curbench.sampling``.

Keys are Philox numbers at (seed, stream KEY, step, place among the candidates).
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from scipy.special import betainc

from curbench.curators.posterior import beta_sample
from curbench.philox import KEY, SUBSET, TIE, uniform_
from curbench.sampling import candidate_set, select_systematic_
from curbench.types import Array

Seed = int | np.uint64
TINY = float(np.finfo(float).tiny)


class Draw(NamedTuple):
    """Who was drawn from M problems: place i64[B], propensity f64[B] and design, see ``types.Selection``."""

    place: Array
    propensity: Array
    design: str


def softmax(score: Array, temperature: float = 1.0) -> Array:
    """f64[K], exp(score / temperature) normalised; finite for any finite scores.

    >>> softmax(np.array([1e6, 1e6]), 1e-3)
    array([0.5, 0.5])
    """
    p = np.exp((score - score.max()) / temperature)
    return p / p.sum()


@nb.njit
def softmax_(p, score, temperature):
    """Fills p f64[K] with the softmax of score f64[K], as ``softmax``."""
    top, mass = score.max(), 0.0
    for c in range(p.size):
        p[c] = np.exp((score[c] - top) / temperature)
        mass += p[c]
    for c in range(p.size):
        p[c] /= mass


def uniforms(count: int, seed: Seed, stream: int, step: int) -> Array:
    """f64[count] in [0, 1), one per place."""
    u = np.empty(count)
    uniform_(u, np.uint64(seed), stream, step)
    return u


def smallest(key: Array, count: int) -> tuple[Array, float]:
    """(the places i64[B] of the B smallest keys in rising order, the smallest key left out; +infinity if none is).

    Raises ValueError if there are fewer than B keys.

    >>> smallest(np.array([0.3, 0.1, 0.2]), 2)
    (array([1, 2]), 0.3)
    """
    if count > key.size:
        raise ValueError(f"{count} problems cannot be drawn without repetition from {key.size}; use a smaller batch")
    if count == key.size:
        return np.argsort(key, kind="stable"), float("inf")
    place = np.argpartition(key, count)
    chosen = place[:count]
    return chosen[np.argsort(key[chosen], kind="stable")], float(key[place[count]])


def simple(total: int, count: int, *, seed: Seed, step: int) -> Draw:
    """A simple random sample of B out of M: every problem with propensity B / M.

    >>> simple(4, 2, seed=0, step=0).propensity
    array([0.5, 0.5])
    """
    if count > total:
        raise ValueError(f"{count} problems cannot be drawn without repetition from {total}; use a smaller batch")
    return Draw(candidate_set(count, total, np.uint64(seed), step, SUBSET), np.full(count, count / total), "systematic")


def systematic(p: Array, count: int, *, seed: Seed, step: int) -> Draw:
    """B of M problems with inclusion probabilities min(1, s p) that sum to B, without repetition.

    >>> systematic(np.array([0.5, 0.25, 0.25]), 2, seed=0, step=0).propensity.max()
    np.float64(1.0)
    """
    place, propensity = np.empty(count, np.int64), np.empty(count)
    one = np.ones(p.size, np.int64)
    select_systematic_(place, propensity, p, np.arange(p.size), np.arange(p.size), one, np.uint64(seed), step)
    return Draw(place, propensity, "systematic")


def race(log_weight: Array, count: int, *, seed: Seed, step: int) -> Draw:
    """B successive draws without replacement, each proportional to exp(log_weight f64[M]), finite and of any scale.

    Keys are exponential arrival times E / w, so F(t) = 1 - exp(-w t). They are compared as logarithms.

    >>> race(np.array([-700.0, 0.0, 0.0]), 2, seed=0, step=0).propensity.round(6)
    array([1., 1.])
    """
    u = uniforms(log_weight.size, seed, KEY, step)
    key = np.log(-np.log1p(-np.maximum(u, 2.0**-54))) - log_weight
    place, threshold = smallest(key, count)
    reached = -np.expm1(-np.exp(np.minimum(log_weight[place] + threshold, 700.0)))
    return Draw(place, np.maximum(reached, TINY), "order")


def first_accepted(chance: Array, count: int, *, seed: Seed, step: int) -> Draw:
    """The first B in a random order that pass a filter, each with its own chance.

    chance  f64[M] in (0, 1], of being accepted; where too few are, the first of the others fill the batch. A problem
            with chance 0 may fill up too, but nothing could weight it
    A key is u where the problem passes and 1 + u where not, so F(t) = a min(t, 1) + (1 - a) max(t - 1, 0).

    >>> first_accepted(np.array([0.0, 1.0, 0.0]), 1, seed=0, step=0).place
    array([1])
    """
    u = uniforms(chance.size, seed, KEY, step)
    passes = uniforms(chance.size, seed, TIE, step) < chance
    place, threshold = smallest(np.where(passes, u, 1.0 + u), count)
    t, a = min(threshold, 2.0), chance[place]
    reached = a * min(t, 1.0) + (1.0 - a) * max(t - 1.0, 0.0)
    return Draw(place, np.maximum(reached, TINY), "order")


@nb.njit
def _distances(a, b, target, seed, step):
    """f64[M], distance from the target of one sample of each Beta posterior."""
    key = np.empty(a.size)
    for i in range(a.size):
        key[i] = abs(beta_sample(a[i], b[i], seed, step, i) - target)
    return key


def thompson_nearest(a: Array, b: Array, count: int, *, target: float, seed: Seed, step: int) -> Draw:
    """The B problems whose posterior sample comes nearest to a target pass rate.

    a, b    f64[M] >= 1, Beta posteriors
    target  in (0, 1)
    F(t) is the posterior mass of [target - t, target + t].

    >>> thompson_nearest(np.ones(4), np.ones(4), 4, target=0.5, seed=0, step=0).propensity
    array([1., 1., 1., 1.])
    """
    place, t = smallest(_distances(a, b, target, np.uint64(seed), step), count)
    a, b = a[place], b[place]
    low, high = max(target - t, 0.0), min(target + t, 1.0)
    # The difference of two numbers near 1 has no digits left: there the mass is taken from the other tail.
    upper = a / (a + b) < target
    below = betainc(a, b, high) - betainc(a, b, low)
    above = betainc(b, a, 1.0 - low) - betainc(b, a, 1.0 - high)
    return Draw(place, np.clip(np.where(upper, above, below), TINY, 1.0), "order")


def lowest(score: Array, count: int, *, seed: Seed, step: int) -> Draw:
    """The B lowest scores in rising order, equal ones at random. Deterministic but for ties.

    The propensity is 1, and m / n for the n equal scores of which the last m places are filled.

    >>> lowest(np.array([3.0, 1.0, 2.0]), 2, seed=0, step=0)
    Draw(place=array([1, 2]), propensity=array([1., 1.]), design='fixed')
    >>> lowest(np.zeros(4), 1, seed=0, step=0).propensity
    array([0.25])
    """
    if count > score.size:
        raise ValueError(f"{count} problems cannot be drawn without repetition from {score.size}; use a smaller batch")
    border = np.partition(score, count - 1)[count - 1]
    inside, level = np.flatnonzero(score < border), np.flatnonzero(score == border)
    left = count - inside.size
    inside = inside[np.argsort(score[inside], kind="stable")]
    if left < level.size:
        level = level[smallest(uniforms(level.size, seed, TIE, step), left)[0]]
    share = left / np.count_nonzero(score == border)
    propensity = np.concatenate([np.ones(inside.size), np.full(left, share)])
    return Draw(np.concatenate([inside, level]), propensity, "fixed")
