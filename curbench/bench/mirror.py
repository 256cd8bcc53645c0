"""``mirror_step``: K arms, 256 slots; ``mirror_tree``: a step on 256 of K arms and a draw of 256, in turns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle, product
from typing import Any

import numpy as np
import torch

from curbench.bench.subject import Arrays, Call, Case, Subject, Target, Work, far
from curbench.kernels.contract import DESIGNS

SLOTS = 256


def make_arms(arms: int) -> Arrays:
    rng = np.random.default_rng(0)
    p = rng.exponential(size=arms)
    return {"p": p / p.sum(), "arm": rng.integers(0, arms, SLOTS), "loss": rng.standard_normal(SLOTS)}


def torch_step(a: Arrays) -> Any:
    arms = len(a["p"])
    total = torch.zeros_like(a["p"]).index_add_(0, a["arm"], a["loss"])
    p = a["p"] * torch.exp(-total)
    ranked = p.sort(descending=True).values
    left = 1.0 - torch.arange(arms - 1, -1, -1, device=p.device, dtype=p.dtype) * (0.1 / arms)
    scale = left / ranked.cumsum(0)
    scale = scale[(scale * ranked >= 0.1 / arms).sum() - 1]
    return 0.99 * (scale * p).clamp_min(0.1 / arms) + 0.01 / arms


def numpy_step(a: Arrays) -> Any:
    arms = len(a["p"])
    p = a["p"] * np.exp(-np.bincount(a["arm"], a["loss"], arms))
    ranked = np.sort(p)[::-1]
    scale = (1.0 - np.arange(arms - 1, -1, -1) * (0.1 / arms)) / np.cumsum(ranked)
    scale = scale[np.flatnonzero(scale * ranked >= 0.1 / arms)[-1]]
    return 0.99 * np.maximum(0.1 / arms, scale * p) + 0.01 / arms


def step_arguments(a: Arrays) -> Arrays:
    step = {"probability": a["p"], "arm": a["arm"], "loss": a["loss"]}
    return {**step, "eta": 1.0, "floor": 0.1, "share": 0.01}


def step_variants(a: Arrays) -> Iterator[Arrays]:
    for eta, floor, share in product((0.3, 1.0), (0.0, 0.1, 0.9), (0.0, 0.01)):
        yield {"eta": eta, "floor": floor, "share": share}


def step_work(a: Arrays) -> Work:
    """Eight passes over K doubles (clear; read two; read two, write one; read, write), and one per round of search."""
    p = a["p"] * np.exp(-np.bincount(a["arm"], a["loss"], len(a["p"])))
    low, scale, passes = 0.1 / len(p), math.inf, 8
    while True:
        floored = scale * p < low
        passes += 1
        lowered = (1.0 - low * floored.sum()) / p[~floored].sum()
        if not lowered < scale:
            return Work(passes * p.nbytes)
        scale = lowered


def make_rounds(arms: int) -> Arrays:
    rng = np.random.default_rng(0)
    p, arm = rng.exponential(size=arms), rng.integers(0, arms, (64, SLOTS))
    return {"p": p, "log_weight": np.log(p), "arm": arm, "loss": rng.standard_normal((64, SLOTS))}


def rounds(module: Any, a: Arrays, floor: float = 0.0, share: float = 0.0, design: str = "iid") -> Call:
    """A call that takes the next round; after a loss on some arms the same as a gain, so that no arm runs away."""
    tree = module.MirrorTree(a["p"])
    turn = cycle([(arm, sign * loss) for sign in (1.0, -1.0) for arm, loss in zip(a["arm"], a["loss"], strict=True)])

    def call() -> Any:
        arm, loss = next(turn)
        tree.step_(arm, loss=loss, eta=1.0, floor=floor, share=share)
        return tree.draw(min(SLOTS, len(a["p"])), design=design, mix=0.1, seed=0)

    return call


def tree_variants(a: Arrays) -> Iterator[Arrays]:
    for design, floor, share in product(DESIGNS, (0.0, 0.3), (0.0, 0.01)):
        yield {"design": design, "floor": floor, "share": share}


def torch_table(a: Arrays) -> Any:
    """The arms drawn, and q; the step is taken back for the next call."""
    weight, arm, loss = a["log_weight"], a["arm"][0], a["loss"][0]
    weight.index_add_(0, arm, loss, alpha=-1)
    try:
        q = torch.softmax(weight, 0).mul_(0.9).add_(0.1 / len(weight))
        return torch.multinomial(q, SLOTS, replacement=True), q
    finally:
        weight.index_add_(0, arm, loss)


def numpy_table(a: Arrays) -> Any:
    weight = a["log_weight"].copy()
    np.add.at(weight, a["arm"][0], -a["loss"][0])
    q = np.exp(weight - weight.max())
    q *= 0.9 / q.sum()
    q += 0.1 / len(q)
    prefix = np.cumsum(q)
    return np.searchsorted(prefix, np.random.default_rng(0).random(SLOTS) * prefix[-1]), q


def tree_distance(result: Any, expected: Any) -> float:
    """What must agree is the probability, of the arms that the reference drew; peers draw in their own way."""
    return far(result[1][expected.arm], expected.propensity, 1e-4, 0.0)


def tree_work(a: Arrays) -> Work:
    """The sixteen children of a node per level, of the step and of the draw."""
    return Work(2 * SLOTS * 16 * 8 * math.ceil(math.log(len(a["p"]), 16)))


PEERS = ("torch eager", "numpy")

MIRROR_STEP = Subject(
    cases=(
        Case((100_000,), PEERS, fast=PEERS),
        Case((1_000_000,), PEERS),
        Case((4_000_000,), PEERS),
    ),
    odd_shapes=((1,), (1023,), (2049,)),
    make=make_arms,
    arguments=step_arguments,
    variants=step_variants,
    tolerance=(1e-11, 0.0),
    peer_distance=lambda result, expected: far(result, expected, 1e-9, 0.0),
    peers={"torch eager": torch_step, "numpy": numpy_step},
    work=step_work,
    dtype="float64",
)

MIRROR_TREE = Subject(
    cases=(
        Case((100_000,), PEERS),
        Case((1_000_000,), PEERS, {"torch eager": Target(50, 17), "numpy": Target(50, 17)}, fast=PEERS),
        Case((10_000_000,), PEERS, {"torch eager": Target(900, 17), "numpy": Target(900, 17)}),
        Case((100_000_000,), PEERS),
    ),
    odd_shapes=((1,), (255,), (4097,)),
    make=make_rounds,
    arguments=lambda a: a,
    variants=tree_variants,
    tolerance=(1e-9, 0.0),
    peer_distance=tree_distance,
    peers={"torch eager": torch_table, "numpy": numpy_table},
    work=tree_work,
    dtype="float64",
    begin=rounds,
    on_cuda=False,
)
