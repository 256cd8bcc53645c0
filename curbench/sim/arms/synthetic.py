"""Test-beds of our own: what theorems 1 and 2 can be held against exactly, and what learning progress looks like.

A test-bed is a function (arms, horizon, rng, *, parameters) -> Arms.
"""

from __future__ import annotations

import numpy as np

from curbench.sim.arms.model import Arms, equal_segments, need, refuse_large
from curbench.types import Array

DRIFT_TURNS = 200
PULL_POINTS = 256
"""Rows of a by-pulls table: log-spaced pull counts, between which a mean is held."""


def stationary(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """One arm with mean 0.6, the others 0.5: the gap of 0.1 that the derivation was first checked on."""
    mean = np.full((1, arms), 0.5)
    mean[0, rng.integers(arms)] = 0.6
    return Arms("stationary", np.zeros(1, np.int64), mean, horizon, "static", "one arm 0.6, others 0.5")


def switching(arms: int, horizon: int, rng: np.random.Generator, *, segments: int = 10) -> Arms:
    """Equal segments; in each one arm has mean 0.7, the others 0.3, and the best arm always changes.

    S = segments (at most T), V_T = 0.4 (S - 1).
    """
    start = equal_segments("switching", min(segments, horizon), horizon)
    mean = np.full((start.size, arms), 0.3)
    best = int(rng.integers(arms))
    for s in range(start.size):
        mean[s, best] = 0.7
        best = (best + 1 + int(rng.integers(arms - 1))) % arms if arms > 1 else 0
    source = f"{start.size} segments, best arm 0.7, others 0.3"
    return Arms("switching", start, mean, horizon, "switching", source)


def drifting(arms: int, horizon: int, rng: np.random.Generator, *, variation: float = 10.0) -> Arms:
    """Means walk by exactly V / (T - 1) every round and turn at random or at the borders: V_T = V.

    Each arm keeps its direction and reverses it at random about 200 times per run; a step that would leave [0, 1] is
    taken the other way.
    """
    need(variation >= 0, "variation must be at least 0", variation)
    refuse_large(horizon, arms)
    step = variation / max(horizon - 1, 1)
    if step > 0.5:
        raise ValueError(f"drifting arms need a horizon of at least {int(2 * variation) + 1} rounds; got {horizon}")
    turn = min(1.0, DRIFT_TURNS / horizon)
    mean = np.empty((horizon, arms))
    mean[0] = rng.uniform(0.0, 1.0, arms)
    sign = rng.choice([-1.0, 1.0], arms)
    for t in range(1, horizon):
        sign = np.where(rng.uniform(size=arms) < turn, -sign, sign)
        ahead = mean[t - 1] + sign * step
        sign = np.where((ahead < 0) | (ahead > 1), -sign, sign)
        mean[t] = mean[t - 1] + sign * step
    source = f"walk with steps of exactly V/(T-1), V = {variation:g}"
    return Arms("drifting", np.arange(horizon), mean, horizon, "dynamic", source)


def switching_lower(arms: int, horizon: int, rng: np.random.Generator, *, segments: int = 10) -> Arms:
    """``auer_lower`` with a fresh random arm in each of S equal segments: eps = min(1, sqrt(K S / T)) / 4.

    S independent blocks, so every algorithm pays S times the lower bound of one. The constant pieces of the best arm
    are S at most, V_T = eps for every change of the arm.
    """
    start = equal_segments("switching_lower", segments, horizon)
    mean = np.full((segments, arms), 0.5)
    mean[np.arange(segments), rng.integers(arms, size=segments)] += 0.25 * min(1.0, (arms * segments / horizon) ** 0.5)
    source = "Auer et al. 2002, theorem 5.1, concatenated"
    return Arms("switching_lower", start, mean, horizon, "switching", source)


def square_wave(arms: int, horizon: int, rng: np.random.Generator, *, segments: int = 20) -> Arms:
    """Two arms, 0.6 and 0.4, swap every T / segments rounds: worst when that is about a restart length or a window.

    S = segments, V_T = 0.2 (S - 1).
    """
    start = equal_segments("square_wave", segments, horizon)
    mean = np.where((np.arange(segments) % 2 == 0)[:, None], [0.6, 0.4], [0.4, 0.6])
    return Arms("square_wave", start, mean, horizon, "switching", "two arms 0.6 and 0.4 that swap")


def rested_rising(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """After n pulls arm i has mean c_i (1 - 2^(-n / h_i)), concave and rising; slow arms end higher, in random order.

    c_i from 0.4 to 0.9 in equal steps, half-lives h_i from T / 1000 to T / 20 in equal ratios: always playing the
    slowest arm is best, worth 0.83 per round, but looks worst at first. Exact at up to 256 pull counts, held between.
    Source: the family of Metelli et al. 2022; the parameters are ours.
    """
    ceiling, half_life = np.linspace(0.4, 0.9, arms), np.geomspace(horizon / 1000, horizon / 20, arms)
    start = _pull_counts(horizon)
    order = rng.permutation(arms)
    mean = (ceiling * (1 - 2 ** (-start[:, None] / half_life)))[:, order]
    source = "family of Metelli et al. 2022, parameters ours"
    return Arms("rested_rising", start, mean, horizon, "dynamic", source, rested=True)


def learning_curves(arms: int, horizon: int, rng: np.random.Generator, *, speed: float = 100.0) -> Arms:
    """Problems that are learnt by being practised: utility first rises, then vanishes.

    Arm i has difficulty d_i from -1 to 4, in random order, and competence c_i = 0 at first. A pull has utility
    s (1 - s) with s = sigmoid(c_i - d_i) and raises c_i at ``rate_i`` times that, in continuous time; the mean is
    4 s (1 - s). rate_i = speed K / T x U(0.5, 2). With x = c - d this solves x + sinh x = x_0 + sinh x_0 + rate n / 2.
    Exact at up to 256 pull counts, held between. Source: ours; no published guarantee covers such curves.
    """
    need(speed > 0, "speed must be positive", speed)
    start = _pull_counts(horizon)
    difficulty = rng.permutation(np.linspace(-1.0, 4.0, arms))
    rate = speed * arms / horizon * rng.uniform(0.5, 2.0, arms)
    s = 1 / (1 + np.exp(-_competence_ahead(-difficulty, rate * start[:, None] / 2)))
    mean = np.clip(4 * s * (1 - s), 0.0, 1.0)
    return Arms("learning_curves", start, mean, horizon, "dynamic", "learning by practice, ours", rested=True)


def _competence_ahead(x: Array, progress: Array) -> Array:
    """f64[S, K], the solution of z + sinh z = x + sinh x + progress, for x f64[K] and progress f64[S, K] >= 0."""
    total = x + np.sinh(x) + progress
    ahead = np.empty_like(total)
    for i in range(x.size):
        z = np.linspace(x[i], np.arcsinh(np.abs(total[:, i]).max()) + 1, 1 << 16)
        ahead[:, i] = np.interp(total[:, i], z + np.sinh(z), z)
    return ahead


def _pull_counts(horizon: int) -> Array:
    """i64[at most 256], 0 and log-spaced pull counts below the horizon."""
    count = np.unique(np.geomspace(1, max(horizon - 1, 1), PULL_POINTS - 1).astype(np.int64))
    return np.concatenate([[0], count[count < horizon]])
