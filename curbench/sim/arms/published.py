"""Test-beds from the literature, rescaled to the horizon.

Each docstring says where the numbers come from and what is exact; "recalled" parameters were not read in the source.
A test-bed is a function (arms, horizon, rng, *, parameters) -> Arms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

from curbench.sim.arms.files import read_csv
from curbench.sim.arms.model import Arms, Noise, equal_segments, need, refuse_large
from curbench.types import Array

TABLES = Path(__file__).parents[2] / "data" / "testbeds"


def garivier_moulines(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Three arms 0.5, 0.3, 0.4; the third jumps to 0.9 for the rounds [3000, 5000) of 10,000 (rescaled to T).

    S = 3, V_T = 1. Source: Garivier & Moulines 2011 (0805.3415), first simulation.
    """
    start = np.array([0, round(0.3 * horizon), round(0.5 * horizon)])
    mean = np.array([[0.5, 0.3, 0.4], [0.5, 0.3, 0.9], [0.5, 0.3, 0.4]])
    source = "Garivier & Moulines 2011 (0805.3415), first simulation"
    return Arms("garivier_moulines", start, mean, horizon, "switching", source)


def periodic(arms: int, horizon: int, rng: np.random.Generator, *, periods: float = 3.0) -> Arms:
    """Arm 1 stays at 0.5, arm 2 is 0.5 + 0.4 cos(2 pi periods t / T).

    V_T = 1.6 periods, less at most one step; published T = 10^4. The period 6 pi t / T is recalled.
    Source: Garivier & Moulines 2011 (0805.3415), second simulation.
    """
    refuse_large(horizon, 2)
    wave = 0.5 + 0.4 * np.cos(2 * np.pi * periods * np.arange(horizon) / horizon)
    mean = np.stack([np.full(horizon, 0.5), wave], axis=1)
    source = "Garivier & Moulines 2011 (0805.3415), second simulation; period recalled"
    return Arms("periodic", np.arange(horizon), mean, horizon, "dynamic", source)


def besbes_sine(arms: int, horizon: int, rng: np.random.Generator, *, variation: float = 3.0) -> Arms:
    """Two arms 0.5 +- 0.3 sin(5 V pi t / (3 T)), t = 1..T, V = 3.

    V_T = V, less the step before t = 1, when V is a multiple of 0.3; each arm is best in half of the half-waves.
    Source: Besbes, Gur & Zeevi 2019 (Stochastic Systems), numerical section.
    """
    source = "Besbes, Gur & Zeevi 2019, numerical section"
    return _besbes("besbes_sine", horizon, variation, np.arange(1, horizon + 1) / horizon, source)


def besbes_thirds(arms: int, horizon: int, rng: np.random.Generator, *, variation: float = 3.0) -> Arms:
    """``besbes_sine`` whose whole variation is spent in the first and the last third, 1.5 times as fast.

    The means stay as they are in the middle third, at 0.8 and 0.2 for V = 3. V_T as in ``besbes_sine``.
    Source: Besbes, Gur & Zeevi 2019 (Stochastic Systems), numerical section; how the thirds join is recalled.
    """
    t = np.arange(1, horizon + 1) / horizon
    elapsed = 1.5 * (np.minimum(t, 1 / 3) + np.maximum(t - 2 / 3, 0.0))
    source = "Besbes, Gur & Zeevi 2019, numerical section; how the thirds join recalled"
    return _besbes("besbes_thirds", horizon, variation, elapsed, source)


def _besbes(name: str, horizon: int, variation: float, elapsed: Array, source: str) -> Arms:
    """Means 0.5 +- 0.3 sin(5 V pi x / 3) at the share x f64[T] of the variation that is elapsed."""
    need(variation >= 0, "variation must be at least 0", variation)
    refuse_large(horizon, 2)
    wave = 0.3 * np.sin(5 * variation * np.pi * elapsed / 3)
    mean = np.stack([0.5 + wave, 0.5 - wave], axis=1)
    return Arms(name, np.arange(horizon), mean, horizon, "dynamic", source)


