"""DOTS: pass rates predicted from a few measured reference problems, and the problems predicted near one half."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from curbench.curators.neural import FeatureTable, gaussian, load_optimizer, optimizer_state
from curbench.curators.problem import ProblemCurator
from curbench.curators.samplers import Draw, race, simple
from curbench.philox import PROBE
from curbench.sampling import candidate_set
from curbench.types import ActorView, Array, Bank, Feedback, Selection


class Dots(ProblemCurator):
    """Difficulty-targeted online data selection (DOTS 2025, 2506.05316): attention to measured reference problems.

    Every ``every`` steps ``reference`` uniform problems are rolled out as extra groups that are not trained on. With
    z = W f the adapted features, the pass rate of x is predicted as
        p(x) = sum_r softmax_r(<z_x, z_r> / sqrt(h)) p_r
    over the latest references r and their measured rates, and problems are drawn without replacement with weights
    exp(-|p(x) - target| / temperature). Until the first references are in, selection is uniform.

    reference    extra groups; default half a batch, the published ratio: 256 to 512
    every        published 2
    temperature  published 1e-3, which makes the choice nearly greedy on the predictor's noise
    target       published 0.5
    candidates   M, the bank when it is smaller
    adapter      h, rows of W; lr, its Adam step size per feedback, 0 to leave it random
    history, refresh  further features, see ``neural.FeatureTable``

    The published adapter is trained beforehand on pass rates of other models, and predictions are calibrated; here W
    starts as a random projection and follows the squared error of the predictions of the problems that were selected or
    measured. The rollout replay that the paper adds, off-policy training on stored groups, is no matter of selection
    and is left out. The references cost rollouts, which budgets count.

    Raises ValueError for a parameter outside its range or a bank without features. Propensities are exact:
    ``samplers.race``.
    """

    needs: ClassVar[tuple[str, ...]] = ("feature",)
    neural: ClassVar[bool] = True
    explores: ClassVar[bool] = False
    oversamples: ClassVar[bool] = True

    def __init__(
        self,
        bank: Bank,
        *,
        reference: int | None = None,
        every: int = 2,
        temperature: float = 1e-3,
        target: float = 0.5,
        candidates: int = 2048,
        adapter: int = 32,
        lr: float = 1e-3,
        history: bool = False,
        memory: float = 0.3,
        refresh: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(bank, candidates=candidates, **common)
        self.reference = min(max(self.batch // 2, 1) if reference is None else reference, len(bank))
        for name, count in (("reference", self.reference), ("every", every), ("adapter", adapter)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        if temperature <= 0.0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        if not 0.0 < target < 1.0:
            raise ValueError(f"target must be in (0, 1); got {target}")
        if lr < 0.0:
            raise ValueError(f"lr must not be negative; got {lr}")
        self.every, self.temperature, self.goal, self.lr = every, temperature, target, lr
        self.table = FeatureTable(bank, history=history, memory=memory, refresh=refresh)
        self.attention = Attention(self.table.width, adapter, int(self.seed), lr)
        self.parts = {"table": self.table, "attention": self.attention}
        self.measured = np.empty((0, self.table.width), np.float32), np.empty(0, np.float32)
        """Rows f32[K, F] of the latest references, and their success rates f32[K]."""
        self._error = 0.0

    def inspect(self, view: ActorView) -> None:
        self.table.inspect(view, self.step)

    def select(self, batch: int) -> Selection:
        now = self.step
        selection = super().select(batch)
        if now % self.every:
            return selection
        probe = candidate_set(self.reference, len(self.bank), self.seed, now, PROBE)
        return selection.with_probes(probe, self.reference / len(self.bank), self.group)

    def draw(self, problem: Array, batch: int) -> Draw:
        if not len(self.measured[1]):
            return simple(problem.size, batch, seed=self.seed, step=self.step)
        predicted = self.attention.predict(self.table.rows(problem, self.step), *self.measured)
        log_weight = -np.abs(predicted - self.goal) / self.temperature
        return race(log_weight, batch, seed=self.seed, step=self.step)

    def update(self, feedback: Feedback) -> None:
        selection, stats = feedback.selection, feedback.stats
        row = self.table.rows(selection.problem, self.step)
        rate = (stats.success / stats.n).astype(np.float32)
        if len(self.measured[1]):
            self._error = self.attention.fit(row, rate, *self.measured)
        if selection.probe is not None:
            self.measured = row[selection.probe], rate[selection.probe]
        self.table.remember(feedback)

    def state(self) -> dict[str, Any]:
        row, rate = self.measured
        return {**super().state(), "measured": {"row": row.copy(), "rate": rate.copy()}}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.measured = state["measured"]["row"].copy(), state["measured"]["rate"].copy()

    def metrics(self) -> dict[str, float]:
        """Beside the draw: mean squared error of the predictions of the latest batch, before learning from it."""
        return {**super().metrics(), "prediction_error": self._error}


class Attention:
    """Predicts a value as the attention-weighted mean of measured ones: softmax(<W q, W k> / sqrt(h)) v.

    It starts as a random projection that keeps inner products in expectation, scaled so that those of unit-variance
    features have order 1 after the division.
    """

    def __init__(self, inputs: int, width: int, seed: int, lr: float) -> None:
        self.project = nn.Linear(inputs, width, bias=False)
        with torch.no_grad():
            self.project.weight.copy_(gaussian(self.project.weight.shape, seed, 0) * (inputs * width**0.5) ** -0.5)
        self.optimizer = torch.optim.Adam(self.project.parameters(), lr=lr) if lr else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """f32[M] for query f32[M, F], key f32[K, F] and value f32[K]."""
        q, k = self.project(query), self.project(key)
        return torch.softmax(q @ k.T / self.project.out_features**0.5, dim=1) @ value

    @torch.no_grad()
    def predict(self, query: Array, key: Array, value: Array) -> Array:
        """f64[M]"""
        one, two, three = (torch.from_numpy(np.ascontiguousarray(part)) for part in (query, key, value))
        return self.forward(one, two, three).double().numpy()

    def fit(self, query: Array, goal: Array, key: Array, value: Array) -> float:
        """One step on the mean squared error; returns the error before it."""
        tensor = [torch.from_numpy(np.ascontiguousarray(part)) for part in (query, key, value, goal)]
        loss = torch.mean((self.forward(*tensor[:3]) - tensor[3]) ** 2)
        if self.optimizer is not None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        moments = {} if self.optimizer is None else optimizer_state(self.optimizer)
        return {"weight": self.project.weight.detach().numpy().copy(), "optimizer": moments}

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.project.weight.copy_(torch.from_numpy(state["weight"].copy()))
        if self.optimizer is not None:
            load_optimizer(self.optimizer, state["optimizer"])
