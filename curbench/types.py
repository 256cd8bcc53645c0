"""The nouns of curbench: frozen, checked at the door, and the same in the simulator and in the trainer.

Shape letters: N problems in the bank, M candidates, B selected problems (slots), G rollouts per group, R rollouts in
all, K arms. Arrays are read-only copies, so a record kept for later cannot change under its owner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


def _freeze(owner: Any, name: str, dtype: Any, shape: tuple[int, ...] | None) -> Array:
    """Copies one field of a frozen dataclass to a read-only array of ``dtype`` and checks its shape."""
    value = np.array(getattr(owner, name), dtype=dtype)  # a view would still change with the caller's array
    if shape is not None and value.shape != shape:
        raise ValueError(f"{type(owner).__name__}.{name} must have shape {shape}; got {value.shape}")
    value.setflags(write=False)
    object.__setattr__(owner, name, value)
    return value


def _require_finite(owner: Any, name: str, value: Array) -> None:
    finite = np.isfinite(value)
    if not np.logical_and.reduce(finite, axis=None):
        entry = int(np.argmin(finite))
        raise ValueError(f"{type(owner).__name__}.{name} must be finite; entry {entry} is {value.flat[entry]!r}")


def _stacked(one: Array, other: Array) -> Array:
    """The rows of two arrays, the narrower ones padded with 0 on the right."""
    if one.ndim > 1:
        width = max(one.shape[1], other.shape[1])
        one, other = (np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in (one, other))
    return np.concatenate([one, other])


BLOCK = 65_536
"""Problems at a time wherever a bank's features are walked through: what bounds memory beside a memory map."""


@dataclass(frozen=True)
class Bank:
    """All that a curator may know about the problems before any rollout.

    key         str[N], unique and stable across versions of the bank
    stratum     i32[N], in [0, number of strata)
    feature     f32[N, F] or None, frozen features of the problems; a memory map opened for reading is not copied
    difficulty  f32[N] or None, an estimate made before training: larger is harder
    length      i32[N] or None, size of each prompt in characters or tokens, the same for all
    stratum_name  names of the strata, for people; default "0", "1", ...
    prompt      the text of a problem, by index, or None when there is none

    Raises ValueError if the bank is empty, a key repeats, a stratum or length is negative, or a feature not finite.

    >>> Bank(key=["a", "b", "c"], stratum=[0, 0, 1]).stratum_size
    array([2, 1])
    """

    key: Array
    stratum: Array
    feature: Array | None = None
    difficulty: Array | None = None
    length: Array | None = None
    stratum_name: tuple[str, ...] = ()
    prompt: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        key = _freeze(self, "key", np.str_, None)
        if key.ndim != 1 or key.size == 0:
            raise ValueError(f"a bank needs at least one problem; got keys of shape {key.shape}")
        n = key.size
        unique, count = np.unique(key, return_counts=True)
        if unique.size != n:
            raise ValueError(f"keys must be unique; {str(unique[np.argmax(count)])!r} appears {count.max()} times")
        stratum = _freeze(self, "stratum", np.int32, (n,))
        if stratum.min() < 0:
            raise ValueError(f"stratum must be >= 0; problem {int(stratum.argmin())} has {int(stratum.min())}")
        if self.feature is not None:
            feature = self.feature
            if not (isinstance(feature, np.memmap) and feature.dtype == np.float32 and not feature.flags.writeable):
                feature = _freeze(self, "feature", np.float32, None)
            if feature.ndim != 2 or feature.shape[0] != n:
                raise ValueError(f"Bank.feature must have shape ({n}, F); got {feature.shape}")
            for begin in range(0, n, BLOCK):
                _require_finite(self, "feature", feature[begin : begin + BLOCK])
        if self.difficulty is not None:
            _require_finite(self, "difficulty", _freeze(self, "difficulty", np.float32, (n,)))
        if self.length is not None:
            length = _freeze(self, "length", np.int32, (n,))
            if length.min() < 0:
                raise ValueError(f"length must be >= 0; problem {int(length.argmin())} has {int(length.min())}")
        if not self.stratum_name:
            names = tuple(str(c) for c in range(int(stratum.max()) + 1))
            object.__setattr__(self, "stratum_name", names)
        elif len(self.stratum_name) <= stratum.max():
            raise ValueError(f"{int(stratum.max()) + 1} strata need as many names; got {len(self.stratum_name)}")

    def __len__(self) -> int:
        return int(self.key.size)

    @property
    def stratum_size(self) -> Array:
        """i64[number of strata], how many problems each stratum holds."""
        return np.bincount(self.stratum, minlength=len(self.stratum_name))


