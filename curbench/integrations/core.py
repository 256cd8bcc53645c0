"""The framework-neutral core: one curator, tickets for what it selected, and feedback whenever and however it comes.

A trainer that is not ours calls ``Ledger.select`` for the problems of a step and quotes the ticket when it knows how
they went, at once or in parts, late or out of order. No torch, no transformers: numpy, and safetensors for state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curbench.advantage import ESTIMATORS
from curbench.curators.base import Curator
from curbench.loop import feedback_on, graded, use_of
from curbench.record import load_state, save_state
from curbench.signals import SIGNALS
from curbench.types import (
    PLAIN,
    ActorView,
    Array,
    Feedback,
    GroupStats,
    Guidance,
    Reward,
    Rollouts,
    Selection,
    UpdateReport,
)

Logprob = Any
"""f32[r, L] per token, padded on the right; or r rows of a rollout's length each; or f64[r], sums over the tokens."""


@dataclass(frozen=True)
class Outcome:
    """What follows from rewards: before the update how to use them, after it what the curator was told.

    more       slots of a further round of the same step, numbered after those there were, or None. While there are
               such, or slots without rewards, everything below is None
    advantage  f64[R], of all rollouts of the ticket, slot after slot
    admitted   bool[B], the groups that should get a gradient
    guidance   how to use those: weights of rollouts in the loss, a target gradient; ``types.PLAIN`` for neither
    feedback   what the curator has learnt from; None before ``observe``
    """

    more: Selection | None = None
    advantage: Array | None = None
    admitted: Array | None = None
    guidance: Guidance | None = None
    feedback: Feedback | None = None


@dataclass(frozen=True)
class _Rows:
    """Rollouts of some slots, slot after slot; log-probabilities are f32[r, L] per token, or f64[r], sums."""

    slot: Array
    size: Array
    reward: Array
    success: Array
    length: Array
    policy_step: Array
    advantage: Array | None = None
    old_logprob: Array | None = None
    new_logprob: Array | None = None
    entropy: Array | None = None


@dataclass(frozen=True)
class _Ticket:
    """A selection whose feedback is not complete; ``admitted`` bool[B] is there once it is graded.

    lost  i64[], slots that were given up
    """

    selection: Selection
    part: tuple[_Rows, ...] = ()
    admitted: Array | None = None
    lost: Array = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def missing(self) -> Array:
        """i64[], the slots without rewards that were not given up."""
        known = np.zeros(len(self.selection), bool)
        known[self.lost] = True
        for part in self.part:
            known[part.slot] = True
        return np.flatnonzero(~known)


@dataclass(frozen=True)
class _TrainerRollouts(Rollouts):
    """Rollouts of a trainer that is not ours, with what it knows of their tokens, f32[R, L]."""

    logprob: Array | None = None
    entropy: Array | None = None


class _Batch(NamedTuple):
    rows: _Rows
    rollouts: _TrainerRollouts
    reward: Reward
    advantage: Array
    stats: GroupStats
    half: Array | None


