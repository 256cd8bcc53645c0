"""The compiled driver: one jitted loop over a curator's own core, for one seed; and its Python twin, the real loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numba as nb
import numpy as np

from curbench import loop, signals
from curbench.curators.base import Curator
from curbench.curators.tabular import MirrorStep, TabularCurator
from curbench.mirror import copy_
from curbench.sampling import expected_count_, select_iid_, select_systematic_, systematic_fits
from curbench.sim.actor import BanditActor, bernoulli_reward_
from curbench.sim.arms import Arms
from curbench.types import Array

TIMING_REPEATS = 5


@nb.njit
def expectation(p, value):
    """sum_i p_i value_i, summed in order."""
    total = 0.0
    for i in range(p.size):
        total += p[i] * value[i]
    return total


@nb.njit
def largest(value):
    """max_i value_i."""
    top = value[0]
    for i in range(1, value.size):
        top = max(top, value[i])
    return top


@nb.njit(nogil=True)
def drive(update_core, slack_core, core, stepped, table, start, mean, horizon, batch, iid, seeds, check, grid, trace):
    """Runs one seed: draw, reward, update; with a grid also regret and certificate.

    update_core, core  the curator's compiled update and its arrays, changed in place
    slack_core         the one-step inequality of its certificate
    stepped            f64[K], where the curator leaves its step before sharing or restarting
    table              (member, start, size, of): each arm is one problem
    start, mean        segments of the test-bed
    seeds              (curator seed, reward seed)
    check              (whether to check the certificate, eta, gamma)
    grid               i64[n] increasing round counts at which ``trace`` f64[n, 2] = (p-form regret, sampled regret)
    Returns            (smallest normalised slack, rounds in which a cap of the systematic design bound)
    """
    member, first, size, of = table
    visit = np.zeros(mean.shape[1], np.int64)
    before = np.empty(mean.shape[1])
    problem, arm = np.empty(batch, np.int64), np.empty(batch, np.int64)
    propensity, expected, y = np.empty(batch), np.empty(batch), np.empty(batch)
    p_form, sampled, segment, point, slack, capped = 0.0, 0.0, 0, 0, np.inf, 0
    recording = grid.size > 0
    for t in range(horizon):
        while segment + 1 < start.size and start[segment + 1] <= t:
            segment += 1
        mu = mean[segment]
        if iid:
            select_iid_(problem, propensity, core.p, member, first, size, seeds[0], t)
        else:
            select_systematic_(problem, propensity, core.p, member, first, size, seeds[0], t)
        if recording:
            copy_(before, core.p)
            if not iid and not systematic_fits(before, size, batch):
                capped += 1
        bernoulli_reward_(y, mu, problem, visit, seeds[1])
        expected_count_(arm, expected, problem, propensity, of, size, iid)
        update_core(core, arm, expected, y, t)
        if not recording:
            continue
        best = largest(mu)
        p_form += best - expectation(before, mu)
        for j in range(batch):
            sampled += (best - mu[arm[j]]) / batch
        if check[0]:
            gap, scale = slack_core(before, arm, expected, y, stepped, check[1], check[2])
            slack = min(slack, gap / scale)
        if t + 1 == grid[point]:
            trace[point, 0] = p_form
            trace[point, 1] = sampled
            point += 1
    return slack, capped


@dataclass(frozen=True)
class Trajectory:
    """One seed of a simulation.

    p_form, sampled  f64[n], cumulative regret at the grid points; ``p_form`` is NaN for curators without a table
    min_slack        smallest normalised certificate slack over the rounds; NaN when no certificate applies
    capped           rounds in which the systematic design hit a cap
    us, us_full      microseconds per round of the Python loop: the curator's two verbs; everything
    """

    p_form: Array
    sampled: Array
    min_slack: float
    capped: int
    us: float = float("nan")
    us_full: float = float("nan")


def is_compiled(curator: Curator) -> bool:
    """True when the compiled driver can run this curator: tabular, every arm one problem, a fixed design."""
    return isinstance(curator, TabularCurator) and curator.design != "auto" and bool((curator.arms.size == 1).all())


def run_compiled(curator: TabularCurator, arms: Arms, seeds: tuple[int, int], grid: Array) -> Trajectory:
    """One seed under the compiled driver. ``seeds`` are those of the curator and of the rewards."""
    trace = np.empty((grid.size, 2))
    slack, capped = _drive(curator, arms, seeds, grid, trace)
    return Trajectory(trace[:, 0], trace[:, 1], nan_unless_checked(slack), capped)


def time_compiled(
    fresh: Callable[[], TabularCurator], arms: Arms, seeds: tuple[int, int], grid: Array
) -> tuple[float, float]:
    """Microseconds per round on one thread: (draw, reward and update alone; with regret and certificate).

    Best of a few runs, each on a fresh curator; the first one compiles and is not counted.
    """
    bare, nothing = [], np.empty((0, 2))
    for _ in range(1 + TIMING_REPEATS):
        curator = fresh()
        begin = perf_counter()
        _drive(curator, arms, seeds, np.empty(0, np.int64), nothing)
        bare.append(perf_counter() - begin)
    curator = fresh()
    begin = perf_counter()
    run_compiled(curator, arms, seeds, grid)
    full = perf_counter() - begin
    return min(bare[1:]) / arms.horizon * 1e6, full / arms.horizon * 1e6


def _drive(curator: TabularCurator, arms: Arms, seeds: tuple[int, int], grid: Array, trace: Array) -> tuple[float, int]:
    check, step = certificate(curator)
    return drive(
        type(curator).update_core,
        step.slack,
        curator.core,
        step.stepped,
        tuple(curator.arms),
        arms.start,
        arms.mean,
        arms.horizon,
        curator.batch,
        curator.design == "iid",
        (np.uint64(seeds[0]), np.uint64(seeds[1])),
        (check, step.eta, step.floor),
        grid,
        trace,
    )


NO_CERTIFICATE = MirrorStep(0.0, 0.0, np.empty(0))


def certificate(curator: TabularCurator) -> tuple[bool, MirrorStep]:
    """(whether there is one to check, its terms)."""
    step = curator.mirror_step()
    return step is not None, step or NO_CERTIFICATE


def nan_unless_checked(slack: float) -> float:
    """The smallest slack, or NaN if no round was checked (the minimum over nothing is +infinity)."""
    return float("nan") if slack == np.inf else float(slack)


def run_loop(curator: Curator, arms: Arms, seeds: tuple[int, int], grid: Array) -> Trajectory:
    """One seed under THE loop, the one that trains.

    Gives the trajectory of ``run_compiled``, number for number, for the curators that both can run.
    """
    actor = BanditActor(arms, seeds[1])
    watch = _TableWatch(curator) if isinstance(curator, TabularCurator) else None
    points = set(grid.tolist())
    trace, sampled, curator_s = [], 0.0, 0.0
    begin = perf_counter()
    for t in range(arms.horizon):
        mu = actor.mean
        if watch:
            watch.before(mu)
        result = loop.step(curator, actor, batch=curator.batch, signal=signals.SIGNALS["mean_reward"])
        if watch:
            watch.after(result)
        curator_s += result.seconds["select"] + result.seconds["curator_update"]
        problem = result.selection.problem
        for i in problem:
            sampled += (mu.max() - mu[i]) / problem.size
        if t + 1 in points:
            trace.append((watch.p_form if watch else np.nan, sampled))
    full_s = perf_counter() - begin
    value = np.array(trace)
    slack, capped = (nan_unless_checked(watch.slack), watch.capped) if watch else (float("nan"), 0)
    us = 1e6 / arms.horizon
    return Trajectory(value[:, 0], value[:, 1], slack, capped, curator_s * us, full_s * us)


class _TableWatch:
    """Regret and certificate of a tabular curator, looked at from outside, around each pass of the loop."""

    def __init__(self, curator: TabularCurator) -> None:
        self.curator = curator
        self.check, self.step = certificate(curator)
        self.p_form, self.slack, self.capped = 0.0, np.inf, 0

    def before(self, mu: Array) -> None:
        self.p = self.curator.core.p.copy()
        self.p_form += largest(mu) - expectation(self.p, mu)

    def after(self, result: loop.StepResult) -> None:
        curator, selection = self.curator, result.selection
        iid = selection.design == "iid"
        self.capped += not iid and not systematic_fits(self.p, curator.arms.size, curator.batch)
        if self.check:
            arm, expected = curator.expected_count(selection)
            y = result.feedback.utility
            step = self.step
            gap, scale = step.slack(self.p, arm, expected, y, step.stepped, step.eta, step.floor)
            self.slack = min(self.slack, gap / scale)
