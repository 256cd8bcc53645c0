"""GRESO: problems that gave no gradient at their last visits are skipped before they are rolled out."""

from __future__ import annotations

from math import ceil
from typing import Any, Literal

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.dynamic import ROUND, first
from curbench.curators.samplers import Draw, first_accepted
from curbench.types import Array, Bank, Feedback, GroupStats, Selection

SAFETY = 1.25
"""How many more problems a further round rolls out than the last share of degenerate groups asks for."""


class Greso(Curator):
    """GRPO with efficient selective rollout (Zheng et al. 2025, 2506.02177), section 4 and algorithm 1.

    A problem whose last z visits all succeeded is rolled out with probability max(p_easy^z, 0.01), one whose last z
    visits all failed with max(p_hard^z, 0.01), others always: the first that pass in a random order fill the round.
    After every step each p goes down by ``change`` when its kind of degenerate groups was at least as frequent as
    its part of ``target`` (a third for easy, two thirds for hard), and up otherwise, within [0.05, 0.95]. As in DAPO,
    rounds follow until B groups are not degenerate: the first of ``oversample`` B problems, the others of as many as
    the share of degenerate groups asks for. The first B good groups train the actor.

    variant     "paper": successes are counted; "released": a visit is easy at a mean reward of 0.98 and hard at 0.11
                or below, and in the first epoch p stands still
    start       p_easy and p_hard at first; 0.5
    change      0.01
    target      share of degenerate groups to hold; published 0.25
    oversample  published 384 / 256 = 1.5
    rounds      most rounds of a step

    Raises ValueError for a parameter outside its range. Every step draws afresh, where the paper walks through epochs.
    Propensities are exact, conditional on the order and the luck of the other problems (``samplers.first_accepted``).
    """

    oversamples = True
    kept = ("_round", "_wanted")
    filters = True

    def __init__(
        self,
        bank: Bank,
        *,
        variant: Literal["paper", "released"] = "paper",
        start: float = 0.5,
        change: float = 0.01,
        target: float = 0.25,
        oversample: float = 1.5,
        rounds: int = 10,
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        if variant not in ("paper", "released"):
            raise ValueError(f"variant must be paper or released; got {variant!r}")
        for name, share in (("start", start), ("target", target)):
            if not 0.0 < share < 1.0:
                raise ValueError(f"{name} must be in (0, 1); got {share}")
        if change < 0.0:
            raise ValueError(f"change must not be negative; got {change}")
        if oversample < 1.0:
            raise ValueError(f"oversample must be at least 1; got {oversample}")
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1; got {rounds}")
        if self.batch > len(bank):
            raise ValueError(f"{self.batch} problems cannot be drawn without repetition from {len(bank)}")
        self.variant, self.change, self.target, self.rounds = variant, change, target, rounds
        self.oversample = oversample
        self.p = np.array([start, start])
        """f64[2], p_easy and p_hard."""
        self.streak = np.zeros((len(bank), 2), np.int64)
        """i64[N, 2], how many of the latest visits in a row all succeeded, and all failed."""
        self._round, self._wanted = 0, self.batch

    def select(self, batch: int) -> Selection:
        self._round, self._wanted = 1, batch
        return self.selected(*self._accepted(np.arange(len(self.bank)), ceil(self.oversample * batch), self.step))

    def _accepted(self, problem: Array, count: int, step: int) -> Draw:
        """The first ``count`` of the problems that are not skipped."""
        power = np.maximum(self.p ** np.arange(self.streak.max() + 1)[:, None], 0.01)
        chance = power[self.streak[problem, 0], 0] * power[self.streak[problem, 1], 1]
        place, propensity, design = first_accepted(chance, min(count, problem.size), seed=self.seed, step=step)
        return Draw(problem[place], propensity, design)

    def refill(self, selection: Selection, stats: GroupStats) -> Selection | None:
        missing = self._wanted - int((~stats.degenerate).sum())
        if missing <= 0 or self._round == self.rounds or len(selection) == len(self.bank):
            return None
        most = ceil(self.oversample * self._wanted)
        useful = 1.0 - float(stats.degenerate.mean())
        count = most if useful == 0.0 else min(ceil(SAFETY * missing / useful), most)
        left = np.ones(len(self.bank), bool)
        left[selection.problem] = False
        drawn = self._accepted(np.flatnonzero(left), count, selection.step + self._round * ROUND)
        self._round += 1
        return self.refilled(selection, *drawn)

    def admit(self, stats: GroupStats) -> Array:
        return first(~stats.degenerate, self._wanted)

    def update(self, feedback: Feedback) -> None:
        stats, problem = feedback.stats, feedback.selection.problem
        if self.variant == "paper":
            kind = np.stack([stats.success == stats.n, stats.success == 0], axis=1)
        else:
            kind = np.stack([stats.mean >= 0.98, stats.mean <= 0.11], axis=1)
        self.streak[problem] = np.where(kind, self.streak[problem] + 1, 0)
        if self.variant == "paper" or feedback.selection.step * self.batch >= len(self.bank):
            often = kind.mean(axis=0) >= self.target * np.array([1.0, 2.0]) / 3.0
            self.p = np.clip(self.p + np.where(often, -self.change, self.change), 0.05, 0.95)

    def state(self) -> dict[str, Any]:
        return super().state() | {"p": self.p.copy(), "streak": self.streak.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.p, self.streak = state["p"].copy(), state["streak"].copy()

    def metrics(self) -> dict[str, float]:
        easy, hard = self.p.tolist()
        return super().metrics() | {"p_easy": easy, "p_hard": hard, "rounds": float(self._round)}
