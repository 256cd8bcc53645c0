"""Cyclical curriculum: batches that a scorer selects alternate with batches from everything."""

from __future__ import annotations

from typing import Any

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.problem import ProblemCurator
from curbench.curators.samplers import Draw, race, simple
from curbench.types import Array, Bank, Feedback, GroupStats, Selection


def cycle(start: float, end: float, alpha: float) -> list[float]:
    """One period of the data fraction: start, start / alpha, ... up to end, then back down; both ends appear once.

    >>> cycle(0.25, 1.0, 0.5)
    [0.25, 0.5, 1.0, 0.5]
    """
    up = [start]
    while up[-1] < end:
        up.append(min(up[-1] / alpha, end))
    down = [up[-1]]
    while down[-1] > start:
        down.append(max(down[-1] * alpha, start))
    return up + down[1:-1]


class Cyclical(ProblemCurator):
    """Cyclical curriculum learning (Kesgin & Amasyali 2022, 2202.05531), algorithm 1, per step instead of per epoch.

    A data fraction S runs through start, start / alpha, ..., end and back. At S < 1 the step draws a subset of S M of
    the M candidates without replacement, in proportion to how easy they are (exp(-difficulty), standardised), and its
    batch uniformly from the subset; at S = 1 it draws from everything. With ``inner`` it is a wrapper: steps with S < 1
    are selected by that curator, with its own defaults, and only they teach it.

    inner       name of a curator, or None for the paper's own scorer
    start, end  smallest and largest fraction; published 0.25 and 1
    alpha       published 0.5
    every       steps at each fraction; default such that a horizon holds eight cycles

    Raises ValueError for a parameter outside its range, or without difficulties and without ``inner``. The paper scores
    by 1 / loss of a model that was trained without a curriculum first; the difficulty of the bank stands in for it.
    """

    stationary = False

    def __init__(
        self,
        bank: Bank,
        *,
        inner: str | None = None,
        start: float = 0.25,
        end: float = 1.0,
        alpha: float = 0.5,
        every: int | None = None,
        candidates: int = 2048,
        **common: Any,
    ) -> None:
        super().__init__(bank, candidates=candidates, **common)
        if not 0.0 < start <= end <= 1.0:
            raise ValueError(f"a cycle needs 0 < start <= end <= 1; got start={start}, end={end}")
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha must be in (0, 1); got {alpha}")
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1; got {every}")
        self.fraction = cycle(start, end, alpha)
        self.every = max(1, self.horizon // (8 * len(self.fraction))) if every is None else every
        self.inner: Curator | None = None
        if inner is not None:
            from curbench.curators import curator_class

            self.inner = curator_class(inner)(bank, **common)
            self.parts = {"inner": self.inner}
            self.on_policy = self.inner.on_policy
        elif bank.difficulty is None:
            raise ValueError("Cyclical needs the difficulty of every problem; this bank has none: set inner=NAME")
        else:
            spread = float(bank.difficulty.std(dtype=float))
            self.log_ease = -(bank.difficulty - bank.difficulty.mean(dtype=float)) / (spread if spread > 0 else 1.0)

    def size(self, step: int) -> float:
        """S, the data fraction at a step."""
        return self.fraction[step // self.every % len(self.fraction)]

    def curator_of(self, step: int) -> Curator | None:
        """The inner curator if a step is its own."""
        return self.inner if self.size(step) < 1.0 else None

    def select(self, batch: int) -> Selection:
        inner = self.curator_of(self.step)
        if inner is None:
            return super().select(batch)
        inner.step = self.step
        self._latest = inner.select(batch)
        self.step += 1
        return self._latest

    def draw(self, problem: Array, batch: int) -> Draw:
        size = self.size(self.step)
        at: dict[str, Any] = {"seed": self.seed, "step": self.step}
        if size >= 1.0:
            return simple(problem.size, batch, **at)
        subset = race(self.log_ease[problem], max(int(np.ceil(size * problem.size)), batch), **at)
        within = simple(subset.place.size, batch, **at)
        propensity = subset.propensity[within.place] * within.propensity
        return Draw(subset.place[within.place], propensity, subset.design)

    def admit(self, stats: GroupStats) -> Array:
        inner = self.curator_of(self.step - 1)
        return super().admit(stats) if inner is None else inner.admit(stats)

    def update(self, feedback: Feedback) -> None:
        inner = self.curator_of(feedback.selection.step)
        if inner is not None:
            inner.update(feedback)

    def metrics(self) -> dict[str, float]:
        return super().metrics() | {"data_fraction": self.size(max(self.step - 1, 0))}
