"""Rows of what was timed: every op at its shapes against its peers, after checking both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from curbench import kernels
from curbench.bench import advantage, bank, improvement, mirror
from curbench.bench.clock import Ceiling, Time, alternate, ceiling_of, one_torch_thread
from curbench.bench.subject import Arrays, Call, Case, Subject, Target, Work, distance
from curbench.kernels import reference

OURS, OURS_ON_TENSORS, CEILING = "ours", "ours on tensors", "ceiling"
BUDGET_S, FAST_BUDGET_S = 1.5, 0.5  # that the calls of a case take turns for

SUBJECTS: dict[str, Subject] = {
    "group_advantage": advantage.SUBJECT,
    "policy_improvement": improvement.SUBJECT,
    "score_bank": bank.SCORE_BANK,
    "draw": bank.DRAW,
    "mirror_step": mirror.MIRROR_STEP,
    "mirror_tree": mirror.MIRROR_TREE,
}

Row = dict[str, Any]


class Timing(NamedTuple):
    """Rows, and sentences about ops and peers that were not timed."""

    rows: list[Row]
    failed: list[str]  # ours left the reference
    skipped: list[str]  # peers that left it, or could not run


def subject(op: str) -> Subject:
    if op not in SUBJECTS:
        raise ValueError(f"op must be one of {', '.join(SUBJECTS)}; got {op!r}")
    return SUBJECTS[op]


def to_torch(arrays: Arrays, device: str) -> Arrays:
    """The arrays as tensors; what torch cannot hold, such as uid strings, stays as it is."""

    def moved(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype != object:
            return torch.from_numpy(value).to(device)
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return {name: moved(value) for name, value in arrays.items()}


def call_of(op: str, module: Any, arrays: Arrays, change: Arrays | None = None) -> Call:
    """The op of ``kernels`` or of ``reference`` on these arrays, as a call without arguments."""
    this, changed = subject(op), change or {}
    if this.begin is not None:
        return this.begin(module, arrays, **changed)
    return partial(getattr(module, op), **this.arguments(arrays) | changed)


def runners(op: str, arrays: Arrays, device: str = "cpu", peers: tuple[str, ...] | None = None) -> dict[str, Call]:
    """What to time, as calls without arguments: ours, and the peers that run on ``device``."""
    this, tensors = subject(op), to_torch(arrays, device)
    calls: dict[str, Call] = {}
    numpy_has_it = not any(isinstance(value, torch.Tensor) for value in arrays.values())
    if device == "cpu" and numpy_has_it:
        calls[OURS] = call_of(op, kernels, arrays)
    chosen = tuple(this.peers) if peers is None else peers
    if not numpy_has_it or device != "cpu" or any(name.startswith("torch") for name in chosen):
        calls[OURS_ON_TENSORS] = call_of(op, kernels, tensors)
    for name in chosen:
        if name.startswith("torch"):
            calls[name] = partial(this.peers[name], tensors)
        elif device == "cpu":
            calls[name] = partial(this.peers[name], arrays)
    return calls


def rival(peer: str, calls: dict[str, Any]) -> str:
    """Which of ours a peer is compared with: the one that gets the same arrays."""
    return OURS_ON_TENSORS if peer.startswith("torch") or OURS not in calls else OURS


def expectation(op: str, arrays: Arrays) -> Any:
    """What the reference gives on these arrays."""
    expected = subject(op).expected
    return expected(arrays) if expected else call_of(op, reference, arrays)()


def disagreement(op: str, name: str, call: Call, expected: Any) -> str | None:
    """Half a sentence if the result of a call is not what the reference gives, or a peer cannot run; else None."""
    this = subject(op)
    if name in (OURS, OURS_ON_TENSORS):
        own = this.own_distance or (lambda result, expected: distance(result, expected, *this.tolerance))
        off = own(call(), expected)
    else:
        try:
            off = this.peer_distance(call(), expected)
        except ModuleNotFoundError as error:
            return f"unable to run: {error.name} is not installed"
        except RuntimeError as error:  # a limit of torch, or no compiler for it
            return "unable to run: " + (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{off:.3g} tolerances away from the reference" if off > 1.0 else None


def measure(op: str, case: Case, device: str, *, fast: bool = False) -> Timing:
    """One row per peer of a case; none if ours is wrong."""
    this, arrays = subject(op), subject(op).make(*case.shape)
    expected = expectation(op, arrays)
    calls = runners(op, arrays, device, case.fast if fast else case.peers)
    wrong = {name: why for name, call in calls.items() if (why := disagreement(op, name, call, expected))}
    what = " ".join(filter(None, (op, case.text, case.variant, case.dtype, "on", device)))
    said = {name: f"{what}: {name} is {why}; it was not timed" for name, why in wrong.items()}
    failed = [said[name] for name in (OURS, OURS_ON_TENSORS) if name in wrong]
    if failed:
        return Timing([], failed, [])
    ceiling = ceiling_of(this.work(arrays), device)
    timed = {name: call for name, call in calls.items() if name not in wrong} | {CEILING: ceiling.call}
    time = alternate(timed, FAST_BUDGET_S if fast else BUDGET_S, device)
    rows = []
    for peer in [name for name in calls if name in this.peers]:
        row = row_of(op, case, device, case.dtype or this.dtype, peer)
        row |= times(time[rival(peer, time)], time.get(peer), case.target.get(peer))
        row |= limit(this.work(arrays), ceiling, time[rival(peer, time)], time[CEILING])
        rows.append(row | {"note": wrong.get(peer)})
    return Timing(rows, [], list(said.values()))


def row_of(op: str, case: Case, device: str, dtype: str, peer: str) -> Row:
    """Which row this is."""
    place = {"op": op, "variant": case.variant, "shape": case.text, "size": case.size, "dtype": dtype}
    return place | {"threads": 1, "backend": device, "peer": peer}


def times(ours: Time, peer: Time | None, target: Target | None) -> Row:
    """How long both take, and whether that is what was aimed at; nothing about a peer that was not timed."""
    row = _microseconds("", ours) | {"peer_us": None, "peer_us_range": None, "ratio": None}
    if peer is not None:
        row |= _microseconds("peer_", peer) | {"ratio": peer.median / ours.median}
    if target is None:
        return row | {"target": None, "target_row": None, "met": None}
    met = None if peer is None else row["ratio"] >= target.ratio
    return row | {"target": target.ratio, "target_row": target.row, "met": met}


def limit(work: Work, ceiling: Ceiling, ours: Time, at_ceiling: Time) -> Row:
    """What ours moves, and how close it is to what the machine can do."""
    fraction = ceiling.fraction(ours.median, at_ceiling.median)
    return {"bytes": work.bytes, "ceiling": ceiling.kind, "fraction_of_ceiling": fraction}


def _microseconds(prefix: str, time: Time) -> Row:
    low, median, high = (1e6 * t for t in time)
    return {f"{prefix}us": median, f"{prefix}us_range": [low, high]}


def devices(op: str) -> list[str]:
    cuda = subject(op).on_cuda and kernels.cuda_status()[0] and torch.cuda.is_available()
    return ["cpu", "cuda"] if cuda else ["cpu"]


def run(ops: list[str] | None = None, *, fast: bool = False, progress: Callable[[float], None] | None = None) -> Timing:
    """One row per op, shape, back-end and peer: microseconds of both, and their ratio (above 1: ours is faster).

    ops       names of ``SUBJECTS``; None for all
    fast      few cases and peers, in less than 10 s; else about five minutes, most of them reference and peers
    progress  called with the share done, in (0, 1]
    Returns   Timing, with rows of op, variant, shape, size (entries of the largest array), dtype, threads, backend,
              peer; us, peer_us (medians), us_range, peer_us_range (20 % to 80 %), ratio; bytes (that ours moves at
              least), ceiling (what limits it) and fraction_of_ceiling (of what one thread reached of that in the same
              alternation); target (of the ratio), target_row and met, or None; note, why a peer has no time
    Raises    ValueError for an unknown op; RuntimeError if the kernels are not compiled.
    """
    work = [
        (op, case, device)
        for op in ops or list(SUBJECTS)
        for case in subject(op).cases
        if case.fast or not fast
        for device in devices(op)
    ]
    timing = Timing([], [], [])
    with one_torch_thread():
        for done, (op, case, device) in enumerate(work):
            part = measure(op, case, device, fast=fast)
            timing.rows.extend(part.rows)
            timing.failed.extend(part.failed)
            timing.skipped.extend(part.skipped)
            if progress is not None:
                progress((done + 1) / len(work))
    return timing


def describe(row: Row) -> str:
    """One line for a row of ``run``."""
    shape = " ".join(filter(None, (row["shape"], row["variant"], row["dtype"])))
    begin = f"{row['op']:19}{shape:34}{row['backend']:5}{row['us']:10.1f} us  {row['peer']:24}"
    if row["ratio"] is None:
        return f"{begin}{row['note']}"
    share = f"{100 * row['fraction_of_ceiling']:4.0f} % of {row['ceiling']}"
    return f"{begin}{row['peer_us']:12.1f} us  {row['ratio']:8.1f}x{share}{_aim(row)}"


def _aim(row: Row) -> str:
    """The target and whether it is met; when the ceiling itself is not that much faster than the peer, this too."""
    if row["target"] is None:
        return ""
    most = row["ratio"] / row["fraction_of_ceiling"]
    reach = f", {most:.2g}x at the ceiling" if most < row["target"] else ""
    return f"  target {row['target']:g}x {'met' if row['met'] else 'missed'}{reach}"


def self_check() -> list[str]:
    """Sentences about what is wrong: every op and option on odd shapes, on every device here, against the reference.

    Raises RuntimeError if the kernels are not compiled.

    >>> self_check()
    []
    """
    failures = []
    for op, this in SUBJECTS.items():
        for shape, device in product(this.odd_shapes, ("numpy", *devices(op))):
            arrays = this.make(*shape)
            given = arrays if device == "numpy" else to_torch(arrays, device)
            for change, same in zip(this.variants(given), this.variants(arrays), strict=True):
                result = call_of(op, kernels, given, change)()
                expected = call_of(op, reference, arrays, same)()
                off = distance(result, expected, *this.tolerance)
                if off > 1.0:
                    chosen = "".join(f" {k}={v}" for k, v in same.items() if isinstance(v, int | float | str))
                    where = device if device == "numpy" else f"torch on {device}"
                    failures.append(f"{op} {shape}{chosen} on {where} is {off:.3g} tolerances away from the reference")
    return failures
