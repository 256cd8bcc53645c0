"""DAPO's dynamic sampling: uniform batches until enough groups have both a success and a failure."""

from __future__ import annotations

from typing import Any, Literal

from curbench.curators.base import Curator
from curbench.curators.dynamic import NOBODY, first, fresh
from curbench.types import Array, Bank, Feedback, GroupStats, Selection


class Dapo(Curator):
    """Dynamic sampling (Yu et al. 2025, 2503.14476), section 3.2 and algorithm 1.

    Every step rolls out fresh uniform batches, none of its problems twice, until B groups are not degenerate; the
    first B of them train the actor, and all rollouts count towards the budget.

    variant  "paper": rounds of B problems; "released": rounds of 3 B, as the recipe of verl generates them
    rounds   most rounds of a step; what was found by then is trained on (the released code stops with an error at 10)

    Raises ValueError for fewer than one round or a bank smaller than the batch. Whatever ``admission`` says, degenerate
    groups are dropped.
    """

    oversamples = True
    kept = ("_round", "_wanted")
    filters = True

    def __init__(
        self, bank: Bank, *, variant: Literal["paper", "released"] = "paper", rounds: int = 10, **common: Any
    ) -> None:
        super().__init__(bank, **common)
        if variant not in ("paper", "released"):
            raise ValueError(f"variant must be paper or released; got {variant!r}")
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1; got {rounds}")
        if self.batch > len(bank):
            raise ValueError(f"{self.batch} problems cannot be drawn without repetition from {len(bank)}")
        self.times = 1 if variant == "paper" else 3
        self.rounds = rounds
        self._round, self._wanted = 0, self.batch

    def select(self, batch: int) -> Selection:
        self._round, self._wanted = 1, batch
        count = min(self.times * batch, len(self.bank))
        return self.selected(*fresh(NOBODY, len(self.bank), count, seed=self.seed, step=self.step, round=0))

    def refill(self, selection: Selection, stats: GroupStats) -> Selection | None:
        enough = (~stats.degenerate).sum() >= self._wanted
        if enough or self._round == self.rounds or len(selection) == len(self.bank):
            return None
        count = self.times * self._wanted
        step, number = selection.step, self._round
        self._round += 1
        drawn = fresh(selection.problem, len(self.bank), count, seed=self.seed, step=step, round=number)
        return self.refilled(selection, *drawn)

    def admit(self, stats: GroupStats) -> Array:
        return first(~stats.degenerate, self._wanted)

    def update(self, feedback: Feedback) -> None:
        """It forgets which problems were degenerate; GRESO does not."""

    def metrics(self) -> dict[str, float]:
        return super().metrics() | {"rounds": float(self._round)}
