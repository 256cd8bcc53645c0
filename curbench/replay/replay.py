"""Replays a curator beside a log: it selects at every step, learns from what was logged, and its selections are valued.

The value is that of one step at each actor state which the log visited. It is not the value of the run that the curator
would have made: its selections would have led the actor to other states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from curbench.config import parse_hyper
from curbench.curators import curator_class, split_admission
from curbench.curators.base import Curator
from curbench.philox import spawn_seeds
from curbench.replay.estimators import (
    ESTIMATORS,
    StratumModel,
    Terms,
    drifting_mean,
    effective_sample_size,
    estimate,
)
from curbench.replay.log import Log, check_support
from curbench.stats import Interval
from curbench.types import ActorView, Array, Feedback

NOT_A_TRAJECTORY = (
    "one-step utility at the actor states that this log visited, learning from logged feedback only; "
    "not the trajectory that the curator would have produced"
)

SUPPORT_LEVEL = 0.999
"""A log is refused when the interval at this level around the mean weight, 1 under full support, lies below 1."""


@dataclass(frozen=True)
class Replay:
    """A curator beside a log.

    terms   sums of every step, see ``estimators``
    logged  mean utility of what was selected, f64[T]
    weight  f64[slots], of every slot
    share   f64[T, N] or empty: m_t, if it was asked for
    """

    terms: Terms
    logged: Array
    weight: Array
    share: list[Array]

    @property
    def effective(self) -> float:
        """Effective number of slots."""
        return effective_sample_size(self.weight)

    def support(self, level: float = SUPPORT_LEVEL) -> Interval:
        """The mean over steps of the summed weights: 1 if the log could draw all that the curator would select."""
        return drifting_mean(self.terms.weight, expected=1.0, level=level)

    def require_support(self) -> None:
        """Raises ValueError if the weights add up to less than 1."""
        found = self.support()
        if found.hi < 1.0:
            raise ValueError(
                f"support is missing: importance weights add up to {found.mean:.3f} [{found.lo:.3f}, {found.hi:.3f}] "
                "per step instead of 1, so the log hardly ever drew part of what the curator would select"
            )

    def estimates(self, level: float = 0.95) -> dict[str, Interval]:
        """V by every estimator."""
        return {name: estimate(self.terms, name, level) for name in ESTIMATORS}


def _no_states(*_: Any) -> NoReturn:
    raise ValueError("a log holds no hidden states of the actor, and this curator looks at them; it cannot be replayed")


BLIND = ActorView(_no_states, _no_states)
"""The actor as a log knows it."""


def replay(
    feedback: Iterable[Feedback], make: Callable[[int], Curator], *, seed: int, draws: int = 32, keep: bool = False
) -> Replay:
    """Walks through a log with a new curator: at each step its shares m_t are found, then it learns from the step.

    make   a new curator from a seed, over the bank of the log
    seed   of the run that was logged
    draws  where ``Curator.expected_slots`` is not known, m_t is the mean of so many selections of copies with other
           seeds, restored to its state; they are independent of the log, so nothing becomes biased
    keep   keep m_t of every step
    Raises ValueError for a curator that a log cannot drive.
    """
    _, _, own, *others = spawn_seeds(seed, draws + 3)  # the first two are those of the run: no luck is shared with it
    curator = make(own)
    _check(curator)
    batch, bank = curator.batch, curator.bank
    ghosts = [] if curator.expected_slots(batch) is not None else [make(other) for other in others]
    model = StratumModel(bank.stratum)
    row, logged, weight, share = [], [], [], []
    for one in feedback:
        curator.inspect(BLIND)
        m = _share(curator, ghosts)
        curator.select(batch)  # moves on as in a run; what it drew was never rolled out
        slots = one if one.selection.probe is None else one.take(~one.selection.probe)
        f = model.predict()
        w = m[slots.selection.problem] / _expected_draws(slots)
        at = f[bank.stratum[slots.selection.problem]]
        stratum_share = np.bincount(bank.stratum, m, f.size)
        row.append((w.sum(), w @ slots.utility, stratum_share @ f, w @ at))
        logged.append(slots.utility.mean())
        weight.append(w)
        if keep:
            share.append(m)
        model.update(slots.selection.problem, slots.utility)
        curator.update(one)
    if len(row) < 3:
        raise ValueError(f"replay needs at least 3 logged steps; got {len(row)}")
    return Replay(Terms(*np.array(row).T), np.array(logged), np.concatenate(weight), share)


def _check(curator: Curator) -> None:
    name = type(curator).__name__
    if curator.on_policy:
        raise ValueError(f"{name} learns from its own selections only, so a log of another curator cannot drive it")
    if type(curator).refill is not Curator.refill:
        raise ValueError(f"{name} draws further rounds after it saw rewards; a log holds those of other problems only")


def _expected_draws(feedback: Feedback) -> Array:
    """f64[B], how often the log expected to draw each slot's problem."""
    selection = feedback.selection
    draws = len(selection) if selection.design == "iid" else 1
    return selection.propensity * selection.candidate_propensity * draws


