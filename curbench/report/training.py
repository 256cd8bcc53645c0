"""Tables and curves of training runs: seeds averaged problem by problem, comparisons paired, tokens as the axis."""

from __future__ import annotations

from itertools import pairwise
from math import nan
from typing import Any, Literal, NamedTuple

import numpy as np

from curbench.record import CURATOR_PHASES, flatten
from curbench.report.collect import TrainingRun
from curbench.stats import Interval, mean_interval, paired_difference
from curbench.types import Array


class Curve(NamedTuple):
    """Held-out pass rate of one curator: mean over seeds with an interval over problems, and every seed's own line."""

    at: Array  # f64[n], generated training tokens or seconds of training, mean over seeds
    mean: Array  # f64[n]
    lo: Array
    hi: Array
    seed: list[tuple[Array, Array]]  # (tokens or seconds, pass rate) of each seed


class Result(NamedTuple):
    """One line of the results table."""

    curator: str  # with the settings in which it differs from others
    seeds: int
    steps: float
    tokens: float
    before: float
    after: float
    averaged: float | None  # after, under averaged weights, if every seed kept any
    change: Interval  # after minus before, paired over held-out problems
    versus_uniform: Interval | None  # after minus uniform's after, paired likewise
    degenerate: float  # share of groups with all rewards equal
    support: float  # effective share of the bank that was drawn from, mean over steps; nan where it was not logged


def by_setting(runs: list[TrainingRun]) -> dict[str, list[TrainingRun]]:
    """Runs of one suite that differ in nothing but the seed, grouped: uniform first, each group sorted by seed.

    The label of a group is its curator, with the settings in which runs differ: those of the trainer among all runs,
    the curator's own among its runs.

    Raises ValueError if a group holds a seed twice, or runs that were evaluated on other numbers of problems.
    """
    group: dict[str, list[TrainingRun]] = {}
    for run in sorted(runs, key=lambda run: run.spec["seed"]):
        alike = [other for other in runs if _curator(other) == _curator(run)]
        differing = [
            *_differing(_settings(run)[0], [_settings(other)[0] for other in runs]),
            *_differing(_settings(run)[1], [_settings(other)[1] for other in alike]),
        ]
        label = _curator(run) + (f" ({', '.join(differing)})" if differing else "")
        group.setdefault(label, []).append(run)
    for label, same in group.items():
        for one, other in pairwise(same):
            _require_other_seed(label, one, other)
    return dict(sorted(group.items(), key=lambda item: (_curator(item[1][0]) != "uniform", item[0])))


def _curator(run: TrainingRun) -> str:
    return run.spec["curator"]