def flipping(arms: int, horizon: int, rng: np.random.Generator, *, gap: float = 0.3) -> Arms:
    """Arm 1 stays at 0.5; arm 2 is 0.8, and 0.5 - gap in the middle third.

    S = 3, V_T = 2 (0.3 + gap); published gaps 0.02 to 0.30. Source: Liu, Lee & Shroff 2018 (1711.03539).
    """
    need(0 <= gap <= 0.5, "gap must be in [0, 0.5]", gap)
    start = equal_segments("flipping", 3, horizon)
    mean = np.array([[0.5, 0.8], [0.5, 0.5 - gap], [0.5, 0.8]])
    return Arms("flipping", start, mean, horizon, "switching", "Liu, Lee & Shroff 2018 (1711.03539)")


def hazard(arms: int, horizon: int, rng: np.random.Generator, *, changes: float = 100.0) -> Arms:
    """All means are redrawn from U(0, 1) with probability min(1, changes / T) in every round after the first.

    At T = 10^6 this is the published rate 10^-4. Source: Mellor & Shapiro 2013, global switching.
    """
    need(changes >= 0, "changes must be at least 0", changes)
    start = np.concatenate([[0], _random_rounds(horizon, changes, rng)])
    refuse_large(start.size, arms)
    mean = rng.random((start.size, arms))
    return Arms("hazard", start, mean, horizon, "switching", "Mellor & Shapiro 2013, global switching")


def hazard_per_arm(arms: int, horizon: int, rng: np.random.Generator, *, changes: float = 100.0) -> Arms:
    """Each mean on its own is redrawn from U(0, 1) with probability min(1, changes / T) in every round after the first.

    At T = 10^6 this is the published rate 10^-4. Source: Mellor & Shapiro 2013, per-arm switching.
    """
    need(changes >= 0, "changes must be at least 0", changes)
    when = [_random_rounds(horizon, changes, rng) for _ in range(arms)]
    start = np.unique(np.concatenate([[0], *when]))
    refuse_large(start.size, arms)
    mean = np.empty((start.size, arms))
    for i, change in enumerate(when):
        mean[:, i] = rng.random(change.size + 1)[np.searchsorted(change, start, side="right")]
    return Arms("hazard_per_arm", start, mean, horizon, "switching", "Mellor & Shapiro 2013, per-arm switching")


def _random_rounds(horizon: int, changes: float, rng: np.random.Generator) -> Array:
    """The rounds 1..T-1 in which an event of probability min(1, changes / T) happens."""
    count = rng.binomial(horizon - 1, min(1.0, changes / horizon))
    return 1 + np.sort(rng.choice(horizon - 1, count, replace=False)) if count else np.empty(0, np.int64)


def random_walk(arms: int, horizon: int, rng: np.random.Generator, *, variance: float = 0.03) -> Arms:
    """Each mean is drawn from a normal around the last one, truncated to [0, 1]; the first from U(0, 1).

    V_T grows like T: no policy has sublinear regret. The variance, of the normal before truncation, is per round and
    not rescaled; published T = 10^6. Source: Mellor & Shapiro 2013; the law of the first mean is ours.
    """
    need(variance > 0, "variance must be positive", variance)
    refuse_large(horizon, arms)
    sigma = variance**0.5
    mean = np.empty((horizon, arms))
    mean[0] = rng.random(arms)
    for t in range(1, horizon):
        below, above = ndtr(-mean[t - 1] / sigma), ndtr((1 - mean[t - 1]) / sigma)
        step = sigma * ndtri(below + rng.random(arms) * (above - below))
        mean[t] = np.clip(mean[t - 1] + step, 0.0, 1.0)  # rounding only: the step is truncated already
    return Arms("random_walk", np.arange(horizon), mean, horizon, "dynamic", "Mellor & Shapiro 2013, random walk")


def m_ucb_random(arms: int, horizon: int, rng: np.random.Generator, *, segments: int = 10) -> Arms:
    """Means mu and 1 - mu alternate in equal segments; mu is U(0, 1) given that its range exceeds 0.6.

    Published: K = 10, 20,000 rounds per segment, 100 instances of 50 runs; the number of segments and the way of
    drawing are ours. S is at most ``segments``. Source: Cao et al. 2019 (1802.03692).
    """
    need(arms >= 2, "m_ucb_random needs at least 2 arms", arms)
    mu = rng.random(arms)
    while np.ptp(mu) <= 0.6:
        mu = rng.random(arms)
    start = equal_segments("m_ucb_random", segments, horizon)
    mean = np.where((np.arange(segments) % 2 == 0)[:, None], mu, 1 - mu)
    return Arms("m_ucb_random", start, mean, horizon, "switching", "Cao et al. 2019 (1802.03692), random instances")


