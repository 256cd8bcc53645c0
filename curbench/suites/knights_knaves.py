"""The suite ``knights_knaves``: who tells the truth, given what each says of the others; 3 to 14 people.

Statements are those of reasoning-gym and of the original generator (Xie et al. 2024, 2410.23123) with depth and width
2: "X is a knight", "X is a knave", and two of these joined by and, or, implies, or if and only if. The twelve sizes are
the distributions of DUMP (Wang et al. 2025, 2504.09710). The drawing is our own: the library tests 2^n assignments in
Python for every attempt, which at 14 people takes too long.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from curbench.suites.item import Item, Task
from curbench.suites.verify import same_letters

SIZE = tuple(range(3, 15))
LETTER = "ABCDEFGHIJKLMN"
"""Upper case says of a person that it is a knight, lower case that it is a knave: in statements and in answers."""

NAME = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ivy", "Joe", "Kim", "Lea", "Max", "Noa")
JOINED = ("and", "or", "implies", "iff")
IN_WORDS = {"and": "{} and {}", "or": "{} or {}", "implies": "if {} then {}", "iff": "{} if and only if {}"}

Claim = tuple[int, bool]
Statement = tuple[str, Claim, Claim] | tuple[str, Claim]
"""("is", literal) or (one of JOINED, literal, literal); a literal is (person, whether it is said to be a knight)."""


class KnightsKnaves(Task):
    """The task. A given is {"statement": [...]}, one statement per person.

    mention  whom a person may speak of. "near": the two before it, and of the first two both. A puzzle is then solved
             in one reading, sizes differ in how many steps that takes, and a model of under a million parameters can
             learn it. "any": everybody, as in the library and in DUMP
    """

    name = "knights_knaves"
    stratum_name = tuple(f"{n} people" for n in SIZE)

    def __init__(self, mention: Literal["near", "any"] = "near") -> None:
        self._near = mention == "near"

    def draw(self, stratum: int, generator: np.random.Generator) -> Item | None:
        """A puzzle with exactly one solution, or None when the statements drawn have none or several."""
        count = SIZE[stratum]
        if self._near:
            statement = [random_statement(k, (0, 1), generator) for k in range(2)]
            solution = solve(statement)
            if len(solution) == 1:
                statement += [random_statement(k, (k - 1, k - 2), generator) for k in range(2, count)]
                for one in statement[2:]:
                    solution[0].append(holds(one, solution[0]))
        else:
            statement = [random_statement(k, range(count), generator) for k in range(count)]
            solution = solve(statement)
        if len(solution) != 1:
            return None
        given = {"statement": json.loads(json.dumps(statement))}
        return Item(given, " ".join(_case(who, truthful) for who, truthful in enumerate(solution[0])), stratum)

    def prompt(self, item: Item) -> str:
        """What each says, in the order of the people.

        With "near", one word each, in which x and y are the two before the speaker (the first two of all for these), in
        upper case as a knight; "-" fills up to 14, so that all prompts are as long, and small models can learn them.

        >>> one = Item({"statement": [["or", [0, False], [1, True]], ["is", [0, True]]]}, "A B", 0)
        >>> KnightsKnaves().prompt(one), KnightsKnaves("any").prompt(one)
        ('kk xorY X - - - - - - - - - - - -:', 'kk A says a or B B says A:')
        """
        statement = item.given["statement"]
        if self._near:
            said = ["".join(_short(one, "XY", max(0, k - 2))) for k, one in enumerate(statement)]
            said += ["-"] * (SIZE[-1] - len(said))
        else:
            said = [" ".join([LETTER[k], "says", *_short(one, LETTER, 0)]) for k, one in enumerate(statement)]
        return f"kk {' '.join(said)}:"

    def question(self, item: Item) -> str:
        """The puzzle in English."""
        statement = item.given["statement"]
        said = " ".join(f'{NAME[k]} says: "{_words(one)}."' for k, one in enumerate(statement))
        return (
            "On an island everyone is either a knight, who always tells the truth, or a knave, who always lies. "
            f"You meet {', '.join(NAME[: len(statement)])}. {said} Who is what? "
            f"Answer with their initials in that order, upper case for a knight and lower case for a knave, such as "
            f"{' '.join(_case(k, k % 2 == 0) for k in range(len(statement)))}."
        )

    def success(self, item: Item, answer: str) -> bool:
        """Whether the answer is the letters of the solution; spaces do not count.

        >>> KnightsKnaves().success(Item({}, "A b C", 0), "AbC")
        True
        """
        return same_letters(answer, item.answer)

    def spoil(self, item: Item, generator: np.random.Generator) -> str:
        """One person taken for the other kind."""
        word = item.answer.split()
        at = int(generator.integers(len(word)))
        return " ".join([*word[:at], word[at].swapcase(), *word[at + 1 :]])

    def difficulty(self, item: Item) -> float:
        """The number of people, from 0 to 1."""
        return item.stratum / (len(SIZE) - 1)


def _case(who: int, knight: int | bool, letter: str = LETTER) -> str:
    return letter[who] if knight else letter[who].lower()


def _short(statement: Any, letter: str, first: int) -> list[str]:
    kind, *claim = statement
    one, *other = [_case(who - first, knight, letter) for who, knight in claim]
    return [one, kind, *other] if other else [one]


def _words(statement: Any) -> str:
    kind, *literal = statement
    said = [f"{NAME[who]} is a {'knight' if knight else 'knave'}" for who, knight in literal]
    return IN_WORDS[kind].format(*said) if len(said) == 2 else said[0]


def random_statement(speaker: int, people: Sequence[int], generator: np.random.Generator) -> Statement:
    """What ``speaker`` says of ``people``: a third one literal, else two that differ; never "I am a knave"."""
    count = len(people)
    dice, *draw = generator.integers(0, [6, *([count, 2] * 2)]).tolist()
    one, other = (people[draw[0]], bool(draw[1])), (people[draw[2]], bool(draw[3]))
    joined = dice >= 2
    if one == (speaker, False) or (joined and other in ((speaker, False), one)):
        return random_statement(speaker, people, generator)
    return (JOINED[dice - 2], one, other) if joined else ("is", one)


def holds(statement: Statement, truthful: Any) -> Any:
    """Whether a statement is true; ``truthful[k]`` may be a bool or an array of them, one per assignment."""
    kind, *literal = statement
    value = [truthful[who] if knight else ~truthful[who] & 1 for who, knight in literal]  # type: ignore[misc]
    if kind == "is":
        return value[0]
    a, b = value
    return {"and": a & b, "or": a | b, "implies": (a ^ 1) | b, "iff": (a ^ b) ^ 1}[kind]


def solve(statement: list[Statement]) -> list[list[int]]:
    """All assignments in which exactly the knights' statements are true: lists of 0 and 1, by person.

    >>> solve([("or", (0, False), (1, True)), ("is", (0, True))])
    [[1, 1]]
    """
    count = len(statement)
    case = np.arange(1 << count)
    truthful = [((case >> k) & 1).astype(np.int8) for k in range(count)]
    right = np.ones(case.size, bool)
    for k, one in enumerate(statement):
        right &= holds(one, truthful) == truthful[k]
        if not right.any():
            break
    return [[int(t[at]) for t in truthful] for at in np.flatnonzero(right)]
