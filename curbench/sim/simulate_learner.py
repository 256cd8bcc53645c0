"""One simulation of a learner: a curator trains it under THE loop over seeds, watched by an oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from curbench.averaging import Averaging
from curbench.curators import curator_class, split_admission
from curbench.curators.base import NEARLY_UNIFORM, Curator
from curbench.features import make_features, make_sources
from curbench.loop import Budget, Recorder, Spent, State, StepResult, run
from curbench.philox import spawn_seeds
from curbench.record import RunRecord
from curbench.schedules import Schedule
from curbench.signals import SIGNALS, Signal
from curbench.sim.delay import NO_DELAY, Delay, Delayed, delay_text, parse_delay
from curbench.sim.learner import LEARNERS, Learner, LearnerActor, make_learner
from curbench.stats import Interval, mean_interval
from curbench.types import Array, Bank, Evaluation, Feedback, Selection

CURATION = ("select", "signal", "curator_update")
"""Phases of a step that are the price of curation."""

GREEDY = "greedy"
"""The name under which ``simulate_learner`` runs the oracle."""


class GreedyOracle(Curator):
    """Selects the B problems of largest ``value``: what a curator could do at best that looks one step ahead.

    It looks inside the actor, so it exists in the simulator only. One step ahead is not far: it need not end best.
    """

    def __init__(self, bank: Bank, *, actor: LearnerActor, estimator: str = "grpo", **common: Any) -> None:
        super().__init__(bank, **common)
        if self.batch > len(bank):
            raise ValueError(f"{GREEDY} selects {self.batch} different problems; the bank has {len(bank)}")
        self.actor, self.estimator = actor, estimator

    def select(self, batch: int) -> Selection:
        best = np.argsort(-self.actor.value(self.group, self.estimator), kind="stable")[:batch]
        return self.selected(best, np.ones(batch), "fixed")

    def update(self, feedback: Feedback) -> None:
        """Nothing: it knows."""


class Watch:
    """A recorder (``loop.Recorder``) that follows what only the simulator can see, after every step.

    competence, tokens  of every step, the start included
    regret              sum over steps of max_x value(x) - mean over slots of value(x), at the skill before the step; it
                        takes the value of the whole bank at every step, and stays 0 unless ``measure_regret``
    wasted              rollouts in degenerate groups
    support             effective share of the bank that every step was drawn from
    averaged            competence of averaged checkpoints at the end, None without
    curation_s          seconds of every step that the curator and its signal took; the first step compiles
    """

    def __init__(self, actor: LearnerActor, group: int, estimator: str, *, measure_regret: bool = True) -> None:
        self.actor, self.group, self.estimator = actor, group, estimator
        self.competence, self.tokens = [actor.competence], [0]
        self.spent = Spent()
        self.regret, self.wasted = 0.0, 0
        self.support: list[float] = []
        self.averaged: float | None = None
        self.curation_s: list[float] = []
        self.value = actor.value(group, estimator) if measure_regret else None

    def step(self, result: StepResult, spent: Spent, metrics: dict[str, float]) -> None:
        self.spent = spent
        self.curation_s.append(sum(result.seconds[phase] for phase in CURATION))
        stats = result.feedback.stats
        if self.value is not None:
            self.regret += float(self.value.max() - self.value[result.selection.problem].mean())
            self.value = self.actor.value(self.group, self.estimator)
        self.wasted += int(stats.n[stats.degenerate].sum())
        self.support.append(metrics["effective_share"])
        self.competence.append(self.actor.competence)
        self.tokens.append(spent.tokens)

    def evaluation(self, evaluation: Evaluation, spent: Spent) -> None:
        """Competence is exact and costs no tokens; only that of averaged checkpoints is taken from here."""
        if evaluation.averaged is not None:
            self.averaged = evaluation.averaged.pass_rate

    def checkpoint(self, state: State, spent: Spent) -> None:
        """Nothing is kept."""


class Both:
    """Two recorders of one run (``loop.Recorder``)."""

    def __init__(self, first: Recorder, second: Recorder) -> None:
        self.recorders = (first, second)

    def step(self, result: StepResult, spent: Spent, metrics: dict[str, float]) -> None:
        for one in self.recorders:
            one.step(result, spent, metrics)

    def evaluation(self, evaluation: Evaluation, spent: Spent) -> None:
        for one in self.recorders:
            one.evaluation(evaluation, spent)

    def checkpoint(self, state: State, spent: Spent) -> None:
        for one in self.recorders:
            one.checkpoint(state, spent)


@dataclass(frozen=True)
class LearnerSimulation:
    """Results of one curator on one learner, over seeds.

    start, competence  held-out competence before, the mean over seeds, and after; averaged: of averaged checkpoints at
                       the end, or None
    area               mean competence over the tokens of a run: who is early
    target             competence that counts as arrived; reached: seeds that did; tokens_to_target: their median over
                       all seeds, None if fewer than half arrived
    regret             against the greedy improvement oracle along the run's own path, in units of competence: the sum
                       over steps of what spending the step on the most valuable problem would have added, to first
                       order, less what the selection adds. Not policy regret: another path has other oracles. None
                       where it was not measured
    wasted             share of rollouts in degenerate groups
    support            effective share of the bank that was drawn from (``Curator.metrics``), mean over steps and seeds
    spent              steps, rollouts and tokens of the first seed
    begin, final, early  f64[S], competence before and after, and area, of every seed
    curation_s         median over steps and seeds of what curation took, in seconds: not a result, but a cost
    curve              f64[steps + 1, 4], mean tokens and (mean, lo, hi) of competence after each step; the shortest
                       run's length
    """

    learner: Learner
    curator: str
    signal: str
    delay: Delay
    hyper: dict[str, Any]
    features: str | None
    resolved: dict[str, Any]
    seeds: int
    batch: int
    group: int
    estimator: str
    schedule: Schedule
    averaging: Averaging | None
    start: float
    competence: Interval
    averaged: Interval | None
    area: Interval
    target: float
    reached: int
    tokens_to_target: float | None
    regret: Interval | None
    wasted: Interval
    support: float
    spent: Spent
    begin: Array
    final: Array
    early: Array
    curation_s: float
    curve: Array

    def row(self) -> dict[str, Any]:
        """The machine-readable result: JSON scalars only."""
        return {
            "learner": self.learner.name,
            "curator": self.curator,
            "signal": self.signal,
            "seeds": self.seeds,
            "batch": self.batch,
            "group": self.group,
            "estimator": self.estimator,
            "schedule": self.schedule.model_dump(),
            "averaging": None if self.averaging is None else self.averaging.model_dump(),
            "delay": delay_text(self.delay),
            "hyper": self.hyper,
            "features": self.features,
            "resolved": self.resolved,
            "start": self.start,
            "competence": self.competence.row(),
            "averaged": None if self.averaged is None else self.averaged.row(),
            "area": self.area.row(),
            "target": self.target,
            "reached": self.reached,
            "tokens_to_target": self.tokens_to_target,
            "regret": None if self.regret is None else self.regret.row(),
            "wasted": self.wasted.row(),
            "support": self.support,
            **{name: getattr(self.spent, name) for name in ("steps", "rollouts", "tokens")},
        }


def follow(
    curator: Curator,
    actor: LearnerActor,
    *,
    signal: Signal,
    budget: Budget,
    estimator: str = "grpo",
    measure_regret: bool = True,
    record: Recorder | None = None,
) -> Watch:
    """One seed under THE loop, watched, and recorded by ``record`` as well."""
    watch = Watch(actor, curator.group, estimator, measure_regret=measure_regret)
    kept = watch if record is None else Both(watch, record)
    run(curator, actor, batch=curator.batch, budget=budget, signal=signal, record=kept, estimator=estimator)
    return watch


def simulate_learner(
    name: str,
    curator: str,
    *,
    seeds: int = 20,
    batch: int = 32,
    group: int = 8,
    budget: Budget | None = None,
    delay: Delay | int | str = NO_DELAY,
    estimator: str = "grpo",
    signal: str | None = None,
    schedule: Schedule | None = None,
    averaging: Averaging | None = None,
    parameter: dict[str, Any] | None = None,
    hyper: dict[str, Any] | None = None,
    features: str | None = None,
    target: float | None = None,
    measure_regret: bool = True,
    first_seed: int = 0,
    instance_seed: int | None = 0,
    progress: Callable[[], None] = lambda: None,
    open_record: Callable[[int], RunRecord | None] = lambda seed: None,
) -> LearnerSimulation:
    """Trains the simulated learner ``name`` with a curator, over seeds that differ in the luck.

    curator    a name, or with an admission rule as in ``sec+nondegenerate``; "greedy" is the oracle
    budget     stop at the first limit reached; default 200 steps
    delay      when feedback reaches the curator: steps of lateness, or STEPS[:JITTER[:LOSS]]; the actor never waits
    signal     utility of a group (``signals.SIGNALS``); default the curator's own
    schedule   of the learning rate, default constant; averaging: checkpoints whose average is evaluated at the end
    parameter  of the learner's recipe, in place of its own
    hyper      hyper-parameters of the curator
    features   what neural curators are told (``features.SOURCES``), hidden states being those at the start; default:
               the latent loadings
    target     competence of ``tokens_to_target``; default halfway from the mean start to 1
    measure_regret  against the oracle, which values the whole bank at every step: a quarter of a run's time, or half
    instance_seed  which problems are drawn; None: every seed draws its own
    progress   called after every seed
    open_record  gives the record that keeps the steps of a seed as well, or None
    Raises     ValueError for a name that does not exist, fewer than one seed or a value that is refused.

    >>> result = simulate_learner("plain", "uniform", seeds=2, budget=Budget(steps=5))
    >>> result.spent.rollouts, result.competence.mean > result.start
    (1280, True)
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1; got {seeds}")
    course = Course(
        name,
        curator,
        batch=batch,
        group=group,
        budget=budget,
        delay=delay,
        estimator=estimator,
        signal=signal,
        schedule=schedule,
        averaging=averaging,
        parameter=parameter,
        hyper=hyper,
        features=features,
        instance_seed=instance_seed,
    )
    watched = []
    for seed in range(first_seed, first_seed + seeds):
        record = open_record(seed)
        watched.append(course.run(seed, measure_regret=measure_regret, record=record))
        if record is not None:
            record.close(complete=True)
        progress()
    begin = np.array([watch.competence[0] for watch in watched])
    start = float(begin[0] + (begin - begin[0]).mean())  # exact where all are equal
    target = (1 + start) / 2 if target is None else target
    arrival = np.array([tokens_to(watch, target) for watch in watched])
    median = float(np.median(arrival))
    averaged = [watch.averaged for watch in watched if watch.averaged is not None]
    final = np.array([watch.competence[-1] for watch in watched])
    early = np.array([area(watch) for watch in watched])
    return LearnerSimulation(
        learner=course.learner,
        curator=curator,
        signal=course.signal,
        delay=course.delay,
        hyper=course.hyper,
        features=features,
        resolved=course.make(first_seed)[0].resolved(),
        seeds=seeds,
        batch=batch,
        group=group,
        estimator=estimator,
        schedule=course.schedule,
        averaging=averaging,
        start=start,
        competence=mean_interval(final),
        averaged=mean_interval(np.array(averaged)) if averaged else None,
        area=mean_interval(early),
        target=target,
        reached=int(np.isfinite(arrival).sum()),
        tokens_to_target=median if np.isfinite(median) else None,
        regret=mean_interval(np.array([watch.regret for watch in watched])) if measure_regret else None,
        wasted=mean_interval(np.array([watch.wasted / watch.spent.rollouts for watch in watched])),
        support=float(np.mean([share for watch in watched for share in watch.support])),
        spent=watched[0].spent,
        begin=begin,
        final=final,
        early=early,
        curation_s=float(np.median([second for watch in watched for second in watch.curation_s])),
        curve=_curve(watched),
    )