def _share(curator: Curator, ghosts: list[Curator]) -> Array:
    """f64[N], the share of its slots that a curator gives to each problem, in expectation."""
    known = curator.expected_slots(curator.batch)
    if known is not None:
        return known / curator.batch
    share = np.zeros(len(curator.bank))
    for ghost in ghosts:
        ghost.restore(curator.state())
        ghost.inspect(BLIND)
        drawn = ghost.select(curator.batch)
        problem = drawn.problem if drawn.probe is None else drawn.problem[~drawn.probe]
        share += np.bincount(problem, minlength=share.size) / (problem.size * len(ghosts))
    return share


def replay_run(
    log: Log, curator: str, *, hyper: dict[str, str] | None = None, draws: int = 32, level: float = 0.95
) -> dict[str, Any]:
    """One result row: a curator by name, with hyper-parameters as texts, beside a log.

    Raises ValueError if the log lacks support, see ``check_support`` and ``Replay.require_support``, if the curator
    cannot be replayed, or for names and values that do not exist.
    """
    check_support(log)
    name, admission = split_admission(curator)
    cls = curator_class(name)
    chosen = parse_hyper(cls, hyper or {})

    def make(seed: int) -> Curator:
        return cls(log.bank, seed=seed, admission=admission, **log.common, **chosen)

    result = replay(log.feedback, make, seed=log.seed, draws=draws)
    result.require_support()
    return {
        "run": str(log.directory),
        "logged_by": log.curator,
        "curator": curator,
        "hyper": chosen,
        "signal": log.signal,
        "own_signal": cls.signal,
        "steps": int(result.logged.size),
        "slots": int(result.weight.size),
        "effective_slots": result.effective,
        "weight": result.support().row(),
        "largest_weight": float(result.weight.max() * log.common["batch"]),
        "logged": drifting_mean(result.logged, level=level).row(),
        "estimates": {name: one.row() for name, one in result.estimates(level).items()},
        "level": level,
        "draws": draws,
        "says": NOT_A_TRAJECTORY,
    }


HEAD = ("curator", "estimator", "utility", "interval", "slots", "effective", "largest weight")


def cells(row: dict[str, Any]) -> list[tuple[str, ...]]:
    """Lines of the table under ``HEAD``: what the log's own curator selected, then every estimate."""
    found = {f"({row['logged_by']}, as logged)": row["logged"]} | row["estimates"]
    lines = []
    for name, one in found.items():
        own = (str(row["slots"]), f"{row['effective_slots']:.0f}", f"{row['largest_weight']:.1f}")
        interval = f"[{one['lo']:.4f}, {one['hi']:.4f}]"
        lines.append((row["curator"], name, f"{one['mean']:.4f}", interval, *(own if name in ESTIMATORS else [""] * 3)))
    return lines
