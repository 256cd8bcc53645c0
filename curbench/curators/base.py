"""The contract of a curator: a handful of verbs over arrays, an exact state, and a propensity for every draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from curbench.types import Array, Bank, Feedback, GroupStats, Selection

ADMISSIONS = ("all", "nondegenerate")


class Curator(ABC):
    """Chooses the problems of each step and learns from the feedback.

    bank       what may be known about the problems
    seed       64-bit seed of every draw: Philox key, with the step and the slot as counter
    batch      B, problems per step; with ``horizon`` and the number of arms all that default step sizes may use
    horizon    T, planned steps
    group      rollouts per selected problem
    admission  "all", or "nondegenerate": drop groups whose rewards are all equal, after seeing them

    Raises ValueError for a batch, horizon or group below 1 or an unknown admission rule.
    """

    signal: ClassVar[str] = "mean_abs_advantage"
    """Name of the default signal (``signals.SIGNALS``) of this method."""

    def __init__(
        self, bank: Bank, *, seed: int, batch: int, horizon: int, group: int = 1, admission: str = "all"
    ) -> None:
        for name, value in (("batch", batch), ("horizon", horizon), ("group", group)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if admission not in ADMISSIONS:
            raise ValueError(f"admission must be one of {', '.join(ADMISSIONS)}; got {admission!r}")
        self.bank = bank
        self.seed = np.uint64(seed)
        self.batch = batch
        self.horizon = horizon
        self.group = group
        self.admission = admission
        self.step = 0

    @abstractmethod
    def select(self, batch: int) -> Selection:
        """Draws ``batch`` problems, with the propensity of each draw, and advances ``step``."""

    @abstractmethod
    def update(self, feedback: Feedback) -> None:
        """Learns from one selection; feedback may be late or out of order."""

    def admit(self, stats: GroupStats) -> Array:
        """bool[B], which groups are worth a gradient."""
        if self.admission == "nondegenerate":
            return ~stats.degenerate
        return np.ones(stats.n.size, bool)

    def target_weight(self, selection: Selection) -> Array | None:
        """f64[B] weights of the slots in the actor's loss, or None for equal weights."""
        return None

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        """The bound (``regret.BOUNDS``) that covers this curator, and the parameters it depends on; None if none does.

        comparator  "static", "switching" or "dynamic"; the simulator adds what it knows about the test-bed
        """
        return None

    def resolved(self) -> dict[str, float]:
        """The numbers that tuning rules arrived at, for the record."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything needed to continue exactly: nested dicts of arrays and JSON scalars."""
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state()``."""
        self.step = int(state["step"])

    def metrics(self) -> dict[str, float]:
        """Numbers worth logging after an update."""
        return {}