class Course:
    """A learner, a curator and how they meet: what the seeds of one simulation share.

    Raises ValueError for what does not exist or is refused, but for hyper-parameters, which ``make`` refuses.
    """

    def __init__(
        self,
        name: str,
        curator: str,
        *,
        batch: int,
        group: int,
        budget: Budget | None = None,
        delay: Delay | int | str = NO_DELAY,
        estimator: str = "grpo",
        signal: str | None = None,
        schedule: Schedule | None = None,
        averaging: Averaging | None = None,
        parameter: dict[str, Any] | None = None,
        hyper: dict[str, Any] | None = None,
        features: str | None = None,
        instance_seed: int | None = 0,
    ) -> None:
        label, admission = split_admission(curator)
        self.greedy = label == GREEDY
        self.cls: Any = GreedyOracle if self.greedy else curator_class(label)
        self.hyper, self.signal = dict(hyper or {}), signal or self.cls.signal
        if self.signal not in SIGNALS:
            raise ValueError(f"unknown signal {self.signal!r}; choose from {', '.join(SIGNALS)}")
        self.budget, self.delay, self.estimator = budget or Budget(steps=200), parse_delay(delay), estimator
        self.schedule, self.averaging = schedule or Schedule(), averaging
        self.name, self.features, self.instance_seed = name, features, instance_seed
        self.recipe = replace(LEARNERS[name], **parameter) if parameter and name in LEARNERS else None
        self.learner, self.bank = self.draw(instance_seed or 0)
        horizon = planned_steps(self.learner, self.budget, batch * group)
        self.common = {"batch": batch, "horizon": horizon, "group": group, "admission": admission}

    def draw(self, instance_seed: int) -> tuple[Learner, Bank]:
        """An instance of the learner, and what curators may know of it."""
        learner = make_learner(self.name, self.recipe, instance_seed=instance_seed)
        bank = learner.bank()
        if self.features is None:
            return learner, bank
        source = make_sources(self.features, bank, LearnerActor(learner, 0).view)
        return learner, replace(bank, feature=make_features(source, len(bank)))

    def make(self, seed: int) -> tuple[Curator, LearnerActor, int]:
        """(curator, actor, the actor's seed)."""
        curator_seed, actor_seed = spawn_seeds(seed, 2)
        learner, bank = (self.learner, self.bank) if self.instance_seed is not None else self.draw(seed)
        actor = LearnerActor(learner, actor_seed, schedule=self.schedule, averaging=self.averaging)
        knows = {"actor": actor, "estimator": self.estimator} if self.greedy else {}
        return self.cls(bank, seed=curator_seed, **(self.common | knows | self.hyper)), actor, actor_seed

    def run(self, seed: int, *, measure_regret: bool = True, record: Recorder | None = None) -> Watch:
        """One seed."""
        curator, actor, actor_seed = self.make(seed)
        late: Any = curator if self.delay == NO_DELAY else Delayed(curator, self.delay, actor_seed)
        return follow(
            late,
            actor,
            signal=SIGNALS[self.signal],
            budget=self.budget,
            estimator=self.estimator,
            measure_regret=measure_regret,
            record=record,
        )


