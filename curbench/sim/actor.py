"""Bandit arms behind the Actor protocol: a rollout is one draw of an arm, and its reward is the utility."""

from __future__ import annotations

from typing import Any

import numpy as np

from curbench.compiled import hot
from curbench.sim.arms import Arms, Noise
from curbench.sim.reward import KINDS, reward_
from curbench.types import PLAIN, ActorView, Array, Evaluation, Guidance, Reward, Rollouts, Selection, UpdateReport


@hot
def advance_rested_(now, stage, visit, start, mean, arm):
    """Moves mean ``now[arm]`` to what holds after ``visit[arm]`` pulls; row s of ``mean`` from start[s] pulls on."""
    while stage[arm] + 1 < start.size and start[stage[arm] + 1] <= visit[arm]:
        stage[arm] += 1
    now[arm] = mean[stage[arm], arm]


def noise_terms(noise: Noise) -> tuple[int, float, bool]:
    """(kind, scale, shared) of a noise as the compiled functions take it."""
    return KINDS.index(noise.kind), float(noise.scale), bool(noise.shared)


_COMPUTED = np.empty(0)  # no table of luck: it would be one more thing to restore


class BanditActor:
    """Synthetic arms as an actor; nothing is learnt, the means follow the test-bed's clock (one update, one round)."""

    def __init__(self, arms: Arms, seed: int) -> None:
        self.arms = arms
        self.progress = 0.0
        self.seed = np.uint64(seed)
        self.round = 0
        self.visit = np.zeros(arms.count, np.int64)
        self.noise = noise_terms(arms.noise)
        self._stage = np.zeros(arms.count, np.int64)
        self._now = arms.mean[0].copy()

    @property
    def mean(self) -> Array:
        """f64[K], the latent means of this round; only the simulator may look."""
        if self.arms.rested:
            return self._now
        segment = int(np.searchsorted(self.arms.start, self.round, side="right")) - 1
        return self.arms.mean[segment]

    def rollout(self, selection: Selection) -> Rollouts:
        offset = np.concatenate([[0], np.cumsum(selection.rollouts)])
        count = int(offset[-1])
        return Rollouts(selection, offset, np.ones(count, np.int32), np.full(count, self.round))

    def reward(self, rollouts: Rollouts) -> Reward:
        problem = np.repeat(rollouts.selection.problem, rollouts.selection.rollouts)
        y = np.empty(problem.size)
        reward_(y, self.mean, problem, self.visit, _COMPUTED, self.seed, self.round, *self.noise)
        return Reward(y, y > 0)

    def update(self, rollouts: Rollouts, advantage: Array, admitted: Array, guidance: Guidance = PLAIN) -> UpdateReport:
        self.round += 1
        self._advance(rollouts.selection.problem)
        return UpdateReport(policy_step=self.round)

    def _advance(self, arm: Array) -> None:
        """Brings rested means up to date with the pulls; they stay put within a round."""
        if self.arms.rested:
            for i in arm:
                advance_rested_(self._now, self._stage, self.visit, self.arms.start, self.arms.mean, i)

    @property
    def view(self) -> ActorView:
        """Arms have no hidden states: whoever asks is refused."""
        return ActorView(_no_states, _no_states)

    def evaluate(self) -> Evaluation:
        one = np.ones(self.arms.count, np.int64)
        return Evaluation(success=self.mean, n=one, tokens=0, stratum=np.arange(self.arms.count))

    def state(self) -> dict[str, Any]:
        return {"round": self.round, "visit": self.visit.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.round = int(state["round"])
        self.visit[:] = state["visit"]
        self._advance(np.arange(self.arms.count))


def _no_states(problem: Array, depth: float = 1.0) -> Array:
    raise ValueError("bandit arms have no hidden states; run this curator with: curbench learn, or curbench train")
