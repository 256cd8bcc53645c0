"""Candidate sets in the simulator: sleeping regret, its bound, and the one-step inequality inside every set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log
from typing import Any

import numpy as np

from curbench import loop
from curbench.curators.osmd import effective_arms
from curbench.curators.osmd_candidates import OsmdCandidates
from curbench.philox import spawn_seeds
from curbench.regret import SLACK_TOLERANCE, mirror_slack
from curbench.signals import SIGNALS
from curbench.sim.actor import BanditActor
from curbench.sim.arms import Arms
from curbench.stats import mean_interval, upper_limit
from curbench.types import Array

CONFIDENCE = 0.999
FEW_SEEDS = 20


def sleeping_bound(arms: int, candidates: int, batch: int, awake: float, eta: float, mix: float = 0.0) -> float:
    """(1 - gamma) ln K / eta + (eta kappa / 2 + gamma) awake,  kappa = (n + m - 1) / m, gamma = ``mix``.

    Bounds E sum over the rounds in which arm i is a candidate of (mu_i - <p_t, mu_t>), p_t the distribution of a draw,
    for every arm i and draws that are iid, or systematic while no cap binds.

    arms, candidates, batch  K, n, m
    awake                    expected number of rounds in which i is a candidate: T n / K
    eta, mix                 what ran
    Proof   docs/maths.md, candidate sets. The comparator is one arm over its own rounds: this is not regret to the best
            arm that was available in each round.
    Source  specialists: Freund, Schapire, Singer & Warmuth 1997, "Using and combining predictors that specialize".

    >>> sleeping_bound(100, 10, 1, awake=0.0, eta=0.5) == 2 * log(100)
    True
    """
    return (1 - mix) * log(arms) / eta + (eta * effective_arms(candidates, batch) / 2 + mix) * awake


@dataclass(frozen=True)
class CandidateSimulation:
    """Results of ``osmd_candidates`` on a test-bed, over seeds.

    awake      T n / K, expected rounds in which an arm is a candidate
    regret     f64[seeds, K], sleeping regret (p-form) to each arm
    bound      on the expectation of every column; vacuous when it is at least ``awake``, which no regret exceeds
    holds      whether the upper limit of every arm's mean (99.9 % for all arms together) is within the bound; None when
               nothing is proved because a cap bound, or fewer than ``FEW_SEEDS`` seeds leave it open
    min_slack  smallest slack of the one-step inequality inside the candidate sets, relative to its scale
    """

    arms: Arms
    candidates: int
    batch: int
    eta: float
    mix: float
    awake: float
    regret: Array
    bound: float
    holds: bool | None
    min_slack: float
    capped_rounds: int

    @property
    def vacuous(self) -> bool:
        """True when the bound says nothing."""
        return self.bound >= self.awake

    @property
    def certificate_holds(self) -> bool:
        """Whether every step of every seed satisfied the inequality, to rounding."""
        return self.min_slack >= -SLACK_TOLERANCE

    @property
    def failed(self) -> bool:
        """True when the bound or a certificate is violated."""
        return self.holds is False or not self.certificate_holds

    def row(self) -> dict[str, Any]:
        """The machine-readable result: JSON scalars only; regret is that to the arm it is largest for."""
        worst = int(self.regret.mean(axis=0).argmax())
        return {
            "arms": self.arms.name,
            "curator": "osmd_candidates",
            "arms_count": self.arms.count,
            "candidates": self.candidates,
            "horizon": self.arms.horizon,
            "seeds": len(self.regret),
            "batch": self.batch,
            "eta": self.eta,
            "mix": self.mix,
            "awake": self.awake,
            "regret": mean_interval(self.regret[:, worst]).row() | {"arm": worst, "kind": "sleeping"},
            "bound": {
                "value": self.bound,
                "status": "none" if self.capped_rounds else "proved",
                "vacuous": self.vacuous,
            },
            "holds": self.holds,
            "certificate": {"min_slack": self.min_slack, "holds": self.certificate_holds},
            "capped_rounds": self.capped_rounds,
        }


def simulate_candidates(
    arms: Arms,
    *,
    candidates: int,
    seeds: int = 40,
    batch: int = 1,
    hyper: dict[str, Any] | None = None,
    first_seed: int = 0,
    curator: type[OsmdCandidates] = OsmdCandidates,
    progress: Callable[[], None] = lambda: None,
) -> CandidateSimulation:
    """Runs ``osmd_candidates`` on a test-bed under THE loop and checks its bound and every one of its steps.

    candidates  n of the K arms, drawn uniformly every round
    hyper       hyper-parameters of the curator; the design defaults to iid
    Raises      ValueError for fewer than one seed or hyper-parameters that are refused.

    >>> from curbench.sim.arms import make_arms
    >>> simulate_candidates(make_arms("stationary", horizon=20), candidates=5, seeds=2).vacuous
    True
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1; got {seeds}")
    bank, regret, slack, capped = arms.bank(), [], inf, 0
    for seed in range(first_seed, first_seed + seeds):
        curator_seed, reward_seed = spawn_seeds(seed, 2)
        options: dict[str, Any] = {"design": "iid", "candidates": candidates} | (hyper or {})
        made = curator(bank, seed=curator_seed, batch=batch, horizon=arms.horizon, **options)
        one, least, hit = _follow(made, BanditActor(arms, reward_seed), arms.horizon)
        regret.append(one)
        slack, capped = min(slack, least), capped + hit
        progress()
    awake = arms.horizon * made.candidates / arms.count
    bound = sleeping_bound(arms.count, made.candidates, batch, awake, made.eta, made.mix)
    return CandidateSimulation(
        arms=arms,
        candidates=made.candidates,
        batch=batch,
        eta=made.eta,
        mix=made.mix,
        awake=awake,
        regret=np.array(regret),
        bound=bound,
        holds=None if capped else _holds(np.array(regret), bound),
        min_slack=slack,
        capped_rounds=capped,
    )