@dataclass(frozen=True)
class Selection:
    """What a curator drew for one step, with the propensity of every draw.

    ticket      int, unique within a run; feedback quotes it
    step        int, the curator's step at the draw
    problem     i64[B], indices into the bank
    propensity  f64[B] in (0, 1], given the past and the candidate set: probability of the draw (``design="iid"``) or of
                inclusion (all others); 1 for a deterministic choice
    rollouts    i32[B], group size of each slot
    design      "iid"         slots are drawn one by one, duplicates are possible
                "systematic"  no duplicates; the inclusion probability
                "order"       no duplicates, the B smallest of independent random keys; the probability given the keys
                              of all others, which is as unbiased (``curators.samplers``)
                "fixed"       a deterministic choice, but for ties
    candidate   i64[M] or None when the whole bank was a candidate
    candidate_propensity  probability that a problem entered the candidate set (M / N, or 1)
    probe       bool[B] or None: slots that are rolled out to learn about them, paid for, and never trained on

    Raises ValueError if a propensity is outside (0, 1] or a group would have no rollout.
    """

    ticket: int
    step: int
    problem: Array
    propensity: Array
    rollouts: Array
    design: str
    candidate: Array | None = None
    candidate_propensity: float = 1.0
    probe: Array | None = None

    def __post_init__(self) -> None:
        problem = _freeze(self, "problem", np.int64, None)
        if problem.ndim != 1 or problem.size == 0:
            raise ValueError(f"a selection needs at least one slot; got problems of shape {problem.shape}")
        propensity = _freeze(self, "propensity", np.float64, problem.shape)
        if not (np.minimum.reduce(propensity) > 0.0 and np.maximum.reduce(propensity) <= 1.0):
            slot = int(np.argmin((propensity > 0.0) & (propensity <= 1.0)))
            raise ValueError(
                f"propensity must be in (0, 1]; slot {slot} has {float(propensity[slot])!r} "
                f"(problem {int(problem[slot])})"
            )
        rollouts = _freeze(self, "rollouts", np.int32, problem.shape)
        if np.minimum.reduce(rollouts) < 1:
            raise ValueError(f"every slot needs at least one rollout; got {int(rollouts.min())}")
        if self.candidate is not None:
            _freeze(self, "candidate", np.int64, None)
        if self.probe is not None:
            _freeze(self, "probe", np.bool_, problem.shape)

    def __len__(self) -> int:
        return int(self.problem.size)

    def join(self, other: Selection) -> Selection:
        """The slots of this selection and then those of another round of the same step; ticket and design are its own.

        Raises ValueError if one round is iid and the other not, or their candidate sets differ in size.
        """
        if (self.design == "iid") != (other.design == "iid"):
            raise ValueError(f"rounds of one step must both be iid or neither; got {self.design} and {other.design}")
        if self.candidate_propensity != other.candidate_propensity:
            raise ValueError("rounds of one step must be drawn from candidate sets of equal size")
        part: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("problem", "propensity", "rollouts")
        }
        probe = None
        if self.probe is not None or other.probe is not None:
            nothing = (np.zeros(len(one), bool) if one.probe is None else one.probe for one in (self, other))
            probe = np.concatenate(list(nothing))
        return replace(self, **part, probe=probe)

    def take(self, slot: Array) -> Selection:
        """The same selection with the chosen slots only. slot: bool[B] or indices."""
        probe = None if self.probe is None else self.probe[slot]
        part = {name: getattr(self, name)[slot] for name in ("problem", "propensity", "rollouts")}
        return replace(self, **part, probe=probe)

    def with_probes(self, problem: Array, propensity: float, rollouts: int) -> Selection:
        """The same selection with extra slots that are measured only. problem: i64[P], all of one propensity."""
        old, new = len(self), len(problem)
        return replace(
            self,
            problem=np.concatenate([self.problem, problem]),
            propensity=np.concatenate([self.propensity, np.full(new, propensity)]),
            rollouts=np.concatenate([self.rollouts, np.full(new, rollouts)]),
            probe=np.arange(old + new) >= old,
        )

    @property
    def entropy(self) -> float:
        """Entropy in nats of the distribution over problems that was drawn from, estimated from the slots.

        The mean over slots of -log q, q the probability of a single draw: unbiased for iid draws, and for inclusion
        probabilities proportional to q (Horvitz & Thompson 1952). A deterministic choice of B problems has log B.

        >>> float(np.exp(Selection(0, 0, [3, 5], [0.1, 0.1], [4, 4], "systematic").entropy).round(6))
        20.0
        """
        draws = 1 if self.design == "iid" else len(self)
        return float(np.mean(np.log(draws / (self.propensity * self.candidate_propensity))))


