"""``group_advantage``: B groups of G rewards, known by their size or by uuids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch

from curbench import kernels
from curbench.bench.subject import Arrays, Call, Case, Subject, Target, Work, far
from curbench.bench.torch_compile import compiled
from curbench.kernels.contract import ESTIMATORS

EPS = 1e-6
PROMPT_TOKENS = 512
PROMPTS_FOR = 1 << 14  # rollouts up to which prompts are made: the peer that compares them takes time quadratic in that


def make_rewards(groups: int, size: int, known_by: str = "") -> Arrays:
    """known_by  "": the size of the groups; "uuids": a string object per rollout; "shared uuids": one per group, as
    ``np.repeat`` of a batch leaves them."""
    rng = np.random.default_rng(0)
    uid = np.repeat([f"{i:032x}" for i in rng.permutation(groups)], size).astype(object)
    if known_by == "shared uuids":
        uid = np.repeat(uid[::size], size)
    reward = rng.random(groups * size, dtype=np.float32)
    offset = np.arange(0, len(reward) + 1, size)
    arrays = {"reward": reward, "uid": uid, "size": size, "offset": offset, "success": reward > 0.5}
    if len(reward) <= PROMPTS_FOR:
        arrays["prompt"] = np.repeat(rng.integers(0, 50_000, (groups, PROMPT_TOKENS)), size, axis=0)
    return arrays | {"known_by": known_by, "place": rng.permutation(len(reward))}


def begin(module: Any, a: Arrays, **change: Any) -> Call:
    if a["known_by"]:
        return lambda: module.group_advantage(a["reward"], kernels.group_by_id(a["uid"]), **change)
    arguments = {"reward": a["reward"], "group": a["size"]} | change
    return lambda: module.group_advantage(**arguments)


def variants(a: Arrays) -> Iterator[Arrays]:
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
        score[i] = (score[i] - mean[uid[i]]) / (std[uid[i]] + EPS)
    return score


def verl_vectorized(a: Arrays) -> Any:
    """verl's vectorised estimator: uid strings are sorted into indices, then sums and sums of squares per index."""
    score = torch.from_numpy(a["reward"])
    group = torch.from_numpy(np.unique(a["uid"], return_inverse=True)[1])
    count = torch.bincount(group).float()
    total, square = (torch.zeros_like(count).index_add_(0, group, v) for v in (score, score * score))
    mean = total / count
    variance = ((square - total * total / count) / (count - 1)).clamp_min(EPS)
    return (score - mean[group]) / (variance.sqrt()[group] + EPS)


def trl_view(a: Arrays) -> Any:
    grouped = a["reward"].view(-1, a["size"])
    mean = grouped.nanmean(dim=1).repeat_interleave(a["size"])
    std = grouped.std(dim=1).repeat_interleave(a["size"])
    return (a["reward"] - mean) / (std + EPS)


def openrlhf_reshape(a: Arrays) -> Any:
    """OpenRLHF's: into the order of the prompts, and back."""
    inverse = a["place"].argsort()
    grouped = a["reward"][a["place"]][inverse].reshape(-1, a["size"])
    shaped = (grouped - grouped.mean(-1, keepdim=True)) / (grouped.std(-1, keepdim=True) + 1e-9)
    return shaped.reshape(-1)[a["place"]][inverse]


def nemo_rl_prompts(a: Arrays) -> Any:
    """NeMo-RL's: the distinct prompts as rows of tokens, each then compared with the prompt of every rollout."""
    prompt, reward = a["prompt"], a["reward"]
    mean, std = torch.zeros_like(reward), torch.zeros_like(reward)
    for one in torch.unique(prompt, dim=0):
        index = torch.arange(len(prompt))[(prompt == one).all(1)]
        weight = torch.ones((len(index), len(index)))
        mean[index] = torch.matmul(weight, reward[index]) / len(index)
        square = torch.matmul(weight, reward[index] ** 2) / len(index)
        std[index] = ((square - mean[index] ** 2) * (len(index) / (len(index) - 1))).sqrt().nan_to_num(0)
    return torch.where(std > 0, (reward - mean) / (std + EPS), reward - mean)


def numpy_view(a: Arrays) -> Any:
    grouped = a["reward"].reshape(-1, a["size"])
    mean, std = grouped.mean(axis=1, keepdims=True), grouped.std(axis=1, ddof=1, keepdims=True)
    return ((grouped - mean) / (std + EPS)).ravel()


def view(reward: torch.Tensor, size: int) -> torch.Tensor:
    grouped = reward.view(-1, size)
    return ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + EPS)).view(-1)


PEERS = {
    "verl loop": verl_loop,
    "verl vectorized": verl_vectorized,
    "torch NeMo-RL": nemo_rl_prompts,
    "torch OpenRLHF": openrlhf_reshape,
    "torch TRL": trl_view,
    "torch compile": lambda a: compiled(view)(a["reward"], a["size"]),
    "numpy": numpy_view,
}
TENSORS = ("torch OpenRLHF", "torch TRL", "torch compile", "numpy")

SUBJECT = Subject(
    cases=(
        Case((256, 8), tuple(PEERS)),
        Case(
            (1024, 8),
            tuple(PEERS),
            {"verl loop": Target(4000, 1), "torch TRL": Target(8, 1), "numpy": Target(4, 1)},
            fast=("verl loop", "torch TRL", "numpy"),
        ),
        Case((16384, 8), ("verl loop", "verl vectorized", *TENSORS)),
        Case((16384, 64), TENSORS, {"torch TRL": Target(25, 2), "numpy": Target(4.5, 2)}),
        Case((1024, 8, "uuids"), ("verl loop", "verl vectorized")),
        Case((16384, 64, "uuids"), ("verl vectorized",), {"verl vectorized": Target(8, 2)}),
        Case((16384, 64, "shared uuids"), ("verl vectorized",), {"verl vectorized": Target(20, 2)}),
    ),
    odd_shapes=((1, 1), (3, 2), (5, 7), (2, 33)),
    make=make_rewards,
    arguments=lambda a: {"reward": a["reward"], "group": a["size"]},
    begin=begin,
    variants=variants,
    tolerance=(1e-6, 1e-9),
    peer_distance=lambda result, expected: far(result, expected.advantage, 1e-4, 1e-4),  # they work in float32
    peers=PEERS,
    work=lambda a: Work(2 * a["reward"].nbytes),
)
