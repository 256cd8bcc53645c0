"""The contract of a curator: a handful of verbs over arrays, an exact state, and a propensity for every draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np

from curbench.types import PLAIN, ActorView, Array, Bank, Feedback, GroupStats, Guidance, Rollouts, Selection

ADMISSIONS = ("all", "nondegenerate")


NEARLY_UNIFORM = 0.98
"""Effective share of the bank (``metrics``), on average over a run, from which a sampler is uniform in all but name."""


class Part(Protocol):
    """A piece of a curator with a state of its own, such as an estimator (``curators.estimators``)."""

    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Curator(ABC):
    """Chooses the problems of each step and learns from the feedback.

    bank       what may be known about the problems
    seed       64-bit seed of every draw: Philox key, with the step and the slot as counter
    batch      B, problems per step; with ``horizon`` and the number of arms all that default step sizes may use
    horizon    T, planned steps
    group      rollouts per selected problem
    admission  "all", or "nondegenerate": drop groups whose rewards are all equal, after seeing them

    Raises ValueError for a batch, horizon or group below 1, an unknown admission rule or a bank without what it needs.

    A method is composed of parts (``curators.estimators``, ``curators.samplers``); what is put into ``parts`` is saved
    and restored with the rest.
    """

    signal: ClassVar[str] = "mean_abs_advantage"
    """Name of the default signal (``signals.SIGNALS``) of this method."""

    neural: ClassVar[bool] = False
    """Whether it trains a network, hence costs so much more per step that simulations of it take fewer seeds."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Optional fields of the bank that this method cannot do without."""

    explores: ClassVar[bool] = True
    """Whether every problem has a positive probability at every step; an index or a filter leaves some out."""

    stationary: ClassVar[bool] = True
    """Whether draws follow one law until the next update; schedules, which go by the clock, do not."""

    conditional: ClassVar[bool] = False
    """Whether a propensity is conditional on samples made at the draw, hence 1 for what was chosen by them."""

    oversamples: ClassVar[bool] = False
    """Whether a selection may have more slots than asked for, some of them to be rejected."""

    allocates: ClassVar[bool] = False
    """Whether groups differ in size."""

    kept: ClassVar[tuple[str, ...]] = ()
    """Attributes, integers, that a step keeps from one round to the next (``refill``); part of the state."""

    filters: ClassVar[bool] = False
    """Whether admission is part of the method, whatever the rule it is given."""

    on_policy: bool = False
    """Whether it learns from its own selections only: it keeps something of a draw that its feedback lacks."""

    def __init__(
        self, bank: Bank, *, seed: int, batch: int, horizon: int, group: int = 1, admission: str = "all"
    ) -> None:
        for name, value in (("batch", batch), ("horizon", horizon), ("group", group)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if admission not in ADMISSIONS:
            raise ValueError(f"admission must be one of {', '.join(ADMISSIONS)}; got {admission!r}")
        for name in self.needs:
            if getattr(bank, name) is None:
                raise ValueError(f"{type(self).__name__} needs the {name} of every problem, and this bank has none")
        self.bank = bank
        self.seed = np.uint64(seed)
        self.batch = batch
        self.horizon = horizon
        self.group = group
        self.admission = admission
        self.step = 0
        self.parts: dict[str, Part] = {}
        self._latest: Selection | None = None

    @abstractmethod
    def select(self, batch: int) -> Selection:
        """Draws ``batch`` problems, with the propensity of each draw, and advances ``step``."""

    def expected_slots(self, batch: int) -> Array | None:
        """f64[N] with sum ``batch``, the slots of each problem in the next ``select`` in expectation; None where only
        draws can tell.

        What counts as known is all that the curator knows before the draw, a posterior sample that it made included.
        """
        return None

    def selected(
        self,
        problem: Array,
        propensity: Array,
        design: str,
        *,
        rollouts: Array | None = None,
        candidate: Array | None = None,
        probe: Array | None = None,
    ) -> Selection:
        """The selection of this step, with ``group`` rollouts of each problem unless told; advances ``step``."""
        selection = Selection(
            ticket=self.step,
            step=self.step,
            problem=problem,
            propensity=propensity,
            rollouts=np.full(len(problem), self.group, np.int32) if rollouts is None else rollouts,
            design=design,
            candidate=candidate,
            candidate_propensity=1.0 if candidate is None else len(candidate) / len(self.bank),
            probe=probe,
        )
        self._latest = selection
        self.step += 1
        return selection

    def refill(self, selection: Selection, stats: GroupStats) -> Selection | None:
        """Another round of this step, or None: asked after every round, with all that was rolled out so far.

        Dynamic sampling draws until enough groups teach something; a method with probes draws its batch after them.
        Ticket, step and the size of the candidate set must be those of ``selection`` (``refilled``).
        """
        return None

    def refilled(
        self, selection: Selection, problem: Array, propensity: Array, design: str, *, rollouts: Array | None = None
    ) -> Selection:
        """A further round of a selection, with ``group`` rollouts of each problem unless told."""
        self._latest = replace(
            selection,
            problem=problem,
            propensity=propensity,
            rollouts=np.full(len(problem), self.group, np.int32) if rollouts is None else rollouts,
            design=design,
            probe=None,
        )
        return self._latest

    @abstractmethod
    def update(self, feedback: Feedback) -> None:
        """Learns from one selection; feedback may be late or out of order."""

    def admit(self, stats: GroupStats) -> Array:
        """bool[B], which groups are worth a gradient."""
        if self.admission == "nondegenerate":
            return ~stats.degenerate
        return np.ones(stats.n.size, bool)

    def inspect(self, view: ActorView) -> None:
        """Looks at the actor before a selection; called every step, and most curators do not."""
        return None

    def guide(self, rollouts: Rollouts, advantage: Array) -> Guidance:
        """How the actor should use this batch; by default every admitted rollout alike."""
        return PLAIN

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        """The bound (``regret.BOUNDS``) that covers this curator, and the parameters it depends on; None if none does.

        comparator  "static", "switching", "dynamic" or "top_m"; the simulator adds what it knows about the test-bed,
                    and takes a bound that sharpens this one where it is smaller
        """
        return None

    def resolved(self) -> dict[str, float]:
        """The numbers that tuning rules arrived at, for the record."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything needed to continue exactly: nested dicts of arrays and JSON scalars."""
        kept = {name.lstrip("_"): getattr(self, name) for name in self.kept}
        return {"step": self.step, **kept, **{name: part.state() for name, part in self.parts.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state()``."""
        self.step = int(state["step"])
        for name in self.kept:
            setattr(self, name, int(state[name.lstrip("_")]))
        for name, part in self.parts.items():
            part.restore(state[name])

    def metrics(self) -> dict[str, float]:
        """Numbers worth logging after an update; all have those of the latest draw, see ``Selection.entropy``.

        effective_support  exp(entropy), the number of problems a uniform draw with this entropy would choose from
        effective_share    the same over N: from ``NEARLY_UNIFORM`` on the sampler is uniform in all but name
        """
        if self._latest is None:
            return {}
        entropy = min(self._latest.entropy, float(np.log(len(self.bank))))  # an estimate can go beyond
        support = float(np.exp(entropy))
        return {"entropy": entropy, "effective_support": support, "effective_share": support / len(self.bank)}
