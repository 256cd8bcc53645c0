"""Parts of neural curators: the table of features, and a trainable score of every problem with its optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from curbench.features import EMBEDDED_AT_ONCE, WIDTH, column_moments, project
from curbench.philox import WEIGHT, normals
from curbench.types import ActorView, Array, Bank, Feedback

Kind = Literal["tabular", "linear", "mlp", "model"]
KINDS = ("tabular", "linear", "mlp", "model")

HISTORY = 5
"""Online history features: visits, pass rate, mean |advantage|, steps since the last visit, completion length."""

LEARNING_RATE = {"tabular": 0.05, "linear": 0.01, "mlp": 0.01, "model": 1e-3}
"""Adam step sizes of the heads (ours); a pretrained model has ``PRETRAINED_LEARNING_RATE``."""

PRETRAINED_LEARNING_RATE = 1e-6


class FeatureTable:
    """What a head is told about problems: the bank's features, the actor's hidden states, and how visits went.

    Frozen and hidden columns are brought to mean 0 and variance 1 over the bank; constant columns become 0.

    history  whether the ``HISTORY`` columns are there
    memory   step size of the moving averages among them
    refresh  steps between two looks at the actor, each of which embeds the whole bank; 0: never, and no such columns
    width    columns of a projected hidden state

    Raises ValueError for a memory outside (0, 1] or a negative refresh.
    """

    def __init__(
        self, bank: Bank, *, history: bool = True, memory: float = 0.3, refresh: int = 0, width: int = WIDTH
    ) -> None:
        if not 0.0 < memory <= 1.0:
            raise ValueError(f"memory must be in (0, 1]; got {memory}")
        if refresh < 0:
            raise ValueError(f"refresh must not be negative; got {refresh}")
        self.memory, self.refresh = memory, refresh
        self.frozen = np.zeros((len(bank), 0), np.float32) if bank.feature is None else bank.feature
        self.hidden = np.zeros((len(bank), width if refresh else 0), np.float32)
        self.history = np.zeros((len(bank), HISTORY if history else 0), np.float32)
        self.last_visit = np.full(len(bank), -1, np.int64)
        self._moments = column_moments(self.frozen)

    @property
    def width(self) -> int:
        """F, columns of a row."""
        return self.frozen.shape[1] + self.hidden.shape[1] + self.history.shape[1]

    def inspect(self, view: ActorView, step: int) -> None:
        """Embeds the bank anew when it is time; cost: one forward pass over all prompts."""
        if not self.refresh or step % self.refresh:
            return
        for begin in range(0, len(self.hidden), EMBEDDED_AT_ONCE):
            problem = np.arange(begin, min(begin + EMBEDDED_AT_ONCE, len(self.hidden)))
            self.hidden[problem] = project(view.hidden(problem, 1.0), self.hidden.shape[1])
        mean, spread = column_moments(self.hidden)
        self.hidden -= mean.astype(np.float32)
        self.hidden /= spread.astype(np.float32)

    def rows(self, problem: Array, step: int) -> Array:
        """f32[M, F], all that is known about problems i64[M] before ``step``."""
        mean, spread = self._moments
        part = [(self.frozen[problem] - mean.astype(np.float32)) / spread.astype(np.float32), self.hidden[problem]]
        if self.history.shape[1]:
            online, last = self.history[problem], self.last_visit[problem]
            online[:, 0] = np.log1p(online[:, 0])
            online[:, 3] = np.log1p(np.where(last < 0, step + 1, step - last))
            part.append(online)
        return np.concatenate(part, axis=1)

    def remember(self, feedback: Feedback) -> None:
        """Moves the history of the visited problems: slots of one problem are averaged, the first visit sets the mean.

        Groups without a rollout leave no trace.
        """
        stats = feedback.stats
        seen = stats.n > 0
        if not self.history.shape[1] or not seen.any():
            return
        problem, slot, count = np.unique(feedback.selection.problem[seen], return_inverse=True, return_counts=True)
        row = self.history[problem]
        rate = np.where(row[:, 0] == 0, 1.0, self.memory)
        value = (stats.success[seen] / stats.n[seen], stats.abs_advantage[seen], np.log1p(stats.length[seen]))
        for column, one in zip((1, 2, 4), value, strict=True):
            row[:, column] += rate * (np.bincount(slot, one, problem.size) / count - row[:, column])
        row[:, 0] += count
        self.history[problem] = row
        self.last_visit[problem] = np.maximum(self.last_visit[problem], feedback.selection.step)

    def state(self) -> dict[str, Any]:
        return {
            "hidden": self.hidden.copy(),
            "history": self.history.copy(),
            "last_visit": self.last_visit.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.hidden, self.history = state["hidden"].copy(), state["history"].copy()
        self.last_visit = state["last_visit"].copy()


class Head:
    """A trainable score of problems. It starts at zero everywhere; all its random weights come from Philox.

    kind     "tabular": one number per problem, moved only where it is a candidate; "linear" or "mlp" (one layer of
             ``hidden`` GELU units) on the rows of the table; "model": a language model that reads the prompt, with a
             scalar head on the state of its last token
    lr       Adam step size; None takes ``LEARNING_RATE``
    model    for "model": a local Hugging Face folder, or None for a byte-level decoder made from scratch

    Raises ValueError for an unknown kind or a size outside its range, or where the kind lacks features or prompts.
    """

    def __init__(
        self,
        kind: str,
        bank: Bank,
        table: FeatureTable,
        *,
        seed: int,
        hidden: int = 64,
        lr: float | None = None,
        model: str | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"head must be one of {', '.join(KINDS)}; got {kind!r}")
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1; got {hidden}")
        if lr is not None and lr <= 0.0:
            raise ValueError(f"lr must be positive; got {lr}")
        self.kind, self.table = kind, table
        self.chunk: int | None = None
        default = LEARNING_RATE[kind]
        if kind == "tabular":
            self.module: nn.Module = _Table(len(bank))
        elif kind == "model":
            from curbench.curators.language import LanguageScorer

            self.module, self.chunk = LanguageScorer(bank, model, seed), 64
            default = default if model is None else PRETRAINED_LEARNING_RATE
        else:
            if table.width == 0:
                raise ValueError(f"a {kind} head needs features: a bank that has them, history or refresh")
            self.module = _make_perceptron(kind, table.width, hidden, seed)
        optimizer = torch.optim.SparseAdam if kind == "tabular" else torch.optim.Adam
        self.optimizer = optimizer(list(self.module.parameters()), lr=default if lr is None else lr)

    def inputs(self, problem: Array, step: int) -> Array:
        """What the score of problems i64[M] depends on, to be kept until their feedback: rows, or the problems."""
        return self.table.rows(problem, step) if self.kind in ("linear", "mlp") else problem

    @torch.no_grad()
    def score(self, inputs: Array) -> Array:
        """f32[M]"""
        return torch.cat([self.module(part) for part in self._chunks(inputs)]).numpy()

    def fit(self, inputs: Array, loss: Callable[[Tensor], Tensor], *, epochs: int = 1) -> float:
        """Takes Adam steps on loss(score f32[M]) and returns the loss before the last of them.

        Where the score comes in chunks, the chunks are run twice: once for the scores and the gradient of the loss with
        respect to them, once to propagate it. Memory is that of one chunk, the gradient that of the whole.
        """
        part = self._chunks(inputs)
        value = torch.zeros(())
        for _ in range(epochs):
            self.optimizer.zero_grad()
            if len(part) == 1:
                value = loss(self.module(part[0]))
                value.backward()
            else:
                with torch.no_grad():
                    score = torch.cat([self.module(one) for one in part])
                score.requires_grad_()
                value = loss(score)
                value.backward()
                assert score.grad is not None, "the loss depends on the scores"
                for one, gradient in zip(part, score.grad.split([len(one) for one in part]), strict=True):
                    self.module(one).backward(gradient)
            self.optimizer.step()
        return float(value.detach())

    def _chunks(self, inputs: Array) -> list[Tensor]:
        whole = torch.from_numpy(np.require(inputs, requirements=["C", "W"]))
        return [whole] if self.chunk is None else list(whole.split(self.chunk))

    def state(self) -> dict[str, Any]:
        weight = {name: _copy(value) for name, value in self.module.state_dict().items()}
        return {"weight": weight, "optimizer": optimizer_state(self.optimizer)}

    def restore(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict({name: torch.from_numpy(v.copy()) for name, v in state["weight"].items()})
        load_optimizer(self.optimizer, state["optimizer"])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The moments of an optimiser as arrays and numbers, by the number of the parameter."""
    moments = optimizer.state_dict()["state"]
    return {str(i): {name: _copy(value) for name, value in moment.items()} for i, moment in moments.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continues from an ``optimizer_state``."""
    whole = optimizer.state_dict()
    whole["state"] = {
        int(i): {name: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for name, v in moment.items()}
        for i, moment in state.items()
    }
    optimizer.load_state_dict(whole)


def _copy(value: Any) -> Any:
    return value.detach().numpy().copy() if isinstance(value, Tensor) else value


class _Table(nn.Module):
    """One score per problem; sparse gradients leave the moments of all others alone."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.row = nn.Embedding(count, 1, sparse=True)
        nn.init.zeros_(self.row.weight)

    def forward(self, problem: Tensor) -> Tensor:
        return self.row(problem)[:, 0]


def _make_perceptron(kind: str, inputs: int, hidden: int, seed: int) -> nn.Sequential:
    """The head, its last layer zero so that the first distribution is uniform."""
    last = nn.Linear(inputs if kind == "linear" else hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if kind == "linear":
        return nn.Sequential(last, nn.Flatten(0))
    first = nn.Linear(inputs, hidden)
    with torch.no_grad():
        first.weight.copy_(gaussian(first.weight.shape, seed, 0) * inputs**-0.5)
    nn.init.zeros_(first.bias)
    return nn.Sequential(first, nn.GELU(), last, nn.Flatten(0))


def gaussian(shape: torch.Size, seed: int, index: int) -> Tensor:
    """f32 of that shape, standard normal: the ``index``-th random weight under ``seed``."""
    draw = normals(shape.numel(), np.uint64(seed), WEIGHT, index)
    return torch.from_numpy(draw.astype(np.float32)).reshape(shape)
