"""``policy_improvement``: R rollouts of L tokens, groups of 8."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch

from curbench.bench.subject import Arrays, Case, Subject, Target, Work, far, on_host
from curbench.bench.torch_compile import compiled
from curbench.kernels import reference
from curbench.kernels.contract import RATIOS

GROUP = 8


def make_logprobs(rows: int, tokens: int, ratio: str, *form: str) -> Arrays:
    """form: "lengths" gives ours the lengths and not the mask; "bfloat16" rounds the log-probabilities."""
    rng = np.random.default_rng(0)
    old = -rng.random((rows, tokens), dtype=np.float32)
    new = rng.standard_normal((rows, tokens), dtype=np.float32)
    new *= np.float32(0.01)
    new += old
    advantage = rng.standard_normal((rows // GROUP, GROUP))
    advantage = (advantage - advantage.mean(axis=1, keepdims=True)).astype(np.float32).ravel()
    length = rng.integers(tokens // 4, tokens, rows)
    mask = np.arange(tokens) < length[:, None]
    batch: Arrays = {
        "new": new,
        "old": old,
        "advantage": advantage,
        "mask": mask,
        "float_mask": mask.astype(np.float32),
    }
    batch["length"] = length
    if "bfloat16" in form:  # which numpy does not have
        tensor = {name: torch.from_numpy(array) for name, array in batch.items()}
        batch = tensor | {name: tensor[name].bfloat16() for name in ("new", "old")}
    return {**batch, "ratio": ratio, "by_length": "lengths" in form}


def arguments(a: Arrays) -> Arrays:
    logprob = {"new_logprob": a["new"], "old_logprob": a["old"]}
    part = {"length": a["length"]} if a["by_length"] else {"mask": a["mask"]}
    return {**logprob, **part, "advantage": a["advantage"], "group": GROUP, "ratio": a["ratio"]}


def expected(a: Arrays) -> Any:
    """The reference works on numpy arrays, which have no bfloat16."""
    host = {name: on_host(value) if isinstance(value, torch.Tensor) else value for name, value in a.items()}
    return reference.policy_improvement(**arguments(host))


def variants(a: Arrays) -> Iterator[Arrays]:
    for ratio, clip in product(RATIOS, (None, 1.0)):
        yield {"ratio": ratio, "ratio_clip": clip}
        yield {"ratio": ratio, "ratio_clip": clip, "mask": None, "length": a["length"]}


def utility(new: Any, old: Any, mask: Any, advantage: Any, token_mean: bool) -> Any:
    log_rho, count = new.float() - old.float(), mask.sum(-1)  # a difference in bfloat16 would be noise
    if token_mean:
        ratio = (log_rho.exp() * mask).sum(-1) / count
    else:
        ratio = ((log_rho * mask).sum(-1) / count).exp()
    return (ratio * advantage).view(-1, GROUP).mean(1)


def of_tensors(function: Any, mask: str) -> Any:
    return lambda a: function(a["new"], a["old"], a[mask], a["advantage"], a["ratio"] == "token_mean")


def loss_of_trainers(new: Any, old: Any, mask: Any, advantage: Any, token_mean: bool) -> Any:
    """As TRL and verl reach the number: ratio, advantage and loss for every token, and means over the mask."""
    log_rho, count = new.float() - old.float(), mask.sum(-1)
    if not token_mean:
        log_rho = ((log_rho * mask).sum(-1) / count.clamp(min=1)).unsqueeze(-1).expand_as(new)
    loss = -log_rho.exp() * advantage.unsqueeze(-1)
    return -((loss * mask).sum(-1) / count.clamp(min=1)).view(-1, GROUP).mean(1)


def numpy_utility(a: Arrays) -> Any:
    log_rho, count = a["new"] - a["old"], a["mask"].sum(axis=1)
    if a["ratio"] == "token_mean":
        ratio = (np.exp(log_rho) * a["mask"]).sum(axis=1) / count
    else:
        ratio = np.exp((log_rho * a["mask"]).sum(axis=1) / count)
    return (ratio * a["advantage"]).reshape(-1, GROUP).mean(axis=1)


def tokens_read(a: Arrays) -> Work:
    if a["by_length"]:  # what lies beyond is not read
        return Work(int(a["length"].sum()) * (a["new"].itemsize + a["old"].itemsize) + a["length"].nbytes)
    return Work(a["new"].nbytes + a["old"].nbytes + a["mask"].nbytes)


PEERS = {
    "torch eager": of_tensors(utility, "mask"),
    # Products with float32 masks are vectorised better than those with bool.
    "torch eager, float mask": of_tensors(utility, "float_mask"),
    "torch verl and TRL": of_tensors(loss_of_trainers, "mask"),
    "torch compile": lambda a: of_tensors(compiled(utility), "mask")(a),
    "numpy": numpy_utility,
}
FEW = ("torch eager", "torch eager, float mask", "numpy")
LARGE = ("torch eager", "torch eager, float mask", "torch verl and TRL", "torch compile")


def targets(row: int, eager: float, compile_: float) -> dict[str, Target]:
    both = {name: Target(eager, row) for name in ("torch eager", "torch eager, float mask")}
    return both | {"torch compile": Target(compile_, row)}


SUBJECT = Subject(
    cases=(
        Case((256, 1024, "sequence_mean"), tuple(PEERS)),
        Case((2048, 2048, "sequence_mean"), tuple(PEERS), fast=FEW),
        Case((8192, 2048, "sequence_mean"), tuple(PEERS)),
        Case((32768, 4096, "sequence_mean"), LARGE, targets(3, 14, 2.5)),
        Case((32768, 4096, "sequence_mean", "lengths"), LARGE),
        Case((32768, 4096, "sequence_mean", "bfloat16"), LARGE),
        Case((256, 1024, "token_mean"), tuple(PEERS)),
        Case((2048, 2048, "token_mean"), tuple(PEERS)),
        Case((16384, 2048, "token_mean"), LARGE, targets(4, 25, 3)),
        Case((16384, 2048, "token_mean", "lengths"), LARGE),
        Case((16384, 2048, "token_mean", "bfloat16"), LARGE),
    ),
    odd_shapes=((8, 5, "sequence_mean"), (16, 33, "token_mean"), (24, 131, "sequence_mean")),
    make=make_logprobs,
    arguments=arguments,
    variants=variants,
    tolerance=(1e-5, 1e-10),
    peer_distance=lambda result, expected: far(result, expected.utility, 0.0, 5e-7),  # ratios near 1 cancel
    peers=PEERS,
    expected=expected,
    work=tokens_read,
)
