"""Whose gradient should a curator follow? Utilities of a group compared on one learner, over strata.

The published policy-improvement utility of a group is, to first order, <step just taken, g_x>: how well a problem
agrees with what was selected. Target alignment asks <v, g_x> instead, v a running estimate of the gradient of the mean
reward over the *bank*, made from the same batches by weighting every group with 1 / (N propensity). ``AlignedSignal``
needs the gradients of the groups, which a simulated learner has at hand. The twelve settings, the measured table and
what it says: docs/learner.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.base import Curator
from curbench.curators.sec import Sec
from curbench.curators.tabular import TabularCurator
from curbench.curators.uniform import Uniform
from curbench.loop import Budget
from curbench.mirror import project_on_floor_
from curbench.philox import spawn_seeds
from curbench.signals import SIGNALS, Signal
from curbench.sim.learner import LearnerActor, Recipe, make_learner
from curbench.sim.simulate_learner import follow
from curbench.types import Array, Bank, GroupStats, Reward, Rollouts, UpdateReport

SCENARIOS: dict[str, dict[str, Any]] = {
    "mixed": {"easiest": -1.0, "hardest": 3.0},
    "hard": {"easiest": 1.0, "hardest": 4.5},
    "noisy": {"easiest": -1.0, "hardest": 3.0, "noisy": (2, 5)},
    "impossible": {"easiest": -1.0, "hardest": 1.0, "impossible": (3, 6)},
}
TRANSFERS = (0.3, 0.0, -0.3)

ALIGNMENT: dict[str, Recipe] = {
    f"{scenario}{transfer:+.1f}": Recipe(
        f"{scenario} strata, transfer {transfer:+.1f}",
        problems=500,
        scatter=0.5,
        transfer=transfer,
        learning_rate=0.12,
        **changes,
    )
    for transfer in TRANSFERS
    for scenario, changes in SCENARIOS.items()
}
"""The twelve settings: 4,000 problems in eight strata, 32 skills."""


class GainCore(NamedTuple):
    p: Array
    eta: float
    floor: float  # of one arm


@nb.njit
def update_core(core, arm, expected, utility, step):
    """p <- p exp(eta u / expected), projected on p >= floor; the exponent is clipped at +-5 per slot."""
    for j in range(arm.size):
        core.p[arm[j]] *= np.exp(min(max(core.eta * utility[j] / expected[j], -5.0), 5.0))
    project_on_floor_(core.p, core.floor)


class GainMirror(TabularCurator):
    """Mirror ascent over strata on utilities of either sign and unit scale; no bound is claimed.

    eta    step size
    floor  share of the probability that is spread evenly
    """

    update_core = staticmethod(update_core)

    def __init__(self, bank: Bank, *, eta: float, floor: float = 0.1, **common: Any) -> None:
        super().__init__(bank, **common)
        k = self.arm_count
        self.core = GainCore(np.full(k, 1.0 / k), eta, floor / k)


class Normalised:
    """A signal divided by the running mean of its own mean absolute value.

    memory  step size of the running mean
    """

    def __init__(self, signal: Signal, memory: float = 0.1) -> None:
        self.signal, self.memory, self.scale = signal, memory, 0.0

    def __call__(self, rollouts: Rollouts, reward: Reward, stats: GroupStats, report: UpdateReport) -> Array:
        value = self.signal(rollouts, reward, stats, report)
        size = float(np.abs(value).mean())
        self.scale += (self.memory if self.scale else 1.0) * (size - self.scale)
        return value / self.scale if self.scale else value


class AlignedSignal:
    """<v, g_x> for every group, v the moving average of sum_b w_b g_b over the batches before this one.

    actor     gives the gradients g_b of its last update
    weighted  w_b = 1 / (N expected count of problem b): v estimates the mean gradient over the bank. Otherwise 1 / B:
              the mean gradient of what was selected
    memory    step size of the moving average
    """

    def __init__(self, actor: LearnerActor, *, weighted: bool = True, memory: float = 0.1) -> None:
        self.actor, self.weighted, self.memory = actor, weighted, memory
        self.target = np.zeros(actor.skill.size)

    def __call__(self, rollouts: Rollouts, reward: Reward, stats: GroupStats, report: UpdateReport) -> Array:
        selection, gradient = rollouts.selection, self.actor.gradient
        value = gradient @ self.target  # before this batch enters: its own noise must not align with itself
        batch = len(selection)
        expected = selection.propensity * (batch if selection.design == "iid" else 1)
        weight = 1.0 / (self.actor.visit.size * expected) if self.weighted else np.full(batch, 1.0 / batch)
        self.target += self.memory * (weight @ gradient - self.target)
        return value


Rule = Callable[[LearnerActor, dict[str, Any]], tuple[Curator, Signal]]


def _mirror(eta: float, signal: Callable[[LearnerActor], Signal]) -> Rule:
    def make(actor: LearnerActor, common: dict[str, Any]) -> tuple[Curator, Signal]:
        return GainMirror(eta=eta, **common), Normalised(signal(actor))

    return make


RULES: dict[str, Rule] = {
    "uniform": lambda actor, common: (Uniform(**common), SIGNALS["mean_abs_advantage"]),
    "sec": lambda actor, common: (Sec(temperature=0.2, **common), SIGNALS["mean_abs_advantage"]),
    "published": _mirror(1.0, lambda actor: SIGNALS["policy_improvement_standardised"]),
    "aligned": _mirror(3.0, AlignedSignal),
    "unweighted": _mirror(3.0, lambda actor: AlignedSignal(actor, weighted=False)),
}
"""Uniform; SEC; mirror ascent on the published utility; on target alignment; on alignment without the weights."""


def alignment_competence(
    setting: str, rule: str, *, seeds: int = 8, steps: int = 300, batch: int = 32, group: int = 8
) -> Array:
    """f64[seeds], final held-out competence of a rule on one of the twelve settings; seeds are paired across rules.

    >>> alignment_competence("mixed+0.3", "uniform", seeds=1, steps=2).shape
    (1,)
    """
    learner = make_learner(setting, ALIGNMENT[setting])
    bank, final = learner.bank(), []
    for seed in range(seeds):
        curator_seed, actor_seed = spawn_seeds(seed, 2)
        actor = LearnerActor(learner, actor_seed)
        common = {"bank": bank, "seed": curator_seed, "batch": batch, "horizon": steps, "group": group}
        curator, signal = RULES[rule](actor, common)
        final.append(follow(curator, actor, signal=signal, budget=Budget(steps=steps)).competence[-1])
    return np.array(final)
