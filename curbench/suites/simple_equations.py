"""The suite ``simple_equations``: solve a linear equation in one unknown; made with reasoning-gym (extra ``tasks``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from curbench.suites.item import Item, Task
from curbench.suites.verify import same_number


class Tier(NamedTuple):
    """How large the equations of a stratum are: terms on the left, and the largest constant."""

    terms: int
    value: int


TIER = (Tier(2, 9), Tier(3, 9), Tier(2, 99), Tier(3, 99), Tier(4, 99))


class SimpleEquations(Task):
    """The task. A given is {"equation", "variable"}."""

    name = "simple_equations"
    stratum_name = tuple(f"{tier.terms} terms to {tier.value}" for tier in TIER)

    def draw(self, stratum: int, generator: np.random.Generator) -> Item | None:
        """An equation of the library; None where its unknown cancels out."""
        import reasoning_gym

        tier = TIER[stratum]
        one = reasoning_gym.create_dataset(
            "simple_equations",
            size=1,
            seed=int(generator.integers(1 << 62)),
            min_terms=tier.terms,
            max_terms=tier.terms,
            max_value=tier.value,
        )[0]
        given = {"equation": one["metadata"]["equation"], "variable": one["metadata"]["variable"]}
        left, _, right = given["equation"].partition(" = ")
        return Item(given, one["answer"], stratum) if given["variable"] in left and right else None

    def prompt(self, item: Item) -> str:
        """The equation without spaces, its unknown always called x.

        >>> SimpleEquations().prompt(Item({"equation": "20*h + 65 = 1485", "variable": "h"}, "71", 0))
        'solve 20*x+65=1485:'
        """
        equation = item.given["equation"].replace(" ", "").replace(item.given["variable"], "x")
        return f"solve {equation}:"

    def question(self, item: Item) -> str:
        """The equation in words."""
        return f"Solve for {item.given['variable']}: {item.given['equation']}\nAnswer with a number."

    def success(self, item: Item, answer: str) -> bool:
        """Whether the answer is the number."""
        return same_number(answer, item.answer)

    def words(self, item: Item) -> Sequence[str]:
        """Numbers in the range of the answer."""
        return [str(n) for n in range(1, TIER[item.stratum].value + 1)]

    def difficulty(self, item: Item) -> float:
        """The stratum, from 0 to 1."""
        return item.stratum / (len(TIER) - 1)
