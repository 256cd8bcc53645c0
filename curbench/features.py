"""What is known about problems beforehand, as numbers: the features that neural curators score.

``SOURCES`` are put side by side with "+", as in ``ngram+strata`` or ``hidden:128``:
    bank    the features that a suite ships (``Bank.feature``)
    strata  one column per stratum, 1 where the problem belongs
    ngram   hashed byte n-grams of the prompt
    hidden  the actor's mean hidden state of the prompt, projected
A bank of 1e6 problems is walked through in blocks, and written to a memory-mapped .npy file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numba as nb
import numpy as np

from curbench.philox import WEIGHT, normals
from curbench.types import BLOCK, ActorView, Array, Bank

SOURCES = ("bank", "strata", "ngram", "hidden")
WIDTH = 64
"""Columns of the sources that have a choice."""

EMBEDDED_AT_ONCE = 256
"""Prompts per forward pass where the actor embeds a bank."""

NGRAM = (1, 2, 3, 4)
"""Sizes of byte n-grams that are hashed."""

PROJECTION_SEED = 0x636172626E
"""Key of every random projection: the same columns mean the same in every run."""


@dataclass(frozen=True)
class Source:
    """One block of columns: (problem i64[n]) -> f32[n, width]."""

    name: str
    width: int
    rows: Callable[[Array], Array]
    block: int = BLOCK


def parse_sources(text: str) -> list[tuple[str, int]]:
    """(source, width) of each part of a text like ``ngram:128+strata``; 0 where the width is not a choice.

    Raises ValueError for an unknown or repeated source, or a width that is not one.

    >>> parse_sources("ngram:128+strata+hidden")
    [('ngram', 128), ('strata', 0), ('hidden', 64)]
    """
    parts: list[tuple[str, int]] = []
    for part in text.split("+"):
        name, colon, width = part.partition(":")
        chosen = name in ("ngram", "hidden")
        if name not in SOURCES:
            raise ValueError(f"unknown source of features {name!r}; join some of {', '.join(SOURCES)} with +")
        if name in [one for one, _ in parts]:
            raise ValueError(f"the source of features {name!r} is given twice in {text!r}")
        if colon and not (chosen and width.isdecimal() and int(width) >= 1):
            raise ValueError(f"only ngram and hidden take a width, a number of columns of at least 1; got {part!r}")
        parts.append((name, (int(width) if colon else WIDTH) if chosen else 0))
    return parts


def needs_actor(text: str) -> bool:
    """Whether some source has to ask the actor.

    >>> needs_actor("ngram+hidden"), needs_actor("bank")
    (True, False)
    """
    return "hidden" in [name for name, _ in parse_sources(text)]


def make_sources(text: str, bank: Bank, view: ActorView | None = None) -> list[Source]:
    """The sources of a text for a bank.

    view    of the actor, for "hidden"
    Raises  ValueError for what ``parse_sources`` refuses, or a source for which the bank or the actor has nothing.
    """
    return [_source(name, width, bank, view) for name, width in parse_sources(text)]


def _source(name: str, width: int, bank: Bank, view: ActorView | None) -> Source:
    if name == "bank":
        feature = bank.feature
        if feature is None:
            raise ValueError("this bank ships no features; choose ngram, strata or hidden instead of bank")
        return Source(name, feature.shape[1], lambda problem: feature[problem])
    if name == "strata":
        k, stratum = len(bank.stratum_name), bank.stratum
        return Source(name, k, lambda problem: (stratum[problem, None] == np.arange(k)).astype(np.float32))
    if name == "ngram":
        prompt = bank.prompt
        if prompt is None:
            raise ValueError("this bank has no text; the source ngram needs prompts")
        return Source(name, width, lambda problem: ngram((prompt(int(i)) for i in problem), width))
    if view is None:
        raise ValueError("the source hidden needs an actor to look at")
    return Source(name, width, lambda problem: project(view.hidden(problem, 1.0), width), EMBEDDED_AT_ONCE)


def make_features(source: list[Source], count: int, progress: Callable[[int], None] = lambda done: None) -> Array:
    """f32[count, F], the sources side by side, in memory. progress: called with the problems done."""
    out = np.empty((count, sum(one.width for one in source)), np.float32)
    _fill(out, source, progress)
    return out


def write_features(
    path: Path, source: list[Source], count: int, progress: Callable[[int], None] = lambda done: None
) -> np.memmap:
    """The same as a memory map of a .npy file, read-only; written in blocks, in place at once when complete.

    A file that is there already is used if it has the right shape and its first rows are those of the sources, bit for
    bit: other problems, other sources or another actor would differ there.

    path    where to write; its folder is made
    Raises  OSError if it cannot be written.
    """
    width = sum(one.width for one in source)
    first = np.empty((min(count, EMBEDDED_AT_ONCE), width), np.float32)
    _fill(first, source)
    if path.exists():
        there = np.load(path, mmap_mode="r")
        if there.shape == (count, width) and there.dtype == np.float32 and np.array_equal(there[: len(first)], first):
            return there
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    out = np.lib.format.open_memmap(part, "w+", np.float32, (count, width))
    _fill(out, source, progress)
    out.flush()
    os.replace(part, path)
    return np.load(path, mmap_mode="r")


def _fill(out: Array, source: list[Source], progress: Callable[[int], None] = lambda done: None) -> None:
    step = min(one.block for one in source)
    for begin in range(0, len(out), step):
        problem, column = np.arange(begin, min(begin + step, len(out))), 0
        for one in source:
            out[begin : begin + step, column : column + one.width] = one.rows(problem)
            column += one.width
        progress(int(problem[-1]) + 1)


def file_name(name: str, text: str, bank: Bank) -> str:
    """Of the features of a suite: its name, and a digest of the sources and of the problems' keys.

    >>> file_name("countdown", "strata", Bank(key=["a"], stratum=[0]))
    'countdown-1b594145.npy'
    """
    digest = sha256(text.encode())
    digest.update(np.ascontiguousarray(bank.key).tobytes())
    return f"{name}-{digest.hexdigest()[:8]}.npy"


# --- Sources ----------------------------------------------------------------------------------------------------------


def ngram(text: Iterable[str], width: int) -> Array:
    """f32[n, width], signed counts of hashed byte n-grams (``NGRAM``), rows scaled to norm 1; no row is empty of text.

    Each n-gram has a column and a sign of its own, so that inner products of counts survive in expectation.
    Source  Weinberger et al. 2009, "Feature hashing for large scale multitask learning"; the hash is FNV-1a, then the
            finaliser of MurmurHash3.

    >>> a, b, c = ngram(["Make 21 from 7 3:", "Make 21 from 3 7:", "prove that"], 256)
    >>> bool(a @ b > a @ c)
    True
    """
    raw = [one.encode() for one in text]
    offset = np.concatenate([[0], np.cumsum([len(one) for one in raw])])
    out = np.zeros((len(raw), width), np.float32)
    _count_(out, np.frombuffer(b"".join(raw), np.uint8), offset, np.array(NGRAM))
    return out


@nb.njit
def _count_(out, byte, offset, sizes):
    for i in range(out.shape[0]):
        for n in sizes:
            for start in range(offset[i], offset[i + 1] - n + 1):
                h = np.uint64(0xCBF29CE484222325) ^ np.uint64(n)
                for j in range(start, start + n):
                    h = (h ^ np.uint64(byte[j])) * np.uint64(0x100000001B3)
                h ^= h >> np.uint64(33)
                h *= np.uint64(0xFF51AFD7ED558CCD)
                h ^= h >> np.uint64(33)
                sign = np.float32(1.0) if h >> np.uint64(63) else np.float32(-1.0)
                out[i, (h & np.uint64(0x7FFFFFFF)) % np.uint64(out.shape[1])] += sign
        norm = np.float32(0.0)
        for c in range(out.shape[1]):
            norm += out[i, c] * out[i, c]
        if norm > 0:
            for c in range(out.shape[1]):
                out[i, c] /= np.sqrt(norm)


def project(state: Array, width: int) -> Array:
    """f32[n, width], rows f32[n, D] times a fixed Gaussian matrix of variance 1 / width.

    Inner products are kept in expectation, with a relative error of order 1 / sqrt(width).
    Source  Johnson & Lindenstrauss 1984.
    """
    matrix = normals(state.shape[1] * width, PROJECTION_SEED, WEIGHT, state.shape[1])
    return (state @ matrix.reshape(state.shape[1], width).astype(np.float32)) / np.float32(np.sqrt(width))


# --- Walking through a table ------------------------------------------------------------------------------------------


def column_moments(feature: Array) -> tuple[Array, Array]:
    """(mean f64[F], standard deviation f64[F]) of f32[N, F], in two passes over blocks; 1 for a constant column.

    >>> column_moments(np.array([[1.0, 5.0], [3.0, 5.0]], np.float32))
    (array([2., 5.]), array([1., 1.]))
    """
    n = len(feature)
    blocks = range(0, n, BLOCK)
    mean = sum((feature[b : b + BLOCK].sum(axis=0, dtype=np.float64) for b in blocks), np.zeros(feature.shape[1])) / n
    square = np.zeros(feature.shape[1])
    for b in blocks:
        square += ((feature[b : b + BLOCK] - mean) ** 2).sum(axis=0)
    spread = np.sqrt(square / n)
    return mean, np.where(spread > 0, spread, 1.0)
