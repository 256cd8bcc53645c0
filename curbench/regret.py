"""Regret bounds, one function each, and the pathwise certificate of a mirror step.

Setting. K arms, T rounds, m draws per round, rewards y in [0, 1] with conditional means mu_t. Regret is per draw:
sum_t (mu_{t,i_t} - <p_t, mu_t>) for a comparator sequence i_t. Natural logarithms. kappa = (K + m - 1) / m.
Derivations: docs/maths.md. ``proved`` bounds can fail a run; ``plotted`` ones are drawn for orientation only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, log, log1p, sqrt
from typing import Literal, NamedTuple

import numba as nb
import numpy as np

SLACK_TOLERANCE = 1e-9
"""Rounding allowance of the certificate, relative to its ``scale``: some 1e6 float64 ulps over sums of K terms."""


class Setting(NamedTuple):
    """What a bound may depend on: the parameters that really ran and the comparator of the test-bed.

    arms, batch, horizon  K, m, T
    eta, floor, share     step size; gamma (all arms together) of clip; alpha of share
    restart_every         rounds between restarts; 0: never
    segments              S >= 1, constant pieces of the comparator
    variation             V_T, sum over rounds of the largest change of a mean
    """

    arms: int
    batch: int
    horizon: int
    eta: float
    floor: float = 0.0
    share: float = 0.0
    restart_every: int = 0
    segments: int = 1
    variation: float = 0.0


def _stability(s: Setting) -> float:
    """eta kappa T / 2: lemma 2 bounds the second moment of the estimate by kappa for m draws with replacement."""
    return s.eta * (s.arms + s.batch - 1) / s.batch * s.horizon / 2


def tracking_clip(s: Setting) -> float:
    """[ln K + (1 - gamma)(S - 1) ln(K / gamma)] / eta + eta kappa T / 2 + gamma (1 - 1/K) T.

    Infinite when S > 1 without a floor. Source: docs/maths.md, theorem 1 A.
    """
    if s.segments > 1 and s.floor == 0.0:
        return inf
    move = 0.0 if s.segments == 1 else (1 - s.floor) * (s.segments - 1) * log(s.arms / s.floor)
    return (log(s.arms) + move) / s.eta + _stability(s) + s.floor * (1 - 1 / s.arms) * s.horizon


def tracking_share(s: Setting) -> float:
    """[ln K + (S - 1) ln(K / alpha) + (T - S) ln(1 / (1 - alpha))] / eta + eta kappa T / 2.

    Infinite when S > 1 without sharing. Source: docs/maths.md, theorem 1 B; Herbster & Warmuth 1998 for the comparator.
    """
    if (s.segments > 1 and s.share == 0.0) or s.share == 1.0:
        return inf
    move = 0.0 if s.segments == 1 else (s.segments - 1) * log(s.arms / s.share)
    return (log(s.arms) + move - (s.horizon - s.segments) * log1p(-s.share)) / s.eta + _stability(s)


def _dynamic(tracking: Callable[[Setting], float], s: Setting) -> float:
    """min over block lengths L of tracking(S = ceil(T / L)) + L V_T: the best arm at a block's middle, lemma 5.

    S takes at most 2 sqrt(T) values, and for each the smallest L is best.
    """
    best = tracking(s._replace(segments=1)) + s.horizon * s.variation
    for pieces in _piece_counts(s.horizon):
        length = ceil(s.horizon / pieces)
        value = tracking(s._replace(segments=ceil(s.horizon / length))) + length * s.variation
        best = min(best, value)
    return best


def _piece_counts(horizon: int) -> list[int]:
    root = int(sqrt(horizon)) + 1
    return sorted({*range(1, root + 1), *(ceil(horizon / length) for length in range(1, root + 1))})


def dynamic_clip(s: Setting) -> float:
    """Theorem 1 A against ceil(T / L) pieces plus L V_T, L free. Source: docs/maths.md, theorem 2 A."""
    return _dynamic(tracking_clip, s)


def dynamic_share(s: Setting) -> float:
    """Theorem 1 B against ceil(T / L) pieces plus L V_T, L free. Source: docs/maths.md, theorem 2 B."""
    return _dynamic(tracking_share, s)


def dynamic_restart(s: Setting) -> float:
    """ceil(T / L) ln K / eta + eta kappa T / 2 + L V_T with L = ``restart_every``. Source: docs/maths.md, theorem 2 R.

    >>> dynamic_restart(Setting(2, 1, 100, eta=0.1, restart_every=50)) == 2 * log(2) / 0.1 + 0.1 * 2 * 100 / 2
    True
    """
    blocks = ceil(s.horizon / s.restart_every)
    return blocks * log(s.arms) / s.eta + _stability(s) + s.restart_every * s.variation


def exp3_static(s: Setting) -> float:
    """sqrt(2 T K ln K): EXP3 in loss form, one draw per round, tuned. Bubeck & Cesa-Bianchi 2012, theorem 3.1."""
    return sqrt(2 * s.horizon * s.arms * log(s.arms))


def lower_static(s: Setting) -> float:
    """min(sqrt(K T), T) / 20: what some Bernoulli instance costs every algorithm. Auer et al. 2002, theorem 5.1."""
    return min(sqrt(s.arms * s.horizon), s.horizon) / 20


def lower_variation(s: Setting) -> float:
    """0.063 (K V_T)^(1/3) T^(2/3), by concatenating hard blocks of length at least K. Source: docs/maths.md."""
    return 0.063 * (s.arms * s.variation) ** (1 / 3) * s.horizon ** (2 / 3)


Status = Literal["proved", "plotted", "none"]


@dataclass(frozen=True)
class Bound:
    """A bound with its standing: ``proved`` may fail a run, ``plotted`` is drawn only."""

    name: str
    status: Status
    source: str
    value: Callable[[Setting], float]


BOUNDS: dict[str, Bound] = {
    bound.name: bound
    for bound in (
        Bound("tracking_clip", "proved", "docs/maths.md theorem 1 A", tracking_clip),
        Bound("tracking_share", "proved", "docs/maths.md theorem 1 B", tracking_share),
        Bound("dynamic_clip", "proved", "docs/maths.md theorem 2 A", dynamic_clip),
        Bound("dynamic_share", "proved", "docs/maths.md theorem 2 B", dynamic_share),
        Bound("dynamic_restart", "proved", "docs/maths.md theorem 2 R", dynamic_restart),
        Bound("exp3_static", "plotted", "Bubeck & Cesa-Bianchi 2012, theorem 3.1", exp3_static),
        Bound("lower_static", "plotted", "Auer et al. 2002, theorem 5.1", lower_static),
        Bound("lower_variation", "plotted", "docs/maths.md, lower bound by concatenation", lower_variation),
    )
}


@nb.njit
def mirror_slack(p, arm, expected, y, stepped, eta, floor):
    """(slack, scale) of the one-step inequality of mirror descent, at the comparator where it is tightest.

    For every u = (1 - gamma) e_i + gamma / K, a correct step from p on the loss estimate lhat satisfies
        eta <p - u, lhat> <= D(u, p) - D(u, next) + (eta^2 / 2) sum_i p_i lhat_i^2,
    pathwise: no expectation, no assumption on the rewards. The slack is right side minus left side, minimised over i;
    a correct curator has slack >= -SLACK_TOLERANCE * scale in every round.

    p         f64[K], the distribution that was drawn from
    arm       i64[m], the draws
    expected  f64[m], expected count of each drawn arm under the design, computed by the caller from p: the check
              recomputes lhat from it and must never take the curator's own estimate
    y         f64[m], rewards in [0, 1]
    stepped   f64[K], the next distribution, before any sharing or restart
    eta       step size
    floor     gamma of the clipped simplex; 0 for share and restart
    Source    docs/maths.md, lemma 3 (generalised Pythagoras). Arms at zero probability are no comparators.
    """
    k = p.size
    estimate = np.zeros(k)
    for j in range(arm.size):
        estimate[arm[j]] += (1.0 - y[j]) / expected[j]
    linear, square, everywhere, tightest, scale = 0.0, 0.0, 0.0, np.inf, 1.0
    for i in range(k):
        linear += p[i] * estimate[i]
        square += p[i] * estimate[i] * estimate[i]
        if p[i] > 0.0:
            if stepped[i] <= 0.0:  # infinitely far from the comparator on this arm
                return -np.inf, 1.0
            step = eta * estimate[i] + np.log(stepped[i] / p[i])
            everywhere += step
            tightest = min(tightest, step)
            scale = max(scale, eta * estimate[i])
        elif floor > 0.0:  # a clipped distribution has no zero
            return -np.inf, 1.0
    slack = (1.0 - floor) * tightest + floor / k * everywhere + 0.5 * eta * eta * square - eta * linear
    return slack, scale