def check(name: str, curator: str, **question: Any) -> None:
    """Raises ValueError for what ``simulate_learner`` would refuse; runs nothing."""
    course = Course(name, curator, **question)
    made, actor, _ = course.make(0)
    actor.value(made.group, course.estimator)


def describe(row: dict[str, Any]) -> str:
    """One line for people."""
    competence, regret = row["competence"], row["regret"]
    interval = "" if competence["lo"] is None else f" [{competence['lo']:.3f}, {competence['hi']:.3f}]"
    oracle = "" if regret is None else f"oracle regret {regret['mean']:.2f}  "
    tokens = row["tokens_to_target"]
    arrival = "not reached" if tokens is None else f"after {tokens:,.0f} tokens"
    return (
        f"{row['learner']}/{row['curator']}  competence {row['start']:.3f} -> {competence['mean']:.3f}{interval} "
        f"({row['seeds']} seeds, {row['rollouts']:,} rollouts)  {row['target']:.3f} {arrival}  "
        f"{oracle}wasted {row['wasted']['mean']:.0%}  support {row['support']:.0%}"
        + ("  draws nearly uniformly" if row["support"] >= NEARLY_UNIFORM and row["curator"] != "uniform" else "")
    )


def planned_steps(learner: Learner, budget: Budget, rollouts: int) -> int:
    """T for default step sizes: exact for steps and rollouts; for tokens, that of the bank's mean length.

    >>> planned_steps(make_learner("plain"), Budget(steps=10, rollouts=70), 32)
    3
    """
    plan = [] if budget.steps is None else [budget.steps]
    if budget.rollouts is not None:
        plan.append(ceil(budget.rollouts / rollouts))
    if budget.tokens is not None:
        plan.append(ceil(budget.tokens / (rollouts * float(learner.train.length.mean()))))
    return min(plan)


def tokens_to(watch: Watch, target: float) -> float:
    """Tokens after which competence first reaches ``target``; infinite if it never does."""
    reached = np.array(watch.competence) >= target
    return float(watch.tokens[int(reached.argmax())]) if reached.any() else float("inf")


def area(watch: Watch) -> float:
    """Mean competence over the tokens of a run, by trapezoids."""
    return float(np.trapezoid(watch.competence, watch.tokens) / watch.tokens[-1])


def _curve(watched: list[Watch]) -> Array:
    length = min(len(watch.competence) for watch in watched)
    tokens = np.mean([watch.tokens[:length] for watch in watched], axis=0)
    competence = np.array([watch.competence[:length] for watch in watched])
    return np.array([(at, *mean_interval(column)[:3]) for at, column in zip(tokens, competence.T, strict=True)])
