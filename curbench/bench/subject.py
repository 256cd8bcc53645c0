"""What is timed: an op, the shapes and peers it is timed at, and how far a result may be from the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Arrays = dict[str, Any]  # numpy arrays, or torch tensors under the same names
Call = Callable[[], Any]

DTYPES = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Target:
    """How many times faster than a peer the op is meant to be at least, and what limits it."""

    ratio: float
    row: int  # of the table of targets in docs/kernels.md


@dataclass(frozen=True)
class Case:
    """One shape of an op, with the peers that run there. Sizes, then names: of the variant, and the type if not float32

    >>> case = Case((1000, 8, "race", "int8"), peers=("numpy",))
    >>> case.text, case.variant, case.dtype, case.size
    ('1000x8', 'race', 'int8', 8000)
    """

    shape: tuple[int | str, ...]  # arguments of the op's ``make``
    peers: tuple[str, ...]
    target: dict[str, Target] = field(default_factory=dict)  # by peer
    fast: tuple[str, ...] = ()  # the peers of a quick run, which leaves out cases without

    @property
    def text(self) -> str:
        return "x".join(str(n) for n in self.shape if isinstance(n, int))

    @property
    def variant(self) -> str:
        return " ".join(name for name in self.shape if isinstance(name, str) and name not in DTYPES)

    @property
    def dtype(self) -> str | None:
        return next((str(name) for name in self.shape if name in DTYPES), None)

    @property
    def size(self) -> int:
        return math.prod(n for n in self.shape if isinstance(n, int))


@dataclass(frozen=True)
class Work:
    """What a call of ours must do at least: bytes moved, and operations where those limit it rather than memory."""

    bytes: int
    operations: int = 0
    bfloat16: bool = False  # the operations are on pairs of bfloat16


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


def on_host(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    return (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()


@dataclass(frozen=True)
class Subject:
    """One op: its arrays, what to run on them, and how far a result may be from the reference's.

    A peer whose name begins with "torch" gets tensors, and runs on CUDA too; the others get numpy arrays.
    """

    cases: tuple[Case, ...]  # from small to large
    odd_shapes: tuple[tuple, ...]  # those of the self-check
    make: Callable[..., Arrays]
    arguments: Callable[[Arrays], Arrays]  # of ours and of the reference
    variants: Callable[[Arrays], Iterable[Arrays]]  # changes to the arguments, for the self-check
    tolerance: tuple[float, float]  # rtol and atol of every float of ours; all else is compared exactly
    peer_distance: Callable[[Any, Any], float]  # of a peer's result from the reference's, in loose tolerances
    peers: Mapping[str, Callable[[Arrays], Any]]
    work: Callable[[Arrays], Work]
    dtype: str = "float32"
    begin: Callable[..., Call] | None = None  # ours on (module, arrays, **change), unless the op on ``arguments``
    expected: Callable[[Arrays], Any] | None = None  # what to compare with, unless it is what the reference returns
    own_distance: Callable[[Any, Any], float] | None = None  # of ours, unless it is ``distance`` within ``tolerance``
    on_cuda: bool = True
