"""Times the kernels against what people run today, in one process and on one thread, after checking that they agree.

Peers are small restatements of published code: the group loop over uid strings of verl, the view of TRL, eager torch,
numpy. Calls alternate, so that a busy machine slows all of them alike, and medians are reported. The ceiling of a row
is what one thread could read from memory in the very same alternation; it is None where the data fit in a cache.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from curbench import kernels
from curbench.kernels import reference
from curbench.kernels.contract import DESIGNS, ESTIMATORS, RATIOS
from curbench.kernels.extension import load

Arrays = dict[str, Any]  # numpy arrays, or torch tensors under the same names
CACHE_BYTES = 32 << 20  # data below this may never leave a last-level cache
SAMPLE_S = 1e-3  # a sample repeats a call until it lasts about this long


OURS, OURS_ON_TENSORS = "ours", "ours on tensors"


@dataclass(frozen=True)
class Subject:
    """One op: its arrays, what to run on them, and how far a result may be from the reference's."""

    shapes: tuple[tuple, ...]  # those that are timed; the first one is the fast one
    odd_shapes: tuple[tuple, ...]  # those of the self-check
    make: Callable[..., Arrays]
    arguments: Callable[[Arrays], Arrays]  # of ours and of the reference
    variants: Callable[[Arrays], Iterable[Arrays]]  # changes to the arguments, for the self-check
    tolerance: tuple[float, float]  # rtol and atol of every float of ours; all else is compared exactly
    peer_distance: Callable[[Any, Any], float]  # of a peer's result from the reference's, in loose tolerances
    peers: dict[str, Callable[[Arrays], Any]]  # those called "torch ..." get tensors and run on CUDA too
    bytes_moved: Callable[[Arrays], int]
    begin: Callable[..., Callable[[], Any]] | None = None  # of ours with a state: (module, arrays, **change) -> call
    on_cuda: bool = True


class Timing(NamedTuple):
    """Rows of what was timed, and sentences about ops and peers that were not, since they left the reference."""

    rows: list[dict[str, Any]]
    failed: list[str]  # ours
    skipped: list[str]  # peers


