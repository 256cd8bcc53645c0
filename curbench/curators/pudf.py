"""PUDF: an ability estimated on line by item response theory, and the problems that are not harder than it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy.special import expit

from curbench.curators.estimators import Recent
from curbench.curators.problem import ProblemCurator
from curbench.curators.samplers import Draw, lowest, simple
from curbench.types import Array, Bank, Feedback

NEWTON_STEPS = 30
"""More than enough: the log posterior is concave and its curvature at least that of the prior."""


def ability(difficulty: Array, success: Array, n: Array) -> float:
    """The ability theta of largest posterior under P(success) = sigma(theta - b) and a prior N(0, 1).

        sum_j (k_j - n_j sigma(theta - b_j)) - theta = 0, by Newton's method with the step cut to 1

    difficulty, success, n  f64, i64, i64 of equal shape; no answers give the prior's 0
    Source  one-parameter logistic model (Rasch 1960); the prior is PUDF's (2408.05326).

    >>> ability(np.array([]), np.array([]), np.array([]))
    0.0
    >>> round(ability(np.zeros(1), np.array([1]), np.array([2])), 12)
    0.0
    """
    theta = 0.0
    for _ in range(NEWTON_STEPS):
        p = expit(theta - difficulty)
        slope = float(np.sum(success - n * p)) - theta
        step = slope / (float(np.sum(n * p * (1.0 - p))) + 1.0)
        theta += min(max(step, -1.0), 1.0)
        if abs(step) < 1e-10:
            break
    return theta


class Pudf(ProblemCurator):
    """Psychology-based unified dynamic framework (Meng et al. 2024, 2408.05326), its selection rule.

    The ability comes from the latest groups of the run itself, with the difficulties b of the bank held fixed; a step
    draws uniformly from {b <= theta} ("below", the paper) or {|b - theta| <= width} ("band"); where fewer than B
    problems qualify, the B easiest, or nearest to theta, are taken.

    mode    "below" or "band"
    width   of the band, in logits
    scale   standard deviation of b in logits; ``Bank.difficulty`` is standardised first, since its unit is unknown
    memory  latest groups that the ability is estimated from; default eight batches

    Raises ValueError for a parameter outside its range. The paper fits b to the answers of many models and theta to a
    probe set every epoch; no official code was found, and its predecessor's counts gold labels among the predictions.
    """

    needs = ("difficulty",)
    explores = False

    def __init__(
        self,
        bank: Bank,
        *,
        mode: Literal["below", "band"] = "below",
        width: float = 1.0,
        scale: float = 1.0,
        memory: int | None = None,
        candidates: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(bank, candidates=len(bank) if candidates is None else candidates, **common)
        if mode not in ("below", "band"):
            raise ValueError(f"mode must be below or band; got {mode!r}")
        for name, value in (("width", width), ("scale", scale)):
            if value <= 0.0:
                raise ValueError(f"{name} must be positive; got {value}")
        assert bank.difficulty is not None
        spread = float(bank.difficulty.std(dtype=float))
        self.difficulty = scale * (bank.difficulty - bank.difficulty.mean(dtype=float)) / (spread if spread > 0 else 1)
        self.mode, self.width = mode, width
        self.recent = Recent(8 * self.batch if memory is None else memory)
        self.theta = 0.0
        self.parts = {"recent": self.recent}

    def draw(self, problem: Array, batch: int) -> Draw:
        distance = self.difficulty[problem] - self.theta
        if self.mode == "band":
            distance = np.abs(distance)
        fits = np.flatnonzero(distance <= (self.width if self.mode == "band" else 0.0))
        if fits.size < batch:
            return lowest(distance, batch, seed=self.seed, step=self.step)
        place, propensity, design = simple(fits.size, batch, seed=self.seed, step=self.step)
        return Draw(fits[place], propensity, design)

    def update(self, feedback: Feedback) -> None:
        self.recent.update(feedback.selection.problem, feedback.stats.success, feedback.stats.n)
        self.theta = ability(self.difficulty[self.recent.arm], self.recent.success, self.recent.n)

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.theta = ability(self.difficulty[self.recent.arm], self.recent.success, self.recent.n)

    def metrics(self) -> dict[str, float]:
        return super().metrics() | {"ability": self.theta}