def yahoo_cao(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Click rates of six articles in nine equal segments; published T = 432,000.

    S = 5, V_T = 0.14, all means in [0.008, 0.071]. Source: Cao et al. 2019 (1802.03692), as in SMPyBandits, problem 5.
    """
    mean = np.array(
        [
            [0.071, 0.041, 0.032, 0.030, 0.020, 0.011],
            [0.055, 0.053, 0.032, 0.030, 0.008, 0.011],
            [0.040, 0.063, 0.032, 0.030, 0.008, 0.011],
            [0.040, 0.042, 0.043, 0.030, 0.008, 0.011],
            [0.030, 0.032, 0.055, 0.030, 0.008, 0.011],
            [0.030, 0.032, 0.020, 0.030, 0.008, 0.021],
            [0.020, 0.022, 0.020, 0.045, 0.008, 0.021],
            [0.020, 0.022, 0.020, 0.057, 0.008, 0.011],
            [0.020, 0.022, 0.034, 0.057, 0.022, 0.011],
        ]
    )
    start = equal_segments("yahoo_cao", 9, horizon)
    return Arms("yahoo_cao", start, mean, horizon, "switching", "Cao et al. 2019 (1802.03692), Yahoo experiment")


def wei_srivastava(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Click rates of five articles in 82 equal segments (data/testbeds/wei_srivastava.csv).

    All means in [0.012, 0.07]. Source: Wei & Srivastava 2018 (1802.08380), as in SMPyBandits, problem 6.
    """
    _, mean = read_csv(TABLES / "wei_srivastava.csv")
    start = equal_segments("wei_srivastava", len(mean), horizon)
    return Arms("wei_srivastava", start, mean, horizon, "switching", "Wei & Srivastava 2018 (1802.08380), Yahoo table")


def besson_random(
    arms: int, horizon: int, rng: np.random.Generator, *, breaks: int = 6, smallest: float = 0.05, largest: float = 0.30
) -> Arms:
    """At up to six breaks each arm changes with probability 1/2, by U[smallest, largest] up or down.

    Segments have at least T / 20 rounds. Published: K = 5, T = 20,000, 2,000 instances. That a change which would
    leave [0, 1] goes the other way and that the first means are U(0, 1) is ours.
    Source: Besson, Kaufmann, Maillard & Seznec 2022 (JMLR 23), random instances.
    """
    need(0 <= smallest <= largest <= 0.5, f"0 <= smallest <= largest = {largest} <= 0.5 must hold", smallest)
    least = max(1, horizon // 20)
    free = horizon - (breaks + 1) * least
    need(breaks >= 0 and free >= 0, f"breaks must be in [0, {horizon // least - 1}] at this horizon", breaks)
    change = np.sort(rng.integers(0, free + 1, breaks)) + least * np.arange(1, breaks + 1)
    mean = np.empty((breaks + 1, arms))
    mean[0] = rng.random(arms)
    for s in range(1, breaks + 1):
        step = rng.uniform(smallest, largest, arms) * rng.choice([-1.0, 1.0], arms) * (rng.random(arms) < 0.5)
        outside = (mean[s - 1] + step < 0) | (mean[s - 1] + step > 1)
        mean[s] = mean[s - 1] + np.where(outside, -step, step)
    start = np.concatenate([[0], change])
    return Arms("besson_random", start, mean, horizon, "switching", "Besson et al. 2022 (JMLR 23), random instances")


def besson_1(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Five equal segments, one arm changes at a time. S = 2, V_T = 1.8. Source: SMPyBandits, problem 1 (T = 5000)."""
    rows = [[0.3, 0.5, 0.9], [0.3, 0.2, 0.9], [0.3, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.5, 0.1]]
    start = equal_segments("besson_1", 5, horizon)
    return Arms("besson_1", start, np.array(rows), horizon, "switching", "SMPyBandits, non-stationary problem 1")


def besson_2(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Five equal segments, all arms change. S = 2, V_T = 0.8. Source: SMPyBandits, problem 2 (T = 5000)."""
    rows = [[0.4, 0.5, 0.9], [0.5, 0.4, 0.7], [0.6, 0.3, 0.5], [0.7, 0.2, 0.3], [0.8, 0.1, 0.1]]
    start = equal_segments("besson_2", 5, horizon)
    return Arms("besson_2", start, np.array(rows), horizon, "switching", "SMPyBandits, non-stationary problem 2")


def mukherjee(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Four equal segments of three arms. S = 4, V_T = 1.9. Source: Mukherjee & Maillard 2019 (T = 4000)."""
    rows = [[0.1, 0.2, 0.9], [0.4, 0.9, 0.1], [0.5, 0.1, 0.2], [0.2, 0.2, 0.3]]
    start = equal_segments("mukherjee", 4, horizon)
    source = "Mukherjee & Maillard 2019, as in SMPyBandits, problem 3"
    return Arms("mukherjee", start, np.array(rows), horizon, "switching", source)


def besson_4(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """Breaks at T/2, 5T/8, 3T/4 and 7T/8: the adaptive part comes late. S = 4, V_T = 1.8.

    Source: SMPyBandits, problem 4 (T = 5000).
    """
    rows = [[0.1, 0.5, 0.9], [0.3, 0.4, 0.1], [0.5, 0.3, 0.2], [0.7, 0.4, 0.3], [0.1, 0.5, 0.2]]
    start = equal_segments("besson_4", 8, horizon)[[0, 4, 5, 6, 7]]
    return Arms("besson_4", start, np.array(rows), horizon, "switching", "SMPyBandits, non-stationary problem 4")


def auer_lower(arms: int, horizon: int, rng: np.random.Generator) -> Arms:
    """One uniformly random arm 1/2 + eps, the others 1/2, with eps = min(1, sqrt(K / T)) / 4.

    Averaged over the instance, every algorithm pays at least the curve of the theorem. S = 1, V_T = 0, gap eps.
    Source: Auer et al. 2002, theorem 5.1; the constant of eps is recalled.
    """
    mean = np.full((1, arms), 0.5)
    mean[0, rng.integers(arms)] += 0.25 * min(1.0, (arms / horizon) ** 0.5)
    source = "Auer et al. 2002, theorem 5.1; eps recalled"
    return Arms("auer_lower", np.zeros(1, np.int64), mean, horizon, "static", source)


def stochastic_adversarial(arms: int, horizon: int, rng: np.random.Generator, *, gap: float = 0.125) -> Arms:
    """One arm is better by ``gap`` throughout, while the level jumps: (best, others) alternate (1, 1 - gap), (gap, 0).

    Phase n lasts about 1.6^n rounds. S = 1, V_T = (1 - gap) per jump. Recalled from Zimmert & Seldin 2019
    (1807.07623), experiments, where these are mean losses (0, gap) and (1 - gap, 1).
    """
    need(0 <= gap <= 1, "gap must be in [0, 1]", gap)
    start = [0]
    while start[-1] + (length := max(1, int(1.6 ** len(start)))) < horizon:
        start.append(start[-1] + length)
    best = rng.integers(arms)
    mean = np.empty((len(start), arms))
    mean[::2], mean[1::2] = 1 - gap, 0.0
    mean[::2, best], mean[1::2, best] = 1.0, gap
    source = "Zimmert & Seldin 2019 (1807.07623), experiments; recalled"
    return Arms("stochastic_adversarial", np.array(start), mean, horizon, "static", source)


def rested_rotting(arms: int, horizon: int, rng: np.random.Generator, *, index: int = 20) -> Arms:
    """Arm 1 has mean mu for its first T / 4 pulls and -mu after, arm 2 has mean 0; mu = 0.01 x 1.25^index.

    The published normals of variance 1 are mapped to 1/2 + x / c with c = 2 (mu + 4), so that the truncation to [0, 1]
    cuts arm 1 at 4 standard deviations and arm 2 further out; multiply regret by c to undo it. Published: T = 10^4,
    index 0..29. Source: Seznec et al. 2019 (AISTATS), figure 1.
    """
    need(0 <= index <= 29, "index must be in [0, 29]", index)
    mu = 0.01 * 1.25**index
    scale = 2 * (mu + 4)
    start = np.array([0, max(1, horizon // 4)])[: min(2, horizon)]
    mean = np.array([[0.5 + mu / scale, 0.5], [0.5 - mu / scale, 0.5]])[: start.size]
    noise = Noise("gaussian", 1 / scale)
    source = "Seznec et al. 2019, figure 1, mapped to [0, 1]"
    return Arms("rested_rotting", start, mean, horizon, "dynamic", source, noise=noise, rested=True)
