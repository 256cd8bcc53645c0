"""Tier schedules: a mixture over tiers of difficulty that depends on time alone, and a uniform draw inside a tier."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.tabular import Design, draw_arms, expected_slots, group_arms
from curbench.types import Array, Bank, Feedback, Selection

By = Literal["difficulty", "stratum"]


def tiers_of(bank: Bank, count: int, by: str) -> Array:
    """i64[N], the tier of every problem, 0 the easiest; equal difficulties share a tier, so fewer may come out.

    by      "difficulty": ``count`` quantile bins of ``Bank.difficulty``; "stratum": the strata, in the order of their
            mean difficulty where there is one, else of their numbers
    Raises  ValueError without a difficulty to bin, or for fewer than one tier.

    >>> tiers_of(Bank(key=["a", "b", "c"], stratum=[0, 0, 1], difficulty=[3.0, 1.0, 2.0]), 3, "difficulty")
    array([2, 0, 1])
    """
    if by == "stratum":
        size = np.maximum(bank.stratum_size, 1)
        order = np.arange(size.size)
        if bank.difficulty is not None:
            order = np.argsort(np.bincount(bank.stratum, bank.difficulty, size.size) / size, kind="stable")
        return np.argsort(order)[bank.stratum]
    if count < 1:
        raise ValueError(f"tiers must be at least 1; got {count}")
    if bank.difficulty is None:
        raise ValueError("tiers of difficulty need the difficulty of every problem; this bank has none: by=stratum")
    cut = np.quantile(bank.difficulty, np.arange(1, count) / count)
    return np.searchsorted(cut, bank.difficulty, side="left")


class TierSchedule(Curator):
    """Draws a tier from ``mixture`` at the progress step / horizon, then its problems uniformly.

    tiers   number of difficulty bins; with by="stratum" that of the strata
    by      "difficulty" or "stratum", see ``tiers_of``
    design  "systematic" (no duplicates), "iid", or "auto": systematic while no tier is asked for more than it has

    Raises ValueError for a bank without the difficulties to bin.
    """

    stationary = False

    def __init__(
        self,
        bank: Bank,
        *,
        tiers: int = 3,
        by: By = "difficulty",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        if by not in ("difficulty", "stratum"):
            raise ValueError(f"by must be difficulty or stratum; got {by!r}")
        if design not in ("auto", "iid", "systematic"):
            raise ValueError(f"design must be auto, iid or systematic; got {design!r}")
        if design == "systematic" and self.batch > len(bank):
            raise ValueError(f"a systematic draw of {self.batch} problems needs as many; the bank has {len(bank)}")
        self.design: Design = design
        self.arms = group_arms(tiers_of(bank, tiers, by))

    @property
    def tier_count(self) -> int:
        """K, tiers that hold a problem."""
        return int(self.arms.size.size)

    @abstractmethod
    def mixture(self, progress: float) -> Array:
        """f64[K] >= 0 with sum 1: the shares of the tiers at progress in [0, 1]."""

    def _present(self) -> Array:
        return self.mixture(min(self.step / self.horizon, 1.0))

    def select(self, batch: int) -> Selection:
        return self.selected(*draw_arms(self._present(), self.arms, batch, self.design, self.seed, self.step))

    def expected_slots(self, batch: int) -> Array:
        return expected_slots(self._present(), self.arms, batch, self.design)

    def update(self, feedback: Feedback) -> None:
        """The schedule looks at the clock only."""

    def metrics(self) -> dict[str, float]:
        """The shares of the tiers at the latest step."""
        p = self.mixture(min(max(self.step - 1, 0) / self.horizon, 1.0))
        return super().metrics() | {f"tier_{k}": float(share) for k, share in enumerate(p)}


def parse_mixture(text: str, tiers: int) -> Array:
    """f64[K] of a text of shares such as ``0.5,0.3,0.2``, normalised.

    Raises ValueError unless there is one non-negative number per tier and one is positive.

    >>> parse_mixture("3,1", 2)
    array([0.75, 0.25])
    """
    try:
        share = np.array([float(part) for part in text.split(",")])
    except ValueError:
        raise ValueError(f"a mixture is numbers with commas between, one per tier; got {text!r}") from None
    if share.size != tiers or not np.isfinite(share).all() or share.min() < 0 or share.sum() <= 0:
        raise ValueError(f"a mixture needs {tiers} shares >= 0, one per tier and not all 0; got {text!r}")
    return share / share.sum()