def on_host(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def far(result: Any, expected: Any, rtol: float, atol: float) -> float:
    """Largest error in units of atol + rtol * |expected|; inf for NaN and for another shape."""
    result, expected = on_host(result), on_host(expected)
    if result.shape != expected.shape:
        return math.inf
    with np.errstate(invalid="ignore"):  # inf - inf
        error = np.abs(result - expected) / (atol + rtol * np.abs(expected))
    error = np.where(result == expected, 0.0, np.nan_to_num(error, nan=math.inf))
    return float(error.max(initial=0.0))


def distance(result: Any, expected: Any, rtol: float, atol: float) -> float:
    """Largest ``far`` of any field; inf where one is missing, has another dtype, or holds another index or count."""
    if isinstance(expected, tuple):
        return max(distance(a, b, rtol, atol) for a, b in zip(result, expected, strict=True))
    if result is None or expected is None:
        return 0.0 if result is expected else math.inf
    result, expected = on_host(result), on_host(expected)
    if result.dtype != expected.dtype:
        return math.inf
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(result, expected) else math.inf
    return far(result, expected, rtol, atol)


# group_advantage: B groups of G rewards


def make_rewards(groups: int, size: int) -> Arrays:
    rng = np.random.default_rng(0)
    uid = np.repeat([f"{i:032x}" for i in rng.permutation(groups)], size).astype(object)
    reward = rng.random(groups * size, dtype=np.float32)
    offset = np.arange(0, len(reward) + 1, size)
    return {"reward": reward, "uid": uid, "size": size, "offset": offset, "success": reward > 0.5}


def advantage_variants(a: Arrays) -> Iterator[Arrays]:
    yield {}
    for estimator, ddof in product(ESTIMATORS, (0, 1)):
        yield {"group": a["offset"], "estimator": estimator, "ddof": ddof, "success": a["success"]}


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
    length = rng.integers(tokens // 4, tokens, rows)
    mask = np.arange(tokens) < length[:, None]
    batch = {"new": new, "old": old, "advantage": advantage, "mask": mask, "float_mask": mask.astype(np.float32)}
    return {**batch, "length": length, "ratio": ratio}


def improvement_arguments(a: Arrays) -> Arrays:
    logprob = {"new_logprob": a["new"], "old_logprob": a["old"]}
    return {**logprob, "advantage": a["advantage"], "group": 8, "mask": a["mask"], "ratio": a["ratio"]}


def improvement_variants(a: Arrays) -> Iterator[Arrays]:
    for ratio, clip in product(RATIOS, (None, 1.0)):
        yield {"ratio": ratio, "ratio_clip": clip}
        yield {"ratio": ratio, "ratio_clip": clip, "mask": None, "length": a["length"]}


def torch_eager_improvement(a: Arrays) -> Any:
    log_rho, count = a["new"] - a["old"], a["mask"].sum(-1)
    if a["ratio"] == "token_mean":
        ratio = (log_rho.exp() * a["mask"]).sum(-1) / count
    else:
        ratio = ((log_rho * a["mask"]).sum(-1) / count).exp()
    return (ratio * a["advantage"]).view(-1, 8).mean(1)


def torch_eager_float_mask(a: Arrays) -> Any:
    """The same with the mask in float32, whose products torch vectorises better than those with bool."""
    return torch_eager_improvement({**a, "mask": a["float_mask"]})


def numpy_improvement(a: Arrays) -> Any:
    log_rho, count = a["new"] - a["old"], a["mask"].sum(axis=1)
    if a["ratio"] == "token_mean":
        ratio = (np.exp(log_rho) * a["mask"]).sum(axis=1) / count
    else:
        ratio = np.exp((log_rho * a["mask"]).sum(axis=1) / count)
    return (ratio * a["advantage"]).reshape(-1, 8).mean(axis=1)


# score_bank: N problems of F features, 256 draws


def make_bank(problems: int, features: int, design: str) -> Arrays:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal(features) / math.sqrt(features)).astype(np.float32)
    feature = rng.standard_normal((problems, features), dtype=np.float32)
    candidate = np.arange(0, problems, 2)[::-1].copy()
    return {"feature": feature, "weight": weight, "design": design, "candidate": candidate}


def bank_arguments(a: Arrays) -> Arrays:
    return {"feature": a["feature"], "weight": a["weight"], "count": 256, "design": a["design"], "seed": 0}


def bank_variants(a: Arrays) -> Iterator[Arrays]:
    yield {}
    for design, floor, candidate in product(DESIGNS, (0.0, 0.1), (None, a["candidate"])):
        drawn = {"count": 9, "design": design, "floor": floor, "candidate": candidate, "seed": 2**63 + 5, "step": 7}
        yield {**drawn, "bias": -0.5, "temperature": 0.7}
        yield {**drawn, "nucleus": 0.8}


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


def bank_distance(result: Any, expected: Any) -> float:
    """A peer draws in its own way: what must agree is the probability reported with a draw."""
    drawn, probability = result
    score = expected.score[on_host(drawn)].astype(np.float64)
    return far(probability, np.exp(score - expected.log_normaliser), 1e-4, 0.0)


# draw: the same from given scores


def make_scores(problems: int, design: str) -> Arrays:
    score = np.random.default_rng(0).standard_normal(problems, dtype=np.float32)
    return {"score": score, "design": design, "candidate": np.arange(problems)[::-1].copy()}


def draw_variants(a: Arrays) -> Iterator[Arrays]:
    yield {}
    for design, floor, nucleus in product(DESIGNS, (0.0, 0.1, 1.0), (1.0, 0.8)):
        yield {"count": 9, "design": design, "floor": floor, "nucleus": nucleus, "candidate": a["candidate"], "step": 7}


def torch_eager_draw(a: Arrays) -> Any:
    score = a["score"]
    if a["design"] == "iid":
        drawn = torch.multinomial(torch.softmax(score, 0), 256, replacement=True)
    else:
        drawn = torch.topk(score - torch.empty_like(score).exponential_().log(), 256).indices
    return drawn, torch.exp(score[drawn] - torch.logsumexp(score, 0))


def numpy_draw(a: Arrays) -> Any:
    rng, score = np.random.default_rng(0), a["score"]
    weight = np.exp(score - score.max())
    if a["design"] == "iid":
        prefix = np.cumsum(weight, dtype=np.float64)
        drawn = np.searchsorted(prefix, rng.random(256) * prefix[-1])
    else:
        drawn = np.argpartition(rng.standard_exponential(len(score), np.float32) / weight, 256)[:256]
    return drawn, weight[drawn] / weight.sum(dtype=np.float64)


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


def mirror_arguments(a: Arrays) -> Arrays:
    step = {"probability": a["p"], "arm": a["arm"], "loss": a["loss"]}
    return {**step, "eta": 1.0, "floor": 0.1, "share": 0.01}


def mirror_variants(a: Arrays) -> Iterator[Arrays]:
    for eta, floor, share in product((0.3, 1.0), (0.0, 0.1, 0.9), (0.0, 0.01)):
        yield {"eta": eta, "floor": floor, "share": share}


def mirror_bytes(a: Arrays) -> int:
    """Eight passes over K doubles (clear; read two; read two, write one; read, write), and one per round of search."""
    p = a["p"] * np.exp(-np.bincount(a["arm"], a["loss"], len(a["p"])))
    low, scale, passes = 0.1 / len(p), math.inf, 8
    while True:
        floored = scale * p < low
        passes += 1
        lowered = (1.0 - low * floored.sum()) / p[~floored].sum()
        if not lowered < scale:
            return passes * p.nbytes
        scale = lowered


# mirror_tree: a step on 256 of K arms and a draw of 256, rounds on other arms taking turns


def make_rounds(arms: int) -> Arrays:
    rng = np.random.default_rng(0)
    p, arm = rng.exponential(size=arms), rng.integers(0, arms, (64, 256))
    return {"p": p, "log_weight": np.log(p), "arm": arm, "loss": rng.standard_normal((64, 256))}


def tree_rounds(module: Any, a: Arrays, floor: float = 0.0, share: float = 0.0, design: str = "iid") -> Any:
    """A call that takes the next round; after a loss on some arms the same as a gain, so that no arm runs away."""
    tree = module.MirrorTree(a["p"])
    rounds = cycle([(arm, sign * loss) for sign in (1.0, -1.0) for arm, loss in zip(a["arm"], a["loss"], strict=True)])

    def call() -> Any:
        arm, loss = next(rounds)
        tree.step_(arm, loss=loss, eta=1.0, floor=floor, share=share)
        return tree.draw(min(256, len(a["p"])), design=design, mix=0.1, seed=0)

    return call


def tree_variants(a: Arrays) -> Iterator[Arrays]:
    for design, floor, share in product(DESIGNS, (0.0, 0.3), (0.0, 0.01)):
        yield {"design": design, "floor": floor, "share": share}


def torch_eager_tree(a: Arrays) -> Any:
    """The arms drawn, and q; the step is taken back for the next call."""
    weight, arm, loss = a["log_weight"], a["arm"][0], a["loss"][0]
    weight.index_add_(0, arm, loss, alpha=-1)
    q = torch.softmax(weight, 0).mul_(0.9).add_(0.1 / len(weight))
    drawn = torch.multinomial(q, 256, replacement=True)
    weight.index_add_(0, arm, loss)
    return drawn, q


def numpy_tree(a: Arrays) -> Any:
    weight = a["log_weight"].copy()
    np.add.at(weight, a["arm"][0], -a["loss"][0])
    q = np.exp(weight - weight.max())
    q *= 0.9 / q.sum()
    q += 0.1 / len(q)
    prefix = np.cumsum(q)
    return np.searchsorted(prefix, np.random.default_rng(0).random(256) * prefix[-1]), q


def tree_distance(result: Any, expected: Any) -> float:
    """As for a bank: what must agree is the probability, of the arms that the reference drew."""
    return far(result[1][expected.arm], expected.propensity, 1e-4, 0.0)


SUBJECTS: dict[str, Subject] = {
    "group_advantage": Subject(
        shapes=((1024, 8), (4096, 16), (16384, 8)),
        odd_shapes=((1, 1), (3, 2), (5, 7), (2, 33)),
        make=make_rewards,
        arguments=lambda a: {"reward": a["reward"], "group": a["size"]},
        variants=advantage_variants,
        tolerance=(1e-6, 1e-9),
        peer_distance=lambda result, expected: far(result, expected.advantage, 1e-4, 1e-4),  # they work in float32
        peers={"verl loop": verl_loop, "torch TRL view": trl_view, "numpy": numpy_view},
        bytes_moved=lambda a: 2 * a["reward"].nbytes,
    ),
    "policy_improvement": Subject(
        shapes=((2048, 2048, "sequence_mean"), (2048, 2048, "token_mean"), (8192, 2048, "sequence_mean")),
        odd_shapes=((8, 5, "sequence_mean"), (16, 33, "token_mean"), (24, 131, "sequence_mean")),
        make=make_logprobs,
        arguments=improvement_arguments,
        variants=improvement_variants,
        tolerance=(1e-5, 1e-10),
        peer_distance=lambda result, expected: far(result, expected.utility, 0.0, 5e-7),  # ratios near 1 cancel
        peers={
            "torch eager": torch_eager_improvement,
            "torch eager, float mask": torch_eager_float_mask,
            "numpy": numpy_improvement,
        },
        bytes_moved=lambda a: a["new"].nbytes + a["old"].nbytes + a["mask"].nbytes,
    ),
    "score_bank": Subject(
        shapes=((50_000, 384, "iid"), (50_000, 384, "systematic"), (500_000, 64, "iid"), (300_000, 384, "iid")),
        odd_shapes=((257, 1, "systematic"), (1025, 33, "iid"), (3001, 65, "systematic")),
        make=make_bank,
        arguments=bank_arguments,
        variants=bank_variants,
        tolerance=(2e-6, 5e-7),  # products are summed in float32, and probabilities follow the scores
        peer_distance=bank_distance,
        peers={"torch eager": torch_eager_bank, "numpy": numpy_bank},
        bytes_moved=lambda a: a["feature"].nbytes,
    ),
    "draw": Subject(
        shapes=((1_000_000, "race"), (1_000_000, "iid"), (100_000, "race"), (10_000_000, "race")),
        odd_shapes=((257, "systematic"), (1025, "iid"), (3001, "race")),
        make=make_scores,
        arguments=lambda a: {"score": a["score"], "count": 256, "design": a["design"], "seed": 0},
        variants=draw_variants,
        tolerance=(1e-9, 0.0),
        peer_distance=bank_distance,
        peers={"torch eager": torch_eager_draw, "numpy": numpy_draw},
        bytes_moved=lambda a: a["score"].nbytes,
    ),
    "mirror_step": Subject(
        shapes=((100_000,), (1_000_000,), (4_000_000,)),
        odd_shapes=((1,), (1023,), (2049,)),
        make=make_arms,
        arguments=mirror_arguments,
        variants=mirror_variants,
        tolerance=(1e-11, 0.0),
        peer_distance=lambda result, expected: far(result, expected, 1e-9, 0.0),
        peers={"torch eager": torch_eager_mirror, "numpy": numpy_mirror},
        bytes_moved=mirror_bytes,
    ),
    "mirror_tree": Subject(
        shapes=((1_000_000,), (100_000,), (10_000_000,)),
        odd_shapes=((1,), (255,), (4097,)),
        make=make_rounds,
        arguments=lambda a: a,
        variants=tree_variants,
        tolerance=(1e-9, 0.0),
        peer_distance=tree_distance,
        peers={"torch eager": torch_eager_tree, "numpy": numpy_tree},
        bytes_moved=lambda a: 256 * 16 * 64 * math.ceil(math.log(len(a["p"]), 16)),
        begin=tree_rounds,
        on_cuda=False,
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


def call_of(op: str, module: Any, arrays: Arrays, change: Arrays | None = None) -> Callable[[], Any]:
    """The op of ``kernels`` or of ``reference`` on these arrays, as a call without arguments."""
    this, changed = subject(op), change or {}
    if this.begin is not None:
        return this.begin(module, arrays, **changed)
    return partial(getattr(module, op), **this.arguments(arrays) | changed)


def runners(op: str, arrays: Arrays, device: str = "cpu") -> dict[str, Callable[[], Any]]:
    """What to time, as calls without arguments: ours, and every peer that runs on ``device``."""
    this, tensors = subject(op), to_torch(arrays, device)
    calls: dict[str, Callable[[], Any]] = {}
    if device == "cpu":
        calls[OURS] = call_of(op, kernels, arrays)
    calls[OURS_ON_TENSORS] = call_of(op, kernels, tensors)
    for name, peer in this.peers.items():
        if name.startswith("torch"):
            calls[name] = partial(peer, tensors)
        elif device == "cpu":
            calls[name] = partial(peer, arrays)
    return calls


def rival(peer: str, times: dict[str, float]) -> str:
    """Which of ours a peer is compared with: the one that gets the same arrays."""
    return OURS_ON_TENSORS if peer.startswith("torch") or OURS not in times else OURS


def disagreements(op: str, arrays: Arrays, calls: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """Half a sentence about every call whose result is not what the reference gives."""
    this, wrong = subject(op), {}
    expected = call_of(op, reference, arrays)()
    for name, call in calls.items():
        ours = name in (OURS, OURS_ON_TENSORS)
        off = distance(call(), expected, *this.tolerance) if ours else this.peer_distance(call(), expected)
        if off > 1.0:
            wrong[name] = f"{off:.3g} tolerances away from the reference"
    return wrong


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


def measure(op: str, shape: tuple, budget_s: float, device: str) -> Timing:
    """One row per peer of ``op`` at ``shape``; none if ours is wrong."""
    arrays, text = subject(op).make(*shape), "x".join(map(str, shape))
    calls = runners(op, arrays, device)
    timing = Timing([], [], [])
    for name, why in disagreements(op, arrays, calls).items():
        del calls[name]
        (timing.failed if name in (OURS, OURS_ON_TENSORS) else timing.skipped).append(
            f"{op} {text} on {device}: {name} is {why}; it was not timed"
        )
    if timing.failed:
        return timing
    bytes_moved = subject(op).bytes_moved(arrays)
    if device == "cpu" and bytes_moved > CACHE_BYTES:
        word = np.ones(min(bytes_moved, 256 << 20) // 8, np.uint64)  # not zeros: those are all one page
        calls["read"] = partial(load().read_words, word, len(word))
    time = alternate(calls, budget_s, device)
    for peer in [name for name in time if name in subject(op).peers]:
        ours_s = time[rival(peer, time)]
        fraction = bytes_moved / ours_s / (word.nbytes / time["read"]) if "read" in time else None
        timing.rows.append(
            {
                "op": op,
                "shape": text,
                "dtype": "float64" if op.startswith("mirror") else "float32",
                "threads": 1,
                "backend": device,
                "peer": peer,
                "us": 1e6 * ours_s,
                "peer_us": 1e6 * time[peer],
                "ratio": time[peer] / ours_s,
                "bytes": bytes_moved,
                "fraction_of_ceiling": fraction,
            }
        )
    return timing


def devices(op: str) -> list[str]:
    cuda = subject(op).on_cuda and kernels.cuda_status()[0] and torch.cuda.is_available()
    return ["cpu", "cuda"] if cuda else ["cpu"]


def run(ops: list[str] | None = None, *, fast: bool = False, progress: Callable[[float], None] | None = None) -> Timing:
    """One row per op, shape, back-end and peer: microseconds of both, and their ratio (above 1: ours is faster).

    ops       names of ``SUBJECTS``; None for all
    fast      the first shape of each op only, in less than 10 s; else less than 90 s
    progress  called with the share done, in (0, 1]
    Returns   Timing, with rows of op, shape, dtype, threads, backend, peer, us, peer_us, ratio, bytes (that ours moves)
              and fraction_of_ceiling (of what one thread reads from memory; None where data fit in a cache, and on
              CUDA); peers called "torch ..." and ours then get tensors, others numpy arrays
    Raises    ValueError for an unknown op; RuntimeError if the kernels are not compiled.
    """
    work = [
        (op, shape, device)
        for op in ops or list(SUBJECTS)
        for shape in (subject(op).shapes[:1] if fast else subject(op).shapes)
        for device in devices(op)
    ]
    timing = Timing([], [], [])
    with one_torch_thread():
        for done, (op, shape, device) in enumerate(work):
            rows, failed, skipped = measure(op, shape, 0.5 if fast else 2.0, device)
            timing.rows.extend(rows)
            timing.failed.extend(failed)
            timing.skipped.extend(skipped)
            if progress is not None:
                progress((done + 1) / len(work))
    return timing


def describe(row: dict[str, Any]) -> str:
    """One line for a row of ``run``."""
    fraction = row["fraction_of_ceiling"]
    ceiling = "" if fraction is None else f"  {100 * fraction:.0f} % of read bandwidth"
    return (
        f"{row['op']:19}{row['shape']:27}{row['backend']:5}{row['us']:10.1f} us  "
        f"{row['peer']:24}{row['peer_us']:10.1f} us  {row['ratio']:7.1f}x{ceiling}"
    )


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
