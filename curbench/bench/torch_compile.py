"""Compiled peers: each function is compiled once per shape, as a training loop does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` for fixed shapes; RuntimeError, when called, where the compiler it needs is absent."""
    import torch._dynamo as dynamo  # here, because it imports much

    dynamo.config.recompile_limit = 64  # after the default of 8 shapes it would run eagerly, and say nothing
    return torch.compile(function, dynamic=False)
