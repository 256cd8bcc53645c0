"""Bandit arms behind the Actor protocol: a rollout is one draw of an arm, and its reward is the utility."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from curbench.philox import REWARD, uniform
from curbench.sim.arms import Arms
from curbench.types import Array, Evaluation, Reward, Rollouts, Selection, UpdateReport


@nb.njit
def bernoulli_reward_(y, mean, problem, visit, seed):
    """Fills y f64[m] with 0 or 1: slot j succeeds if the uniform of (arm, its n-th visit) is below the arm's mean.

    Rewards hang on (seed, arm, visit), so two curators with the same seed see the same luck (common random numbers).
    ``visit`` i64[K] counts the visits and is advanced.
    """
    for j in range(problem.size):
        arm = problem[j]
        y[j] = 1.0 if uniform(seed, REWARD, arm, visit[arm]) < mean[arm] else 0.0
        visit[arm] += 1


class BanditActor:
    """Synthetic arms as an actor; nothing is learnt, the means follow the test-bed's clock (one update, one round)."""

    def __init__(self, arms: Arms, seed: int) -> None:
        self.arms = arms
        self.seed = np.uint64(seed)
        self.round = 0
        self.visit = np.zeros(arms.count, np.int64)

    @property
    def mean(self) -> Array:
        """f64[K], the latent means of this round; only the simulator may look."""
        segment = int(np.searchsorted(self.arms.start, self.round, side="right")) - 1
        return self.arms.mean[segment]

    def rollout(self, selection: Selection) -> Rollouts:
        offset = np.concatenate([[0], np.cumsum(selection.rollouts)])
        count = int(offset[-1])
        return Rollouts(selection, offset, np.ones(count, np.int32), np.full(count, self.round))

    def reward(self, rollouts: Rollouts) -> Reward:
        problem = np.repeat(rollouts.selection.problem, rollouts.selection.rollouts)
        y = np.empty(problem.size)
        bernoulli_reward_(y, self.mean, problem, self.visit, self.seed)
        return Reward(y, y > 0)

    def update(
        self, rollouts: Rollouts, advantage: Array, admitted: Array, target_weight: Array | None
    ) -> UpdateReport:
        self.round += 1
        return UpdateReport(policy_step=self.round)

    def evaluate(self) -> Evaluation:
        one = np.ones(self.arms.count, np.int64)
        return Evaluation(success=self.mean, n=one, tokens=0, stratum=np.arange(self.arms.count))

    def state(self) -> dict[str, Any]:
        return {"round": self.round, "visit": self.visit.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.round = int(state["round"])
        self.visit[:] = state["visit"]
