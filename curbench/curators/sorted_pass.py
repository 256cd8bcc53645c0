"""Sorted passes: the bank in the order of a static score, B problems a step, and from the start again at its end."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.samplers import uniforms
from curbench.philox import TIE
from curbench.types import Bank, Feedback, Selection


class SortedPass(Curator):
    """Takes the problems in the order of ``score``, equal ones in a random order that the seed decides.

    order  "ascending" or "descending"
    pace   "epoch": the next B problems every step, as a sorted data loader gives them; "horizon": the window moves so
           that the last planned step takes the last problems, whatever the size of the bank

    The choice is deterministic, so propensities are 1 and allow no weighting.
    """

    explores = False
    stationary = False

    score: ClassVar[str]
    """Field of the bank to sort by."""

    def __init__(
        self,
        bank: Bank,
        *,
        order: Literal["ascending", "descending"] = "ascending",
        pace: Literal["epoch", "horizon"] = "epoch",
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        if order not in ("ascending", "descending"):
            raise ValueError(f"order must be ascending or descending; got {order!r}")
        if pace not in ("epoch", "horizon"):
            raise ValueError(f"pace must be epoch or horizon; got {pace!r}")
        if self.batch > len(bank):
            raise ValueError(f"{self.batch} problems cannot be drawn without repetition from {len(bank)}")
        self.pace = pace
        value = getattr(bank, self.score).astype(float)
        tie = uniforms(len(bank), self.seed, TIE, 0)
        self.sorted = np.lexsort((tie, value if order == "ascending" else -value))

    def select(self, batch: int) -> Selection:
        n = len(self.bank)
        if self.pace == "epoch":
            first = self.step * batch
        else:
            progress = min(self.step / max(self.horizon - 1, 1), 1.0)
            first = round(progress * (n - batch))
        problem = self.sorted[(first + np.arange(batch)) % n]
        return self.selected(problem, np.ones(batch), design="fixed")

    def update(self, feedback: Feedback) -> None:
        """The order is fixed beforehand."""
