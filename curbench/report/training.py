"""Tables and curves of training runs: seeds averaged problem by problem, comparisons paired, tokens as the axis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from curbench.report.collect import TrainingRun
from curbench.stats import Interval, mean_interval, paired_difference
from curbench.types import Array


class Curve(NamedTuple):
    """Held-out pass rate of one curator: mean over seeds with an interval over problems, and every seed's own line."""

    tokens: Array  # f64[n], generated training tokens, mean over seeds
    mean: Array  # f64[n]
    lo: Array
    hi: Array
    seed: list[tuple[Array, Array]]  # (tokens, pass rate) of each seed


class Result(NamedTuple):
    """One line of the results table."""

    curator: str
    seeds: int
    steps: float
    tokens: float
    before: float
    after: float
    change: Interval  # after minus before, paired over held-out problems
    versus_uniform: Interval | None  # after minus uniform's after, paired likewise
    degenerate: float  # share of groups with all rewards equal
    curator_share: float  # share of the time spent in select, signal and curator update


def by_curator(runs: list[TrainingRun]) -> dict[str, list[TrainingRun]]:
    """Runs grouped by curator, uniform first, each group sorted by seed."""
    group: dict[str, list[TrainingRun]] = {}
    for run in sorted(runs, key=lambda run: (run.spec["curator"] != "uniform", run.spec["curator"], run.spec["seed"])):
        group.setdefault(run.spec["curator"], []).append(run)
    return group


def pass_rate(row: dict[str, Any]) -> Array:
    """f64[E], the pass rate of each held-out problem in one evaluation."""
    return np.asarray(row["success"], float) / np.asarray(row["n"], float)


def learning_curve(runs: list[TrainingRun]) -> Curve:
    """The curve of one curator's seeds, aligned by step; the last evaluation of each seed counts as the same point."""
    shared = set.intersection(*({row["step"] for row in run.evaluation[:-1]} for run in runs))
    points = [[row for row in run.evaluation[:-1] if row["step"] in shared] + [run.evaluation[-1]] for run in runs]
    tokens, band = [], []
    for rows in zip(*points, strict=True):
        tokens.append(np.mean([row["tokens"] for row in rows]))
        band.append(mean_interval(np.mean([pass_rate(row) for row in rows], axis=0)))
    value = np.array([one[:3] for one in band])
    seed = [
        (np.array([row["tokens"] for row in run.evaluation]), np.array([row["pass_rate"] for row in run.evaluation]))
        for run in runs
    ]
    return Curve(np.array(tokens), value[:, 0], value[:, 1], value[:, 2], seed)


def results(runs: list[TrainingRun]) -> list[Result]:
    """The results table, one line per curator."""
    group = by_curator(runs)
    after = {name: np.array([pass_rate(run.evaluation[-1]) for run in same]) for name, same in group.items()}
    table = []
    for name, same in group.items():
        before = np.array([pass_rate(run.evaluation[0]) for run in same])
        last = [run.evaluation[-1] for run in same]
        versus = None
        if name != "uniform" and "uniform" in after and after["uniform"].shape[1] == after[name].shape[1]:
            versus = paired_difference(after[name], after["uniform"].mean(axis=0))
        step = [row for run in same for row in run.step]
        table.append(
            Result(
                curator=name,
                seeds=len(same),
                steps=float(np.mean([row["step"] for row in last])),
                tokens=float(np.mean([row["tokens"] for row in last])),
                before=float(before.mean()),
                after=float(after[name].mean()),
                change=paired_difference(after[name], before),
                versus_uniform=versus,
                degenerate=float(np.mean([row["degenerate"] for row in step])) if step else float("nan"),
                curator_share=curator_share(step),
            )
        )
    return table


CURATOR_PHASES = ("select", "signal", "curator_update")


def curator_share(step: list[dict[str, Any]]) -> float:
    """Share of the loop's time that curation cost: selecting, the utility's extra forward pass, and learning."""
    total = sum(sum(row["seconds"].values()) for row in step)
    return sum(row["seconds"][phase] for row in step for phase in CURATOR_PHASES) / total if total else float("nan")


def stratum_share(runs: list[TrainingRun], stratum: Array, strata: int, bins: int = 24) -> tuple[Array, Array]:
    """(step f64[n], share f64[n, strata]): which strata were selected over time, all seeds together."""
    step = np.concatenate([run.selected_step for run in runs])
    problem = np.concatenate([run.selected_problem for run in runs])
    last = int(step.max())
    edge = np.linspace(0, last, min(bins, last) + 1)
    at = np.clip(np.searchsorted(edge, step, side="left") - 1, 0, edge.size - 2)
    count = np.zeros((edge.size - 1, strata))
    np.add.at(count, (at, stratum[problem]), 1)
    return (edge[:-1] + edge[1:]) / 2, count / np.maximum(count.sum(axis=1, keepdims=True), 1)