@dataclass(frozen=True)
class Rollouts:
    """The completions of a selection, group after group; trainers subclass it to add tokens and log-probabilities.

    offset       i64[B+1], rollouts of slot b are offset[b]:offset[b+1]
    length       i32[R], generated tokens (1 per draw in the simulator)
    policy_step  i64[R], version of the actor that generated each rollout
    gradient_sq  f64[R] or None, squared norm of grad log pi of each rollout or what the actor has for it: the weights
                 of baselines that need them
    """

    selection: Selection
    offset: Array
    length: Array
    policy_step: Array
    gradient_sq: Array | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        offset = _freeze(self, "offset", np.int64, (len(self.selection) + 1,))
        _freeze(self, "length", np.int32, (int(offset[-1]),))
        _freeze(self, "policy_step", np.int64, (int(offset[-1]),))
        if self.gradient_sq is not None:
            _freeze(self, "gradient_sq", np.float64, (int(offset[-1]),))

    def join(self, other: Rollouts, **rest: Any) -> Rollouts:
        """These rollouts and then those of another round of the same step.

        Arrays follow one another, the rows of the narrower one padded with 0. A subclass passes fields that are not
        numpy arrays in ``rest``.
        """
        part = {"selection": self.selection.join(other.selection)} | rest
        part["offset"] = np.concatenate([self.offset, self.offset[-1] + other.offset[1:]])
        for one in fields(self):
            mine, others = getattr(self, one.name), getattr(other, one.name)
            if one.name not in part:
                part[one.name] = None if mine is None else _stacked(mine, others)
        return replace(self, **part)


@dataclass(frozen=True)
class Reward:
    """A verifier's verdict on every rollout: the reward that trains, and exact correctness, kept apart.

    reward   f64[R], finite
    success  bool[R]
    """

    reward: Array
    success: Array

    def __post_init__(self) -> None:
        reward = _freeze(self, "reward", np.float64, None)
        _require_finite(self, "reward", reward)
        _freeze(self, "success", np.bool_, reward.shape)

    def join(self, other: Reward) -> Reward:
        """These rewards and then those of another round of the same step."""
        return Reward(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("reward", "success")))


@dataclass(frozen=True)
class GroupStats:
    """Statistics of each group, all of shape [B]; what admission and most signals look at.

    n, success       i64, rollouts and exactly correct ones
    mean, var        f64, of the reward; var is unbiased (0 for one rollout)
    abs_advantage    f64, mean |advantage| under the estimator of the run
    degenerate       bool, all rewards equal (max == min), hence no gradient
    length           f64, mean generated tokens
    """

    n: Array
    success: Array
    mean: Array
    var: Array
    abs_advantage: Array
    degenerate: Array
    length: Array


@dataclass(frozen=True)
class ActorView:
    """What an actor shows of itself: functions of problems i64[n] under its present policy.

    hidden  (problem, depth) -> f32[n, D], the mean hidden state of each prompt's tokens; ``depth`` in (0, 1] is the
            share of the layers below, 1 the last state
    angle   problem -> f64[n] in [-1, 1], the mean cosine between the hidden states of different tokens of a prompt
    """

    hidden: Callable[[Array, float], Array]
    angle: Callable[[Array], Array]


