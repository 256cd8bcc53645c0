"""The suite ``zebra``: who lives in which house, from clues; made with the puzzle generator of reasoning-gym.

The library asks for the first house only, which a guess answers one time in two to four; here all houses are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from curbench.suites.item import Item, Task
from curbench.suites.verify import same_letters

SIZE = ((2, 3), (3, 2), (3, 3), (4, 2), (3, 4), (4, 3), (4, 4))
"""Houses and kinds of things known about who lives there, the names included, from easy to hard."""

SIGN = {"found_at": "@", "same_house": "=", "consecutive": ">", "beside": "~"}
LETTER = "abcdefghijklmnop"


class Zebra(Task):
    """The task. A given is {"houses", "kind": [[word, ...], ...], "clue": [[sign, place, place], ...], "text"}.

    A place is the number of a word, counted over all kinds; the last number of a clue with "@" is a house from 1. The
    words of the first kind are the names.
    """

    name = "zebra"
    stratum_name = tuple(f"{houses}x{kinds}" for houses, kinds in SIZE)

    def draw(self, stratum: int, generator: np.random.Generator) -> Item | None:
        """A puzzle of the library, with exactly one solution."""
        from reasoning_gym.logic.contrib.logic_puzzle.generate import generate_puzzle

        houses, kinds = SIZE[stratum]
        _, puzzle = generate_puzzle(Random(int(generator.integers(1 << 62))), houses, kinds)
        literal = list(puzzle.solution)
        clue = []
        for one in sorted(puzzle.clues):
            name = type(one).__name__
            other = one.house if name == "found_at" else literal.index(one.value2 if name != "found_at" else None)
            clue.append([SIGN[name], literal.index(one.value if name == "found_at" else one.value1), other])
        given: dict[str, Any] = {
            "houses": houses,
            "kind": [[one.name for one in literal[k * houses : (k + 1) * houses]] for k in range(kinds)],
            "clue": clue,
            "text": str(puzzle).strip(),
        }
        at = [puzzle.solution[one] for one in literal[:houses]]
        return Item(given, " ".join(LETTER[at.index(house)] for house in range(1, houses + 1)), stratum)

    def prompt(self, item: Item) -> str:
        """Houses and kinds, then every clue: a letter, a sign, and a letter or a house; names are the first letters.

        "=" in the same house, ">" directly left of, "~" next to, "@" in the house of that number.

        >>> Zebra().prompt(Item({"houses": 2, "kind": [["al", "bo"], ["cat", "dog"]], "clue": [["@", 2, 1]]}, "a b", 0))
        'zebra 2 2 c@1:'
        """
        clue = [
            f"{LETTER[one]}{sign}{other if sign == '@' else LETTER[other]}" for sign, one, other in item.given["clue"]
        ]
        return f"zebra {item.given['houses']} {len(item.given['kind'])} {' '.join(clue)}:"

    def question(self, item: Item) -> str:
        """The puzzle in English."""
        name = item.given["kind"][0]
        letters = ", ".join(f"{LETTER[k]} for {one}" for k, one in enumerate(name))
        return (
            f"{item.given['text']}\n\nWho lives in the houses, from house 1 to house {len(name)}? "
            f"Answer with one letter per house, in that order and with spaces between them: {letters}."
        )

    def success(self, item: Item, answer: str) -> bool:
        """Whether the answer is the letters of the names, by house; spaces do not count."""
        return same_letters(answer, item.answer)

    def example(self, train: Sequence[Item], generator: np.random.Generator) -> Item | None:
        """A training puzzle with other letters and its clues in another order: large puzzles take too long to draw."""
        one = train[int(generator.integers(len(train)))]
        houses, kinds = one.given["houses"], len(one.given["kind"])
        order = [0, *(1 + generator.permutation(kinds - 1))]
        inside = [generator.permutation(houses) for _ in range(kinds)]
        new = {k * houses + j: int(order[k] * houses + inside[k][j]) for k in range(kinds) for j in range(houses)}
        clue = [[s, new[a], b if s == "@" else new[b]] for s, a, b in one.given["clue"]]
        clue = [clue[i] for i in generator.permutation(len(clue))]
        answer = " ".join(LETTER[new[LETTER.index(word)]] for word in one.answer.split())
        return Item({**one.given, "clue": clue}, answer, one.stratum)

    def words(self, item: Item) -> Sequence[str]:
        """The letters of the names."""
        return LETTER[: item.given["houses"]]

    def difficulty(self, item: Item) -> float:
        """The stratum, from 0 to 1."""
        return item.stratum / (len(SIZE) - 1)
