"""Times the kernels against what people run today, in one process and on one thread, after checking that they agree.

Peers are small restatements of published code: the group loop over uid strings of verl, the view of TRL, eager torch,
numpy. Calls alternate, so that a busy machine slows all of them alike, and medians are reported. The ceiling of a row
is what one thread could read from memory in the very same alternation; it is None where the data fit in a cache.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch

from curbench import kernels
from curbench.kernels import reference
from curbench.kernels.extension import load

Arrays = dict[str, Any]  # numpy arrays, or torch tensors under the same names
CACHE_BYTES = 32 << 20  # data below this may never leave a last-level cache
SAMPLE_S = 1e-3  # a sample repeats a call until it lasts about this long


@dataclass(frozen=True)
class Subject:
    """One op: how to make its arrays, what to run, and how far a result is from the reference's (at most 1)."""

    shapes: tuple[tuple, ...]  # the first one is the fast one
    make: Callable[..., Arrays]
    ours: Callable[[Arrays], Any]
    expected: Callable[[Arrays], Any]
    distance: Callable[[Any, Any], float]
    peers: dict[str, Callable[[Arrays], Any]]  # those called "torch ..." get tensors and run on CUDA too
    bytes_moved: Callable[[Arrays], int]


def far(result: Any, expected: Any, rtol: float, atol: float) -> float:
    """Largest error in units of atol + rtol * |expected|; inf for NaN."""
    result = result.cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)
    error = np.abs(result - expected) / (atol + rtol * np.abs(expected))
    return float(np.nan_to_num(error, nan=math.inf).max(initial=0.0))


# group_advantage: B groups of G rewards


def make_rewards(groups: int, size: int) -> Arrays:
    rng = np.random.default_rng(0)
    uid = np.repeat([f"{i:032x}" for i in rng.permutation(groups)], size).astype(object)
    return {"reward": rng.random(groups * size, dtype=np.float32), "uid": uid, "size": size}


def verl_loop(a: Arrays) -> Any:
    """The loop of verl's grpo estimator: a dict from uid string to scores, then one pass over the batch."""
    score, uid = torch.from_numpy(a["reward"]).clone(), a["uid"]
    by_group = defaultdict(list)
    for i in range(len(score)):
        by_group[uid[i]].append(score[i])
    mean = {g: torch.stack(s).mean() for g, s in by_group.items()}
    std = {g: torch.stack(s).std() for g, s in by_group.items()}
    for i in range(len(score)):
        score[i] = (score[i] - mean[uid[i]]) / (std[uid[i]] + 1e-6)
    return score


def trl_view(a: Arrays) -> Any:
    grouped = a["reward"].view(-1, a["size"])
    mean = grouped.mean(dim=1).repeat_interleave(a["size"])
    std = grouped.std(dim=1).repeat_interleave(a["size"])
    return (a["reward"] - mean) / (std + 1e-6)


def numpy_view(a: Arrays) -> Any:
    grouped = a["reward"].reshape(-1, a["size"])
    mean, std = grouped.mean(axis=1, keepdims=True), grouped.std(axis=1, ddof=1, keepdims=True)
    return ((grouped - mean) / (std + 1e-6)).ravel()


# policy_improvement: R rollouts of L tokens, groups of 8


