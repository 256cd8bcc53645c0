"""The suite ``gsm_symbolic``: word problems from templates (Mirzadeh et al. 2024, 2410.05229), by reasoning-gym.

The library's difficulty is always 1, so strata count the lines of the reference solution. Train and test share
templates and no problem.
"""

from __future__ import annotations

import numpy as np

from curbench.suites.item import Item, Task
from curbench.suites.verify import number_value, same_number

LINES = (2, 3, 4, 5)
ATTEMPTS = 30
ENDING = " Give the result as your final answer. Do not include units."


class GsmSymbolic(Task):
    """The task. A given is {"question"}."""

    name = "gsm_symbolic"
    stratum_name = (*(f"{n} lines" for n in LINES[:-1]), f"{LINES[-1]} lines or more")

    def draw(self, stratum: int, generator: np.random.Generator) -> Item | None:
        """A problem of the library whose reference solution has that many lines; None where none was among 30."""
        import reasoning_gym

        dataset = reasoning_gym.create_dataset("gsm_symbolic", size=ATTEMPTS, seed=int(generator.integers(1 << 62)))
        for index in range(ATTEMPTS):
            one = dataset[index]
            lines = one["metadata"]["answer_cot"].strip().count("\n")
            if min(lines, LINES[-1]) == LINES[stratum] and number_value(one["answer"]) is not None:
                return Item({"question": one["question"].removesuffix(ENDING)}, one["answer"], stratum)
        return None

    def prompt(self, item: Item) -> str:
        """The question as it is: there is no shorter form of a story."""
        return item.given["question"]

    def question(self, item: Item) -> str:
        """The question, and the form of its answer."""
        return f"{item.given['question']}\nAnswer with a number, without its unit."

    def success(self, item: Item, answer: str) -> bool:
        """Whether the answer is the number."""
        return same_number(answer, item.answer)

    def difficulty(self, item: Item) -> float:
        """The stratum, from 0 to 1."""
        return item.stratum / (len(LINES) - 1)