@dataclass(frozen=True)
class Target:
    """How the actor should follow the target gradient: v <- v + memory (sum_b weight_b g_b - v), g_b that of a group.

    weight          f64[B], for example target share / propensity; None leaves v as it is
    memory          step size of the moving average, in (0, 1]
    preconditioned  measure along the optimiser's preconditioned v instead of v itself
    Source          first-order value of a step on x for the target: <g_x, v>; docs/methods/target_aligned.md
    """

    weight: Array | None
    memory: float = 0.1
    preconditioned: bool = True


@dataclass(frozen=True)
class Guidance:
    """How a curator wants a batch to be used, beyond admission.

    weight  f64[R], or f64[R, L] for every token, not negative; None for equal weights. It multiplies the terms of the
            loss. What has weight 0 leaves the loss and its normaliser; other weights do not change the normaliser
    target  makes the actor follow a target gradient and report how every group aligns with it; None: neither
    """

    weight: Array | None = None
    target: Target | None = None

    def only(self, rollout: Array) -> Guidance:
        """The same guidance with all other rollouts left out of the loss. rollout: bool[R]."""
        kept = rollout.astype(np.float64)
        if self.weight is not None:
            kept = self.weight * (kept if self.weight.ndim == 1 else kept[:, None])
        return replace(self, weight=kept)


PLAIN = Guidance()
"""Every admitted rollout alike, and no target gradient."""


@dataclass(frozen=True)
class UpdateReport:
    """What an actor says after an update.

    policy_step   int, version of the actor after the update
    new_logprob   (asked bool[R] = all) -> [R, L]; runs the extra forward pass of the updated actor, for the rollouts
                  that a signal asks for. The others keep their old log-probabilities
    alignment     f64[B], <g_b, v> of every group with the target gradient before this batch entered it; None if the
                  guidance had no target
    alignment_s   seconds of the update that went into it: the curator's cost, not the training's
    metrics       numbers worth logging
    """

    policy_step: int
    new_logprob: Callable[..., Any] | None = None
    alignment: Array | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    alignment_s: float = 0.0


@dataclass(frozen=True)
class Feedback:
    """What a curator learns from a selection; it carries that selection, so late or reordered feedback stays right.

    stats      GroupStats of the slots
    utility    f64[B], finite: the signal's estimate of the value of having selected each problem
    admitted   bool[B]
    staleness  i32[B], curator steps between draw and feedback
    tokens     i64[B], generated for each slot, rejected groups included

    Raises ValueError for a utility that is not finite or a group without a rollout.
    """

    selection: Selection
    stats: GroupStats
    utility: Array
    admitted: Array
    staleness: Array
    tokens: Array

    def __post_init__(self) -> None:
        shape = (len(self.selection),)
        if not np.minimum.reduce(self.stats.n, initial=1) >= 1:
            slot = int(np.argmin(self.stats.n))
            raise ValueError(f"a group without a rollout teaches nothing; leave slot {slot} out of the feedback")
        _require_finite(self, "utility", _freeze(self, "utility", np.float64, shape))
        _freeze(self, "admitted", np.bool_, shape)
        _freeze(self, "staleness", np.int32, shape)
        _freeze(self, "tokens", np.int64, shape)

    def take(self, slot: Array) -> Feedback:
        """The feedback of the chosen slots only. slot: bool[B] or indices."""
        stats = GroupStats(**{name: value[slot] for name, value in vars(self.stats).items()})
        part = {name: getattr(self, name)[slot] for name in ("utility", "admitted", "staleness", "tokens")}
        return replace(self, selection=self.selection.take(slot), stats=stats, **part)


class Completion(NamedTuple):
    """One completion of a held-out problem, for people to read; untrusted text."""

    problem: int
    prompt: str
    text: str
    success: bool


@dataclass(frozen=True)
class Evaluation:
    """The actor's results on held-out problems, in the same order with the same sampling seeds every time.

    success  i64[E], correct completions of each held-out problem
    n        i64[E], completions sampled of each
    tokens   int, generated for the evaluation (not part of any training budget)
    stratum  i32[E], for results by stratum
    averaged the same problems under averaged weights, if the actor keeps any
    shown    a few completions, of the same problems every time
    """

    success: Array
    n: Array
    tokens: int
    stratum: Array
    averaged: Evaluation | None = None
    shown: tuple[Completion, ...] = ()

    @property
    def pass_rate(self) -> float:
        """Mean over problems of the share of correct completions."""
        return float(np.mean(self.success / self.n))
