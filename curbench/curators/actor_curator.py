"""Actor-Curator: a neural scorer of problems, trained by a clipped mirror-descent loss on the actor's own progress."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from curbench import kernels
from curbench.curators.base import Curator
from curbench.sampling import candidate_set
from curbench.types import Array, Bank, Feedback, Selection

HISTORY = 5
"""Online history features: visits, pass rate, mean |advantage|, steps since the last visit, completion length."""

EXPIRES_AFTER = 64
"""Steps after which a selection without feedback is forgotten."""

LARGEST_LOG_RATIO = 20.0
"""Where log r is cut before it is exponentiated, so that no loss overflows; far outside any useful clip range."""


class ActorCurator(Curator):
    """Actor-Curator (Gu et al. 2026, 2602.20532) with a linear or MLP head over frozen problem features and history.

    Each step scores a uniform candidate set C, draws from q = (1 - floor) softmax(s / tau) + floor / M over C, and
    after the actor's update takes gradient steps on
        L(phi) = - mean over slots of min(r u, clip(r, 1 - clip, 1 + clip) u) + kl KL(p_t || p_phi),
    r = p_phi(x) / p_t(x), both softmaxes normalised over the whole candidate set, u = utility p_t(x) / pi(x) with
    pi(x) the probability of the draw that was really made. No regret theorem covers a clipped neural update.

    head         "linear", or "mlp" with one hidden layer of ``hidden`` GELU units
    candidates   M; the whole bank when it is smaller
    dormant      first steps: uniform selection, nothing learnt; published 20
    warmup       next steps: uniform selection, the head learns; published 5
    floor        share of uniform exploration in q, in (0, 1]
    temperature  tau
    lr, epochs   Adam step size, and gradient steps per feedback
    clip, kl     as in L
    memory       step size of the moving averages among the history features
    design       "systematic" (no duplicates; "auto" is the same) or "iid"

    Raises ValueError for a parameter outside its range or a batch larger than the candidate set.
    Differences from the release, which scores with a 0.6B language model: docs/methods.md.
    """

    signal = "policy_improvement"

    def __init__(
        self,
        bank: Bank,
        *,
        head: Literal["linear", "mlp"] = "linear",
        hidden: int = 64,
        candidates: int = 2048,
        dormant: int = 20,
        warmup: int = 5,
        floor: float = 0.1,
        temperature: float = 1.0,
        lr: float = 0.01,
        epochs: int = 4,
        clip: float = 0.2,
        kl: float = 0.0,
        memory: float = 0.3,
        design: Literal["auto", "iid", "systematic"] = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        for name, count in (("hidden", hidden), ("candidates", candidates), ("epochs", epochs)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        for name, share in (("floor", floor), ("memory", memory)):
            if not 0.0 < share <= 1.0:
                raise ValueError(f"{name} must be in (0, 1]; got {share}")
        for name, size in (("temperature", temperature), ("lr", lr), ("clip", clip)):
            if size <= 0.0:
                raise ValueError(f"{name} must be positive; got {size}")
        for name, least in (("dormant", dormant), ("warmup", warmup), ("kl", kl)):
            if least < 0:
                raise ValueError(f"{name} must not be negative; got {least}")
        if head not in ("linear", "mlp"):
            raise ValueError(f"head must be linear or mlp; got {head!r}")
        if design not in ("auto", "iid", "systematic"):
            raise ValueError(f"design must be auto, iid or systematic; got {design!r}")
        self.candidates = min(candidates, len(bank))
        self.design = "systematic" if design == "auto" else design
        if self.design == "systematic" and self.batch > self.candidates:
            raise ValueError(f"{self.batch} problems cannot be drawn from {self.candidates} candidates; use design=iid")
        self.dormant, self.warmup, self.floor, self.temperature = dormant, warmup, floor, temperature
        self.epochs, self.clip, self.kl, self.memory = epochs, clip, kl, memory
        self.frozen = _standardised(bank)
        self.history = np.zeros((len(bank), HISTORY), np.float32)
        self.last_visit = np.full(len(bank), -1, np.int64)
        self.pending: dict[int, tuple[Array, Array, Array]] = {}
        self.scorer = _make_scorer(head, self.frozen.shape[1] + HISTORY, hidden, int(self.seed))
        self.optimizer = torch.optim.Adam(self.scorer.parameters(), lr=lr)
        self._loss = 0.0

    @property
    def in_use(self) -> bool:
        """Whether the head decides what is drawn; before that, selection is uniform."""
        return self.step >= self.dormant + self.warmup

    def select(self, batch: int) -> Selection:
        candidate = candidate_set(self.candidates, len(self.bank), self.seed, self.step)
        feature = self.features(candidate)
        draw = self._draw(feature, batch)
        if self.step >= self.dormant:
            log_probability = draw.score[draw.problem].astype(np.float64) - draw.log_normaliser
            self.pending[self.step] = (feature, draw.problem, log_probability)
        self.pending.pop(self.step - EXPIRES_AFTER, None)
        return self.selected(candidate[draw.problem], draw.propensity, design=self.design, candidate=candidate)

    def _draw(self, feature: Array, batch: int) -> kernels.BankDraw:
        """The draw from the candidates: the last layer of the head is a linear score over what precedes it."""
        last = self.scorer[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            hidden = self.scorer[:-1](torch.from_numpy(feature)).numpy()
        return kernels.score_bank(
            hidden,
            last.weight.detach().numpy()[0],
            bias=last.bias.item(),
            temperature=self.temperature,
            count=batch,
            design=self.design,
            floor=self.floor if self.in_use else 1.0,
            seed=int(self.seed),
            step=self.step,
        )

    def features(self, problem: Array) -> Array:
        """f32[M, F + 5], the frozen features of problems and their history so far."""
        since = np.where(self.last_visit[problem] < 0, self.step + 1, self.step - self.last_visit[problem])
        online = self.history[problem].copy()
        online[:, 0] = np.log1p(online[:, 0])
        online[:, 3] = np.log1p(since)
        return np.concatenate([self.frozen[problem], online], axis=1)

    def update(self, feedback: Feedback) -> None:
        selection = feedback.selection
        pending = self.pending.pop(selection.ticket, None)
        if pending is not None:
            self._learn(feedback, *pending)
        self._remember(feedback)

    def _learn(self, feedback: Feedback, feature: Array, index: Array, old_log: Array) -> None:
        """Takes the gradient steps; ``old_log`` is log p_t of the slots, finite where p_t itself underflows to 0."""
        selection = feedback.selection
        count = len(selection) if selection.design == "systematic" else 1  # an iid propensity is that of one draw
        weighted = torch.from_numpy((feedback.utility * count * np.exp(old_log) / selection.propensity).astype("f4"))
        x, at, then = torch.from_numpy(feature), torch.from_numpy(index), torch.from_numpy(old_log).float()
        with torch.no_grad():
            before = self._log_probability(x)
        for _ in range(self.epochs):
            now = self._log_probability(x)
            ratio = torch.exp(torch.clamp(now[at] - then, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
            clipped = torch.clamp(ratio, 1 - self.clip, 1 + self.clip)
            loss = -torch.minimum(ratio * weighted, clipped * weighted).mean()
            if self.kl:
                loss = loss + self.kl * torch.sum(before.exp() * (before - now))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self._loss = float(loss.detach())

    def _log_probability(self, feature: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.scorer(feature)[:, 0] / self.temperature, dim=0)

    def _remember(self, feedback: Feedback) -> None:
        """Moves the history features of the visited problems; the first visit sets the averages."""
        stats = feedback.stats
        seen = (stats.success / stats.n, stats.abs_advantage, np.log1p(stats.length))
        for slot, problem in enumerate(feedback.selection.problem):
            row = self.history[problem]
            rate = 1.0 if row[0] == 0 else self.memory
            for column, value in zip((1, 2, 4), seen, strict=True):
                row[column] += rate * (value[slot] - row[column])
            row[0] += 1
            self.last_visit[problem] = feedback.selection.step

    def state(self) -> dict[str, Any]:
        moments = self.optimizer.state_dict()["state"]
        return {
            **super().state(),
            "history": self.history.copy(),
            "last_visit": self.last_visit.copy(),
            "scorer": {name: value.numpy().copy() for name, value in self.scorer.state_dict().items()},
            "optimizer": {
                str(i): {name: value.numpy().copy() for name, value in moment.items()} for i, moment in moments.items()
            },
            "pending": {
                str(ticket): dict(zip(("feature", "index", "old_log"), (a.copy() for a in entry), strict=True))
                for ticket, entry in self.pending.items()
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.history = state["history"].copy()
        self.last_visit = state["last_visit"].copy()
        self.scorer.load_state_dict({name: torch.from_numpy(v.copy()) for name, v in state["scorer"].items()})
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {
            int(i): {name: torch.from_numpy(value.copy()) for name, value in moment.items()}
            for i, moment in state["optimizer"].items()
        }
        self.optimizer.load_state_dict(optimizer)
        self.pending = {
            int(ticket): (entry["feature"], entry["index"], entry["old_log"])
            for ticket, entry in state["pending"].items()
        }

    def metrics(self) -> dict[str, float]:
        return super().metrics() | {"curator_loss": self._loss, "in_use": float(self.in_use)}


def _standardised(bank: Bank) -> Array:
    """f32[N, F], the bank's features with mean 0 and variance 1 per column; no columns when it has none."""
    if bank.feature is None:
        return np.zeros((len(bank), 0), np.float32)
    feature = bank.feature.astype(np.float64)
    spread = feature.std(axis=0)
    return ((feature - feature.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).astype(np.float32)


def _make_scorer(head: str, inputs: int, hidden: int, seed: int) -> nn.Sequential:
    """The head, its last layer zero so that the first distribution is uniform; the rest seeded."""
    last = nn.Linear(inputs if head == "linear" else hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if head == "linear":
        return nn.Sequential(last)
    first = nn.Linear(inputs, hidden)
    generator = torch.Generator().manual_seed(seed % 2**63)
    nn.init.normal_(first.weight, std=inputs**-0.5, generator=generator)
    nn.init.zeros_(first.bias)
    return nn.Sequential(first, nn.GELU(), last)
