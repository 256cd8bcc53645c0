"""AdaRFT: a target difficulty that rises with reward, and the problems nearest to it."""

from __future__ import annotations

from math import tanh
from typing import Any

import numpy as np

from curbench.curators.problem import ProblemCurator
from curbench.curators.samplers import Draw, lowest
from curbench.types import Array, Bank, Feedback


class Adarft(ProblemCurator):
    """Adaptive curriculum reinforcement finetuning (Shi et al. 2025, 2504.05520), section 3.

    T <- clip(T + eta tanh(alpha (R - beta)), 0, 100) with R the pass rate of the batch, over difficulties in [0, 100];
    the batch is the B problems nearest to T.

    eta, alpha, beta  published 50, 2 and 0.5
    start             first target; published 0, the easiest
    candidates        default the whole bank

    Raises ValueError for a parameter outside its range. ``Bank.difficulty`` is stretched linearly onto [0, 100]; in the
    paper it is a reference model's failure rate in percent. While T does not move the same batch is chosen again;
    problems of equal distance are chosen at random.
    """

    needs = ("difficulty",)
    explores = False

    def __init__(
        self,
        bank: Bank,
        *,
        eta: float = 50.0,
        alpha: float = 2.0,
        beta: float = 0.5,
        start: float = 0.0,
        candidates: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(bank, candidates=len(bank) if candidates is None else candidates, **common)
        for name, value in (("eta", eta), ("alpha", alpha)):
            if value <= 0.0:
                raise ValueError(f"{name} must be positive; got {value}")
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta is a pass rate in [0, 1]; got {beta}")
        if not 0.0 <= start <= 100.0:
            raise ValueError(f"start must be in [0, 100]; got {start}")
        self.eta, self.alpha, self.beta, self.target = eta, alpha, beta, float(start)
        assert bank.difficulty is not None
        easiest, spread = bank.difficulty.min(), np.ptp(bank.difficulty)
        self.difficulty = 100.0 * (bank.difficulty - easiest) / (spread if spread > 0 else 1.0)

    def draw(self, problem: Array, batch: int) -> Draw:
        return lowest(np.abs(self.difficulty[problem] - self.target), batch, seed=self.seed, step=self.step)

    def update(self, feedback: Feedback) -> None:
        n = feedback.stats.n.sum()
        if n > 0:
            rate = float(feedback.stats.success.sum() / n)
            self.target = min(max(self.target + self.eta * tanh(self.alpha * (rate - self.beta)), 0.0), 100.0)

    def state(self) -> dict[str, Any]:
        return super().state() | {"target": self.target}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.target = float(state["target"])

    def metrics(self) -> dict[str, float]:
        return super().metrics() | {"target_difficulty": self.target}
