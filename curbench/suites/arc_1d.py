"""The suite ``arc_1d``: find the rule from examples of rows of cells, and apply it to another row.

The rules are those of reasoning-gym's ``arc_1d`` (extra ``tasks``; after Xu et al. 2023, 2305.18354). The library draws
again without end where a rule does not fit a row of that size; here an attempt that fails gives no problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

import numpy as np

from curbench.suites.item import Item, Task
from curbench.suites.verify import same_letters

FAMILY: dict[str, tuple[str, ...]] = {
    "recolour": ("change_to_five", "recolor", "color_left", "paint_biggest", "mark_size"),
    "gravity": ("gravity",),
    "fill": ("two_points", "fill_", "repeat_pattern", "block_scale"),
    "denoise": ("block_and_noise",),
    "touch": ("block_touch",),
    "move": ("move_", "move_block"),
    "wrap": ("move_",),
    "copy": ("copy_block", "duplicate", "reflect"),
    "sort": ("sort_",),
}
"""Strata, and how the names of their rules begin; "wrap" takes the moves that wrap around, and "move" the others."""

ATTEMPTS = 50


class Arc1D(Task):
    """The task. A given is {"rule", "example": [[row, row], ...], "input": row}; a row is a list of digits.

    min_size, max_size  cells of a row; the library's are 10 and 30
    examples            solved pairs that are shown; the library's are 3
    """

    name = "arc_1d"
    stratum_name = tuple(FAMILY)

    def __init__(self, min_size: int = 8, max_size: int = 10, examples: int = 2) -> None:
        if not 8 <= min_size <= max_size or examples < 1:
            raise ValueError(
                f"rows have min_size to max_size cells, at least 8, and examples is at least 1; "
                f"got min_size={min_size}, max_size={max_size}, examples={examples}"
            )
        self._size = (min_size, max_size)
        self._examples = examples

    def draw(self, stratum: int, generator: np.random.Generator) -> Item | None:
        """A problem of a random rule of the family; None where no row of that size fits the rule."""
        from reasoning_gym.arc.arc_1d_tasks import ARC_1D_TASKS

        rules = rules_of(self.stratum_name[stratum])
        rule = rules[int(generator.integers(len(rules)))]
        function, option = ARC_1D_TASKS[rule]
        random, size = (
            Random(int(generator.integers(1 << 62))),
            int(generator.integers(self._size[0], self._size[1] + 1)),
        )
        pair: list[list[list[int]]] = []
        for _ in range(ATTEMPTS):
            drawn = function(random, size, **option)
            if drawn is not None:
                pair.append([list(drawn["input"]), list(drawn["output"])])
                if len(pair) == self._examples + 1:
                    *shown, (question, answer) = pair
                    given: dict[str, Any] = {"rule": rule, "example": shown, "input": question}
                    return Item(given, _row(answer), stratum)
        return None

    def prompt(self, item: Item) -> str:
        """Examples and the row in question.

        >>> Arc1D().prompt(Item({"example": [[[0, 2], [2, 0]]], "input": [0, 3]}, "3 0", 0))
        '0 2>2 0/0 3>'
        """
        pair = "".join(f"{_row(one)}>{_row(other)}/" for one, other in item.given["example"])
        return f"{pair}{_row(item.given['input'])}>"

    def question(self, item: Item) -> str:
        """The problem in words."""
        pair = "".join(f"Input:  {_row(one)}\nOutput: {_row(other)}\n\n" for one, other in item.given["example"])
        return (
            "Find the common rule that maps each input row to its output row.\n\n"
            f"{pair}Apply it to this row, and answer with the output row as digits with spaces between them:\n"
            f"{_row(item.given['input'])}"
        )

    def success(self, item: Item, answer: str) -> bool:
        """Whether the answer is the digits of the row; spaces do not count.

        >>> Arc1D().success(Item({}, "3 0", 0), " 30 "), Arc1D().success(Item({}, "3 0", 0), "3 0 0")
        (True, False)
        """
        return same_letters(answer, item.answer)

    def words(self, item: Item) -> Sequence[str]:
        """The digits of the problem, where there are two; else all."""
        seen = sorted({*item.answer.split(), *map(str, item.given["input"])})
        return seen if len(seen) > 1 else [str(digit) for digit in range(10)]

    def difficulty(self, item: Item) -> float:
        """A guess: the family, in the order of ``FAMILY``, and within it the length of the row."""
        return (item.stratum + min(len(item.given["input"]) / 100, 0.99)) / len(FAMILY)


def _row(cell: list[int]) -> str:
    return " ".join(map(str, cell))


@cache
def rules_of(family: str) -> tuple[str, ...]:
    """Names of the library's rules that belong to a family."""
    from reasoning_gym.arc.arc_1d_tasks import ARC_1D_TASKS

    fits = [name for name in ARC_1D_TASKS if name.startswith(FAMILY[family])]
    if family in ("move", "wrap"):
        fits = [name for name in fits if ("wrapped" in name) == (family == "wrap")]
    return tuple(fits)
