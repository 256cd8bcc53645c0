"""Timing calls against each other, and what the machine can do at most in the same alternation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

from curbench.bench.subject import Call, Work
from curbench.kernels.extension import load

SAMPLE_S = 1e-3  # a sample repeats a call until it lasts about this long
ROUNDS = 3  # at least, of calls that are not slower than the budget
LARGEST = 256 << 20  # bytes that a ceiling is measured on at most
MULTIPLY_ROUNDS = 20_000


class Time(NamedTuple):
    """Seconds per call: 20 %, 50 % and 80 % of the samples lie below; all the same when there is one sample."""

    low: float
    median: float
    high: float


def seconds(call: Call, repeats: int, device: str) -> float:
    """Per call; short ones, which are repeated, after one that finds the caches full of what others left there."""
    if repeats > 1:
        call()
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


def alternate(calls: dict[str, Call], budget_s: float, device: str = "cpu") -> dict[str, Time]:
    """The calls take turns for about ``budget_s``, and three times at least; one slower than that runs once."""
    samples = {name: [seconds(call, 1, device)] for name, call in calls.items()}
    again = {name: seconds(calls[name], 1, device) for name, [t] in samples.items() if t < budget_s}
    repeats = {name: max(1, min(100, int(SAMPLE_S / t))) for name, t in again.items()}
    samples |= {name: [] for name in repeats}  # the first calls allocate and compile
    end, rounds = perf_counter() + budget_s, 0
    while repeats and (perf_counter() < end or rounds < ROUNDS):
        for name, repeat in repeats.items():
            samples[name].append(seconds(calls[name], repeat, device))
        rounds += 1
    return {name: Time(*map(float, np.quantile(values, (0.2, 0.5, 0.8)))) for name, values in samples.items()}


class Ceiling(NamedTuple):
    """What limits a call of ours: "read", "copy" or "multiply-add", and a call that does ``amount`` of it."""

    kind: str
    call: Call
    amount: float  # bytes or operations per call
    needed: float  # by a call of ours

    def fraction(self, ours_s: float, ceiling_s: float) -> float:
        """Of the rate of the machine, what a call of ours that takes ``ours_s`` attains."""
        return (self.needed / ours_s) / (self.amount / ceiling_s)


def ceiling_of(work: Work, device: str) -> Ceiling:
    """Reading as many bytes from wherever they then lie; or multiplying and adding in registers."""
    size = max(4096, min(work.bytes, LARGEST))
    if device != "cpu":
        source = torch.ones(size, dtype=torch.uint8, device=device)
        return Ceiling("copy", partial(torch.empty_like(source).copy_, source), 2 * size, work.bytes)
    if work.operations:
        multiply = partial(load().multiply_add, work.bfloat16, MULTIPLY_ROUNDS)
        return Ceiling("multiply-add", multiply, multiply(), work.operations)
    word = np.ones(size // 8, np.uint64)  # not zeros: those are all one page
    return Ceiling("read", partial(load().read_words, word, len(word)), size, work.bytes)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
