"""Curators against uniform over training seeds: final pass rates, and the tokens it took to get there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curbench.report.collect import TrainingRun
from curbench.report.training import by_setting
from curbench.stats import (
    Interval,
    aggregate_iqm,
    improvement_probability,
    interquartile_mean,
    mean_difference,
    mean_interval,
)
from curbench.types import Array

GRID = 400
DRAWS = 2000


class Comparison(NamedTuple):
    """One curator against uniform, on one suite or over several; every interval is over training seeds.

    final        interquartile mean over seeds of the held-out pass rate at the end
    gain         final minus uniform's, seed by seed
    relative     the same over uniform's mean
    probability  that a run ends higher than one of uniform
    tokens       generated until the interquartile mean first stands at the target; infinite where it never does
    ratio        tokens over those of uniform for the same target; below one is faster
    reached      seeds whose own curve reaches the target
    """

    curator: str
    seeds: int
    final: Interval
    gain: Interval | None
    relative: Interval | None
    probability: Interval | None
    tokens: Interval | None
    ratio: Interval | None
    reached: int


def comparable(runs: list[TrainingRun]) -> list[TrainingRun]:
    """Those runs of one suite that can be compared, when some have not come to their end.

    The seeds of which every run is complete; while there is none, all runs as far as the slowest has come.
    """
    unfinished = {run.spec["seed"] for run in runs if run.status != "complete"}
    if not unfinished:
        return runs
    whole = [run for run in runs if run.spec["seed"] not in unfinished]
    if whole:
        return whole
    reach = min(run.evaluation[-1]["tokens"] for run in runs)
    return [run.until(reach) for run in runs]


def crossing(curve: Array, at: Array, level: Array) -> Array:
    """f64[...], where curves f64[..., n] over f64[n] first stand at a level f64[...], interpolated; inf if never.

    >>> float(crossing(np.array([0.0, 1.0, 0.5]), np.array([0.0, 10.0, 20.0]), np.array(0.5)))
    5.0
    """
    above = curve >= level[..., None]
    first = above.argmax(axis=-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(curve, i[..., None], -1)[..., 0] for i in (before, first))
    rise = np.where(high > low, high - low, 1.0)
    share = np.where(first > 0, np.clip((level - low) / rise, 0.0, 1.0), 0.0)
    x = at[before] + share * (at[first] - at[before])
    return np.where(above.any(axis=-1), x, np.inf)


def compare(runs: list[TrainingRun], seed: int = 0) -> list[Comparison]:
    """All curators of one suite against uniform, each on the seeds that both have; uniform first.

    seed  of the bootstrap
    Raises ValueError as ``training.by_setting`` does.

    The target is uniform's final interquartile mean. Tokens and ratio have percentile-bootstrap intervals: seeds are
    drawn with replacement, for both alike, and target and crossings are looked up anew.
    Source  Agarwal et al. 2021 (2108.13264) for the interquartile mean and its bootstrap.
    """
    group = {name: {run.spec["seed"]: run for run in same} for name, same in by_setting(runs).items()}
    first = {name: next(iter(same.values())) for name, same in group.items()}
    baseline = next((name for name, run in first.items() if run.spec["curator"] == "uniform"), None)
    return [_row(name, same, group.get(baseline or ""), name == baseline, seed) for name, same in group.items()]


def _row(
    name: str, own: dict[int, TrainingRun], uniform: dict[int, TrainingRun] | None, is_baseline: bool, seed: int
) -> Comparison:
    final = np.array([run.evaluation[-1]["pass_rate"] for run in own.values()])
    iqm = aggregate_iqm([final], generator=np.random.default_rng(seed))
    both = sorted(own.keys() & (uniform or {}).keys())
    if uniform is None or not both:
        return Comparison(name, len(own), iqm, None, None, None, None, None, 0)
    mine, base = [own[s] for s in both], [uniform[s] for s in both]
    at = np.linspace(0.0, min(run.evaluation[-1]["tokens"] for run in [*mine, *base]), GRID)
    c, u = _curves(mine, at), _curves(base, at)
    target = interquartile_mean(u[:, -1])
    resample = np.random.default_rng(seed).integers(len(both), size=(DRAWS, len(both)))
    tokens, ratio = _tokens(c, u, at, resample)
    reached = int(np.isfinite(crossing(c, at, np.full(len(c), target))).sum())
    if is_baseline:
        return Comparison(name, len(own), iqm, None, None, None, tokens, None, reached)
    end = [[run.evaluation[-1]["pass_rate"] for run in side] for side in (mine, base)]
    x, y = np.array(end[0]), np.array(end[1])
    gain = mean_difference([x], [y]) if len(both) > 1 else mean_interval(x - y)
    scale = y.mean() or np.nan
    relative = Interval(gain.mean / scale, gain.lo / scale, gain.hi / scale, gain.n)
    chance = improvement_probability([x], [y])
    return Comparison(name, len(own), iqm, gain, relative, chance, tokens, ratio, reached)


def _curves(runs: list[TrainingRun], at: Array) -> Array:
    """f64[S, n], held-out pass rate of every run at these numbers of tokens, interpolated between evaluations."""
    return np.array(
        [
            np.interp(at, [row["tokens"] for row in run.evaluation], [row["pass_rate"] for row in run.evaluation])
            for run in runs
        ]
    )


def _tokens(c: Array, u: Array, at: Array, resample: Array) -> tuple[Interval, Interval]:
    """(tokens to the target, the same over uniform's), from the curves f64[S, n] of both."""

    def both(index: Array) -> tuple[Array, Array]:
        mine, base = (interquartile_mean(np.moveaxis(side[index], -2, -1)) for side in (c, u))
        target = base[..., -1]
        reached = crossing(mine, at, target)
        own = crossing(base, at, target)
        return reached, reached / np.where(own > 0, own, np.nan)

    n = len(c)
    point, spread = both(np.arange(n)), both(resample)
    interval = []
    for mean, draw in zip(point, spread, strict=True):
        lo, hi = (-np.inf, np.inf) if n == 1 else np.nanquantile(draw, [0.025, 0.975], method="inverted_cdf")
        interval.append(Interval(float(mean), float(lo), float(hi), n))
    return interval[0], interval[1]


def over_suites(suites: dict[str, list[TrainingRun]], seed: int = 0) -> list[Comparison]:
    """Curators that ran on every suite, over all of them: suites count alike, and the ratio is a geometric mean.

    suites  runs by suite; at least two
    """
    table = {suite: {row.curator: row for row in compare(runs, seed)} for suite, runs in suites.items()}
    names = [name for name in next(iter(table.values())) if all(name in rows for rows in table.values())]
    group = {suite: by_setting(runs) for suite, runs in suites.items()}
    return [_over(name, [rows[name] for rows in table.values()], group, seed) for name in names]


def _over(name: str, rows: list[Comparison], group: dict[str, dict[str, list[TrainingRun]]], seed: int) -> Comparison:
    final = [np.array([run.evaluation[-1]["pass_rate"] for run in same[name]]) for same in group.values()]
    iqm = aggregate_iqm(final, generator=np.random.default_rng(seed))
    seeds = min(row.seeds for row in rows)
    gains = [row.gain for row in rows if row.gain is not None]
    relatives = [row.relative for row in rows if row.relative is not None]
    chances = [row.probability for row in rows if row.probability is not None]
    ratios = [row.ratio for row in rows if row.ratio is not None]
    if not len(gains) == len(relatives) == len(chances) == len(ratios) == len(rows):
        return Comparison(name, seeds, iqm, None, None, None, None, None, sum(row.reached for row in rows))
    return Comparison(
        name,
        seeds,
        iqm,
        _mean(gains),
        _mean(relatives),
        _mean(chances),
        None,
        _geometric(ratios),
        sum(row.reached for row in rows),
    )


def _mean(part: list[Interval]) -> Interval:
    """Mean of independent means; the half-widths add in squares, as those of normal intervals do."""
    mean = float(np.mean([one.mean for one in part]))
    half = float(np.sqrt(np.sum([((one.hi - one.lo) / 2) ** 2 for one in part]))) / len(part)
    return Interval(mean, mean - half, mean + half, len(part))


def _geometric(part: list[Interval]) -> Interval:
    """Geometric mean of independent ratios, likewise on the logarithm, either side by itself; inf if one is."""
    log = np.array([[np.log(one.mean), np.log(max(one.lo, 1e-300)), np.log(one.hi)] for one in part])
    if not np.isfinite(log[:, 0]).all():
        return Interval(np.inf, float(np.exp(log[:, 1].mean())), np.inf, len(part))
    mean = log[:, 0].mean()
    low, high = (np.sqrt(((log[:, side] - log[:, 0]) ** 2).sum()) / len(part) for side in (1, 2))
    return Interval(float(np.exp(mean)), float(np.exp(mean - low)), float(np.exp(mean + high)), len(part))
