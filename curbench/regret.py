"""Regret bounds, one function each, and the pathwise certificate of a mirror step.

Setting. K arms, T rounds, m draws per round, rewards y in [0, 1] with conditional means mu_t. Regret is per draw:
sum_t (mu_{t,i_t} - <p_t, mu_t>) for a comparator sequence i_t. Natural logarithms. kappa = (K + m - 1) / m.
Derivations: docs/maths.md. ``proved`` bounds can fail a run, ``plotted`` ones are drawn for orientation only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, e, inf, log, log1p, pi, sqrt
from typing import Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.mirror import mass_above

SLACK_TOLERANCE = 1e-9
"""Rounding allowance of the certificate, relative to its ``scale``: some 1e6 float64 ulps over sums of K terms."""


class Setting(NamedTuple):
    """What a bound may depend on: the parameters that really ran and the comparator of the test-bed.

    arms, batch, horizon  K, m, T
    eta, floor, share     step size; gamma (all arms together) of clip; alpha of share
    restart_every         rounds between restarts; 0: never
    segments              S >= 1, constant pieces of the comparator
    variation             V_T, sum over rounds of the largest change of a mean
    swaps                 W, arms exchanged in all by a comparator that is a set of m arms
    breaks                rounds at which some mean changes; 0: stationary
    bias                  beta of EXP3.P, gamma of EXP3-IX
    distinct              whether the m draws of a round are distinct (systematic); only ``mset`` distinguishes
    delta                 probability with which a bound in probability may fail
    window, discount, xi  draws that SW-UCB remembers; gamma and exploration of D-UCB; xi also of SW-UCB
    gap, worst_gap        smallest and largest distance to the comparator of each arm that can be worse; () if unknown
    """

    arms: int
    batch: int
    horizon: int
    eta: float = inf
    floor: float = 0.0
    share: float = 0.0
    restart_every: int = 0
    segments: int = 1
    variation: float = 0.0
    swaps: int = 0
    breaks: int = 0
    bias: float = 0.0
    distinct: bool = False
    delta: float = 0.01
    window: int = 0
    discount: float = 1.0
    xi: float = 0.0
    gap: tuple[float, ...] = ()
    worst_gap: tuple[float, ...] = ()


class Terms(NamedTuple):
    """The parts of a bound, each of which bounds its own part of the regret (``sim.certificates.Budget``).

    block  rounds for which theorem 2 keeps its comparator; 0: the comparator is that of the regret itself
    """

    penalty: float
    stability: float
    floor: float = 0.0
    drift: float = 0.0
    block: int = 0

    @property
    def total(self) -> float:
        """The bound."""
        return self.penalty + self.stability + self.floor + self.drift


def _stability(s: Setting) -> float:
    """eta kappa T / 2: lemma 2 bounds the second moment of the estimate by kappa for m draws with replacement."""
    return s.eta * (s.arms + s.batch - 1) / s.batch * s.horizon / 2


def clip_terms(s: Setting) -> Terms:
    """Penalty, stability and floor of theorem 1 A.

    [ln K + (1 - gamma)(S - 1) ln(K / gamma)] / eta,  eta kappa T / 2,  gamma (1 - 1/K) T. The penalty is infinite when
    S > 1 without a floor.
    """
    if s.segments > 1 and s.floor == 0.0:
        move = inf
    else:
        move = 0.0 if s.segments == 1 else (1 - s.floor) * (s.segments - 1) * log(s.arms / s.floor)
    return Terms((log(s.arms) + move) / s.eta, _stability(s), s.floor * (1 - 1 / s.arms) * s.horizon)


def share_terms(s: Setting) -> Terms:
    """Penalty and stability of theorem 1 B.

    [ln K + (S - 1) ln(K / alpha) + (T - S) ln(1 / (1 - alpha))] / eta,  eta kappa T / 2. The penalty is infinite when
    S > 1 without sharing.
    """
    if (s.segments > 1 and s.share == 0.0) or s.share == 1.0:
        move = inf
    else:
        move = 0.0 if s.segments == 1 else (s.segments - 1) * log(s.arms / s.share)
        move -= (s.horizon - s.segments) * log1p(-s.share)
    return Terms((log(s.arms) + move) / s.eta, _stability(s))


def tracking_clip(s: Setting) -> float:
    """The sum of ``clip_terms``. Source: docs/maths.md, theorem 1 A."""
    return clip_terms(s).total


def tracking_share(s: Setting) -> float:
    """The sum of ``share_terms``. Source: docs/maths.md, theorem 1 B; Herbster & Warmuth 1998 for the comparator."""
    return share_terms(s).total


def _dynamic(tracking: Callable[[Setting], Terms], s: Setting) -> Terms:
    """min over block lengths L of tracking(S = ceil(T / L)) + L V_T: the best arm at a block's middle, lemma 5.

    S takes at most 2 sqrt(T) values, and for each the smallest L is best.
    """
    best, length = inf, s.horizon
    for block in {ceil(s.horizon / pieces) for pieces in _piece_counts(s.horizon)}:
        total = tracking(s._replace(segments=ceil(s.horizon / block))).total + block * s.variation
        if total < best:
            best, length = total, block
    terms = tracking(s._replace(segments=ceil(s.horizon / length)))
    return terms._replace(drift=length * s.variation, block=length)


def _piece_counts(horizon: int) -> list[int]:
    root = int(sqrt(horizon)) + 1
    return sorted({*range(1, root + 1), *(ceil(horizon / length) for length in range(1, root + 1))})


def dynamic_clip_terms(s: Setting) -> Terms:
    """``clip_terms`` against ceil(T / L) pieces, and drift L V_T, with the best L."""
    return _dynamic(clip_terms, s)


def dynamic_share_terms(s: Setting) -> Terms:
    """``share_terms`` against ceil(T / L) pieces, and drift L V_T, with the best L."""
    return _dynamic(share_terms, s)


def dynamic_clip(s: Setting) -> float:
    """Theorem 1 A against ceil(T / L) pieces plus L V_T, L free. Source: docs/maths.md, theorem 2 A."""
    return dynamic_clip_terms(s).total


def dynamic_share(s: Setting) -> float:
    """Theorem 1 B against ceil(T / L) pieces plus L V_T, L free. Source: docs/maths.md, theorem 2 B."""
    return dynamic_share_terms(s).total


def restart_terms(s: Setting) -> Terms:
    """ceil(T / L) ln K / eta, eta kappa T / 2 and drift L V_T, with L = ``restart_every``."""
    length = s.restart_every
    blocks = ceil(s.horizon / length)
    return Terms(blocks * log(s.arms) / s.eta, _stability(s), drift=length * s.variation, block=length)


def dynamic_restart(s: Setting) -> float:
    """The sum of ``restart_terms``. Source: docs/maths.md, theorem 2 R.

    >>> dynamic_restart(Setting(2, 1, 100, eta=0.1, restart_every=50)) == 2 * log(2) / 0.1 + 0.1 * 2 * 100 / 2
    True
    """
    return restart_terms(s).total


def exp3_terms(s: Setting) -> Terms:
    """``clip_terms`` without a floor."""
    return clip_terms(s._replace(floor=0.0))


def exp3_static(s: Setting) -> float:
    """ln K / eta + eta kappa T / 2: EXP3 in loss form; sqrt(2 T K ln K) for one draw and the best eta.

    Infinite for a comparator that moves. Source: docs/maths.md, theorem 1 A with gamma = 0; Bubeck & Cesa-Bianchi 2012,
    theorem 3.1.
    """
    return exp3_terms(s).total


def static_mix(s: Setting) -> float:
    """(1 - gamma) ln K / eta + eta kappa T / 2 + gamma (1 - 1/K) T. Source: docs/maths.md, theorem 1 C.

    Infinite for a comparator that moves.
    """
    if s.segments > 1:
        return inf
    return (1 - s.floor) * log(s.arms) / s.eta + _stability(s) + s.floor * (1 - 1 / s.arms) * s.horizon


def exp3_gain(s: Setting) -> float:
    """(e - 1) gamma T + K ln K / gamma: EXP3 in gain form. Source: Auer et al. 2002, theorem 3.1 (G_max <= T).

    Infinite for a comparator that moves, more than one draw a round, or gamma outside (0, 1].
    """
    if s.segments > 1 or s.batch > 1 or not 0 < s.floor <= 1:
        return inf
    return (e - 1) * s.floor * s.horizon + s.arms * log(s.arms) / s.floor


def exp3_ix(s: Setting) -> float:
    """2 sqrt(2 K T ln K) + (sqrt(2 K T / ln K) + 1) ln(2 / delta), with probability 1 - delta.

    At eta = 2 gamma = sqrt(2 ln K / (K T)); infinite for a comparator that moves, more than one draw a round, one arm.
    Source: Neu 2015, theorem 1.
    """
    if s.segments > 1 or s.batch > 1 or s.arms < 2:
        return inf
    k, t = s.arms, s.horizon
    return 2 * sqrt(2 * k * t * log(k)) + (sqrt(2 * k * t / log(k)) + 1) * log(2 / s.delta)


def exp3_p(s: Setting) -> float:
    """beta T K + gamma T + (1 + beta) eta K T + (ln K + 1) / beta + ln K / eta: the expected regret of EXP3.P.

    The bound in probability has ln(K / delta) / beta; its tail integrates to the 1 / beta. Infinite for a comparator
    that moves, more than one draw a round, gamma > 1/2 or (1 + beta) K eta > gamma.
    Source: Bubeck & Cesa-Bianchi 2012, equation 3.12.
    """
    condition = s.floor <= 0.5 and (1 + s.bias) * s.arms * s.eta <= s.floor * (1 + 1e-12) and s.bias > 0
    if s.segments > 1 or s.batch > 1 or not condition:
        return inf
    k, t = s.arms, s.horizon
    linear = s.bias * k + s.floor + (1 + s.bias) * s.eta * k
    return linear * t + (log(k) + 1) / s.bias + log(k) / s.eta


def tsallis_iw(s: Setting) -> float:
    """4 sqrt(K T) + 1: Tsallis-INF with importance weights, anytime. Source: Zimmert & Seldin 2021, theorem 1.

    Infinite for a comparator that moves or more than one draw a round.
    """
    return inf if s.segments > 1 or s.batch > 1 else 4 * sqrt(s.arms * s.horizon) + 1


def tsallis_rv(s: Setting) -> float:
    """2 sqrt(K T) + 14 K ln T + 16: Tsallis-INF with reduced variance. Source: Zimmert & Seldin 2021 (v6), theorem 1.

    Infinite for a comparator that moves or more than one draw a round.
    """
    if s.segments > 1 or s.batch > 1:
        return inf
    return 2 * sqrt(s.arms * s.horizon) + 14 * s.arms * log(s.horizon) + 16


def tsallis_rv_gap(s: Setting) -> float:
    """sum_i (ln T + 3) / gap_i + 2 / smallest gap + 28 K ln T + 1.5 sqrt(K) + 32: ``tsallis_rv`` where one arm is best.

    The means may move as long as that arm is better than arm i by gap_i or more in every round. Infinite without
    positive gaps (the best arm must be unique), for a comparator that moves or more than one draw a round.
    Source: Zimmert & Seldin 2021 (v6), theorem 1, the self-bounding regime without corruption.
    """
    if s.segments > 1 or s.batch > 1 or not s.gap or min(s.gap) <= 0:
        return inf
    k, t = s.arms, s.horizon
    return sum((log(t) + 3) / gap for gap in s.gap) + 2 / min(s.gap) + 28 * k * log(t) + 1.5 * sqrt(k) + 32


def exp3_s(s: Setting) -> float:
    """K (S ln(K / alpha) + e alpha T) / gamma + (e - 1) gamma T: EXP3.S against S pieces.

    Infinite for more than one draw a round, or without sharing. Source: Auer et al. 2002, theorem 8.1.
    """
    if s.batch > 1 or s.share <= 0 or s.floor <= 0:
        return inf
    reach = s.segments * log(s.arms / s.share) + e * s.share * s.horizon
    return s.arms * reach / s.floor + (e - 1) * s.floor * s.horizon


def rexp3(s: Setting) -> float:
    """ceil(T / L) K ln K / gamma + (e - 1) gamma T + L V_T: ``exp3_gain`` in blocks of L = ``restart_every`` rounds.

    Infinite for more than one draw a round. Source: docs/maths.md, theorem 2 G; Besbes, Gur & Zeevi 2014, theorem 2.
    """
    block = exp3_gain(s._replace(segments=1, horizon=0))
    return ceil(s.horizon / s.restart_every) * block + (e - 1) * s.floor * s.horizon + s.restart_every * s.variation


def top_clip(s: Setting) -> float:
    """[ln K - (1 - gamma)(ln m - (W / m) ln(K / gamma))] / eta + eta kappa T / 2 + gamma (1 - m/K) T.

    Regret per draw to the best m arms with W swaps. Infinite when W > 0 without a floor, or with fewer than m arms.
    Source: docs/maths.md, theorem 1 M.
    """
    if (s.swaps > 0 and s.floor == 0.0) or s.batch > s.arms:
        return inf
    keep = 1 - s.floor
    move = 0.0 if s.swaps == 0 else keep * s.swaps / s.batch * log(s.arms / s.floor)
    floor = s.floor * (1 - s.batch / s.arms) * s.horizon
    return (log(s.arms) - keep * log(s.batch) + move) / s.eta + _stability(s) + floor


def top_share(s: Setting) -> float:
    """[ln(K / m) + (W / m) ln(K / alpha) + (T - 1) ln(1 / (1 - alpha))] / eta + eta kappa T / 2.

    Regret per draw to the best m arms with W swaps. Infinite when W > 0 without sharing, or with fewer than m arms.
    Source: docs/maths.md, theorem 1 M.
    """
    if (s.swaps > 0 and s.share == 0.0) or s.share == 1.0 or s.batch > s.arms:
        return inf
    move = 0.0 if s.swaps == 0 else s.swaps / s.batch * log(s.arms / s.share)
    stay = -(s.horizon - 1) * log1p(-s.share)
    return (log(s.arms / s.batch) + move + stay) / s.eta + _stability(s)


def mset(s: Setting) -> float:
    """[m ln(K / m) + W ln(K / (gamma m))] / (eta m) + eta K' T / (2 m) + gamma (1 - m/K) T.

    K' = K, or K + m - 1 for iid draws. Regret per draw to the best m arms with W swaps. Infinite when W > 0
    without a floor, or with fewer than m arms.
    Source: docs/maths.md, theorem 3.
    """
    k, m = s.arms, s.batch
    if (s.swaps > 0 and s.floor == 0.0) or m > k:
        return inf
    move = 0.0 if s.swaps == 0 else s.swaps * log(k / (s.floor * m))
    second = k if s.distinct else k + m - 1
    floor = s.floor * (1 - m / k) * s.horizon
    return (m * log(k / m) + move) / (s.eta * m) + s.eta * second * s.horizon / (2 * m) + floor


def exp3_m(s: Setting) -> float:
    """(e - 1) gamma T + K ln(K / m) / (gamma m): EXP3.M per draw against the best m arms (G_max <= m T).

    Infinite for a comparator that moves. Source: Uchiya, Nakamura & Kudo 2010.
    """
    if s.swaps > 0 or s.batch > s.arms or s.floor <= 0:
        return inf
    return (e - 1) * s.floor * s.horizon + s.arms * log(s.arms / s.batch) / (s.floor * s.batch)


def ucb1_gap(s: Setting) -> float:
    """8 sum_i ln T / gap_i + (1 + pi^2 / 3) sum_i gap_i: UCB1 on stationary arms.

    Arms without a gap cost nothing. Infinite without gaps, for moving means or more than one draw a round.
    Source: Auer, Cesa-Bianchi & Fischer 2002, theorem 1.
    """
    if s.breaks > 0 or s.batch > 1 or not s.gap:
        return inf
    return sum(8 * log(s.horizon) / gap + (1 + pi**2 / 3) * gap for gap in s.gap if gap > 0)


def _optimism(xi: float) -> float:
    """ln(1 + 4 sqrt(1 - 1 / (2 xi))), which both theorems of Garivier & Moulines divide by."""
    return log1p(4 * sqrt(1 - 1 / (2 * xi)))


def sw_ucb(s: Setting) -> float:
    """sum_i worst gap_i [C_i T ln(w) / w + w breaks + ln(w)^2] for SW-UCB with a window of w draws.

    C_i = (4 xi / gap_i^2) ceil(T / w) w / T + (2 / ln w) ceil(ln(w) / ln(1 + 4 sqrt(1 - 1 / (2 xi)))), gap_i the
    smallest distance of arm i to the best one where it is not best. Infinite without gaps, with xi <= 1/2, a window
    below 2 or more than one draw a round.
    Source: Garivier & Moulines 2011 (0805.3415), theorem 2, which bounds the plays of each arm while it is not best.
    """
    if s.batch > 1 or s.xi <= 0.5 or s.window < 2 or not s.gap:
        return inf
    t, w = s.horizon, s.window
    forced = 2 / log(w) * ceil(log(w) / _optimism(s.xi))
    plays = (
        (4 * s.xi / gap**2 * ceil(t / w) * w / t + forced) * t * log(w) / w + w * s.breaks + log(w) ** 2
        for gap in s.gap
    )
    return sum(worst * count for worst, count in zip(s.worst_gap, plays, strict=True))


def d_ucb(s: Setting) -> float:
    """sum_i worst gap_i [C_i T (1 - g) + C breaks / (1 - g)] ln(1 / (1 - g)) for D-UCB with discount g.

    C_i = 32 sqrt(2) xi / (g^(1 / (1 - g)) gap_i^2) + 4 / ((1 - 1/e) ln(1 + 4 sqrt(1 - 1 / (2 xi)))) and
    C = (g - 1) / (ln(1 - g) ln g) ln((1 - g) xi ln n), n = (1 - g^K) / (1 - g). Infinite without gaps, with xi <= 1/2,
    a discount outside (1/2, 1), or more than one draw a round.
    Source: Garivier & Moulines 2011 (0805.3415), theorem 1.
    """
    if s.batch > 1 or s.xi <= 0.5 or not 0.5 < s.discount < 1.0 or not s.gap:
        return inf
    g, rest, t = s.discount, 1 - s.discount, s.horizon
    forgotten = log(rest * s.xi * log((1 - g**s.arms) / rest)) / log(g)  # rounds until a past piece is out of sight
    change = max(0.0, forgotten) * (g - 1) / log(rest) * s.breaks / rest
    floor = 4 / ((1 - 1 / e) * _optimism(s.xi))
    plays = ((32 * sqrt(2) * s.xi / (g ** (1 / rest) * gap**2) + floor) * t * rest + change for gap in s.gap)
    return log(1 / rest) * sum(worst * count for worst, count in zip(s.worst_gap, plays, strict=True))


def comb_ucb1(s: Setting) -> float:
    """[47 sqrt(m K T ln T) + (pi^2 / 3 + 1) m K] / m: CombUCB1 per draw against the best m stationary arms.

    Infinite for moving means. Source: Kveton et al. 2015, theorem 6.
    """
    if s.breaks > 0 or s.batch > s.arms:
        return inf
    m, k, t = s.batch, s.arms, s.horizon
    return (47 * sqrt(m * k * t * log(t)) + (pi**2 / 3 + 1) * m * k) / m


def full_information(s: Setting) -> float:
    """sqrt(T ln K / 2): Hedge, which sees every arm. The distance to it is the price of bandit feedback.

    Source: Cesa-Bianchi & Lugosi 2006, theorem 2.2.
    """
    return sqrt(s.horizon * log(s.arms) / 2)


def lower_static(s: Setting) -> float:
    """min(sqrt(K T / m), T) / 20: what some Bernoulli instance costs every algorithm per draw; 0 for one arm.

    An algorithm for m draws a round is one for m T rounds that looks at its rewards late.
    Source: Auer et al. 2002, theorem 5.1, with m T rounds.
    """
    return 0.0 if s.arms < 2 else min(sqrt(s.arms * s.horizon / s.batch), s.horizon) / 20


def hard_gap(arms: int, horizon: int) -> float:
    """min(1, sqrt(K / T)) / 4, by which the best arm of the hard instance exceeds the others' 1/2."""
    return min(1.0, sqrt(arms / horizon)) / 4


