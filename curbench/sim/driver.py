"""The compiled driver: one jitted loop over a curator's own core, for one seed; and its Python twin, the real loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numba as nb
import numpy as np

from curbench import loop, signals
from curbench.compiled import hot
from curbench.curators.base import Curator
from curbench.curators.tabular import MirrorStep, TabularCurator
from curbench.mirror import copy_
from curbench.philox import DRAW, uniform_rounds_
from curbench.sampling import capped_expectation, systematic_arm_, systematic_fits
from curbench.sim.actor import BanditActor, advance_rested_, noise_terms
from curbench.sim.arms import Arms
from curbench.sim.certificates import spend_
from curbench.sim.delay import NO_DELAY, Delay, Delayed, Proxy, arrival
from curbench.sim.reward import luck_table, reward_
from curbench.types import Array, Feedback, Selection

TIMING_REPEATS = 5


@nb.njit(error_model="numpy")
def expectation(p, value):
    """sum_i p_i value_i, in four interleaved sums: a fixed order that the compiler can vectorise."""
    k = p.size
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(0, k - 3, 4):
        a += p[i] * value[i]
        b += p[i + 1] * value[i + 1]
        c += p[i + 2] * value[i + 2]
        d += p[i + 3] * value[i + 3]
    for i in range(k - k % 4, k):
        a += p[i] * value[i]
    return (a + b) + (c + d)


@nb.njit(error_model="numpy")
def largest(value):
    """max_i value_i."""
    top = value[0]
    for i in range(1, value.size):
        top = max(top, value[i])
    return top


@hot
def enter_segment_(mu, start, mean, segment, t):
    """Copies the means of round t to mu f64[K] when a new segment begins there; the segment of round t."""
    if segment + 1 < start.size and start[segment + 1] <= t:
        while segment + 1 < start.size and start[segment + 1] <= t:
            segment += 1
        for i in range(mu.size):
            mu[i] = mean[segment, i]
    return segment


@nb.njit(nogil=True, error_model="numpy")
def drive(
    draw_core,
    update_core,
    fill_core,
    slack_core,
    core,
    stepped,
    world,
    horizon,
    batch,
    iid,
    seeds,
    check,
    delay,
    budget,
    grid,
    trace,
):
    """Runs one seed: draw, reward, update; with a grid also regret and certificate.

    draw, update, fill, slack  compiled verbs of the curator, and the one-step inequality of its certificate
    core               the curator's arrays, changed in place
    stepped            f64[K], where the curator leaves its step before sharing or restarting
    world              (start, mean, rested, noise kind, noise scale, shared noise) of the test-bed
    seeds              (curator seed, reward seed)
    check              (whether to check the certificate, eta, gamma)
    delay              (rounds, jitter, loss)
    budget             (i64[T] arms to compare with, f64[4] filled as in ``spend_``), both empty to keep none
    grid               i64[n] increasing round counts at which ``trace`` f64[n, 2] = (p-form regret, sampled regret)
    Returns            (smallest normalised slack, rounds in which a cap of the systematic design bound)

    The loop makes no view of an array and no call that is not inlined where it can be helped: a reference count is an
    atomic operation, and two of them cost as much as drawing an arm.
    """
    start, mean, rested, kind, scale, shared = world
    k = mean.shape[1]
    visit, stage, before = np.zeros(k, np.int64), np.zeros(k, np.int64), np.empty(k)
    arm, expected, y, u = np.empty(batch, np.int64), np.empty(batch), np.empty(batch), np.empty(batch)
    luck, block = luck_table(k), max(8, 64 // batch)
    ahead, taken = np.empty(block * batch), block  # the draws' numbers for the next rounds
    one = np.ones(k, np.int64)
    late = delay[0] + delay[1] > 0 or delay[2] > 0.0
    ring = delay[0] + delay[1] + 1  # rounds whose feedback may still be under way
    due, late_arm = np.full(ring, -1), np.empty((ring, batch), np.int64)
    late_expected, late_y = np.empty((ring, batch)), np.empty((ring, batch))
    p_form, sampled, segment, point, slack, capped = 0.0, 0.0, 0, 0, np.inf, 0
    recording = grid.size > 0
    checking = recording and check[0]
    mu = mean[0].copy()
    best = largest(mu)
    for t in range(horizon):
        if not rested:
            entered = enter_segment_(mu, start, mean, segment, t)
            if entered != segment:
                segment, best = entered, largest(mu)
        if iid:
            if taken == block:
                uniform_rounds_(ahead, block, seeds[0], DRAW, t)
                taken = 0
            for j in range(batch):
                u[j] = ahead[j * block + taken]
            taken += 1
            draw_core(core, arm, expected, u, t)
            for j in range(batch):
                expected[j] *= batch
        else:
            inclusion = capped_expectation(core.p, one, batch)
            systematic_arm_(arm, inclusion, seeds[0], t)
            for j in range(batch):
                expected[j] = inclusion[arm[j]]
        reward_(y, mu, arm, visit, luck, seeds[1], t, kind, scale, shared)
        if recording:
            if not iid and not systematic_fits(core.p, one, batch):
                capped += 1
            p_form += best - expectation(core.p, mu)
            for j in range(batch):
                sampled += (best - mu[arm[j]]) / batch
        if rested:
            for j in range(batch):
                advance_rested_(mu, stage, visit, start, mean, arm[j])
            best = largest(mu)
        if late:
            row = t % ring
            due[row] = arrival(seeds[1], t, delay[0], delay[1], delay[2])
            for j in range(batch):
                late_arm[row, j], late_expected[row, j], late_y[row, j] = arm[j], expected[j], y[j]
        for age in range(min(ring - 1, t), -1, -1):  # oldest first
            if late:
                row = (t - age) % ring
                if due[row] != t:
                    continue
                for j in range(batch):
                    arm[j], expected[j], y[j] = late_arm[row, j], late_expected[row, j], late_y[row, j]
            if checking:
                copy_(before, core.p)
            update_core(core, arm, expected, y, t - age)
            if recording or not iid:
                fill_core(core)
            if checking:
                gap, relative_to = slack_core(before, arm, expected, y, stepped, check[1], check[2])
                slack = min(slack, gap / relative_to)
                if budget[0].size > 0:
                    spend_(budget[1], before, arm, expected, y, stepped, check[1], check[2], budget[0][t], mu)
        if recording and t + 1 == grid[point]:
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
    spent            f64[4], the ``certificates.Budget``; None if none was kept
    us, us_full      microseconds per round of the Python loop, medians: the curator's two verbs; everything
    """

    p_form: Array
    sampled: Array
    min_slack: float
    capped: int
    spent: Array | None = None
    us: float = float("nan")
    us_full: float = float("nan")


