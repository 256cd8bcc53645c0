"""THE loop: select, roll out, reward, admit, update the actor, update the curator. Both worlds run these lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from curbench.advantage import group_advantage
from curbench.curators.base import Curator
from curbench.signals import CrossFit, Signal
from curbench.types import (
    ActorView,
    Array,
    Evaluation,
    Feedback,
    GroupStats,
    Guidance,
    Reward,
    Rollouts,
    Selection,
    UpdateReport,
)

State = dict[str, Any]


class Actor(Protocol):
    """What is trained: the simulated arms, or a language model. State is nested dicts of arrays and JSON scalars.

    progress  share of the budget that is used, in [0, 1]; set by the loop after every step, read by schedules
    """

    progress: float

    def rollout(self, selection: Selection) -> Rollouts: ...
    def reward(self, rollouts: Rollouts) -> Reward: ...
    def update(self, rollouts: Rollouts, advantage: Array, admitted: Array, guidance: Guidance) -> UpdateReport: ...
    @property
    def view(self) -> ActorView: ...
    def evaluate(self) -> Evaluation: ...
    def state(self) -> State: ...
    def restore(self, state: State) -> None: ...


@dataclass(frozen=True)
class Spent:
    """What a run has used so far; rollouts and tokens of rejected groups count."""

    steps: int = 0
    rollouts: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Budget:
    """Stop before the first step that would start at or beyond any of these.

    Raises ValueError if no limit is given or one is not positive.
    """

    steps: int | None = None
    rollouts: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        limits = {name: value for name, value in vars(self).items() if value is not None}
        if not limits:
            raise ValueError("a budget needs at least one limit: steps, rollouts or tokens")
        for name, value in limits.items():
            if value <= 0:
                raise ValueError(f"budget {name} must be positive; got {value}")

    def reached(self, spent: Spent) -> bool:
        """True when at least one limit is used up."""
        return any(limit is not None and getattr(spent, name) >= limit for name, limit in vars(self).items())

    def fraction(self, spent: Spent) -> float:
        """Share of the tightest limit that is used, in [0, 1]."""
        used = (getattr(spent, name) / limit for name, limit in vars(self).items() if limit is not None)
        return min(1.0, max(used))


@dataclass(frozen=True)
class StepResult:
    """One pass of the loop: everything that a record keeps of it."""

    selection: Selection
    rollouts: Rollouts
    feedback: Feedback
    report: UpdateReport
    seconds: dict[str, float]


class Recorder(Protocol):
    """Where results go; written by the loop, never by a method (``record.RunRecord`` is the one on disk)."""

    def step(self, result: StepResult, spent: Spent, metrics: dict[str, float]) -> None: ...
    def evaluation(self, evaluation: Evaluation, spent: Spent) -> None: ...
    def checkpoint(self, state: State, spent: Spent) -> None: ...


class Stopwatch:
    """Adds up the seconds of each phase of a step."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("select", "rollout", "reward", "update", "signal", "curator_update"), 0.0)
        self._last = perf_counter()

    def lap(self, phase: str) -> None:
        """Gives the time since the last call to a phase."""
        now = perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now

    def move(self, seconds: float, source: str, target: str) -> None:
        """Takes seconds from one phase and gives them to another."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds


def graded(
    rollouts: Rollouts, reward: Reward, signal: Signal, estimator: str
) -> tuple[Array, GroupStats, Array | None]:
    """(advantage f64[R], statistics of the groups, bool[R] of the rollouts that train or None for all)."""
    half = signal.trains_on(rollouts) if isinstance(signal, CrossFit) else None
    return *group_advantage(rollouts, reward, estimator=estimator, among=half), half


def use_of(
    curator: Curator, rollouts: Rollouts, advantage: Array, stats: GroupStats, half: Array | None
) -> tuple[Array, Guidance]:
    """(bool[B], the groups that get a gradient; how): probes get none, and the other ``half`` measures."""
    admitted = curator.admit(stats)
    if rollouts.selection.probe is not None:
        admitted = admitted & ~rollouts.selection.probe
    guidance = curator.guide(rollouts, advantage)
    return admitted, guidance if half is None else guidance.only(half)


def feedback_on(curator: Curator, rollouts: Rollouts, stats: GroupStats, utility: Array, admitted: Array) -> Feedback:
    """What the curator is told about its selection after the update."""
    selection = rollouts.selection
    return Feedback(
        selection=selection,
        stats=stats,
        utility=utility,
        admitted=admitted,
        staleness=np.full(len(selection), curator.step - 1 - selection.step),
        tokens=np.add.reduceat(rollouts.length, rollouts.offset[:-1]),
    )


def step(curator: Curator, actor: Actor, *, batch: int, signal: Signal, estimator: str = "grpo") -> StepResult:
    """One pass of the loop, in the order in which the data flow.

    batch      B, problems to select
    estimator  advantage estimator, see ``advantage.group_advantage``
    signal     utility of a group, see ``signals.SIGNALS``
    """
    clock = Stopwatch()
    curator.inspect(actor.view)
    selection = curator.select(batch)
    clock.lap("select")
    rollouts = actor.rollout(selection)
    clock.lap("rollout")
    reward = actor.reward(rollouts)
    clock.lap("reward")
    advantage, stats, half = graded(rollouts, reward, signal, estimator)
    while (more := curator.refill(rollouts.selection, stats)) is not None:
        extra = actor.rollout(more)
        clock.lap("rollout")
        rollouts, reward = rollouts.join(extra), reward.join(actor.reward(extra))
        clock.lap("reward")
        advantage, stats, half = graded(rollouts, reward, signal, estimator)
    admitted, guidance = use_of(curator, rollouts, advantage, stats, half)
    report = actor.update(rollouts, advantage, admitted, guidance)
    clock.lap("update")
    clock.move(report.alignment_s, "update", "signal")
    utility = signal(rollouts, reward, stats, report)
    clock.lap("signal")
    feedback = feedback_on(curator, rollouts, stats, utility, admitted)
    curator.update(feedback)
    clock.lap("curator_update")
    return StepResult(rollouts.selection, rollouts, feedback, report, clock.seconds)


def run(
    curator: Curator,
    actor: Actor,
    *,
    batch: int,
    budget: Budget,
    signal: Signal,
    record: Recorder,
    estimator: str = "grpo",
    evaluate_every: int = 0,
    checkpoint_every: int = 0,
    spent: Spent | None = None,
    progress: Callable[[Spent], None] = lambda spent: None,
    pause: Callable[[Spent], bool] = lambda spent: False,
) -> Spent:
    """Runs the loop until the budget is used up, or ``pause`` says so, and returns what was spent.

    evaluate_every    steps between evaluations; 0 evaluates at the start and the end only
    checkpoint_every  steps between checkpoints; 0 writes one at the start and one at the end
    spent             where a resumed run continues; both objects must have been restored to that point
    progress          called with what is spent after every step
    pause             asked after every step whether to stop there, with a checkpoint to go on from
    """
    fresh, spent = spent is None, spent or Spent()
    actor.progress = budget.fraction(spent)
    if fresh:
        record.evaluation(actor.evaluate(), spent)
        record.checkpoint({"curator": curator.state(), "actor": actor.state()}, spent)
    while not budget.reached(spent):
        result = step(curator, actor, batch=batch, signal=signal, estimator=estimator)
        rollouts = int(result.selection.rollouts.sum())
        tokens = int(result.feedback.tokens.sum())
        spent = replace(spent, steps=spent.steps + 1, rollouts=spent.rollouts + rollouts, tokens=spent.tokens + tokens)
        actor.progress = budget.fraction(spent)
        record.step(result, spent, curator.metrics())
        done = budget.reached(spent)
        stop = done or pause(spent)
        if done or (evaluate_every and spent.steps % evaluate_every == 0):
            record.evaluation(actor.evaluate(), spent)
        if stop or (checkpoint_every and spent.steps % checkpoint_every == 0):
            record.checkpoint({"curator": curator.state(), "actor": actor.state()}, spent)
        progress(spent)
        if stop:
            break
    return spent
