"""Whose gradient should a curator follow? Utilities of a group compared on one learner, over strata.

The published policy-improvement utility of a group is, to first order, <step just taken, g_x>: how well a problem
agrees with what was selected. Target alignment asks <v, g_x> instead, v a running estimate of the gradient of the mean
reward over the *bank*, made from the same batches by weighting every group with 1 / (N propensity): the curator
``target_aligned``. The twelve settings, the measured table and what it says: docs/learner.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from curbench.curators import curator_class
from curbench.loop import Budget
from curbench.philox import spawn_seeds
from curbench.signals import SIGNALS
from curbench.sim.learner import LearnerActor, Recipe, make_learner
from curbench.sim.simulate_learner import follow
from curbench.types import Array

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


RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform": ("uniform", {}),
    "sec": ("sec", {"temperature": 0.2}),
    "published": ("target_aligned", {"eta": 1.0, "signal": "policy_improvement_standardised"}),
    "aligned": ("target_aligned", {"eta": 3.0, "weights": "exact"}),
    "unweighted": ("target_aligned", {"eta": 3.0, "weights": "none"}),
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
    name, hyper = RULES[rule]
    cls, hyper = curator_class(name), dict(hyper)
    signal = SIGNALS[hyper.pop("signal", cls.signal)]
    for seed in range(seeds):
        curator_seed, actor_seed = spawn_seeds(seed, 2)
        actor = LearnerActor(learner, actor_seed)
        curator = cls(bank, seed=curator_seed, batch=batch, horizon=steps, group=group, **hyper)
        final.append(follow(curator, actor, signal=signal, budget=Budget(steps=steps)).competence[-1])
    return np.array(final)
