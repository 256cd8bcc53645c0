"""Prioritized level replay: problems by the rank of their latest mean |advantage|, mixed with the stalest ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from curbench.curators.estimators import LatestValue
from curbench.curators.problem import ProblemCurator
from curbench.curators.samplers import Draw, race, uniforms
from curbench.philox import TIE
from curbench.types import Array, Bank, Feedback


class Plr(ProblemCurator):
    """Prioritized level replay (Jiang et al. 2021, 2010.03934), section 3 and algorithm 1.

    Among the candidates that were visited before, P = (1 - rho) rank^(-1/beta) / sum + rho staleness / sum, rank 1 the
    largest mean |advantage| at the last visit, staleness the steps since. A draw replays with probability |seen| / N
    and takes a new problem otherwise, uniformly.

    beta        temperature of the ranks; published 0.1: the best ranks take nearly everything
    rho         share of staleness; published 0.1

    Raises ValueError for a parameter outside its range. The score of the paper is the mean magnitude of the generalised
    advantage; here it is the group's, by the signal. Draws of a batch are without replacement, in succession.
    """

    def __init__(
        self, bank: Bank, *, beta: float = 0.1, rho: float = 0.1, candidates: int = 2048, **common: Any
    ) -> None:
        super().__init__(bank, candidates=candidates, **common)
        if beta <= 0.0:
            raise ValueError(f"beta must be positive; got {beta}")
        if not 0.0 < rho <= 1.0:
            raise ValueError(f"rho must be in (0, 1]; got {rho}")
        self.beta, self.rho = beta, rho
        self.latest = LatestValue(len(bank))
        self.parts = {"latest": self.latest}

    def draw(self, problem: Array, batch: int) -> Draw:
        return race(self.log_weight(problem), batch, seed=self.seed, step=self.step)

    def log_weight(self, problem: Array) -> Array:
        """f64[M], log probability of a single draw from the candidates; equal scores are ranked at random."""
        seen = self.latest.seen[problem]
        unseen = problem.size - int(seen.sum())
        share = float(self.latest.seen.mean()) if 0 < unseen < problem.size else float(unseen == 0)
        weight = np.full(problem.size, (1.0 - share) / max(unseen, 1))
        if seen.any():
            tie = uniforms(problem.size, self.seed, TIE, self.step)[seen]
            rank = np.empty(tie.size)
            rank[np.lexsort((tie, -self.latest.value[problem][seen]))] = np.arange(1, tie.size + 1)
            stale = (self.step - self.latest.last_visit[problem][seen]).astype(float)
            by_score = rank ** (-1.0 / self.beta)
            replay = (1.0 - self.rho) * by_score / by_score.sum() + self.rho * stale / max(stale.sum(), 1.0)
            weight[seen] = share * replay
        return np.log(np.maximum(weight, np.finfo(float).tiny))

    def update(self, feedback: Feedback) -> None:
        selection = feedback.selection
        self.latest.update(selection.problem, feedback.utility, selection.step)