def describe(row: dict[str, Any]) -> str:
    """One line for people."""
    verdict = {True: "holds", False: "VIOLATED", None: "open"}
    regret, bound, certificate = row["regret"], row["bound"], row["certificate"]
    interval = "" if regret["lo"] is None else f" [{regret['lo']:.1f}, {regret['hi']:.1f}]"
    vacuous = ", vacuous" if bound["vacuous"] else ""
    return (
        f"{row['arms']}/{row['curator']}  {row['candidates']} of {row['arms_count']} arms awake  "
        f"sleeping regret {regret['mean']:.1f}{interval} over {row['awake']:.0f} rounds ({row['seeds']} seeds)  "
        f"bound {bound['value']:.1f} {verdict[row['holds']]}{vacuous}  "
        f"certificate {verdict[certificate['holds']]} (min slack {certificate['min_slack']:.1e})"
    )


def _follow(curator: OsmdCandidates, actor: BanditActor, horizon: int) -> tuple[Array, float, int]:
    """(sleeping regret f64[K], smallest slack, rounds in which a cap bound) of one seed."""
    regret, slack, capped = np.zeros(actor.arms.count), inf, 0
    for _ in range(horizon):
        mean, before = actor.mean.copy(), curator.log_q.copy()
        result = loop.step(curator, actor, batch=curator.batch, signal=SIGNALS["mean_reward"])
        selection, after = result.selection, curator.log_q
        candidate = selection.candidate
        assert candidate is not None
        q = _restrict(before, candidate)
        p = (1 - curator.mix) * q + curator.mix / candidate.size
        regret[candidate] += mean[candidate] - p @ mean[candidate]
        capped += int(selection.design == "systematic" and (curator.batch * p > 1 + 1e-12).any())
        place = np.full(before.size, -1)
        place[candidate] = np.arange(candidate.size)
        arm = place[selection.problem]
        # What the design expected, from p itself: a curator that states other propensities must not certify itself.
        expected = curator.batch * p[arm]
        y = result.feedback.utility
        gap, scale = mirror_slack(q, arm, expected, y, _restrict(after, candidate), curator.eta, 0.0)
        kept = np.exp(after[candidate]).sum() - np.exp(before[candidate]).sum()
        outside = np.delete(after - before, candidate)
        slack = min(slack, float(gap / scale), -abs(float(kept)), -float(np.abs(outside).max(initial=0.0)))
    return regret, slack, capped


def _restrict(log_q: Array, candidate: Array) -> Array:
    weight = np.exp(log_q[candidate] - log_q[candidate].max())
    return weight / weight.sum()


def _holds(regret: Array, bound: float) -> bool | None:
    """Whether every arm's mean regret is below the bound, at ``CONFIDENCE`` for all arms together."""
    level = 1 - (1 - CONFIDENCE) / regret.shape[1]
    if all(upper_limit(column, level) <= bound for column in regret.T):
        return True
    return None if len(regret) < FEW_SEEDS and bool((regret.mean(axis=0) <= bound).all()) else False
