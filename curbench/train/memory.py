"""Says which setting to lower when the machine runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU_ALLOCATOR = ("DefaultCPUAllocator", "not enough memory")
"""What torch says, as a RuntimeError like any other, when the memory of the machine is used up."""


@contextmanager
def out_of_memory(during: str, remedy: str) -> Iterator[None]:
    """Turns running out of memory, on a GPU or not, into a MemoryError of one sentence; other errors pass.

    during, remedy  for the sentence, such as "an update" and "lower grpo.micro_batch"
    """
    sentence = f"out of memory during {during}: {remedy}, and continue from the last checkpoint with --resume"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(sentence) from error
    except RuntimeError as error:
        if not any(phrase in str(error) for phrase in CPU_ALLOCATOR):
            raise
        raise MemoryError(sentence) from error
