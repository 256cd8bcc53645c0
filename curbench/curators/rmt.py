"""RMT's tier scheduler: from one mixture over easy, medium and hard to another, in a straight line."""

from __future__ import annotations

from typing import Any

import numpy as np

from curbench.curators.tabular import Design
from curbench.curators.tiers import By, TierSchedule, parse_mixture
from curbench.types import Array, Bank


class Rmt(TierSchedule):
    """Piecewise linear mixture over tiers: ``start`` before ``begin`` of the run, ``end`` after ``finish`` of it.

    start, end     shares of the tiers, easiest first; default falling and rising in equal steps (3:2:1 to 1:2:3)
    begin, finish  parts of the horizon; published 0.3 and 0.7
    tiers, by, design  see ``TierSchedule``

    Raises ValueError unless 0 <= begin <= finish <= 1 and there is a share for every tier.
    Source  Reinforcement Mid-Training (2509.24375), its curriculum part only: the units there are tokens of a corpus
            in tiers of next-token entropy. The two mixtures and the thresholds of the tiers could not be verified: they
            are ours.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        start: str | None = None,
        end: str | None = None,
        begin: float = 0.3,
        finish: float = 0.7,
        tiers: int = 3,
        by: By = "difficulty",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, tiers=tiers, by=by, design=design, **common)
        if not 0.0 <= begin <= finish <= 1.0:
            raise ValueError(f"a schedule needs 0 <= begin <= finish <= 1; got begin={begin}, finish={finish}")
        k = self.tier_count
        rising = np.arange(1, k + 1) / (k * (k + 1) / 2)
        self.start = rising[::-1].copy() if start is None else parse_mixture(start, k)
        self.end = rising if end is None else parse_mixture(end, k)
        self.begin, self.finish = begin, finish

    def mixture(self, progress: float) -> Array:
        if progress >= self.finish:
            return self.end
        along = max(progress - self.begin, 0.0) / max(self.finish - self.begin, 1e-12)
        return (1.0 - along) * self.start + along * self.end
