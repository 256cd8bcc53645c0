"""How projects turn the rewards of a group into advantages, by name.

They agree on "minus the mean, over the standard deviation" and differ in everything that decides small groups: where
epsilon goes, what a group of one gets, what a reward that could not be scored does. Equal rewards always give exactly
0 here; peers leave there what rounding makes of them.
"""

import math
from typing import Any, NamedTuple

from curbench.kernels.contract import EPS_MODES, ESTIMATORS, choice, require


class Rule(NamedTuple):
    """What an estimator leaves open; ``kernels.group_advantage`` explains each."""

    ddof: int = 1
    eps: float = 1e-6
    eps_mode: str = "add"
    singleton: str = "zero"
    nan: str = "error"


NOTHING_CHOSEN = (None,) * len(Rule._fields)

RULE = Rule()
VERL = RULE._replace(singleton="raw")
TRL = RULE._replace(eps=1e-4, nan="skip")
OPENRLHF = RULE._replace(eps=1e-9, singleton="error")
NEMO_RL = RULE._replace(eps_mode="unless_zero")
PRINTED = RULE._replace(eps=0.0)

CONVENTIONS: dict[str, dict[str, Rule]] = {
    "curbench": {name: RULE for name in ESTIMATORS} | {"rloo_std": RULE._replace(eps_mode="unless_zero")},
    "verl": {"grpo": VERL, "dr_grpo": VERL, "rloo": VERL},
    "verl_vectorized": {"grpo": VERL._replace(eps_mode="floor_variance"), "dr_grpo": VERL, "rloo": RULE},
    "trl": {"grpo": TRL, "dr_grpo": TRL, "grpo_batch": TRL},
    "openrlhf": {"grpo": OPENRLHF, "dr_grpo": OPENRLHF, "rloo": OPENRLHF},
    "nemo_rl": {"grpo": NEMO_RL, "dr_grpo": NEMO_RL, "rloo": NEMO_RL, "rloo_std": NEMO_RL},
    "gspo": {"grpo": PRINTED},
    "dapo": {"grpo": PRINTED},
}
"""For each convention, the estimators that it has. Read from verl 1dda039 (core_algos.py, groupwise.py), TRL f2cd577
(grpo_trainer.py), OpenRLHF 3c3be62 (experience_maker.py) and NeMo-RL 7ea279a (utils.py); "gspo" (Zheng et al. 2025,
2507.18071) and "dapo" (Yu et al. 2025, 2503.14476) are the formula as printed, without epsilon."""


def rule_of(convention: str, estimator: str, *chosen: Any) -> Rule:
    """The rule of a convention, with ``chosen`` in place of its fields, where that is not None. Raises ValueError.

    >>> rule_of("trl", "grpo", 0, None, None, None, None)
    Rule(ddof=0, eps=0.0001, eps_mode='add', singleton='zero', nan='skip')
    """
    rule = CONVENTIONS.get(convention, {}).get(estimator)
    if rule is None:
        choice("convention", convention, tuple(CONVENTIONS))
        choice("estimator", estimator, ESTIMATORS)
        theirs = ", ".join(CONVENTIONS[convention])
        raise ValueError(f"the convention {convention!r} has the estimators {theirs}; got {estimator!r}")
    if chosen == NOTHING_CHOSEN:
        return rule
    rule = Rule._make(own if mine is None else mine for own, mine in zip(rule, chosen, strict=True))
    require(rule.ddof in (0, 1), f"ddof must be 0 or 1; got {rule.ddof!r}")
    require(0.0 <= rule.eps < math.inf, f"eps must be finite and not negative; got {rule.eps!r}")
    choice("eps_mode", rule.eps_mode, EPS_MODES)
    choice("singleton", rule.singleton, ("zero", "raw", "error"))
    choice("nan", rule.nan, ("error", "skip"))
    return rule
