"""Arms whose latent means are data (a matrix of segments), so that one compiled driver serves every test-bed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from curbench.sim.reward import KINDS
from curbench.types import Array, Bank

LARGEST_MEAN_BYTES = 2 << 30
COMPARATORS = ("static", "switching", "dynamic")


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


def parse_noise(text: str) -> Noise:
    """A noise from KIND[:SCALE[:shared]].

    Raises ValueError if it is not written so; ``Arms`` checks the values.

    >>> parse_noise("beta:4"), parse_noise("bernoulli:1:shared")
    (Noise(kind='beta', scale=4.0, shared=False), Noise(kind='bernoulli', scale=1.0, shared=True))
    """
    kind, *rest = text.split(":")
    try:
        scale = float(rest[0]) if rest else 1.0
    except ValueError:
        rest = ["", "", ""]
    if kind not in KINDS or len(rest) > 2 or rest[1:] not in ([], ["shared"]):
        raise ValueError(
            f"noise is KIND[:SCALE[:shared]] with KIND one of {', '.join(KINDS)}, like beta:4 or gaussian:0.1:shared; "
            f"got {text}"
        )
    return Noise(kind, scale, len(rest) == 2)


def noise_text(noise: Noise) -> str:
    """What ``parse_noise`` reads, as short as it gets.

    >>> noise_text(Noise("beta", 4.0)), noise_text(Noise(shared=True)), noise_text(Noise())
    ('beta:4', 'bernoulli:1:shared', 'bernoulli')
    """
    part = [noise.kind, f"{noise.scale:.12g}", *(["shared"] if noise.shared else [])]
    return ":".join(part if noise.shared or noise.scale != 1.0 else part[:1])


@dataclass(frozen=True)
class Arms:
    """Arms with piecewise constant means and rewards in [0, 1].

    name        of the test-bed; results are kept under it
    start       i64[S], first round of each segment, start[0] = 0
    mean        f64[S, K] in [0, 1]
    horizon     T
    comparator  "static", "switching" or "dynamic": the regret notion this test-bed is made for
    source      where the parameters come from
    noise       how a reward scatters around its mean
    rested      False: ``start`` counts rounds. True: it counts an arm's own pulls, and mean[s, i] holds while
                start[s] <= pulls of i < start[s + 1]; an arm that is left alone stays as it is

    Raises ValueError if a mean is outside [0, 1], the segments do not fit the horizon, or the noise is none.
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
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"a test-bed's name is letters, digits, '_', '-' and '.'; got {self.name!r}")
        if self.mean.ndim != 2 or self.mean.size == 0:
            raise ValueError(f"means must have shape (segments, arms) with at least one each; got {self.mean.shape}")
        if not ((self.mean >= 0) & (self.mean <= 1)).all():
            raise ValueError(f"means must be in [0, 1]; got [{self.mean.min()}, {self.mean.max()}]")
        if self.start.shape != self.mean.shape[:1]:
            raise ValueError(f"every segment needs one start; got {self.start.shape} starts, {len(self.mean)} segments")
        inside = self.start[0] == 0 and (np.diff(self.start) > 0).all() and self.start[-1] < self.horizon
        if not inside:
            raise ValueError(f"segments must start at 0, increase and end before the horizon {self.horizon}")
        if self.comparator not in COMPARATORS:
            raise ValueError(f"comparator must be one of {', '.join(COMPARATORS)}; got {self.comparator!r}")
        if self.noise.kind not in KINDS:
            raise ValueError(f"unknown noise {self.noise.kind!r}; choose from {', '.join(KINDS)}")
        if not 0 < self.noise.scale < np.inf:
            raise ValueError(f"the scale of noise must be positive and finite; got {self.noise.scale}")

    @property
    def count(self) -> int:
        """K, the number of arms."""
        return int(self.mean.shape[1])

    @cached_property
    def comparator_pieces(self) -> Array:
        """i64[segments of the means], constant pieces that a best-arm sequence has had by the end of each segment.

        An arm is kept for as long as it stays among the best, which makes the pieces as few as possible.
        Raises ValueError for rested arms.
        """
        self._refuse_rested()
        pieces, still_best, count = 1, np.ones(self.count, bool), []
        for best in self.mean == self.mean.max(axis=1, keepdims=True):
            still_best = still_best & best
            if not still_best.any():
                pieces, still_best = pieces + 1, best
            count.append(pieces)
        return np.array(count)

    @cached_property
    def cumulative_variation(self) -> Array:
        """f64[segments of the means], sum of max_i |change of mean i| up to each segment.

        Raises ValueError for rested arms.
        """
        self._refuse_rested()
        step = np.abs(np.diff(self.mean, axis=0)).max(axis=1)
        return np.concatenate([[0.0], np.cumsum(step)])

    def _refuse_rested(self) -> None:
        if self.rested:
            raise ValueError(f"{self.name}: means of rested arms depend on who pulls; they have no segments or V_T")

    @property
    def segments(self) -> Any:
        """S (int), constant pieces of the best-arm sequence; None for rested arms."""
        return None if self.rested else int(self.comparator_pieces[-1])

    @property
    def variation(self) -> Any:
        """V_T (float), computed from the means themselves; None for rested arms."""
        return None if self.rested else float(self.cumulative_variation[-1])

    def bank(self) -> Bank:
        """The arms as a problem bank: one problem and one stratum each, one-hot features, nothing about the means."""
        k = self.count
        return Bank(
            key=np.array([f"arm {i}" for i in range(k)]),
            stratum=np.arange(k),
            feature=np.eye(k, dtype=np.float32) if k <= 4096 else None,
        )


def need(right: bool, rule: str, value: float) -> None:
    """Raises ValueError, naming rule and value, unless the value is right."""
    if not right:
        raise ValueError(f"{rule}; got {value}")


def refuse_large(rows: int, arms: int) -> None:
    """Raises ValueError if rows x arms means exceed 2 GiB."""
    if rows * arms * 8 > LARGEST_MEAN_BYTES:
        raise ValueError(
            f"a matrix of {rows} x {arms} means exceeds {LARGEST_MEAN_BYTES >> 30} GiB; shorten the horizon"
        )


def equal_segments(name: str, count: int, horizon: int) -> Array:
    """i64[count], starts of segments of equal length, to rounding.

    Raises ValueError if there are fewer rounds than segments, or none.

    >>> equal_segments("x", 4, 10)
    array([0, 2, 5, 7])
    """
    if not 1 <= count <= horizon:
        raise ValueError(f"{name} with {count} segments needs a horizon of at least {max(count, 1)}; got {horizon}")
    return np.arange(count) * horizon // count
