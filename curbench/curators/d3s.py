"""D3S: which rollouts and which of their tokens the actor learns from; the problems themselves are drawn uniformly."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from curbench.curators.problem import ProblemCurator
from curbench.curators.samplers import Draw, simple, uniforms
from curbench.philox import TIE
from curbench.types import PLAIN, Array, Bank, Feedback, Guidance, Rollouts


class D3s(ProblemCurator):
    """Dynamic dual-level down-sampling (D3S 2025, 2509.22115).

    Of the R rollouts of a batch the actor keeps the subset of given size whose advantages vary most, across all groups;
    of their tokens those with the largest |A_i| H_it, H the entropy over the vocabulary when the token was drawn.
    Advantages are normalised inside whole groups, before anything is dropped. What is dropped leaves the loss and its
    normaliser, and was generated all the same: this saves training, not rollouts.

    level     "both", "sample" (rollouts) or "token"
    rollouts_first, rollouts_last  share of the rollouts that is kept at the start and at the horizon, linear between
    tokens_first, tokens_last      share of the tokens of kept rollouts, likewise

    The published shares are UNVERIFIED (it says fewer than 20 % of the tokens); these are ours. Equal first and last
    shares switch the schedule off. An actor that reports no entropies, such as bandit arms, gets no token weights.

    Raises ValueError for a share outside (0, 1].
    """

    def __init__(
        self,
        bank: Bank,
        *,
        level: Literal["both", "sample", "token"] = "both",
        rollouts_first: float = 0.25,
        rollouts_last: float = 1.0,
        tokens_first: float = 0.1,
        tokens_last: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(bank, candidates=len(bank), **common)
        if level not in ("both", "sample", "token"):
            raise ValueError(f"level must be both, sample or token; got {level!r}")
        shares = {"rollouts": (rollouts_first, rollouts_last), "tokens": (tokens_first, tokens_last)}
        for name, pair in shares.items():
            for end, share in zip(("first", "last"), pair, strict=True):
                if not 0.0 < share <= 1.0:
                    raise ValueError(f"{name}_{end} must be in (0, 1]; got {share}")
        self.level, self.shares = level, shares
        self._kept: dict[str, float] = {}

    def share(self, name: str, step: int) -> float:
        """Share of the "rollouts" or "tokens" that is kept at a step."""
        first, last = self.shares[name]
        return first + (last - first) * min(step / self.horizon, 1.0)

    def draw(self, problem: Array, batch: int) -> Draw:
        return simple(problem.size, batch, seed=self.seed, step=self.step)

    def guide(self, rollouts: Rollouts, advantage: Array) -> Guidance:
        step, count = rollouts.selection.step, advantage.size
        kept = np.ones(count)
        if self.level != "token":
            wanted = max(1, round(self.share("rollouts", step) * count))
            tie = uniforms(count, self.seed, TIE, step)
            kept = np.zeros(count)
            kept[most_varied(advantage, wanted, tie)] = 1.0
        entropy = getattr(rollouts, "entropy", None)
        self._kept = {"kept_rollouts": float(kept.mean())}
        if self.level == "sample" or entropy is None:
            return PLAIN if kept.all() else Guidance(weight=kept)
        inside = np.arange(entropy.shape[1]) < rollouts.length[:, None]
        among = inside & (kept > 0)[:, None]
        weight = most_telling(np.abs(advantage)[:, None] * entropy, among, self.share("tokens", step))
        self._kept["kept_tokens"] = float(weight.sum() / inside.sum())
        return Guidance(weight=weight)

    def update(self, feedback: Feedback) -> None:
        """Nothing: the rule looks at one batch at a time."""

    def metrics(self) -> dict[str, float]:
        return {**super().metrics(), **self._kept}


def most_varied(value: Array, count: int, tie: Array) -> Array:
    """i64[count], places of the subset of value f64[R] with the largest variance; equal values by their ``tie``.

    The best subset consists of smallest and largest values, so only count + 1 splits of the sorted values are tried.

    >>> np.sort(most_varied(np.array([0.0, 5.0, 1.0, -4.0]), 2, np.arange(4.0)))
    array([1, 3])
    """
    order = np.lexsort((tie, value))
    one = np.concatenate([[0.0], np.cumsum(value[order])])
    two = np.concatenate([[0.0], np.cumsum(value[order] ** 2)])
    low = np.arange(count + 1)
    high = value.size - (count - low)
    mean = (one[low] + one[-1] - one[high]) / count
    best = int(np.argmax((two[low] + two[-1] - two[high]) / count - mean**2))
    return np.concatenate([order[:best], order[order.size - (count - best) :]])


def most_telling(score: Array, among: Array, share: float) -> Array:
    """f64[R, L], 1 at the largest scores f64[R, L] among bool[R, L], ``share`` of them and at least one; else 0.

    >>> most_telling(np.array([[3.0, 1.0], [2.0, 9.0]]), np.array([[True, True], [True, False]]), 0.5).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    place = np.flatnonzero(among)
    wanted = max(1, round(share * place.size))
    best = place[np.argsort(-score.ravel()[place], kind="stable")[:wanted]]
    weight = np.zeros(score.size)
    weight[best] = 1.0
    return weight.reshape(score.shape)