def make_logprobs(rows: int, tokens: int, ratio: str) -> Arrays:
    rng = np.random.default_rng(0)
    old = -rng.random((rows, tokens), dtype=np.float32)
    new = old + rng.standard_normal((rows, tokens), dtype=np.float32) * np.float32(0.01)
    advantage = rng.standard_normal((rows // 8, 8))
    advantage = (advantage - advantage.mean(axis=1, keepdims=True)).astype(np.float32).ravel()
    mask = np.arange(tokens) < rng.integers(tokens // 4, tokens, rows)[:, None]
    return {"new": new, "old": old, "advantage": advantage, "mask": mask, "ratio": ratio}


def torch_eager_improvement(a: Arrays) -> Any:
    log_rho, count = a["new"] - a["old"], a["mask"].sum(-1)
    if a["ratio"] == "token_mean":
        ratio = (log_rho.exp() * a["mask"]).sum(-1) / count
    else:
        ratio = ((log_rho * a["mask"]).sum(-1) / count).exp()
    return (ratio * a["advantage"]).view(-1, 8).mean(1)


def numpy_improvement(a: Arrays) -> Any:
    log_rho, count = a["new"] - a["old"], a["mask"].sum(axis=1)
    if a["ratio"] == "token_mean":
        ratio = (np.exp(log_rho) * a["mask"]).sum(axis=1) / count
    else:
        ratio = np.exp((log_rho * a["mask"]).sum(axis=1) / count)
    return (ratio * a["advantage"]).reshape(-1, 8).mean(axis=1)


def run_improvement(op: Any, a: Arrays) -> Any:
    return op(a["new"], a["old"], a["advantage"], 8, mask=a["mask"], ratio=a["ratio"]).utility


# score_bank: N problems of F features, 256 draws


def make_bank(problems: int, features: int, design: str) -> Arrays:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal(features) / math.sqrt(features)).astype(np.float32)
    feature = rng.standard_normal((problems, features), dtype=np.float32)
    return {"feature": feature, "weight": weight, "design": design}


def torch_eager_bank(a: Arrays) -> Any:
    score = a["feature"] @ a["weight"]
    if a["design"] == "iid":
        drawn = torch.multinomial(torch.softmax(score, 0), 256, replacement=True)
    else:
        gumbel = -torch.empty_like(score).exponential_().log()
        drawn = torch.topk(score + gumbel, 256).indices
    return drawn, torch.exp(score[drawn] - torch.logsumexp(score, 0))


def numpy_bank(a: Arrays) -> Any:
    score = np.vecdot(a["feature"], a["weight"])  # not `@`: its BLAS would use every core
    rng = np.random.default_rng(0)
    log_normaliser = score.max() + np.log(np.exp(score - score.max()).sum())
    if a["design"] == "iid":
        prefix = np.cumsum(np.exp(score - log_normaliser), dtype=np.float64)
        drawn = np.searchsorted(prefix, rng.random(256) * prefix[-1])
    else:
        drawn = np.argpartition(-score - rng.gumbel(size=len(score)), 256)[:256]
    return drawn, np.exp(score[drawn] - log_normaliser)


def run_bank(op: Any, a: Arrays) -> Any:
    draw = op(a["feature"], a["weight"], count=256, design=a["design"], seed=0)
    return draw.problem, draw.probability


def softmax_of_bank(a: Arrays) -> Any:
    score = a["feature"].astype(np.float64) @ a["weight"]
    p = np.exp(score - score.max())
    return p / p.sum()


def bank_distance(result: Any, p: Any) -> float:
    """Every draw is random in its own way: what must agree is the probability reported with it."""
    drawn, probability = result
    drawn = drawn.cpu().numpy() if isinstance(drawn, torch.Tensor) else drawn
    return far(probability, p[drawn], 1e-4, 0.0)


# mirror_step: K arms, 256 slots


def make_arms(arms: int) -> Arrays:
    rng = np.random.default_rng(0)
    p = rng.exponential(size=arms)
    return {"p": p / p.sum(), "arm": rng.integers(0, arms, 256), "loss": rng.standard_normal(256)}


def torch_eager_mirror(a: Arrays) -> Any:
    arms = len(a["p"])
    total = torch.zeros_like(a["p"]).index_add_(0, a["arm"], a["loss"])
    p = a["p"] * torch.exp(-total)
    ranked = p.sort(descending=True).values
    left = 1.0 - torch.arange(arms - 1, -1, -1, device=p.device, dtype=p.dtype) * (0.1 / arms)
    scale = left / ranked.cumsum(0)
    scale = scale[(scale * ranked >= 0.1 / arms).sum() - 1]
    return 0.99 * (scale * p).clamp_min(0.1 / arms) + 0.01 / arms


def numpy_mirror(a: Arrays) -> Any:
    arms = len(a["p"])
    p = a["p"] * np.exp(-np.bincount(a["arm"], a["loss"], arms))
    ranked = np.sort(p)[::-1]
    scale = (1.0 - np.arange(arms - 1, -1, -1) * (0.1 / arms)) / np.cumsum(ranked)
    scale = scale[np.flatnonzero(scale * ranked >= 0.1 / arms)[-1]]
    return 0.99 * np.maximum(0.1 / arms, scale * p) + 0.01 / arms


def run_mirror(op: Any, a: Arrays) -> Any:
    return op(a["p"], a["arm"], loss=a["loss"], eta=1.0, floor=0.1, share=0.01)


SUBJECTS: dict[str, Subject] = {
    "group_advantage": Subject(
        shapes=((1024, 8), (4096, 16), (16384, 8)),
        make=make_rewards,
        ours=lambda a: kernels.group_advantage(a["reward"], a["size"]).advantage,
        expected=lambda a: reference.group_advantage(a["reward"], a["size"]).advantage,
        distance=lambda result, expected: far(result, expected, 1e-4, 1e-4),  # peers work in float32
        peers={"verl loop": verl_loop, "torch TRL view": trl_view, "numpy": numpy_view},
        bytes_moved=lambda a: 2 * a["reward"].nbytes,
    ),
    "policy_improvement": Subject(
        shapes=((2048, 2048, "sequence_mean"), (2048, 2048, "token_mean"), (8192, 2048, "sequence_mean")),
        make=make_logprobs,
        ours=lambda a: run_improvement(kernels.policy_improvement, a),
        expected=lambda a: run_improvement(reference.policy_improvement, a),
        distance=lambda result, expected: far(result, expected, 0.0, 1e-5),  # peers cancel ratios near 1 in float32
        peers={"torch eager": torch_eager_improvement, "numpy": numpy_improvement},
        bytes_moved=lambda a: a["new"].nbytes + a["old"].nbytes + a["mask"].nbytes,
    ),
    "score_bank": Subject(
        shapes=((50_000, 384, "iid"), (50_000, 384, "systematic"), (500_000, 64, "iid"), (300_000, 384, "iid")),
        make=make_bank,
        ours=lambda a: run_bank(kernels.score_bank, a),
        expected=softmax_of_bank,
        distance=bank_distance,
        peers={"torch eager": torch_eager_bank, "numpy": numpy_bank},
        bytes_moved=lambda a: a["feature"].nbytes,
    ),
    "mirror_step": Subject(
        shapes=((100_000,), (1_000_000,), (4_000_000,)),
        make=make_arms,
        ours=lambda a: run_mirror(kernels.mirror_step, a),
        expected=lambda a: run_mirror(reference.mirror_step, a),
        distance=lambda result, expected: far(result, expected, 1e-9, 0.0),
        peers={"torch eager": torch_eager_mirror, "numpy": numpy_mirror},
        bytes_moved=lambda a: 5 * a["p"].nbytes,  # the passes that every call makes
    ),
}


def subject(op: str) -> Subject:
    if op not in SUBJECTS:
        raise ValueError(f"op must be one of {', '.join(SUBJECTS)}; got {op!r}")
    return SUBJECTS[op]


def to_torch(arrays: Arrays, device: str) -> Arrays:
    """The arrays as tensors; what torch cannot hold, such as uid strings, stays as it is."""
    movable = {k for k, v in arrays.items() if isinstance(v, np.ndarray) and v.dtype != object}
    return {k: torch.from_numpy(v).to(device) if k in movable else v for k, v in arrays.items()}


def runners(op: str, arrays: Arrays, device: str = "cpu") -> dict[str, Callable[[], Any]]:
    """What to time: "ours" and every peer that runs on ``device``, as calls without arguments."""
    this, tensors = subject(op), to_torch(arrays, device)
    ours = arrays if device == "cpu" else tensors
    calls: dict[str, Callable[[], Any]] = {"ours": partial(this.ours, ours)}
    for name, peer in this.peers.items():
        if name.startswith("torch"):
            calls[name] = partial(peer, tensors)
        elif device == "cpu":
            calls[name] = partial(peer, arrays)
    return calls


def verify(op: str, arrays: Arrays, calls: dict[str, Callable[[], Any]]) -> None:
    """Raises RuntimeError if ours or a peer is not what the reference gives."""
    expected = subject(op).expected(arrays)
    for name, call in calls.items():
        distance = subject(op).distance(call(), expected)
        if distance > 1.0:
            raise RuntimeError(f"{op}: {name} is {distance:.3g} tolerances away from the reference; it was not timed")


def seconds(call: Callable[[], Any], repeats: int, device: str) -> float:
    if device == "cpu":
        before = perf_counter()
        for _ in range(repeats):
            call()
        return (perf_counter() - before) / repeats
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / repeats


def alternate(calls: dict[str, Callable[[], Any]], budget_s: float, device: str = "cpu") -> dict[str, float]:
    """Median seconds per call, the calls taking turns for about ``budget_s``; a call slower than that runs once."""
    once = {name: seconds(call, 1, device) for name, call in calls.items()}
    repeats = {name: max(1, min(100, int(SAMPLE_S / t))) for name, t in once.items() if t < budget_s}
    samples: dict[str, list[float]] = {name: [] for name in repeats}
    end = perf_counter() + budget_s
    while perf_counter() < end:
        for name, repeat in repeats.items():
            samples[name].append(seconds(calls[name], repeat, device))
    return once | {name: float(np.median(values)) for name, values in samples.items()}


@contextmanager
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(op: str, shape: tuple, budget_s: float, device: str) -> list[dict[str, Any]]:
    """One row per peer of ``op`` at ``shape``."""
    arrays = subject(op).make(*shape)
    calls = runners(op, arrays, device)
    verify(op, arrays, calls)
    bytes_moved = subject(op).bytes_moved(arrays)
    if device == "cpu" and bytes_moved > CACHE_BYTES:
        word = np.ones(min(bytes_moved, 256 << 20) // 8, np.uint64)  # not zeros: those are all one page
        calls["read"] = partial(load().read_words, word, len(word))
    time = alternate(calls, budget_s, device)
    us = {name: 1e6 * t for name, t in time.items()}
    fraction = bytes_moved / time["ours"] / (word.nbytes / time["read"]) if "read" in time else None
    return [
        {
            "op": op,
            "shape": "x".join(map(str, shape)),
            "dtype": "float64" if op == "mirror_step" else "float32",
            "threads": 1,
            "backend": device,
            "peer": peer,
            "us": us["ours"],
            "peer_us": us[peer],
            "ratio": us[peer] / us["ours"],
            "bytes": bytes_moved,
            "fraction_of_ceiling": fraction,
        }
        for peer in us
        if peer not in ("ours", "read")
    ]


def run(
    ops: list[str] | None = None, *, fast: bool = False, progress: Callable[[float], None] | None = None
) -> list[dict[str, Any]]:
    """One row per op, shape, back-end and peer: microseconds of both, and their ratio (above 1: ours is faster).

    ops       names of ``SUBJECTS``; None for all
    fast      the first shape of each op only, in less than 10 s; else less than 90 s
    progress  called with the share done, in (0, 1]
    Returns   rows of op, shape, dtype, threads, backend, peer, us, peer_us, ratio, bytes (that ours moves) and
              fraction_of_ceiling (of what one thread reads from memory; None where data fit in a cache, and on CUDA)
    Raises    ValueError for an unknown op; RuntimeError if ours or a peer disagrees with the reference.
    """
    devices = ["cpu", "cuda"] if kernels.cuda_status()[0] and torch.cuda.is_available() else ["cpu"]
    work = [
        (op, shape, device)
        for op in ops or list(SUBJECTS)
        for shape in (subject(op).shapes[:1] if fast else subject(op).shapes)
        for device in devices
    ]
    rows = []
    with one_torch_thread():
        for done, (op, shape, device) in enumerate(work):
            rows += measure(op, shape, 0.5 if fast else 2.0, device)
            if progress is not None:
                progress((done + 1) / len(work))
    return rows


def describe(row: dict[str, Any]) -> str:
    """One line for a row of ``run``."""
    fraction = row["fraction_of_ceiling"]
    ceiling = "" if fraction is None else f"  {100 * fraction:.0f} % of read bandwidth"
    return (
        f"{row['op']:19}{row['shape']:27}{row['backend']:5}{row['us']:10.1f} us  "
        f"{row['peer']:15}{row['peer_us']:10.1f} us  {row['ratio']:7.1f}x{ceiling}"
    )


ODD_SHAPES: dict[str, tuple[tuple, ...]] = {
    "group_advantage": ((1, 1), (3, 2), (5, 7), (2, 33)),
    "policy_improvement": ((8, 5, "sequence_mean"), (16, 33, "token_mean"), (24, 131, "sequence_mean")),
    "score_bank": ((257, 1, "systematic"), (1025, 33, "iid"), (3001, 65, "systematic")),
    "mirror_step": ((1,), (1023,), (2049,)),
}


def self_check() -> list[str]:
    """Sentences about what is wrong: every op on odd shapes, on every device here, against the reference.

    Raises RuntimeError if the kernels are not compiled.

    >>> self_check()
    []
    """
    failures = []
    devices = ["cpu", "cuda"] if kernels.cuda_status()[0] and torch.cuda.is_available() else ["cpu"]
    for op, shapes in ODD_SHAPES.items():
        for shape, device in ((shape, device) for shape in shapes for device in devices):
            arrays = subject(op).make(*shape)
            result = runners(op, arrays, device)["ours"]()
            distance = subject(op).distance(result, subject(op).expected(arrays))
            if distance > 1.0:
                failures.append(f"{op} {shape} on {device} is {distance:.3g} tolerances away from the reference")
    return failures
