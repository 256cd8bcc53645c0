"""Importance-weighted estimates of a mean over steps, with intervals that count the noise of the draws only.

At step t the log drew slots b with expected numbers of draws e_t(x) > 0, known before the draw, and saw utilities u_b
whose expectation given the past and the problem is u_t(x). The curator in question would have filled the shares
m_t(x) of its slots, sum_x m_t(x) = 1. To estimate is

    V = mean_t V_t,   V_t = sum_x m_t(x) u_t(x),

with weights w_b = m_t(x_b) / e_t(x_b), which sum to 1 in expectation, and an outcome model f_t fitted on earlier steps:

    ips     mean_t sum_b w_b u_b
    snips   sum_tb w_b u_b / sum_tb w_b
    dr      mean_t [sum_x m_t(x) f_t(x) + sum_b w_b (u_b - f_t(x_b))]

m_t, e_t and f_t are functions of the past, so every term of ips and of dr less V_t is a martingale difference: both are
unbiased whatever f_t is, and their errors are uncorrelated over steps. snips is biased by O(1 / steps).
Source  Horvitz & Thompson 1952; Dudík, Langford & Li 2011 (1103.4601); Swaminathan & Joachims 2015 (snips).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from curbench.stats import Interval
from curbench.types import Array

ESTIMATORS = ("ips", "snips", "dr")


class Terms(NamedTuple):
    """Sums of each step, all f64[T].

    weight  sum_b w_b;  value  sum_b w_b u_b
    model   sum_x m_t(x) f_t(x);  fitted  sum_b w_b f_t(x_b)
    """

    weight: Array
    value: Array
    model: Array
    fitted: Array


def estimate(terms: Terms, name: str, level: float = 0.95) -> Interval:
    """The estimate of V by one of ``ESTIMATORS``, over n steps.

    What a step's term was expected to be, as far as the past tells, carries no noise of the draw and is taken out of
    the terms before their spread is measured: that is sum_x m_t(x) f_t(x).
    Raises  ValueError for fewer than 3 steps, or for ``snips`` without any weight.

    >>> one = np.ones(4)
    >>> estimate(Terms(one, np.array([0.0, 1.0, 0.0, 1.0]), 0.5 * one, 0.5 * one), "dr").mean
    0.5
    """
    weight, value, model, fitted = terms
    if name == "ips":
        return drifting_mean(value, expected=model, level=level)
    if name == "dr":
        return drifting_mean(model + value - fitted, expected=model, level=level)
    total = weight.sum()
    if total <= 0.0:
        raise ValueError("no logged slot has a weight: the log never drew what the curator would select")
    mean = value.sum() / total
    size = weight.size / total
    linear = drifting_mean(size * (value - mean * weight), expected=size * (model - mean), level=level)
    return Interval(float(mean), float(mean) + linear.lo, float(mean) + linear.hi, weight.size)


def drifting_mean(value: Array, *, expected: Array | float = 0.0, level: float = 0.95) -> Interval:
    """The mean of f64[T], and an interval for the mean of their conditional means, which may drift.

        var = sum_(t >= 2) (r_t - r_(t-1))^2 / (2 T (T - 2)),   r = value - expected

    ``expected`` f64[T] is any guess of each conditional mean made before the step; step 0 has no past to guess from, so
    the sum leaves its difference out. Differences of neighbours cancel what is left of the drift, where a variance
    around one mean would count it as noise. Student's t with the degrees of freedom of that estimate for n = T - 1
    independent normal values, 2 (n - 1)^2 / (3 n - 4).
    Raises  ValueError for fewer than 3 values.
    Source  von Neumann, Kent, Bellinson & Hart 1941, mean square successive difference.

    >>> drifting_mean(np.array([1.0, 2.0, 3.0]), expected=np.array([1.0, 2.0, 3.0]))
    Interval(mean=2.0, lo=2.0, hi=2.0, n=3)
    """
    steps = value.size
    if steps < 3:
        raise ValueError(f"an interval needs at least 3 logged steps; got {steps}")
    mean = float(value.mean())
    difference = np.diff((value - expected)[1:])
    error = float(np.sqrt(difference @ difference / (2.0 * steps * difference.size)))
    freedom = 2.0 * difference.size**2 / (3.0 * difference.size - 1.0)
    half = float(stdtrit(freedom, 0.5 + level / 2)) * error
    return Interval(mean, mean - half, mean + half, steps)


def effective_sample_size(weight: Array) -> float:
    """(sum w)^2 / sum w^2 of f64[n]: how many slots of equal weight would say as much; 0 without any weight.

    Source  Kish 1965.

    >>> effective_sample_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    square = float(weight @ weight)
    return float(weight.sum()) ** 2 / square if square > 0.0 else 0.0


class StratumModel:
    """f_t: a moving average of the utilities seen in each stratum; strata not seen yet have that of all.

    The first visit of a stratum sets it, a later one moves it by max(1 / visits, ``memory``) towards the step's mean:
    a running mean that forgets, because the actor changes.
    """

    def __init__(self, stratum: Array, *, memory: float = 0.1) -> None:
        self.stratum, self.memory = stratum, memory
        count = int(stratum.max()) + 1
        self._mean, self._visit = np.zeros(count + 1), np.zeros(count + 1, np.int64)  # the last one is that of all

    def predict(self) -> Array:
        """f64[number of strata], what is expected of a problem of each."""
        return np.where(self._visit[:-1] > 0, self._mean[:-1], self._mean[-1])

    def update(self, problem: Array, utility: Array) -> None:
        """Learns from the slots of a step, after they were used."""
        stratum, last = self.stratum[problem], self._mean.size - 1
        count = np.bincount(stratum, minlength=last + 1)
        total = np.bincount(stratum, utility, last + 1)
        count[last], total[last] = problem.size, utility.sum()
        seen = count > 0
        self._visit[seen] += 1
        rate = np.maximum(1.0 / self._visit[seen], self.memory)
        self._mean[seen] += rate * (total[seen] / count[seen] - self._mean[seen])
