"""Test-beds: arms whose latent means are data (a matrix of segments), so that one compiled driver serves them all."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from curbench.types import Array, Bank

LARGEST_MEAN_BYTES = 2 << 30


class Noise(NamedTuple):
    """How a reward scatters around its mean, see ``reward.noisy``.

    kind    "bernoulli", "beta", "gaussian" or "power"
    scale   concentration of beta; standard deviation of the truncated normal
    shared  whether all draws of a round share their noise
    """

    kind: str = "bernoulli"
    scale: float = 1.0
    shared: bool = False


BERNOULLI = Noise()


@dataclass(frozen=True)
class Arms:
    """Bernoulli arms with piecewise constant means.

    name        of the test-bed
    start       i64[S], first round of each segment, start[0] = 0
    mean        f64[S, K] in [0, 1]
    horizon     T
    comparator  "static", "switching" or "dynamic": the regret notion this test-bed is made for
    source      where the parameters come from

    Raises ValueError if a mean is outside [0, 1] or the segments do not fit the horizon.
    """

    name: str
    start: Array
    mean: Array
    horizon: int
    comparator: str
    source: str
    noise: Noise = BERNOULLI
    rested: bool = False

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or self.mean.size == 0:
            raise ValueError(f"means must have shape (segments, arms) with at least one each; got {self.mean.shape}")
        if not ((self.mean >= 0) & (self.mean <= 1)).all():
            raise ValueError(f"means must be in [0, 1]; got [{self.mean.min()}, {self.mean.max()}]")
        inside = self.start[0] == 0 and (np.diff(self.start) > 0).all() and self.start[-1] < self.horizon
        if not inside:
            raise ValueError(f"segments must start at 0, increase and end before the horizon {self.horizon}")

    @property
    def count(self) -> int:
        """K, the number of arms."""
        return int(self.mean.shape[1])

    @property
    def comparator_pieces(self) -> Array:
        """i64[segments of the means], constant pieces that a best-arm sequence has had by the end of each segment.

        An arm is kept for as long as it stays among the best, which makes the pieces as few as possible.
        """
        pieces, still_best, count = 1, np.ones(self.count, bool), []
        for row in self.mean:
            best = row == row.max()
            still_best = still_best & best
            if not still_best.any():
                pieces, still_best = pieces + 1, best
            count.append(pieces)
        return np.array(count)

    @property
    def cumulative_variation(self) -> Array:
        """f64[segments of the means], sum of max_i |change of mean i| up to each segment."""
        step = np.abs(np.diff(self.mean, axis=0)).max(axis=1)
        return np.concatenate([[0.0], np.cumsum(step)])

    @property
    def segments(self) -> int:
        """S, constant pieces of the best-arm sequence."""
        return int(self.comparator_pieces[-1])

    @property
    def variation(self) -> float:
        """V_T, computed from the means themselves."""
        return float(self.cumulative_variation[-1])

    def bank(self) -> Bank:
        """The arms as a problem bank: one problem and one stratum each, one-hot features, nothing about the means."""
        k = self.count
        return Bank(
            key=np.array([f"arm {i}" for i in range(k)]),
            stratum=np.arange(k),
            feature=np.eye(k, dtype=np.float32) if k <= 4096 else None,
        )


def stationary(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """One arm with mean 0.6, the others 0.5: the gap of 0.1 that the derivation was first checked on."""
    mean = np.full((1, arms), 0.5)
    mean[0, rng.integers(arms)] = 0.6
    return Arms("stationary", np.zeros(1, np.int64), mean, horizon, "static", "one arm 0.6, others 0.5")


def garivier_moulines(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Three arms 0.5, 0.3, 0.4; the third jumps to 0.9 for the rounds [3000, 5000) of 10,000 (rescaled to T)."""
    start = np.array([0, round(0.3 * horizon), round(0.5 * horizon)])
    mean = np.array([[0.5, 0.3, 0.4], [0.5, 0.3, 0.9], [0.5, 0.3, 0.4]])
    source = "Garivier & Moulines 2011 (0805.3415), first simulation"
    return Arms("garivier_moulines", start, mean, horizon, "switching", source)


SWITCHING_SEGMENTS = 10


def switching(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Ten equal segments; in each one arm has mean 0.7, the others 0.3, and the best arm always changes."""
    count = min(SWITCHING_SEGMENTS, horizon)
    start = np.arange(count) * horizon // count
    mean = np.full((count, arms), 0.3)
    best = int(rng.integers(arms))
    for s in range(count):
        mean[s, best] = 0.7
        best = (best + 1 + int(rng.integers(arms - 1))) % arms if arms > 1 else 0
    return Arms("switching", start, mean, horizon, "switching", "ten segments, best arm 0.7, others 0.3")


DRIFT = 10.0
DRIFT_TURNS = 200


def drifting(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Means walk by exactly V / (T - 1) every round, V = 10, and turn at random or at the borders: V_T = V.

    Each arm keeps its direction and reverses it at random about 200 times per run; a step that would leave [0, 1] is
    taken the other way.
    """
    _refuse_large(horizon, arms)
    step = DRIFT / max(horizon - 1, 1)
    if step > 0.5:
        raise ValueError(f"drifting arms need a horizon of at least {int(2 * DRIFT) + 1} rounds; got {horizon}")
    turn = min(1.0, DRIFT_TURNS / horizon)
    mean = np.empty((horizon, arms))
    mean[0] = rng.uniform(0.0, 1.0, arms)
    sign = rng.choice([-1.0, 1.0], arms)
    for t in range(1, horizon):
        sign = np.where(rng.uniform(size=arms) < turn, -sign, sign)
        ahead = mean[t - 1] + sign * step
        sign = np.where((ahead < 0) | (ahead > 1), -sign, sign)
        mean[t] = mean[t - 1] + sign * step
    source = "walk with steps of exactly V/(T-1), V = 10"
    return Arms("drifting", np.arange(horizon), mean, horizon, "dynamic", source)


def _refuse_large(horizon: int, arms: int) -> None:
    if horizon * arms * 8 > LARGEST_MEAN_BYTES:
        raise ValueError(
            f"a matrix of {horizon} x {arms} means exceeds {LARGEST_MEAN_BYTES >> 30} GiB; shorten the horizon"
        )


ARMS: dict[str, Callable[[int, int, np.random.Generator], Arms]] = {
    "stationary": stationary,
    "garivier_moulines": garivier_moulines,
    "switching": switching,
    "drifting": drifting,
}
FIXED_ARMS = {"garivier_moulines": 3}
DEFAULT_ARMS = 10


def make_arms(name: str, *, horizon: int, arms: int | None = None, instance_seed: int = 0) -> Arms:
    """The named test-bed, rescaled to ``horizon``; ``instance_seed`` fixes what is random about the instance.

    Raises ValueError for an unknown name, a horizon or number of arms below 1, or ``arms`` where it is fixed.

    >>> make_arms("garivier_moulines", horizon=10_000).start.tolist()
    [0, 3000, 5000]
    """
    if name not in ARMS:
        raise ValueError(f"unknown arms {name!r}; choose from {', '.join(ARMS)}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1; got {horizon}")
    if arms is not None and arms < 1:
        raise ValueError(f"arms must be at least 1; got {arms}")
    if name in FIXED_ARMS and arms is not None:
        raise ValueError(f"{name} has {FIXED_ARMS[name]} arms by definition; leave --arms out")
    rng = np.random.default_rng((instance_seed, zlib.crc32(name.encode())))
    return ARMS[name](DEFAULT_ARMS if arms is None else arms, horizon, rng)
