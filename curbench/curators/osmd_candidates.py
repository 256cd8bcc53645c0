"""OSMD over a bank too large to hold at once: draw and learn inside a fresh uniform candidate set every step."""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.osmd import effective_arms
from curbench.curators.tabular import Design
from curbench.sampling import candidate_set, select_iid_, select_systematic_, systematic_fits
from curbench.types import Array, Bank, Feedback, Selection


class OsmdCandidates(Curator):
    """Two-stage mirror descent over problems: candidates C uniformly from the bank, then draws from q restricted to C.

    With q_C the restriction, the draws come from p = (1 - mix) q_C + mix / n. Feedback moves q inside C only,
        q_i <- q_i exp(-eta lhat_i) for i in C, rescaled so that C keeps its mass,
    lhat the loss 1 - y over the expected count of the draw. What sleeps is left alone, which makes every problem a
    specialist (Freund, Schapire, Singer & Warmuth 1997): the regret to problem i is bounded over the steps in which i
    was a candidate, and over no others (``sim.candidates``). q is kept in logarithms: nothing underflows.

    candidates  n; the whole bank when it is smaller
    eta         step size; default tuned for a problem that is awake in n / K of ``horizon`` steps
    mix         share of the draws that is uniform over the candidates; default 1 / horizon
    low, high   range of the utility that is mapped to [0, 1]; outside is clipped
    design      "systematic" (no duplicates), "iid", or "auto": systematic while no cap binds

    Raises ValueError for a parameter outside its range, or a systematic batch larger than the candidate set.
    """

    on_policy = True

    def __init__(
        self,
        bank: Bank,
        *,
        candidates: int = 2048,
        eta: float | None = None,
        mix: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1; got {candidates}")
        if eta is not None and eta <= 0:
            raise ValueError(f"eta must be positive; got {eta}")
        if mix is not None and not 0.0 < mix <= 1.0:
            raise ValueError(f"mix must be in (0, 1]; got {mix}")
        if not low < high:
            raise ValueError(f"the utility range needs low < high; got [{low}, {high}]")
        if design not in ("auto", "iid", "systematic"):
            raise ValueError(f"design must be auto, iid or systematic; got {design!r}")
        self.candidates = min(candidates, len(bank))
        if design == "systematic" and self.batch > self.candidates:
            raise ValueError(f"{self.batch} problems cannot be drawn from {self.candidates} candidates; use design=iid")
        k, awake = len(bank), self.horizon * self.candidates / len(bank)
        tuned = sqrt(2 * log(max(k, 2)) / (effective_arms(self.candidates, self.batch) * max(awake, 1.0)))
        self.eta = float(tuned if eta is None else eta)
        self.mix = float(1 / self.horizon if mix is None else mix)
        self.low, self.high, self.design = float(low), float(high), design
        self.log_q = np.full(k, -log(k))

    def select(self, batch: int) -> Selection:
        candidate = candidate_set(self.candidates, len(self.bank), self.seed, self.step)
        one, p = np.ones(candidate.size, np.int64), self.probability(candidate)
        iid = self.design == "iid"
        if self.design == "auto":
            iid = batch > candidate.size or not systematic_fits(p, one, batch)
        problem, propensity = np.empty(batch, np.int64), np.empty(batch)
        draw = select_iid_ if iid else select_systematic_
        draw(problem, propensity, p, candidate, np.arange(candidate.size), one, self.seed, self.step)
        return self.selected(problem, propensity, design="iid" if iid else "systematic", candidate=candidate)

    def restricted(self, candidate: Array) -> Array:
        """f64[n], q given the candidate set: what the mirror step moves."""
        weight = np.exp(self.log_q[candidate] - self.log_q[candidate].max())
        return weight / weight.sum()

    def probability(self, candidate: Array) -> Array:
        """f64[n], what a single draw from the candidates follows."""
        return (1 - self.mix) * self.restricted(candidate) + self.mix / candidate.size

    def update(self, feedback: Feedback) -> None:
        selection = feedback.selection
        candidate = selection.candidate
        assert candidate is not None, "selections of this curator carry their candidates"
        y = np.clip((feedback.utility - self.low) / (self.high - self.low), 0.0, 1.0)
        expected = selection.propensity * (len(selection) if selection.design == "iid" else 1)
        before = _log_mass(self.log_q[candidate])
        np.subtract.at(self.log_q, selection.problem, self.eta * (1.0 - y) / expected)
        self.log_q[candidate] += before - _log_mass(self.log_q[candidate])

    def resolved(self) -> dict[str, float]:
        return {"candidates": self.candidates, "eta": self.eta, "mix": self.mix}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "log_q": self.log_q.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.log_q = state["log_q"].copy()

    def metrics(self) -> dict[str, float]:
        """Effective number of problems exp(entropy of q), and the step size."""
        q = np.exp(self.log_q)
        return super().metrics() | {"effective_arms": float(np.exp(-np.sum(q * self.log_q))), "eta": self.eta}


def _log_mass(log_weight: Array) -> float:
    """log sum exp."""
    top = float(log_weight.max())
    return top + float(np.log(np.exp(log_weight - top).sum()))
