"""Checks on logged rounds: where the regret of a mirror step comes from, and whether stated propensities are true.

Everything is recomputed from the draws and the distribution that they came from, never asked of the curator. The check
of every round, ``regret.mirror_slack``, and the budget of a run, ``spend_``, are kept by both drivers while they run;
``budget`` is the same from the log of a run under the training loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba as nb
import numpy as np

from curbench import loop
from curbench.curators.base import Curator
from curbench.curators.tabular import MirrorStep, TabularCurator
from curbench.regret import log_product, mirror_slack
from curbench.sampling import capped_expectation
from curbench.signals import SIGNALS
from curbench.sim.actor import BanditActor
from curbench.sim.arms import Arms
from curbench.types import Array


@dataclass(frozen=True)
class Rounds:
    """The log of one seed; every arm is one problem.

    mean      f64[T, K], latent means
    p         f64[T, K], what was drawn from
    stepped   f64[T, K], where each mirror step led, before sharing or restarting; NaN without a mirror step
    arm       i64[T, m], the draws
    y         f64[T, m], their rewards
    stated    f64[T, m], expected count of each drawn arm by the propensities that the curator stated
    expected  f64[T, m], the same, by p and the design
    """

    mean: Array
    p: Array
    stepped: Array
    arm: Array
    y: Array
    stated: Array
    expected: Array

    def estimate(self, expected: Array) -> Array:
        """f64[T, K], the importance-weighted losses: sum of (1 - y) / expected over the draws of an arm."""
        lhat = np.zeros_like(self.p)
        row = np.arange(len(self.p))[:, None]
        np.add.at(lhat, (row, self.arm), (1.0 - self.y) / expected)
        return lhat


def log_rounds(curator: TabularCurator, arms: Arms, reward_seed: int) -> Rounds:
    """Runs a curator under the loop for the whole horizon and logs every round."""
    actor, step = BanditActor(arms, reward_seed), curator.mirror_step()
    k, one, log = arms.count, np.ones(arms.count, np.int64), []
    for _ in range(arms.horizon):
        mean, p = actor.mean.copy(), curator.core.p.copy()
        result = loop.step(curator, actor, batch=curator.batch, signal=SIGNALS["mean_reward"])
        selection = result.selection
        arm, stated = curator.expected_count(selection)
        iid = selection.design == "iid"
        expected = p * curator.batch if iid else capped_expectation(p, one, curator.batch)
        stepped = np.full(k, np.nan) if step is None else step.stepped[:k].copy()
        log.append((mean, p, stepped, arm, result.feedback.utility, stated, expected[arm]))
    return Rounds(*(np.array(column) for column in zip(*log, strict=True)))


class Budget(NamedTuple):
    """What the regret of one seed against u_t = (1 - gamma) e_{i_t} + gamma / K consists of.

    penalty    (1 / eta) sum_t [D(u_t, p_t) - D(u_t, stepped_t)]; at most that of ``regret.clip_terms``, pathwise
    stability  (eta / 2) sum_t sum_i p_i lhat_i^2; at most that of the bound, in expectation
    floor      sum_t <e_{i_t} - u_t, mu_t>; at most that of the bound, pathwise
    estimated  sum_t <p_t - u_t, lhat_t>, at most penalty + stability, pathwise; its mean is the regret to u
    """

    penalty: float
    stability: float
    floor: float
    estimated: float


def budget(rounds: Rounds, step: MirrorStep, comparator: Array) -> Budget:
    """The three-term budget of a mirror step on p. Source: docs/maths.md, lemmas 3 and 4.

    comparator  i64[T], the arm to compare with in each round
    Raises ValueError for steps that do not move p itself ("mix", sets).
    """
    if step.slack is not mirror_slack:
        raise ValueError("the budget is that of a mirror step on p; mixtures and sets move something else")
    t, k = rounds.p.shape
    u = np.full((t, k), step.floor / k)
    u[np.arange(t), comparator] += 1 - step.floor
    lhat = rounds.estimate(rounds.expected)
    best = rounds.mean[np.arange(t), comparator]
    return Budget(
        penalty=float(np.sum(u * np.log(rounds.stepped / rounds.p)) / step.eta),
        stability=float(step.eta / 2 * np.sum(rounds.p * lhat**2)),
        floor=float(np.sum(best - np.sum(u * rounds.mean, axis=1))),
        estimated=float(np.sum((rounds.p - u) * lhat)),
    )


@nb.njit
def spend_(spent, p, arm, expected, y, stepped, eta, floor, compared, mean):
    """Adds one round to spent f64[4], the ``Budget`` of a run so far.

    p, arm, expected, y, stepped, eta, floor  of the round, as in ``regret.mirror_slack``
    compared  the arm to compare with, i_t
    mean      f64[K], latent means
    """
    k = p.size
    estimate = np.zeros(k)
    for j in range(arm.size):
        estimate[arm[j]] += (1.0 - y[j]) / expected[j]
    linear, square, everywhere, level = 0.0, 0.0, 0.0, 0.0
    for i in range(k):
        linear += p[i] * estimate[i]
        square += p[i] * estimate[i] * estimate[i]
        everywhere += estimate[i]
        level += mean[i]
    moved = log_product(stepped / p) if floor > 0.0 else 0.0
    keep, spread = 1.0 - floor, floor / k  # u = keep e_compared + spread
    spent[0] += (keep * np.log(stepped[compared] / p[compared]) + spread * moved) / eta
    spent[1] += 0.5 * eta * square
    spent[2] += floor * mean[compared] - spread * level
    spent[3] += linear - keep * estimate[compared] - spread * everywhere


def estimate_z(log: list[Rounds]) -> Array:
    """f64[K], z-scores over seeds of the loss estimates with the stated propensities: N(0, 1) when they are unbiased.

    log  one entry per seed, at least 2
    """
    error = np.array([np.sum(one.estimate(one.stated) - (1.0 - one.mean), axis=0) for one in log])
    return _z(error)


def propensity_z(curator: Curator, draws: int) -> Array:
    """f64[N], z-scores of the weighted counts sum 1 / propensity of each problem over repeated draws; about N(0, 1).

    The curator learns nothing in between. A problem that is never drawn counts as a certain failure (infinite).
    """
    weighted = np.zeros((draws, len(curator.bank)))
    for row in weighted:
        selection = curator.select(curator.batch)
        expected = selection.propensity * (curator.batch if selection.design == "iid" else 1)
        np.add.at(row, selection.problem, 1.0 / (expected * selection.candidate_propensity))
    return _z(weighted - 1.0)


def _z(sample: Array) -> Array:
    """Mean over rows in standard errors; infinite where a column is constant but not zero."""
    mean, error = sample.mean(axis=0), sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    exact = np.abs(mean) < 1e-9
    return np.where(exact, 0.0, mean / np.where(error > 0, error, np.finfo(float).tiny))
