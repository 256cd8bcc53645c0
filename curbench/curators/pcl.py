"""Prompt curriculum learning: a value model of each problem's pass rate, and the problems nearest to one half."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from curbench.curators.neural import FeatureTable, Head, Kind
from curbench.curators.problem import ProblemCurator
from curbench.curators.samplers import Draw, lowest, simple
from curbench.types import ActorView, Array, Bank, Feedback


class Pcl(ProblemCurator):
    """Prompt curriculum learning (PCL 2025, 2510.01135): V(x) estimates the pass rate of x from its prompt alone.

    A step takes, of ``pool`` B uniform candidates, the B with the smallest |V(x) - target|, and after the rollouts one
    or more gradient steps on  mean over slots of (V(x) - success rate)^2,  V = sigmoid(score). V lags the actor by a
    step. Its loss for the actor is GRPO without the standard deviation: run it with ``estimator=dr_grpo``.

    pool      candidates per problem of a batch; published 4
    target    published 0.5
    band      all candidates within this distance of the target count as equally near; published 0
    explore   share of the batch that is drawn uniformly from the candidates that are left; published 0
    warmup    first steps: uniform selection, V learns; published 0, where a V that knows nothing amounts to the same
    head      "mlp" or "linear" on the bank's features, "tabular", or "model": a language model that reads the prompt,
              as large as the actor where published, its folder in ``model``. See ``neural.Head``
    lr, epochs  Adam step size (None: ``neural.LEARNING_RATE``), gradient steps per feedback. The published values and
              the architecture of the value model are UNVERIFIED
    history, refresh  further features, see ``neural.FeatureTable``; none of them published

    Raises ValueError for a parameter outside its range. Without ``explore`` the choice is deterministic given the
    candidates, ties apart: the propensity is 1, and far problems have no chance.
    """

    neural: ClassVar[bool] = True
    explores: ClassVar[bool] = False

    def __init__(
        self,
        bank: Bank,
        *,
        pool: int = 4,
        target: float = 0.5,
        band: float = 0.0,
        explore: float = 0.0,
        warmup: int = 0,
        head: Kind = "mlp",
        hidden: int = 64,
        model: str | None = None,
        lr: float | None = None,
        epochs: int = 4,
        history: bool = False,
        memory: float = 0.3,
        refresh: int = 0,
        **common: Any,
    ) -> None:
        for name, count in (("pool", pool), ("epochs", epochs)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        for name, share in (("target", target), ("band", band), ("explore", explore)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} must be in [0, 1]; got {share}")
        if warmup < 0:
            raise ValueError(f"warmup must not be negative; got {warmup}")
        super().__init__(bank, candidates=pool * common["batch"], **common)
        self.goal, self.band, self.explore, self.warmup, self.epochs = target, band, explore, warmup, epochs
        self.table = FeatureTable(bank, history=history, memory=memory, refresh=refresh)
        self.head = Head(head, bank, self.table, seed=int(self.seed), hidden=hidden, lr=lr, model=model)
        self.parts = {"table": self.table, "head": self.head}
        self._fit: dict[str, float] = {}

    def inspect(self, view: ActorView) -> None:
        self.table.inspect(view, self.step)

    def value(self, problem: Array) -> Array:
        """f64[M], V of problems i64[M]."""
        return 1.0 / (1.0 + np.exp(-self.head.score(self.head.inputs(problem, self.step)).astype(np.float64)))

    def draw(self, problem: Array, batch: int) -> Draw:
        if self.step < self.warmup:
            return simple(problem.size, batch, seed=self.seed, step=self.step)
        distance = np.maximum(np.abs(self.value(problem) - self.goal) - self.band, 0.0)
        count = min(round(self.explore * batch), problem.size - batch) if self.explore else 0
        near = lowest(distance, batch - count, seed=self.seed, step=self.step) if count < batch else None
        if not count:
            assert near is not None
            return near
        taken = np.empty(0, np.int64) if near is None else near.place
        left = np.setdiff1d(np.arange(problem.size), taken)
        far = simple(left.size, count, seed=self.seed, step=self.step)
        propensity = far.propensity if near is None else np.concatenate([near.propensity, far.propensity])
        return Draw(np.concatenate([taken, left[far.place]]), propensity, "systematic")

    def update(self, feedback: Feedback) -> None:
        selection, stats = feedback.selection, feedback.stats
        rate = stats.success / stats.n
        inputs = self.head.inputs(selection.problem, self.step)
        self._fit = calibration(self.value(selection.problem), rate)
        goal = torch.from_numpy(rate.astype(np.float32))

        def loss(score: Tensor) -> Tensor:
            return torch.mean((torch.sigmoid(score) - goal) ** 2)

        self.head.fit(inputs, loss, epochs=self.epochs)
        self.table.remember(feedback)

    def metrics(self) -> dict[str, float]:
        """Beside the draw: how well V predicted the latest batch before it learnt from it, see ``calibration``."""
        return {**super().metrics(), **self._fit}


def calibration(value: Array, rate: Array) -> dict[str, float]:
    """Brier score mean (V - rate)^2 and Spearman's rank correlation of predictions f64[B] and success rates f64[B].

    The correlation is 0 where either is constant.

    >>> calibration(np.array([0.2, 0.4, 0.9]), np.array([0.0, 0.5, 1.0]))["spearman"]
    1.0
    """
    a, b = (rankdata(one) - (one.size + 1) / 2 for one in (value, rate))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return {"brier": float(np.mean((value - rate) ** 2)), "spearman": float(a @ b) / spread if spread else 0.0}