class Ledger:
    """Hands out what a curator selects and takes the feedback back, each ticket exactly once.

    curator    whose draws and updates these are; nobody else may use it meanwhile
    signal     name of the utility (``signals.SIGNALS``); default the curator's own
    estimator  of the advantages that signal and group statistics are made of (``advantage.ESTIMATORS``)
    max_open   tickets that may wait for feedback: one selection more makes the oldest of them expire

    Raises ValueError for an unknown name, or an estimator that needs gradient norms, which no trainer reports.

    The calls of one step, in the order of ``loop.step``:

        selection = ledger.select(B)                    # ticket, problem i64[B], propensity f64[B], rollouts i32[B]
        outcome = ledger.grade(ticket, reward, ...)     # before the update, if the curator has a say in it
        outcome = ledger.observe(ticket, ...)           # after the update; with the rewards unless they were graded

    Feedback may be late, out of order, and in parts (``slot``): the curator is told when the last slot is in, as one
    ``Feedback`` with the selection's own propensities and its staleness in selections. A call that raises changes
    nothing. A curator that draws its step in rounds (``Outcome.more``) allows one open ticket at a time.

    >>> from curbench.curators.uniform import Uniform
    >>> from curbench.types import Bank
    >>> ledger = Ledger(Uniform(Bank(key=["a", "b", "c"], stratum=[0, 0, 1]), seed=1, batch=2, horizon=10, group=2))
    >>> ticket = ledger.select(2).ticket
    >>> ledger.observe(ticket, [1, 0, 0, 0], [True, False, False, False], length=[5, 7, 7, 7]).feedback.utility.round(3)
    array([0.707, 0.   ])
    """

    def __init__(
        self, curator: Curator, *, signal: str | None = None, estimator: str = "grpo", max_open: int = 256
    ) -> None:
        signal = curator.signal if signal is None else signal
        if signal not in SIGNALS:
            raise ValueError(f"unknown signal {signal!r}; choose from {', '.join(SIGNALS)}")
        if estimator not in ESTIMATORS:
            raise ValueError(f"unknown estimator {estimator!r}; choose from {', '.join(ESTIMATORS)}")
        if estimator == "oblr":
            raise ValueError("the estimator oblr weights by gradient norms, which trainers do not report; take opo")
        if max_open < 1:
            raise ValueError(f"max_open must be at least 1; got {max_open}")
        self.curator = curator
        self.signal, self.estimator, self.max_open = signal, estimator, max_open
        self._open: dict[int, _Ticket] = {}
        self._next = 0
        self._lost: set[int] = set()
        self._count = {"observed": 0, "expired": 0, "dropped": 0}
        self._latest: Feedback | None = None

    @property
    def open(self) -> list[int]:
        """The tickets that wait for feedback, oldest first."""
        return list(self._open)

    @property
    def rounds(self) -> bool:
        """Whether a step may have further rounds (``Outcome.more``), so that only one ticket may be open."""
        return type(self.curator).refill is not Curator.refill

    def selection(self, ticket: int) -> Selection:
        """What an open ticket stands for, all rounds so far; raises ValueError as ``observe`` does."""
        return self._find(ticket).selection

    def missing(self, ticket: int) -> Array:
        """i64[], the slots of an open ticket that wait for rewards; raises ValueError as ``observe`` does."""
        return self._find(ticket).missing

    def rollouts(self, ticket: int) -> int:
        """Rollouts of an open ticket with rewards so far; raises ValueError as ``observe`` does."""
        return sum(part.reward.size for part in self._find(ticket).part)

    def select(self, batch: int, *, view: ActorView | None = None) -> Selection:
        """Draws ``batch`` problems and opens their ticket.

        view    what the trainer's actor shows of itself, for curators that look at hidden states. No part of the state:
                ``gain_rl``, which looks again when its ticket is graded, is to be saved without open tickets
        Raises  ValueError for a batch below 1, a curator that needs a view and gets none, or one that draws in rounds
                while its last ticket is open.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1; got {batch}")
        if self.rounds and self._open:
            raise ValueError(
                f"{type(self.curator).__name__} draws a step in rounds and ticket {self.open[0]} is still open: "
                "observe or drop it first"
            )
        self.curator.inspect(NO_VIEW if view is None else view)
        selection = self.curator.select(batch)
        self._open[selection.ticket] = _Ticket(selection)
        self._next = selection.ticket + 1
        while len(self._open) > self.max_open:
            self._lose(self.open[0], "expired")
        return selection

    def grade(
        self,
        ticket: int,
        reward: Any,
        success: Any,
        *,
        length: Any,
        slot: Any = None,
        size: Any = None,
        advantage: Any = None,
        old_logprob: Logprob | None = None,
        entropy: Any = None,
        policy_step: Any = None,
    ) -> Outcome:
        """Takes the rewards of a ticket, or of some of its slots, before the update, and says how to use them.

        reward, success  f64[r] and bool[r], rollout after rollout in the order of ``slot``
        length           i32[r], generated tokens
        slot             i64[b], which slots these are; default all that are missing
        size             i64[b], rollouts of each; default those of the selection
        advantage        f64[r], those of the trainer itself; default those of ``estimator``
        old_logprob      under the policy that generated (``Logprob``), for signals of policy improvement
        entropy          per token, in the form of ``old_logprob``, for curators that weight tokens by it
        policy_step      int or i64[r], version of that policy, for the record; default the selection's step

        Raises ValueError for a ticket that is unknown, closed or expired, a slot that does not exist or was rewarded,
        a shape that does not fit, or a number that is not finite.
        """
        entry = self._with(
            ticket, reward, success, length, slot, size, advantage, old_logprob, None, entropy, policy_step
        )
        outcome, entry = self._settled(entry)
        self._open[int(ticket)] = entry
        return outcome

    def observe(
        self,
        ticket: int,
        reward: Any = None,
        success: Any = None,
        *,
        length: Any = None,
        slot: Any = None,
        size: Any = None,
        advantage: Any = None,
        old_logprob: Logprob | None = None,
        new_logprob: Logprob | Callable[[Array], Logprob] | None = None,
        entropy: Any = None,
        policy_step: Any = None,
        alignment: Any = None,
    ) -> Outcome:
        """Tells the curator how a ticket went, after the update: with the rewards, unless ``grade`` had them.

        new_logprob  under the updated policy, of the same rollouts and in the same form as ``old_logprob``; after
                     ``grade`` of all rollouts, slot after slot. Or a function (asked bool[r]) -> of those r rollouts,
                     which is called only if the signal wants it; what is not asked for may be anything finite
        alignment    f64[B], for the signal ``target_alignment``
        others       as for ``grade``

        Returns an outcome without feedback while slots are missing or a further round is due. Raises ValueError as
        ``grade`` does, for a signal whose inputs are missing, and for rewards that were not graded though the curator
        or the signal says which rollouts train.
        """
        entry = self._find(ticket)
        if reward is None:
            if entry.missing.size:
                raise ValueError(f"ticket {ticket} is not graded: pass reward, success and length of {_slots(entry)}")
            if any(value is not None for value in (success, length, slot, size, advantage, entropy, policy_step)):
                raise ValueError(f"ticket {ticket} was graded; only log-probabilities and alignment are still news")
            batch = self._batch(entry, old_logprob)
            utility = self._utility(batch, new_logprob, alignment)
            if entry.admitted is None:  # the last of its slots was dropped
                return self._close(batch, utility, self._taken(entry, batch)[0])
            return self._close(batch, utility, Outcome(advantage=batch.advantage, admitted=entry.admitted))
        if entry.admitted is not None:
            raise ValueError(f"ticket {ticket} was graded; observe it without rewards")
        whole = not entry.part and (slot is None or np.size(slot) == len(entry.selection))
        later = new_logprob if callable(new_logprob) and whole else None
        now = None if later else new_logprob
        entry = self._with(
            ticket, reward, success, length, slot, size, advantage, old_logprob, now, entropy, policy_step
        )
        if entry.missing.size:
            self._open[int(ticket)] = entry
            return Outcome()
        batch = self._batch(entry)
        utility = self._utility(batch, later, alignment)  # before the curator is asked anything: it may refuse
        outcome, entry = self._taken(entry, batch)
        if outcome.more is not None:
            self._open[int(ticket)] = entry
            return outcome
        return self._close(batch, utility, outcome)

    def drop(self, ticket: int, slot: Any = None) -> None:
        """Gives up an open ticket, so that the curator never hears of it; or some of its slots.

        slot    i64[b]: groups that will never have rewards. The others then make up the feedback; where no slot is
                missing any more, ``observe`` of the ticket tells the curator. A ticket without slots is dropped
        Raises  ValueError as ``grade`` does, and for slots of a ticket that was graded or is drawn in rounds.
        """
        entry = self._find(ticket)
        if slot is None:
            return self._lose(int(ticket), "dropped")
        at = _vector("slot", slot, np.int64)
        if self.rounds or entry.admitted is not None:
            why = "is drawn in rounds" if self.rounds else "was graded"
            raise ValueError(f"ticket {ticket} {why}: drop all of it or none")
        if not np.isin(at, entry.missing).all():
            raise ValueError(f"ticket {ticket} waits for {_slots(entry)}; got {at.tolist()}")
        entry = replace(entry, lost=np.union1d(entry.lost, at))
        if entry.part or entry.missing.size:
            self._open[int(ticket)] = entry
        else:
            self._lose(int(ticket), "dropped")

    def metrics(self) -> dict[str, float]:
        """The curator's metrics, means of the latest feedback, and how many tickets there were of each kind."""
        count = {f"tickets_{name}": float(value) for name, value in self._count.items()}
        latest = {} if self._latest is None else _means(self._latest)
        return {**self.curator.metrics(), **latest, **count, "tickets_open": float(len(self._open))}

    # --- State --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything needed to continue exactly, open tickets included: nested dicts of arrays and JSON scalars."""
        return {
            "about": self._about(),
            "curator": self.curator.state(),
            "next": self._next,
            "lost": np.array(sorted(self._lost), np.int64),
            "count": dict(self._count),
            "open": {
                str(ticket): {
                    "selection": _fields(entry.selection),
                    "part": {str(i): _fields(part) for i, part in enumerate(entry.part)},
                    "admitted": entry.admitted,
                    "lost": entry.lost.copy(),
                }
                for ticket, entry in self._open.items()
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state()`` of a ledger with the same curator, bank, seed, signal and estimator.

        Raises ValueError, naming the difference, if it is of another; hyper-parameters are not compared.
        """
        for name, mine in self._about().items():
            if state["about"].get(name) != mine:
                raise ValueError(
                    f"the state is of a ledger with {name} {state['about'].get(name)}, and this has {mine}"
                )
        self.curator.restore(state["curator"])
        self._next, self._lost = int(state["next"]), set(state["lost"].tolist())
        self._count = {name: int(state["count"][name]) for name in self._count}
        self._latest = None
        self._open = {
            int(ticket): _Ticket(
                Selection(**entry["selection"]),
                tuple(_Rows(**entry["part"][str(i)]) for i in range(len(entry["part"]))),
                entry["admitted"],
                entry["lost"],
            )
            for ticket, entry in sorted(state["open"].items(), key=lambda item: int(item[0]))
        }

    def save(self, path: str | Path) -> None:
        """Replaces ``path`` by the state, as safetensors with JSON inside; a kill leaves the old file or the new."""
        save_state(Path(path), self.state())

    def load(self, path: str | Path) -> None:
        """Continues from a file of ``save``; raises ValueError if it is damaged or of another ledger."""
        self.restore(load_state(Path(path))[0])

    def _about(self) -> dict[str, Any]:
        keys = "\n".join(self.curator.bank.key.tolist())
        return {
            "curator": type(self.curator).__name__,
            "seed": str(int(self.curator.seed)),
            "bank": sha256(keys.encode()).hexdigest()[:16],
            "signal": self.signal,
            "estimator": self.estimator,
        }

    # --- Tickets ------------------------------------------------------------------------------------------------------

    def _find(self, ticket: int) -> _Ticket:
        if isinstance(ticket, bool) or not isinstance(ticket, int | np.integer):
            raise ValueError(f"a ticket is an integer; got {ticket!r}")
        if ticket in self._open:
            return self._open[int(ticket)]
        if ticket in self._lost:
            raise ValueError(f"ticket {ticket} expired or was dropped: at most {self.max_open} wait for feedback")
        if 0 <= ticket < self._next:
            raise ValueError(f"ticket {ticket} was observed already")
        raise ValueError(f"unknown ticket {ticket}: {self._next} were handed out so far, from 0")

    def _lose(self, ticket: int, how: str) -> None:
        del self._open[ticket]
        self._lost.add(ticket)
        self._count[how] += 1

    def _with(
        self,
        ticket: int,
        reward: Any,
        success: Any,
        length: Any,
        slot: Any,
        size: Any,
        advantage: Any,
        old_logprob: Any,
        new_logprob: Any,
        entropy: Any,
        policy_step: Any,
    ) -> _Ticket:
        """The ticket with the rows of a call, which are checked."""
        entry = self._find(ticket)
        selection, missing = entry.selection, entry.missing
        at = missing if slot is None else _vector("slot", slot, np.int64)
        if at.size == 0:
            raise ValueError(
                f"ticket {ticket} waits for {_slots(entry)}; got none"
                if missing.size
                else f"ticket {ticket} was graded"
            )
        if slot is not None:
            _check_slots(ticket, at, missing, len(selection))
        count = selection.rollouts[at].astype(np.int64) if size is None else _vector("size", size, np.int64, at.size)
        if count.min() < 1:
            raise ValueError(f"a group without a rollout teaches nothing; slot {at[count.argmin()]} has {count.min()}")
        r = int(count.sum())
        if success is None or length is None:
            raise ValueError("rewards come with success and length, one of each per rollout")
        verdict = Reward(_vector("reward", reward, np.float64, r), _vector("success", success, np.bool_, r))
        tokens = _vector("length", length, np.int32, r)
        if tokens.min() < 0:
            raise ValueError(f"length must be >= 0; rollout {tokens.argmin()} has {tokens.min()}")
        if np.ndim(policy_step) == 0:
            policy_step = np.full(r, selection.step if policy_step is None else policy_step)
        if callable(new_logprob):
            new_logprob = new_logprob(np.ones(r, bool))
        rows = _Rows(
            slot=at,
            size=count,
            reward=verdict.reward,
            success=verdict.success,
            length=tokens,
            policy_step=_vector("policy_step", policy_step, np.int64, r),
            advantage=None
            if advantage is None
            else _finite("advantage", _vector("advantage", advantage, np.float64, r)),
            old_logprob=_logprob("old_logprob", old_logprob, tokens),
            new_logprob=_logprob("new_logprob", new_logprob, tokens),
            entropy=_logprob("entropy", entropy, tokens),
        )
        if rows.entropy is not None and rows.entropy.ndim == 1:
            raise ValueError("entropy must have one number per token, not one per rollout")
        for part in entry.part[:1]:
            for kind in ("advantage", "old_logprob", "new_logprob", "entropy"):
                mine, other = getattr(rows, kind), getattr(part, kind)
                if (mine is None) != (other is None) or np.ndim(mine) != np.ndim(other):
                    raise ValueError(
                        f"all parts of ticket {ticket} must carry {kind} in the same form, or none of them"
                    )
        return replace(entry, part=(*entry.part, rows))

    # --- From rewards to feedback -------------------------------------------------------------------------------------

    def _batch(self, entry: _Ticket, old_logprob: Any = None) -> _Batch:
        """All rollouts of a ticket without missing slots, graded as ``loop.step`` does."""
        rows = _in_order(entry.part)
        if old_logprob is not None:
            rows = replace(rows, old_logprob=_logprob("old_logprob", old_logprob, rows.length))
        selection = entry.selection.take(rows.slot) if entry.lost.size else entry.selection
        rollouts = _TrainerRollouts(
            selection=selection,
            offset=np.concatenate([[0], np.cumsum(rows.size)]),
            length=rows.length,
            policy_step=rows.policy_step,
            entropy=rows.entropy,
        )
        reward = Reward(rows.reward, rows.success)
        advantage, stats, half = graded(rollouts, reward, SIGNALS[self.signal], self.estimator)
        if rows.advantage is not None:
            if half is not None:
                raise ValueError(f"the signal {self.signal} decides which rollouts train: leave advantage out")
            advantage = rows.advantage
            stats = replace(stats, abs_advantage=np.add.reduceat(np.abs(advantage), rollouts.offset[:-1]) / stats.n)
        return _Batch(rows, rollouts, reward, advantage, stats, half)

    def _utility(self, batch: _Batch, new_logprob: Any, alignment: Any) -> Array:
        """f64[B], the signal of a batch; a pure function, called before the curator learns anything."""
        rows, rollouts = batch.rows, batch.rollouts
        if alignment is not None:
            alignment = _finite("alignment", _vector("alignment", alignment, np.float64, len(rollouts.selection)))
        elif self.signal == "target_alignment":
            raise ValueError("the signal target_alignment needs alignment, one number per slot")
        known = rows.new_logprob if new_logprob is None else new_logprob

        def new(asked: Array) -> Array:
            if rows.old_logprob is None:
                raise ValueError(f"the signal {self.signal} needs old_logprob of every rollout")
            value = _logprob("new_logprob", known(asked) if callable(known) else known, rows.length)
            if value is None:
                raise ValueError(f"the signal {self.signal} needs new_logprob of every rollout")
            if value.shape != rows.old_logprob.shape:
                raise ValueError(
                    f"new_logprob has shape {value.shape} and old_logprob {rows.old_logprob.shape}; they must be equal"
                )
            return value

        old = rows.old_logprob
        if old is not None and old.ndim == 1:
            # Sums: only the difference enters a ratio, so it is spread evenly over the tokens, in float64.
            if self.signal == "policy_improvement_token":
                raise ValueError("the signal policy_improvement_token needs log-probabilities of every token, not sums")
            sums, per_token = new, np.maximum(rows.length, 1)
            inside = np.arange(int(rows.length.max())) < rows.length[:, None]

            def new(asked: Array) -> Array:
                return np.where(inside, ((sums(asked) - old) / per_token)[:, None], 0.0).astype(np.float32)

            rollouts = replace(rollouts, logprob=np.zeros(inside.shape, np.float32))
        else:
            rollouts = replace(rollouts, logprob=old)
        wanted = None if known is None else new
        report = UpdateReport(policy_step=int(rows.policy_step.max()), new_logprob=wanted, alignment=alignment)
        return SIGNALS[self.signal](rollouts, batch.reward, batch.stats, report)

    def _settled(self, entry: _Ticket, batch: _Batch | None = None) -> tuple[Outcome, _Ticket]:
        """What follows from the rewards of a ticket, and the ticket after it."""
        if entry.missing.size:
            return Outcome(), entry
        batch = batch or self._batch(entry)
        more = self.curator.refill(entry.selection, batch.stats)
        if more is not None:
            return Outcome(more=more), replace(entry, selection=entry.selection.join(more))
        admitted, guidance = use_of(self.curator, batch.rollouts, batch.advantage, batch.stats, batch.half)
        return Outcome(None, batch.advantage, admitted, guidance), replace(entry, admitted=admitted)

    def _taken(self, entry: _Ticket, batch: _Batch) -> tuple[Outcome, _Ticket]:
        """``_settled`` for rollouts that were trained on before anyone asked how."""
        outcome, entry = self._settled(entry, batch)
        if outcome.more is None and outcome.guidance is not PLAIN:
            raise ValueError(
                f"{type(self.curator).__name__} with the signal {self.signal} says how rollouts train: call grade "
                "before the update, and follow its guidance"
            )
        return outcome, entry

    def _close(self, batch: _Batch, utility: Array, outcome: Outcome) -> Outcome:
        """Tells the curator and closes the ticket."""
        assert outcome.admitted is not None
        feedback = feedback_on(self.curator, batch.rollouts, batch.stats, utility, outcome.admitted)
        self.curator.update(feedback)
        del self._open[feedback.selection.ticket]
        self._count["observed"] += 1
        self._latest = feedback
        return replace(outcome, feedback=feedback)


def _means(feedback: Feedback) -> dict[str, float]:
    stats = feedback.stats
    return {
        "reward": float(stats.mean.mean()),
        "pass_rate": float((stats.success / stats.n).mean()),
        "degenerate": float(stats.degenerate.mean()),
        "admitted": float(feedback.admitted.mean()),
        "utility": float(feedback.utility.mean()),
        "staleness": float(feedback.staleness.mean()),
    }


def _no_view(*_: Any) -> Array:
    raise ValueError(
        "this curator looks at the actor's hidden states, which this trainer does not show: pass a view to select, or "
        "configure the curator without them"
    )


NO_VIEW = ActorView(hidden=_no_view, angle=_no_view)
"""What a trainer shows of its actor unless it says otherwise: nothing."""


def _check_slots(ticket: int, at: Array, missing: Array, slots: int) -> None:
    """Raises ValueError for slots that a ticket does not have, or that have their rewards."""
    if at.min() < 0 or at.max() >= slots:
        raise ValueError(f"ticket {ticket} has slots 0 to {slots - 1}; got slots {at.min()} to {at.max()}")
    again = at[~np.isin(at, missing)]
    name, times = np.unique(at, return_counts=True)
    if again.size or times.max() > 1:
        raise ValueError(
            f"slot {again[0] if again.size else name[times.argmax()]} of ticket {ticket} has its rewards already"
        )


def _in_order(part: tuple[_Rows, ...]) -> _Rows:
    """The rows of several parts in one, by slot."""
    if len(part) == 1 and (np.diff(part[0].slot) > 0).all():
        return part[0]
    slot, size = (np.concatenate([getattr(one, name) for one in part]) for name in ("slot", "size"))
    order, row = np.argsort(slot), np.argsort(np.repeat(slot, size), kind="stable")
    joined = {name: _stacked([getattr(one, name) for one in part]) for name in _PER_ROLLOUT}
    taken: dict[str, Any] = {name: None if value is None else value[row] for name, value in joined.items()}
    return _Rows(slot=slot[order], size=size[order], **taken)


_PER_ROLLOUT = tuple(one.name for one in fields(_Rows) if one.name not in ("slot", "size"))


def _stacked(part: list[Any]) -> Any:
    """Arrays after each other, narrower ones padded with 0 on the right; None if they are."""
    if part[0] is None:
        return None
    if part[0].ndim == 2:
        width = max(one.shape[1] for one in part)
        part = [np.pad(one, ((0, 0), (0, width - one.shape[1]))) for one in part]
    return np.concatenate(part)


def _vector(name: str, value: Any, dtype: Any, size: int | None = None) -> Array:
    """A copy of ``value`` as dtype[size]; what cannot be converted exactly is refused, numbers to float apart."""
    try:
        given = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be one number per entry; got rows of different lengths") from None
    kinds = {"b": "b", "i": "iu", "f": "iufb"}[np.dtype(dtype).kind]
    if given.ndim != 1 or (given.size and given.dtype.kind not in kinds):
        kind = {"b": "booleans", "i": "integers", "f": "numbers"}[np.dtype(dtype).kind]
        raise ValueError(f"{name} must be a list of {kind}; got {given.dtype} of shape {given.shape}")
    if size is not None and given.size != size:
        raise ValueError(f"{name} must have {size} entries here; got {given.size}")
    return given.astype(dtype)


def _finite(name: str, value: Array) -> Array:
    if not np.isfinite(value).all():
        entry = int(np.argmin(np.isfinite(value)))
        raise ValueError(f"{name} must be finite; entry {entry} is {value.flat[entry]!r}")
    return value


def _logprob(name: str, value: Any, length: Array) -> Array | None:
    """f32[r, L] of what is given per token, 0 beyond the length; f64[r] of sums."""
    if value is None:
        return None
    if not isinstance(value, list | tuple | np.ndarray):
        raise ValueError(f"{name} must be a list with one entry per rollout; got {type(value).__name__}")
    if np.ndim(value[0] if len(value) else 0.0) == 0:
        return _finite(name, _vector(name, value, np.float64, length.size))
    if len(value) != length.size:
        raise ValueError(f"{name} must have {length.size} rows here; got {len(value)}")
    out = np.zeros((length.size, int(length.max())), np.float32)
    for i, (row, tokens) in enumerate(zip(value, length, strict=True)):
        row = _vector(f"{name} of rollout {i}", row, np.float32)
        if row.size < tokens:
            raise ValueError(f"{name} must cover the {tokens} tokens of rollout {i}; got {row.size}")
        out[i, :tokens] = row[:tokens]
    return _finite(name, out)


def _fields(one: Any) -> dict[str, Any]:
    """The fields of a dataclass, its arrays copied."""
    value = {part.name: getattr(one, part.name) for part in fields(one)}
    return {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in value.items()}


def _slots(entry: _Ticket) -> str:
    missing = entry.missing.tolist()
    return f"slots {', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}"