def lower_hard(s: Setting) -> float:
    """gap (T - T / K - (T / 2) sqrt(-(T / K) ln(1 - 4 gap^2))), gap = ``hard_gap``.

    Regret of every algorithm for one draw a round, averaged over which of K arms is the one with mean 1/2 + gap. An
    implementation that measures less sees what it should not. Source: Auer et al. 2002, proof of theorem 5.1.
    """
    k, t, gap = s.arms, s.horizon, hard_gap(s.arms, s.horizon)
    return gap * (t - t / k - t / 2 * sqrt(-t / k * log1p(-4 * gap**2)))


def lower_switching(s: Setting) -> float:
    """S min(sqrt(K T / (S m)), T / S) / 20: S hard blocks of T / S rounds. Source: docs/maths.md, by concatenation."""
    return s.segments * lower_static(s._replace(horizon=s.horizon // s.segments))


def lower_variation(s: Setting) -> float:
    """floor(T / L) sqrt(k L) / 20, about 0.063 (k V_T)^(1/3) T^(2/3), with k = K / m: hard blocks.

    L = (k T^2 / (4 V_T^2))^(1/3). 0, which says nothing, unless k <= L <= T. Source: docs/maths.md, by concatenation.
    """
    if s.variation <= 0 or s.arms < 2:
        return 0.0
    each = s.arms / s.batch
    length = ceil((each * s.horizon**2 / (4 * s.variation**2)) ** (1 / 3))
    if not each <= length <= s.horizon:
        return 0.0
    return s.horizon // length * sqrt(each * length) / 20


Status = Literal["proved", "plotted", "none"]


@dataclass(frozen=True)
class Bound:
    """A bound with its standing: ``proved`` may fail a run, ``plotted`` is drawn only.

    comparator  what the regret is measured against: "static", "switching", "dynamic" or "top_m"
    lower       a minimax lower bound: what some instance costs every algorithm, not what this one does
    terms       the parts whose sum it is, or None
    sharpens    the bound of the same algorithm that it replaces where it is smaller; "" if it stands alone
    """

    name: str
    status: Status
    source: str
    value: Callable[[Setting], float]
    comparator: str = "static"
    lower: bool = False
    terms: Callable[[Setting], Terms] | None = None
    sharpens: str = ""


BOUNDS: dict[str, Bound] = {
    bound.name: bound
    for bound in (
        Bound("tracking_clip", "proved", "docs/maths.md theorem 1 A", tracking_clip, "switching", terms=clip_terms),
        Bound("tracking_share", "proved", "docs/maths.md theorem 1 B", tracking_share, "switching", terms=share_terms),
        Bound("static_mix", "proved", "docs/maths.md theorem 1 C", static_mix),
        Bound("dynamic_clip", "proved", "docs/maths.md theorem 2 A", dynamic_clip, "dynamic", terms=dynamic_clip_terms),
        Bound(
            "dynamic_share", "proved", "docs/maths.md theorem 2 B", dynamic_share, "dynamic", terms=dynamic_share_terms
        ),
        Bound(
            "dynamic_restart", "proved", "docs/maths.md theorem 2 R", dynamic_restart, "dynamic", terms=restart_terms
        ),
        Bound("top_clip", "proved", "docs/maths.md theorem 1 M", top_clip, "top_m"),
        Bound("top_share", "proved", "docs/maths.md theorem 1 M", top_share, "top_m"),
        Bound("mset", "proved", "docs/maths.md theorem 3", mset, "top_m"),
        Bound("exp3_static", "proved", "Bubeck & Cesa-Bianchi 2012, theorem 3.1", exp3_static, terms=exp3_terms),
        Bound("exp3_gain", "proved", "Auer et al. 2002, theorem 3.1", exp3_gain),
        Bound("exp3_ix", "plotted", "Neu 2015, theorem 1", exp3_ix),
        Bound("exp3_p", "proved", "Bubeck & Cesa-Bianchi 2012, equation 3.12", exp3_p),
        Bound("exp3_s", "plotted", "Auer et al. 2002, theorem 8.1", exp3_s, "switching"),
        Bound("rexp3", "proved", "docs/maths.md theorem 2 G", rexp3, "dynamic"),
        Bound("tsallis_iw", "proved", "Zimmert & Seldin 2021, theorem 1", tsallis_iw),
        Bound("tsallis_rv", "proved", "Zimmert & Seldin 2021, theorem 1", tsallis_rv),
        Bound("tsallis_rv_gap", "proved", "Zimmert & Seldin 2021, theorem 1", tsallis_rv_gap, sharpens="tsallis_rv"),
        Bound("exp3_m", "plotted", "Uchiya, Nakamura & Kudo 2010", exp3_m, "top_m"),
        Bound("ucb1_gap", "proved", "Auer, Cesa-Bianchi & Fischer 2002, theorem 1", ucb1_gap),
        Bound("sw_ucb", "plotted", "Garivier & Moulines 2011, theorem 2", sw_ucb, "switching"),
        Bound("d_ucb", "plotted", "Garivier & Moulines 2011, theorem 1", d_ucb, "switching"),
        Bound("comb_ucb1", "plotted", "Kveton et al. 2015, theorem 6", comb_ucb1, "top_m"),
        Bound("full_information", "plotted", "Cesa-Bianchi & Lugosi 2006, theorem 2.2", full_information),
        Bound("lower_static", "plotted", "Auer et al. 2002, theorem 5.1", lower_static, lower=True),
        Bound("lower_hard", "plotted", "Auer et al. 2002, proof of theorem 5.1", lower_hard, lower=True),
        Bound("lower_switching", "plotted", "docs/maths.md, by concatenation", lower_switching, "switching", True),
        Bound("lower_variation", "plotted", "docs/maths.md, by concatenation", lower_variation, "dynamic", True),
    )
}


@nb.njit(error_model="numpy")
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
    A step that is no distribution with this floor has slack -infinity.
    Source    docs/maths.md, lemma 3 (generalised Pythagoras). Arms at zero probability are no comparators.
    """
    k = p.size
    below, total = mass_above(stepped, floor / k * (1.0 - 1e-9))
    if below > 0 or not abs(total - 1.0) <= 1e-9:  # outside the clipped simplex
        return -np.inf, 1.0
    estimate, ratio, impossible = np.zeros(k), np.empty(k), 0
    for i in range(k):
        ratio[i] = stepped[i] / p[i] if p[i] > 0.0 else np.inf
        impossible += not p[i] > 0.0
    if floor > 0.0 and impossible > 0:  # a clipped distribution has no zero
        return -np.inf, 1.0
    everywhere = log_product(ratio) if floor > 0.0 else 0.0
    for j in range(arm.size):
        estimate[arm[j]] += (1.0 - y[j]) / expected[j]
    linear, square, tightest, scale = 0.0, 0.0, np.inf, 1.0
    for j in range(arm.size):  # drawn arms, each once
        i = arm[j]
        if estimate[i] > 0.0:
            linear += p[i] * estimate[i]
            square += p[i] * estimate[i] * estimate[i]
            everywhere += eta * estimate[i]
            tightest = min(tightest, eta * estimate[i] + np.log(ratio[i]))
            scale = max(scale, eta * estimate[i])
            estimate[i], ratio[i] = 0.0, np.inf
    tightest = min(tightest, np.log(smallest(ratio)))  # the others: one logarithm, not one per arm
    slack = (1.0 - floor) * tightest + floor / k * everywhere + 0.5 * eta * eta * square - eta * linear
    return slack, scale


@nb.njit(error_model="numpy")
def smallest(x):
    """min_i x_i of f64[K], in four interleaved minima that the compiler can vectorise."""
    a, b, c, d = np.inf, np.inf, np.inf, np.inf
    for i in range(0, x.size - 3, 4):
        a = x[i] if x[i] < a else a
        b = x[i + 1] if x[i + 1] < b else b
        c = x[i + 2] if x[i + 2] < c else c
        d = x[i + 3] if x[i + 3] < d else d
    for i in range(x.size - x.size % 4, x.size):
        a = x[i] if x[i] < a else a
    return min(min(a, b), min(c, d))


@nb.njit(error_model="numpy")
def log_product(x):
    """sum_i log x_i of positive f64[K], by products of four: a logarithm of each would be most of a simulated round.

    >>> bool(abs(log_product(np.full(9, 3.0)) - 9 * log(3)) < 1e-12)
    True
    """
    total, product = 0.0, 1.0
    for i in range(0, x.size - 3, 4):
        four = (x[i] * x[i + 1]) * (x[i + 2] * x[i + 3])
        if 1e-100 < four < 1e100:
            product *= four
        else:
            total += np.log(x[i]) + np.log(x[i + 1]) + np.log(x[i + 2]) + np.log(x[i + 3])
        if not 1e-100 < product < 1e100:
            total += np.log(product)
            product = 1.0
    for i in range(x.size - x.size % 4, x.size):
        total += np.log(x[i])
    return total + np.log(product)


@nb.njit
def mix_slack(p, arm, expected, y, stepped, eta, floor):
    """``mirror_slack`` of the weights q behind a mixture p = (1 - gamma) q + gamma / K, gamma = ``floor``.

    stepped  f64[2K]: q after the step, then q before it, which must give p or the slack is -infinity.
    """
    k = p.size
    for i in range(k):
        if abs((1.0 - floor) * stepped[k + i] + floor / k - p[i]) > 1e-12:
            return -np.inf, 1.0
    return mirror_slack(stepped[k:], arm, expected, y, stepped[:k], eta, 0.0)


@nb.njit
def mset_slack(p, arm, expected, y, stepped, eta, floor):
    """(slack, scale) of the one-step inequality over sets of m arms, x = m p, at the tightest comparator.

    For every m-set A and u = (1 - gamma) 1_A + gamma m / K, a correct step satisfies, pathwise,
        eta <x - u, lhat> <= D(u, x) - D(u, next) + (eta^2 / 2) sum_i x_i lhat_i^2.

    stepped  f64[K], the next x; the other arguments are those of ``mirror_slack``
    Source   docs/maths.md, theorem 3.
    """
    k, m = p.size, arm.size
    estimate, step = np.zeros(k), np.empty(k)
    for j in range(m):
        estimate[arm[j]] += (1.0 - y[j]) / expected[j]
    linear, square, everywhere, scale, total = 0.0, 0.0, 0.0, 1.0, 0.0
    for i in range(k):
        x = m * p[i]
        linear += x * estimate[i]
        square += x * estimate[i] * estimate[i]
        if not 0.0 < stepped[i] <= 1.0 + 1e-12:
            return -np.inf, 1.0
        step[i] = eta * estimate[i] + np.log(stepped[i] / x)
        everywhere += step[i]
        total += stepped[i]
        scale = max(scale, eta * estimate[i])
    if abs(total - m) > 1e-9 * m:
        return -np.inf, 1.0
    step.sort()
    tightest = 0.0
    for i in range(m):
        tightest += step[i]
    slack = (1.0 - floor) * tightest + floor * m / k * everywhere + 0.5 * eta * eta * square - eta * linear
    return slack, scale * m
