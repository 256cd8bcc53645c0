"""GAIN-RL: a static order of the problems by the angles among the actor's hidden states, and a window that moves on."""

from __future__ import annotations

from math import tanh
from typing import Any, ClassVar, Literal

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.samplers import race, uniforms
from curbench.features import EMBEDDED_AT_ONCE
from curbench.philox import TIE
from curbench.types import PLAIN, ActorView, Array, Bank, Feedback, Guidance, Rollouts, Selection

Order = Literal["angle", "length", "random"]

RELEASED_SUCCESS = 2.0
"""The reward of a right answer that the release's formula assumes; success counts 1 here."""


class GainRl(Curator):
    """GAIN-RL (2025, 2506.02281): problems in a fixed order, drawn from a Gaussian window around a rank mu.

    The order is by angle concentration, the mean cosine between the hidden states of different prompt tokens, high
    first, computed once with the actor before training: one forward pass over the bank. A problem of rank i weighs
    exp(-(i - mu)^2 / (2 sigma^2)); draws are without replacement. After a step with success rate Acc and mean angle C
    of the selected prompts (under the policy that answered them)
        mu <- clip(mu + (n / 2) tanh(alpha (Acc - beta)) + (n / 2) tanh(alpha C), 0, N - 1).

    order    "angle"; "length": short prompts first, the control that the released order comes close to; "random"
    width    sigma as a share of N; published 1000 for about 7,500 problems
    speed    n as a share of N; published 500
    alpha, beta  published 2 and 0.5
    variant  "paper", or "released": mu moves by n tanh(alpha (Acc / 2 - beta)) + n tanh(alpha C), cut to [0, 2 n]: made
             for rewards of 2, so that with rewards of 1 the first term never is positive; mu never goes back, and may
             leave the bank

    The weights 1/2 of the paper's two terms were read in a note on it, not in the paper: UNVERIFIED. The release takes
    the states at the input of the last layer's up-projection and adds the cosines between question and template; here
    it is the last hidden states, and suites have no template. Published table per benchmark: UNVERIFIED.

    Raises ValueError for a parameter outside its range, or order=length where the bank has no lengths. Propensities are
    exact, see ``samplers.race``. Until the actor has been looked at, all angles are 0 and ties are broken at random.
    """

    explores: ClassVar[bool] = False

    def __init__(
        self,
        bank: Bank,
        *,
        order: Order = "angle",
        width: float = 0.133,
        speed: float = 0.067,
        alpha: float = 2.0,
        beta: float = 0.5,
        variant: Literal["paper", "released"] = "paper",
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        for name, size in (("width", width), ("speed", speed), ("alpha", alpha)):
            if size <= 0.0:
                raise ValueError(f"{name} must be positive; got {size}")
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta must be in [0, 1]; got {beta}")
        if order not in ("angle", "length", "random"):
            raise ValueError(f"order must be angle, length or random; got {order!r}")
        if order == "length" and bank.length is None:
            raise ValueError("order=length needs the length of every problem, and this bank has none")
        if self.batch > len(bank):
            raise ValueError(f"{self.batch} problems cannot be drawn without repetition from {len(bank)}")
        if variant not in ("paper", "released"):
            raise ValueError(f"variant must be paper or released; got {variant!r}")
        self.order, self.variant, self.alpha, self.beta = order, variant, alpha, beta
        self.sigma, self.speed = width * len(bank), speed * len(bank)
        self.angle, self.looked, self.mu = np.zeros(len(bank)), False, 0.0
        self._view: ActorView | None = None
        self._angles: dict[int, float] = {}
        self.rank = self._rank()

    def inspect(self, view: ActorView) -> None:
        self._view = view
        if self.order == "angle" and not self.looked:
            for begin in range(0, len(self.bank), EMBEDDED_AT_ONCE):
                problem = np.arange(begin, min(begin + EMBEDDED_AT_ONCE, len(self.bank)))
                self.angle[problem] = view.angle(problem)
            self.looked, self.rank = True, self._rank()

    def _rank(self) -> Array:
        """i64[N], the place of each problem in the order; equal ones at random."""
        length = self.bank.length
        key = np.zeros(len(self.bank))
        if self.order == "angle":
            key = -self.angle
        elif self.order == "length" and length is not None:
            key = length.astype(float)
        rank = np.empty(key.size, np.int64)
        rank[np.lexsort((uniforms(key.size, self.seed, TIE, 0), key))] = np.arange(key.size)
        return rank

    def select(self, batch: int) -> Selection:
        log_weight = -0.5 * ((self.rank - self.mu) / self.sigma) ** 2
        drawn = race(log_weight, batch, seed=self.seed, step=self.step)
        return self.selected(drawn.place, drawn.propensity, drawn.design)

    def guide(self, rollouts: Rollouts, advantage: Array) -> Guidance:
        """No guidance: but this is when the policy that answered is still there to be asked for its angles."""
        if self._view is not None:
            selection = rollouts.selection
            self._angles[selection.ticket] = float(self._view.angle(selection.problem).mean())
        return PLAIN

    def update(self, feedback: Feedback) -> None:
        selection, stats = feedback.selection, feedback.stats
        known = float(self.angle[selection.problem].mean())
        concentration = self._angles.pop(selection.ticket, known)
        success = float(stats.success.sum() / stats.n.sum())
        angle_term = tanh(self.alpha * concentration)
        if self.variant == "released":
            move = tanh(self.alpha * (success / RELEASED_SUCCESS - self.beta)) + angle_term
            self.mu += min(max(self.speed * move, 0.0), 2.0 * self.speed)
            return
        move = 0.5 * (tanh(self.alpha * (success - self.beta)) + angle_term)
        self.mu = min(max(self.mu + self.speed * move, 0.0), len(self.bank) - 1.0)

    def resolved(self) -> dict[str, float]:
        return {"sigma": self.sigma, "speed": self.speed}

    def state(self) -> dict[str, Any]:
        own = {"angle": self.angle.copy(), "looked": self.looked, "mu": self.mu}
        return {**super().state(), **own, "angles": {str(ticket): mean for ticket, mean in self._angles.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.angle, self.looked, self.mu = state["angle"].copy(), bool(state["looked"]), float(state["mu"])
        self._angles = {int(ticket): float(mean) for ticket, mean in state["angles"].items()}
        self.rank = self._rank()

    def metrics(self) -> dict[str, float]:
        """Beside the draw: where the window is, as a share of the bank, and how far the order goes with length."""
        own = {"window": self.mu / len(self.bank)}
        if self.bank.length is not None:
            own["rank_length_correlation"] = _correlation(self.rank, self.bank.length)
        return {**super().metrics(), **own}


def _correlation(rank: Array, value: Array) -> float:
    """Pearson's correlation of a rank and the mean rank of a value; 0 where the value is constant."""
    _, slot, count = np.unique(value, return_inverse=True, return_counts=True)
    middle = (np.cumsum(count) - (count + 1) / 2)[slot]
    a, b = rank - rank.mean(), middle - middle.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread else 0.0
