"""Sampling for learnability: rollouts that only look, and a buffer of the problems with the largest p (1 - p)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.dynamic import NOBODY, fresh
from curbench.curators.samplers import Draw, lowest
from curbench.curators.tabular import Arms, draw_arms
from curbench.types import Bank, Feedback, GroupStats, Selection


class Sfl(Curator):
    """Sampling for learnability (Rutherford et al. 2024, 2408.15099), algorithm 1, and LILO (2502.12272).

    Every ``refresh`` steps ``sample`` B uniform problems are probed: rolled out, paid for and not trained on. The
    ``keep`` B of them with the largest k (n - k) / (n (n - 1)), unbiased for p (1 - p), become the buffer. A batch
    takes a share rho from the buffer and the rest from everything.

    variant  "paper": SFL, every 50 steps, one half from the buffer; "lilo": every step is probed and trained on the
             best B of its own probes only (rho = 1, refresh = 1, keep = 1)
    refresh  steps between probes; published 50
    sample, keep  in batches. Published are 5,000 probed and 100 kept levels for 256 parallel ones: ours are 8 and 2
    rho      published 0.5
    probes   rollouts of a probed problem; default ``group``

    Raises ValueError for a parameter outside its range. Learnability is not learning progress: coin flips keep it high.
    """

    oversamples = True
    kept = ("_wanted",)

    def __init__(
        self,
        bank: Bank,
        *,
        variant: Literal["paper", "lilo"] = "paper",
        refresh: int | None = None,
        sample: int | None = None,
        keep: int | None = None,
        rho: float | None = None,
        probes: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        if variant not in ("paper", "lilo"):
            raise ValueError(f"variant must be paper or lilo; got {variant!r}")
        lilo = variant == "lilo"
        sample = (4 if lilo else 8) if sample is None else sample
        keep = (1 if lilo else 2) if keep is None else keep
        self.refresh = (1 if lilo else 50) if refresh is None else refresh
        self.rho = (1.0 if lilo else 0.5) if rho is None else rho
        self.probes = self.group if probes is None else probes
        for name, count in (("refresh", self.refresh), ("sample", sample), ("keep", keep), ("probes", self.probes)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        if not 0.0 <= self.rho <= 1.0:
            raise ValueError(f"rho must be in [0, 1]; got {self.rho}")
        if keep > sample:
            raise ValueError(f"the buffer is kept from the probed problems; got keep={keep} > sample={sample}")
        if self.batch > len(bank):
            raise ValueError(f"{self.batch} problems cannot be drawn without repetition from {len(bank)}")
        self.sample, self.keep = min(sample * self.batch, len(bank)), min(keep * self.batch, len(bank))
        self.buffer = NOBODY
        self._wanted = self.batch

    def select(self, batch: int) -> Selection:
        if self.step % self.refresh:
            return self.selected(*self._batch(batch, self.step))
        self._wanted = batch
        drawn = fresh(NOBODY, len(self.bank), self.sample, seed=self.seed, step=self.step, round=0)
        look = np.full(self.sample, self.probes, np.int32)
        return self.selected(*drawn, rollouts=look, probe=np.ones(self.sample, bool))

    def refill(self, selection: Selection, stats: GroupStats) -> Selection | None:
        if selection.probe is None or not selection.probe.all():
            return None
        learnability = stats.success * (stats.n - stats.success) / np.maximum(stats.n * (stats.n - 1), 1)
        best = lowest(-learnability, self.keep, seed=self.seed, step=selection.step).place
        self.buffer = np.sort(selection.problem[best])
        return self.refilled(selection, *self._batch(self._wanted, selection.step))

    def _batch(self, batch: int, step: int) -> Draw:
        """``batch`` problems, a share rho from the buffer and the others from everything."""
        n, k = len(self.bank), self.buffer.size
        inside = np.zeros(n, np.int64)
        inside[self.buffer] = 1
        member = np.concatenate([np.flatnonzero(inside == 0), self.buffer])
        arms = Arms(member, np.array([0, n - k]), np.array([n - k, k]), inside)
        share = self.rho if k else 0.0
        p = np.array([(1.0 - share) * (n - k) / n, share + (1.0 - share) * k / n])
        return draw_arms(p, arms, batch, "systematic", self.seed, step)

    def update(self, feedback: Feedback) -> None:
        """The buffer was made from the probes, before the batch was drawn."""

    def state(self) -> dict[str, Any]:
        return super().state() | {"buffer": self.buffer.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.buffer = state["buffer"].copy()