def _settings(run: TrainingRun) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the trainer's, the curator's own) settings of a run by dotted name, without what says which run it is."""
    spec = {name: value for name, value in run.spec.items() if name not in ("suite", "curator", "seed")}
    flat = {name.replace("/", "."): value for name, value in flatten(spec)[1].items() if value != {}}
    own = {name for name in flat if name == "signal" or name.startswith("curator_set.")}
    trainer = {name: value for name, value in flat.items() if name not in own}
    return trainer, {name.removeprefix("curator_set."): flat[name] for name in own}


def _differing(setting: dict[str, Any], among: list[dict[str, Any]]) -> list[str]:
    """Texts name=value of those settings of one run that are not the same in all."""
    names = sorted({name for one in among for name in one})
    value = {name: {str(one.get(name, "default")) for one in among} for name in names}
    return [
        f"{name}={setting.get(name, 'default')}" for name in names if len(value[name]) > 1 and _shown(name, setting)
    ]


def _shown(name: str, setting: dict[str, Any]) -> bool:
    """Whether a label says it: not what is off, nor the parts of an optional group that the run does not have."""
    return setting[name] is not None if name in setting else "." not in name


def _require_other_seed(label: str, one: TrainingRun, other: TrainingRun) -> None:
    """Raises ValueError, naming both, unless two runs are different seeds evaluated on as many problems."""
    both = f"{one.directory} and {other.directory}"
    if one.spec["seed"] == other.spec["seed"]:
        raise ValueError(f"{both} hold the same run, {label} seed {one.spec['seed']}; give one of them")
    sizes = _problems(one), _problems(other)
    if sizes[0] != sizes[1]:
        raise ValueError(f"{both} were evaluated on {sizes[0]} and {sizes[1]} problems; report them apart")


def _problems(run: TrainingRun) -> int:
    return len(run.evaluation[0]["n"])


def pass_rate(row: dict[str, Any]) -> Array:
    """f64[E], the pass rate of each held-out problem in one evaluation."""
    return np.asarray(row["success"], float) / np.asarray(row["n"], float)


def learning_curve(
    runs: list[TrainingRun], axis: Literal["tokens", "seconds"] = "tokens", stratum: int | None = None
) -> Curve:
    """The curve of one curator's seeds, aligned by step; the last evaluation of each seed counts as the same point.

    axis     what it is drawn against; seconds of training, without evaluations
    stratum  of the held-out problems that count; default all
    """
    shared = set.intersection(*({row["step"] for row in run.evaluation[:-1]} for run in runs))
    points = [[row for row in run.evaluation[:-1] if row["step"] in shared] + [run.evaluation[-1]] for run in runs]
    place = [dict(zip((row["step"] for row in run.evaluation), _axis(run, axis), strict=True)) for run in runs]
    at, band = [], []
    for rows in zip(*points, strict=True):
        at.append(np.mean([x[row["step"]] for x, row in zip(place, rows, strict=True)]))
        band.append(mean_interval(np.mean([_problem_rates(row, stratum) for row in rows], axis=0)))
    value = np.array([one[:3] for one in band])
    seed = [
        (_axis(run, axis), np.array([_problem_rates(row, stratum).mean() for row in run.evaluation])) for run in runs
    ]
    return Curve(np.array(at), value[:, 0], value[:, 1], value[:, 2], seed)


def _problem_rates(row: dict[str, Any], stratum: int | None) -> Array:
    rate = pass_rate(row)
    return rate if stratum is None else rate[np.asarray(row["stratum"]) == stratum]


def _axis(run: TrainingRun, axis: str) -> Array:
    """f64[evaluations], tokens or seconds of training that a run had used at each of its evaluations."""
    if axis == "tokens":
        return np.array([row["tokens"] for row in run.evaluation], float)
    seconds = np.cumsum([0.0, *(sum(row["seconds"].values()) for row in run.step)])
    step = np.array([0, *(row["step"] for row in run.step)])
    return seconds[np.searchsorted(step, [row["step"] for row in run.evaluation], side="right") - 1]


def results(runs: list[TrainingRun]) -> list[Result]:
    """The results table, one line per curator and settings; compared with uniform where it ran with the same."""
    group = by_setting(runs)
    after = {name: np.array([pass_rate(run.evaluation[-1]) for run in same]) for name, same in group.items()}
    uniform = [name for name, same in group.items() if _curator(same[0]) == "uniform"]
    table = []
    for name, same in group.items():
        before = np.array([pass_rate(run.evaluation[0]) for run in same])
        last = [run.evaluation[-1] for run in same]
        versus = None
        if name not in uniform:
            for baseline in (key for key in uniform if _comparable(group[key][0], same[0])):
                versus = paired_difference(after[name], after[baseline].mean(axis=0))
        step = [row for run in same for row in run.step]
        table.append(
            Result(
                curator=name,
                seeds=len(same),
                steps=float(np.mean([row["step"] for row in last])),
                tokens=float(np.mean([row["tokens"] for row in last])),
                before=float(before.mean()),
                after=float(after[name].mean()),
                averaged=_averaged(last),
                change=paired_difference(after[name], before),
                versus_uniform=versus,
                degenerate=float(np.mean([row["degenerate"] for row in step])) if step else float("nan"),
                support=_support(step),
            )
        )
    return table


def _support(step: list[dict[str, Any]]) -> float:
    share = [row["curator"]["effective_share"] for row in step if "effective_share" in row.get("curator", {})]
    return float(np.mean(share)) if share else float("nan")


def _averaged(last: list[dict[str, Any]]) -> float | None:
    rate = [row["averaged"]["pass_rate"] for row in last if "averaged" in row]
    return float(np.mean(rate)) if len(rate) == len(last) else None


def _comparable(one: TrainingRun, other: TrainingRun) -> bool:
    """Whether two runs differ in nothing but the curator and its settings."""
    return _settings(one)[0] == _settings(other)[0] and _problems(one) == _problems(other)


class Cost(NamedTuple):
    """What a step costs, mean over all steps but the first of each process; nan where it was not logged."""

    step_s: float
    curator_ms: float
    curator_share: float
    tokens_per_s: float
    memory_mb: float  # peak


def cost(runs: list[TrainingRun]) -> Cost:
    """The costs of one curator's runs."""
    step, tokens = [], 0
    for run in runs:
        cold = {process.get("first_step", 1) for process in run.environment}
        before = [{"tokens": 0}, *run.step]
        for last, row in zip(before, run.step, strict=False):
            if row["step"] not in cold:
                step.append(row)
                tokens += row.get("tokens", 0) - last.get("tokens", 0)
    total = sum(sum(row["seconds"].values()) for row in step)
    curator = sum(row["seconds"][phase] for row in step for phase in CURATOR_PHASES)
    memory = [row["cost"]["memory_mb"] for run in runs for row in run.step if "cost" in row]
    peak, n = max(memory, default=nan), len(step) or nan
    return Cost(total / n, 1e3 * curator / n, curator / (total or nan), tokens / (total or nan), peak)


def stratum_share(runs: list[TrainingRun], bins: int = 24) -> tuple[Array, Array] | None:
    """(step f64[n], share f64[n, strata]): which strata were selected over time, all seeds together, if known."""
    row = [one for run in runs for one in run.step if "strata" in one]
    if not row:
        return None
    step = np.array([one["step"] for one in row])
    count = np.array([one["strata"] for one in row], float)
    last = int(step.max())
    edge = np.linspace(0, last, min(bins, last) + 1)
    at = np.clip(np.searchsorted(edge, step, side="left") - 1, 0, edge.size - 2)
    total = np.zeros((edge.size - 1, count.shape[1]))
    np.add.at(total, at, count)
    return (edge[:-1] + edge[1:]) / 2, total / np.maximum(total.sum(axis=1, keepdims=True), 1)
