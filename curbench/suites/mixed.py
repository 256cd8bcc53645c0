"""The suite ``mixed``: the problems of several suites in one bank, each with its strata."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curbench import suites
from curbench.suites import Demonstration, Progress, Suite
from curbench.suites.item import text_bank

MEMBERS = "countdown,arc_1d,knights_knaves,simple_equations"


class Mixed:
    """Several suites, one after the other, as a ``curbench.suites.Suite``."""

    def __init__(self, name: str, member: Sequence[Suite]) -> None:
        self.name = name
        self._member = tuple(member)
        self._begin = np.cumsum([0, *(len(one.bank) for one in member)])
        strata = np.cumsum([0, *(len(one.bank.stratum_name) for one in member)])
        difficulty = [one.bank.difficulty for one in member]
        self.bank = text_bank(
            key=[f"{one.name}:{key}" for one in member for key in one.bank.key],
            stratum=np.concatenate([one.bank.stratum + first for one, first in zip(member, strata, strict=False)]),
            stratum_name=tuple(f"{one.name}: {name}" for one in member for name in one.bank.stratum_name),
            difficulty=None if any(d is None for d in difficulty) else np.concatenate(difficulty),  # type: ignore[arg-type]
            prompt=self.prompt,
        )

    def _at(self, problem: int) -> tuple[Suite, int]:
        which = int(np.searchsorted(self._begin, problem, side="right")) - 1
        return self._member[which], problem - int(self._begin[which])

    def prompt(self, problem: int) -> str:
        """That of the suite that the problem is from."""
        suite, index = self._at(problem)
        return suite.prompt(index)

    def solution(self, problem: int) -> str:
        """That of the suite that the problem is from."""
        suite, index = self._at(problem)
        return suite.solution(index)

    def verify(self, problem: int, completion: str) -> tuple[float, bool]:
        """The verdict of the suite that the problem is from."""
        suite, index = self._at(problem)
        return suite.verify(index, completion)

    def metrics(self) -> dict[str, float]:
        """Those of all suites, added up."""
        total: dict[str, float] = {}
        for one in self._member:
            for name, value in one.metrics().items():
                total[name] = total.get(name, 0.0) + value
        return total

    def demonstration(self, generator: np.random.Generator) -> Demonstration:
        """One of a suite drawn uniformly."""
        return self._member[int(generator.integers(len(self._member)))].demonstration(generator)


def load(name: str, split: str, *, progress: Progress, members: str = MEMBERS, style: str = "compact") -> Mixed:
    """The problems of one split of several suites.

    name     ``mixed``, or the names of suites with commas between them
    members  for ``mixed``: the same
    Raises   ValueError for a name that is not a suite or is there twice.
    """
    names = (members if name == "mixed" else name).split(",")
    if len(set(names)) < len(names) or "mixed" in names:
        raise ValueError(f"a mix is of different suites, and not of mixes; got {','.join(names)}")
    return Mixed(name, [suites.load(one, split, {"style": style}, progress) for one in names])
