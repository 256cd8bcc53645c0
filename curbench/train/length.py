"""Length budgets: a token budget that tightens over the run, and a reward for answers that keep to it.

The reward that trains becomes ``correct * reward + length * length_reward``; success stays exact correctness, so pass
rates, and signals made of them, mean what they did. Sampling is not cut at the budget.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curbench.types import Array, Reward


def triangle(length: Array, budget: float) -> Array:
    """l / L up to the budget L, 1 - (l - L) / L up to 2 L, 0 beyond; ``length`` i[R].

    A short right answer earns less than one that fills the budget.
    Source  Hammoud et al. 2025 (2508.08940) eq. 4, with R_max = 1 (the paper's value UNVERIFIED).

    >>> triangle(np.array([5, 10, 15, 25]), 10)
    array([0.5, 1. , 0.5, 0. ])
    """
    return np.maximum(0.0, 1.0 - np.abs(np.asarray(length) - budget) / budget)


def band(length: Array, budget: float) -> Array:
    """1 up to the budget L, 1 - (l - L) / L up to 2 L, 0 beyond; ``length`` i[R].

    Source  Hammoud et al. 2025 (2508.08940), the flat variant of its ablation.

    >>> band(np.array([5, 10, 15, 25]), 10)
    array([1. , 1. , 0.5, 0. ])
    """
    return np.clip(2.0 - np.asarray(length) / budget, 0.0, 1.0)


def overlong_penalty(length: Array, limit: int, share: float) -> Array:
    """f64[R] in [-1, 0]: 0 up to limit - c, then falling linearly to -1 at the limit, c = max(1, round(share limit)).

    length   i[R], tokens of each completion, at most ``limit``
    Source   soft overlong punishment, Yu et al. 2025 (2503.14476) eq. 13: limit 20,480, c = 4,096.

    >>> overlong_penalty(np.array([8, 16, 18, 20]), 20, 0.2)
    array([ 0. ,  0. , -0.5, -1. ])
    """
    cache = max(1, round(share * limit))
    return np.clip((limit - cache - np.asarray(length)) / cache, -1.0, 0.0)


REWARDS = {"triangle": triangle, "band": band}


class LengthBudget(BaseModel):
    """A token budget over the run, and how keeping to it is rewarded.

    start, end   tokens of the budget at the start and the end of the run
    decay        "exponential" start (end / start)^x or "linear" start + (end - start) x, at least 1
    drops        the budget falls this many times at equal distances, x = min(1, floor(z (drops + 1)) / drops); with 0
                 it falls continuously, x = z
    reward       "triangle" or "band"
    correct      weight of the suite's reward; length: of the length reward. The paper's third term, for tags around
                 the reasoning, has nothing to look at in our suites
    instruction  put before every prompt, with the budget for ``{budget}``, in training and in evaluation; empty for
                 models that cannot read it, such as the small ones that ship
    Source       Hammoud et al. 2025 (2508.08940) section 3: 256 to 87 tokens in 3 drops, weights 0.6 and 0.3 or the
                 reverse. Reinforcement mid-training (2509.24375): 800 to 160 tokens, exponential, without drops.

    >>> budget = LengthBudget(start=64, end=16, drops=2)
    >>> [budget.tokens(z) for z in (0.0, 0.4, 0.7, 1.0)]
    [64.0, 32.0, 16.0, 16.0]
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int = Field(ge=1)
    end: int = Field(ge=1)
    decay: Literal["exponential", "linear"] = "exponential"
    drops: int = Field(default=3, ge=0)
    reward: Literal["triangle", "band"] = "triangle"
    correct: float = Field(default=0.6, ge=0)
    length: float = Field(default=0.3, ge=0)
    instruction: str = ""

    @model_validator(mode="after")
    def _instruction_has_a_place(self) -> LengthBudget:
        if self.instruction and "{budget}" not in self.instruction:
            raise ValueError(f"the instruction must say where the budget goes, as {{budget}}; got {self.instruction!r}")
        return self

    def tokens(self, z: float) -> float:
        """The budget when the share z in [0, 1] of the run's own budget is used."""
        x = min(1.0, int(z * (self.drops + 1)) / self.drops) if self.drops else z
        if self.decay == "linear":
            return float(self.start + (self.end - self.start) * x)
        return float(self.start * (self.end / self.start) ** x)

    def shape(self, reward: Reward, length: Array, z: float) -> Reward:
        """The reward that trains, with success as it was. length: i[R]."""
        kept = REWARDS[self.reward](length, self.tokens(z))
        return Reward(self.correct * reward.reward + self.length * kept, reward.success)

    def instruct(self, prompt: str, z: float) -> str:
        """The prompt with the budget stated, rounded to whole tokens; unchanged without an instruction."""
        return self.instruction.replace("{budget}", str(round(self.tokens(z)))) + prompt