def is_compiled(curator: Curator) -> bool:
    """True when the compiled driver can run this curator: tabular, every arm one problem, a fixed design."""
    return isinstance(curator, TabularCurator) and curator.design != "auto" and bool((curator.arms.size == 1).all())


NO_PATH = np.empty(0, np.int64)


def run_compiled(
    curator: TabularCurator,
    arms: Arms,
    seeds: tuple[int, int],
    grid: Array,
    delay: Delay = NO_DELAY,
    path: Array = NO_PATH,
) -> Trajectory:
    """One seed under the compiled driver.

    seeds  of the curator and of the rewards
    path   i64[T], arms to compare with in the budget of a mirror step on p, without delay; empty: keep none
    """
    trace, spent = np.empty((grid.size, 2)), np.zeros(4)
    slack, capped = _drive(curator, arms, seeds, grid, trace, delay, (path, spent))
    return Trajectory(trace[:, 0], trace[:, 1], nan_unless_checked(slack), capped, spent if path.size else None)


def time_compiled(
    fresh: Callable[[], TabularCurator], arms: Arms, seeds: tuple[int, int], grid: Array, delay: Delay = NO_DELAY
) -> tuple[float, float]:
    """Microseconds per round on one thread: (draw, reward and update alone; with regret and certificate).

    Best of a few runs, each on a fresh curator; the first one compiles and is not counted.
    """
    bare, nothing, unkept = [], np.empty((0, 2)), (NO_PATH, np.zeros(4))
    for _ in range(1 + TIMING_REPEATS):
        curator = fresh()
        begin = perf_counter()
        _drive(curator, arms, seeds, np.empty(0, np.int64), nothing, delay, unkept)
        bare.append(perf_counter() - begin)
    curator = fresh()
    begin = perf_counter()
    run_compiled(curator, arms, seeds, grid, delay)
    full = perf_counter() - begin
    return min(bare[1:]) / arms.horizon * 1e6, full / arms.horizon * 1e6


def _drive(
    curator: TabularCurator,
    arms: Arms,
    seeds: tuple[int, int],
    grid: Array,
    trace: Array,
    delay: Delay,
    budget: tuple[Array, Array],
) -> tuple[float, int]:
    check, step = certificate(curator)
    cls = type(curator)
    return drive(
        cls.draw_core,
        cls.update_core,
        cls.fill_core,
        step.slack,
        curator.core,
        step.stepped,
        (arms.start, arms.mean, arms.rested, *noise_terms(arms.noise)),
        arms.horizon,
        curator.batch,
        curator.design == "iid",
        (np.uint64(seeds[0]), np.uint64(seeds[1])),
        (check, float(step.eta), float(step.floor)),
        tuple(delay),
        budget,
        grid,
        trace,
    )


