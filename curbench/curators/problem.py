"""Curators over single problems: a candidate set, a rule that draws from it without repetition, and what it learns."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.samplers import Draw
from curbench.sampling import candidate_set
from curbench.types import Array, Bank, Feedback, Selection


class ProblemCurator(Curator):
    """Draws problems one by one from a uniform candidate set; subclasses say how, and what they learn.

    candidates  M, drawn afresh every step; the whole bank when it is smaller. It bounds the cost of a step

    Raises ValueError if there are fewer candidates than problems to draw.
    """

    def __init__(self, bank: Bank, *, candidates: int = 2048, **common: Any) -> None:
        super().__init__(bank, **common)
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1; got {candidates}")
        self.candidates = min(candidates, len(bank))
        if self.batch > self.candidates:
            raise ValueError(
                f"{self.batch} problems cannot be drawn without repetition from {self.candidates} candidates; "
                "use a smaller batch or more candidates"
            )

    def select(self, batch: int) -> Selection:
        problem, candidate = np.arange(len(self.bank)), None
        if self.candidates < len(self.bank):
            problem = candidate = candidate_set(self.candidates, len(self.bank), self.seed, self.step)
        drawn = self.draw(problem, batch)
        return self.selected(problem[drawn.place], drawn.propensity, design=drawn.design, candidate=candidate)

    @abstractmethod
    def draw(self, problem: Array, batch: int) -> Draw:
        """Chooses ``batch`` places among the candidates ``problem`` i64[M], for step ``self.step``."""

    def update(self, feedback: Feedback) -> None:
        """Learns nothing unless a subclass does."""
