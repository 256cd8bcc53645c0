"""MoPPS: Thompson sampling of pass rates, and the problems whose sample comes nearest to one half."""

from __future__ import annotations

from typing import Any

from curbench.curators.estimators import BetaPosterior
from curbench.curators.problem import ProblemCurator
from curbench.curators.samplers import Draw, thompson_nearest
from curbench.types import Array, Bank, Feedback


class Mopps(ProblemCurator):
    """Model predictive prompt selection (Qu et al. 2025, 2507.04632), section 4 and algorithm 1.

    Every problem has a posterior Beta(a, b) of its pass rate; a visit with s successes in n rollouts makes it
        a <- lambda a + (1 - lambda) a0 + s,    b <- lambda b + (1 - lambda) b0 + n - s.
    A step samples a rate for each of ``pool`` B candidates and takes the B nearest to ``target``.

    discount  lambda; published 0.5 for Countdown and 1 (never forgets) for MATH
    pool      candidates per problem of a batch; published 8 for Countdown, 16 for MATH
    target    0.5
    prior     a0 = b0; published 1

    Raises ValueError for a parameter outside its range. Propensities are exact: conditional on the samples of the
    other candidates, see ``samplers.thompson_nearest``.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        discount: float = 0.5,
        pool: int = 8,
        target: float = 0.5,
        prior: float = 1.0,
        **common: Any,
    ) -> None:
        if pool < 1:
            raise ValueError(f"pool must be at least 1; got {pool}")
        if not 0.0 < target < 1.0:
            raise ValueError(f"target must be in (0, 1); got {target}")
        super().__init__(bank, candidates=pool * common["batch"], **common)
        self.target = target
        self.posterior = BetaPosterior(len(bank), prior=(prior, prior), discount=discount)
        self.parts = {"posterior": self.posterior}

    def draw(self, problem: Array, batch: int) -> Draw:
        a, b = self.posterior.a[problem], self.posterior.b[problem]
        return thompson_nearest(a, b, batch, target=self.target, seed=self.seed, step=self.step)

    def update(self, feedback: Feedback) -> None:
        self.posterior.update(feedback.selection.problem, feedback.stats.success, feedback.stats.n)