NO_CERTIFICATE = MirrorStep(0.0, 0.0, np.empty(0))


def certificate(curator: TabularCurator | Proxy) -> tuple[bool, MirrorStep]:
    """(whether there is one to check, its terms)."""
    step = curator.mirror_step()
    return step is not None, step or NO_CERTIFICATE


def nan_unless_checked(slack: float) -> float:
    """The smallest slack, or NaN if no round was checked (the minimum over nothing is +infinity)."""
    return float("nan") if slack == np.inf else float(slack)


def run_loop(
    curator: Curator,
    arms: Arms,
    seeds: tuple[int, int],
    grid: Array,
    delay: Delay = NO_DELAY,
    path: Array = NO_PATH,
) -> Trajectory:
    """One seed under THE loop, the one that trains.

    Gives the trajectory of ``run_compiled``, number for number, for the curators that both can run.
    """
    actor = BanditActor(arms, seeds[1])
    timed = Timed(curator)
    watch = Watched(timed, actor, path) if isinstance(curator, TabularCurator) else None
    late: Any = Delayed(watch or timed, delay, seeds[1])
    points = set(grid.tolist())
    trace, sampled, seconds = [], 0.0, np.empty((arms.horizon, 2))
    for t in range(arms.horizon):
        mu, begin, before = actor.mean.copy(), perf_counter(), timed.seconds
        result = loop.step(late, actor, batch=curator.batch, signal=signals.SIGNALS["mean_reward"])
        seconds[t] = timed.seconds - before, perf_counter() - begin
        problem = result.selection.problem
        for i in problem:
            sampled += (mu.max() - mu[i]) / problem.size
        if t + 1 in points:
            trace.append((watch.p_form if watch else np.nan, sampled))
    value = np.array(trace)
    slack, capped = (nan_unless_checked(watch.slack), watch.capped) if watch else (float("nan"), 0)
    spent = watch.spent if watch and path.size else None
    us, us_full = 1e6 * np.median(seconds, axis=0)  # the first round compiles
    return Trajectory(value[:, 0], value[:, 1], slack, capped, spent, us, us_full)


class Timed(Proxy):
    """A curator and the seconds that its two verbs have taken."""

    seconds = 0.0

    def select(self, batch: int) -> Selection:
        begin = perf_counter()
        selection = self.curator.select(batch)
        self.seconds += perf_counter() - begin
        return selection

    def update(self, feedback: Feedback) -> None:
        begin = perf_counter()
        self.curator.update(feedback)
        self.seconds += perf_counter() - begin


class Watched(Proxy):
    """A tabular curator with its regret and certificate measured from outside, whenever it draws or learns.

    What a draw was expected to be is recomputed from the distribution that was drawn from; a curator that states
    another propensity fails its certificate.
    """

    def __init__(self, curator: Timed, actor: BanditActor, path: Array) -> None:
        super().__init__(curator)
        self.actor, self.path = actor, path
        self.check, self.mirror = certificate(curator)
        self.p_form, self.slack, self.capped, self.spent = 0.0, np.inf, 0, np.zeros(4)
        self.drawn: dict[int, tuple[Array, Array, Array]] = {}

    def select(self, batch: int) -> Selection:
        selection = self.curator.select(batch)
        p = self.core.p.copy()
        self.p_form += largest(self.actor.mean) - expectation(p, self.actor.mean)
        iid, arms = selection.design == "iid", self.arms
        self.capped += not iid and not systematic_fits(p, arms.size, batch)
        arm = arms.of[selection.problem]
        expected = batch * p if iid else capped_expectation(p, arms.size, batch)
        self.drawn[selection.ticket] = arm, expected[arm], self.actor.mean.copy()
        stated = selection.propensity * arms.size[arm] * (batch if iid else 1)
        if not np.allclose(stated, expected[arm], rtol=1e-9, atol=0.0):
            self.slack = -np.inf
        return selection

    def update(self, feedback: Feedback) -> None:
        p = self.core.p.copy()
        self.curator.update(feedback)
        arm, expected, mean = self.drawn.pop(feedback.selection.ticket)
        if self.check:
            step = self.mirror
            made = p, arm, expected, feedback.utility, step.stepped, step.eta, step.floor
            gap, scale = step.slack(*made)
            self.slack = min(self.slack, gap / scale)
            if self.path.size:
                spend_(self.spent, *made, self.path[feedback.selection.step], mean)
