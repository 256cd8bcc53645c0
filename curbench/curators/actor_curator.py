"""Actor-Curator: a scorer of problems, trained by a clipped mirror-descent loss on the actor's own progress."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from curbench import kernels
from curbench.curators.base import Curator
from curbench.curators.neural import FeatureTable, Head, Kind
from curbench.curators.samplers import TINY, race, simple
from curbench.sampling import candidate_set
from curbench.types import ActorView, Array, Bank, Feedback, Selection

EXPIRES_AFTER = 64
"""Steps after which a selection without feedback is forgotten."""

LARGEST_LOG_RATIO = 20.0
"""Where log r is cut before it is exponentiated, so that no loss overflows; far outside any useful clip range."""

DEVIATIONS = ("nucleus", "rank", "log_ratio", "advantage", "no_prior")
RELEASED = "nucleus+log_ratio+advantage+no_prior"
TOP_P = 0.9


class ActorCurator(Curator):
    """Actor-Curator (Gu et al. 2026, 2602.20532): softmax over candidates of a learnt score.

    Each step scores a uniform candidate set C, draws from q = (1 - floor) softmax(s / tau) + floor / M over C, and
    after the actor's update takes gradient steps on
        L(phi) = - mean over slots of min(r u, clip(r, 1 - clip, 1 + clip) u) + kl KL(p_t || p_phi),
    r = p_phi(x) / p_t(x), both softmaxes normalised over the whole candidate set, u = utility p_t(x) / pi(x) with
    pi(x) the probability of the draw that was really made. No regret theorem covers a clipped neural update.

    head         "tabular", "linear", "mlp" with ``hidden`` units, or "model": a language model as published, with its
                 folder in ``model`` (None: a small one from scratch). See ``neural.Head``
    candidates   M; the whole bank when it is smaller
    dormant      first steps: uniform selection, nothing learnt; published 20
    warmup       next steps: uniform selection, the head learns; published 5
    floor        share of uniform exploration in q, in (0, 1]
    temperature  tau
    lr, epochs   Adam step size (None: ``neural.LEARNING_RATE``), and gradient steps per feedback
    clip, kl     as in L
    history, memory, refresh  features that are made online, see ``neural.FeatureTable``
    design       "systematic" (no duplicates; "auto" is the same) or "iid"
    average      utilities are averaged over a problem's last visits, this many; default 1, released 10
    variant      "paper", or "released": the code as published, where it departs from the paper
    deviations   those departures one at a time, joined with +; default none, released ``RELEASED``
        nucleus    round(0.9 B) problems drawn without replacement from the smallest set of probability 0.9, the others
                   uniformly from the rest, and the single-draw softmax stated as propensity, which it is not. How the
                   release splits the batch is UNVERIFIED
        rank       the release's other sampler: weights p / rank, drawn without replacement, with the same statement
                   (the form of its rank discount is UNVERIFIED)
        log_ratio  r = log-softmax over the slots / p_t(x): never positive, so that the clip never binds for positive
                   utilities and negative ones have no gradient
        advantage  learns from the mean |advantage| instead of the utility
        no_prior   p_t(x) / pi(x) is taken for 1

    Raises ValueError for a parameter outside its range or a batch larger than the candidate set.
    """

    signal = "policy_improvement"
    neural = True
    on_policy = True

    def __init__(
        self,
        bank: Bank,
        *,
        head: Kind = "linear",
        hidden: int = 64,
        model: str | None = None,
        candidates: int = 2048,
        dormant: int = 20,
        warmup: int = 5,
        floor: float = 0.1,
        temperature: float = 1.0,
        lr: float | None = None,
        epochs: int = 4,
        clip: float = 0.2,
        kl: float = 0.0,
        history: bool = True,
        memory: float = 0.3,
        refresh: int = 0,
        design: Literal["auto", "iid", "systematic"] = "auto",
        average: int | None = None,
        variant: Literal["paper", "released"] = "paper",
        deviations: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        if variant not in ("paper", "released"):
            raise ValueError(f"variant must be paper or released; got {variant!r}")
        if average is None:
            average = 10 if variant == "released" else 1
        for name, count in (("candidates", candidates), ("epochs", epochs), ("average", average)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        if not 0.0 < floor <= 1.0:
            raise ValueError(f"floor must be in (0, 1]; got {floor}")
        for name, size in (("temperature", temperature), ("clip", clip)):
            if size <= 0.0:
                raise ValueError(f"{name} must be positive; got {size}")
        for name, least in (("dormant", dormant), ("warmup", warmup), ("kl", kl)):
            if least < 0:
                raise ValueError(f"{name} must not be negative; got {least}")
        if design not in ("auto", "iid", "systematic"):
            raise ValueError(f"design must be auto, iid or systematic; got {design!r}")
        self.deviations = _parse_deviations(RELEASED if deviations is None and variant == "released" else deviations)
        self.candidates = min(candidates, len(bank))
        self.design = "systematic" if design == "auto" else design
        if self.batch > self.candidates and (self.design == "systematic" or self.deviations & {"nucleus", "rank"}):
            raise ValueError(f"{self.batch} problems cannot be drawn from {self.candidates} candidates; use design=iid")
        self.dormant, self.warmup, self.floor, self.temperature = dormant, warmup, floor, temperature
        self.epochs, self.clip, self.kl = epochs, clip, kl
        self.table = FeatureTable(bank, history=history, memory=memory, refresh=refresh)
        self.head = Head(head, bank, self.table, seed=int(self.seed), hidden=hidden, lr=lr, model=model)
        self.parts = {"table": self.table, "head": self.head}
        self.visits = LastVisits(len(bank), average)
        if average > 1:
            self.parts["visits"] = self.visits
        self.pending: dict[int, tuple[Array, Array, Array]] = {}
        self._loss = 0.0

    @property
    def in_use(self) -> bool:
        """Whether the head decides what is drawn; before that, selection is uniform."""
        return self.step >= self.dormant + self.warmup

    def inspect(self, view: ActorView) -> None:
        self.table.inspect(view, self.step)

    def select(self, batch: int) -> Selection:
        step = self.step
        candidate = candidate_set(self.candidates, len(self.bank), self.seed, step)
        inputs = self.head.inputs(candidate, step)
        draw = kernels.score_bank(
            self.head.score(inputs)[:, None],
            np.ones(1),
            temperature=self.temperature,
            count=batch,
            design=self.design,
            floor=self.floor if self.in_use else 1.0,
            seed=int(self.seed),
            step=step,
        )
        log_probability = draw.score.astype(np.float64) - draw.log_normaliser
        place, propensity, design = draw.problem, draw.propensity, self.design
        if self.in_use and self.deviations & {"nucleus", "rank"}:
            sampler = self._nucleus if "nucleus" in self.deviations else self._by_rank
            place = sampler(log_probability, batch)
            propensity, design = np.clip(np.exp(log_probability[place]), TINY, 1.0), "iid"
        if step >= self.dormant:
            self.pending[step] = (inputs, place, log_probability[place])
        self.pending.pop(step - EXPIRES_AFTER, None)
        return self.selected(candidate[place], propensity, design=design, candidate=candidate)

    def _nucleus(self, log_p: Array, batch: int) -> Array:
        """i64[B], places of round(top_p B) candidates in the nucleus and of uniform ones outside it."""
        order = np.argsort(-log_p, kind="stable")
        mass = np.cumsum(np.exp(log_p[order]))
        core = int(np.searchsorted(mass, TOP_P * mass[-1])) + 1
        inside = min(max(round(TOP_P * batch), batch - (order.size - core)), core, batch)
        drawn = order[race(log_p[order[:core]], inside, seed=self.seed, step=self.step).place] if inside else order[:0]
        rest = order[core:]
        if inside < batch:
            rest = rest[simple(rest.size, batch - inside, seed=self.seed, step=self.step).place]
            drawn = np.concatenate([drawn, rest])
        return drawn

    def _by_rank(self, log_p: Array, batch: int) -> Array:
        """i64[B], places drawn without replacement with weights p / rank."""
        order = np.argsort(-log_p, kind="stable")
        log_weight = log_p[order] - np.log(np.arange(1, order.size + 1))
        return order[race(log_weight, batch, seed=self.seed, step=self.step).place]

    def update(self, feedback: Feedback) -> None:
        pending = self.pending.pop(feedback.selection.ticket, None)
        if pending is not None:
            inputs, place, old_log = pending
            if len(place) != len(feedback.selection):  # some groups were lost on the way
                assert feedback.selection.candidate is not None
                drawn = {int(problem): slot for slot, problem in enumerate(feedback.selection.candidate[place])}
                slot = np.array([drawn[int(problem)] for problem in feedback.selection.problem])
                place, old_log = place[slot], old_log[slot]
            self._learn(feedback, inputs, place, old_log)
        self.table.remember(feedback)

    def _learn(self, feedback: Feedback, inputs: Array, place: Array, old_log: Array) -> None:
        """Takes the gradient steps; ``old_log`` is log p_t of the slots, finite where p_t itself underflows to 0."""
        selection = feedback.selection
        utility = feedback.stats.abs_advantage if "advantage" in self.deviations else feedback.utility
        utility = self.visits.mean(selection.problem, utility)
        if "no_prior" not in self.deviations:
            draws = 1 if selection.design == "iid" else len(selection)  # an iid propensity is that of one draw
            utility = utility * draws * np.exp(old_log) / selection.propensity
        weighted, at = torch.from_numpy(utility.astype("f4")), torch.from_numpy(place)
        then = torch.from_numpy(old_log).float()
        before = torch.zeros(())
        if self.kl:
            before = self._log_probability(torch.from_numpy(self.head.score(inputs)))

        def loss(score: Tensor) -> Tensor:
            now = self._log_probability(score)
            if "log_ratio" in self.deviations:
                ratio = self._log_probability(score[at]) / torch.clamp(then, min=-LARGEST_LOG_RATIO).exp()
            else:
                ratio = torch.exp(torch.clamp(now[at] - then, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
            clipped = torch.clamp(ratio, 1 - self.clip, 1 + self.clip)
            value = -torch.minimum(ratio * weighted, clipped * weighted).mean()
            return value + self.kl * torch.sum(before.exp() * (before - now)) if self.kl else value

        self._loss = self.head.fit(inputs, loss, epochs=self.epochs)

    def _log_probability(self, score: Tensor) -> Tensor:
        return torch.log_softmax(score / self.temperature, dim=0)

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "pending": {
                str(ticket): dict(zip(("inputs", "place", "old_log"), (a.copy() for a in entry), strict=True))
                for ticket, entry in self.pending.items()
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.pending = {
            int(ticket): (entry["inputs"], entry["place"], entry["old_log"])
            for ticket, entry in state["pending"].items()
        }

    def metrics(self) -> dict[str, float]:
        return {**super().metrics(), "curator_loss": self._loss, "in_use": float(self.in_use)}


class LastVisits:
    """The utilities of each problem's last ``length`` visits, to be averaged. A length of 1 keeps nothing."""

    def __init__(self, problems: int, length: int) -> None:
        self.length = length
        self.value = np.zeros((problems if length > 1 else 0, length), np.float32)
        self.count = np.zeros(len(self.value), np.int64)

    def mean(self, problem: Array, utility: Array) -> Array:
        """f64[B], the mean over a problem's last visits, this one included; slots enter one after the other."""
        if self.length == 1:
            return utility
        out = np.empty(len(problem))
        for slot, (i, value) in enumerate(zip(problem, utility, strict=True)):
            self.value[i, self.count[i] % self.length] = value
            self.count[i] += 1
            out[slot] = self.value[i, : min(self.count[i], self.length)].mean()
        return out

    def state(self) -> dict[str, Any]:
        return {"value": self.value.copy(), "count": self.count.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.value, self.count = state["value"].copy(), state["count"].copy()


def _parse_deviations(text: str | None) -> frozenset[str]:
    """The set of a text like ``rank+no_prior``.

    Raises ValueError for an unknown one, or two samplers.
    """
    chosen = frozenset(text.split("+")) if text else frozenset()
    unknown = sorted(chosen - set(DEVIATIONS))
    if unknown:
        raise ValueError(f"unknown deviation {unknown[0]!r}; join some of {', '.join(DEVIATIONS)} with +")
    if {"nucleus", "rank"} <= chosen:
        raise ValueError("nucleus and rank are two samplers; choose one")
    return chosen
