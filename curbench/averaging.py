"""Checkpoint averaging: the weights of the last few checkpoints, combined instead of decaying the learning rate."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from curbench.types import Array


class Averaging(BaseModel):
    """Which checkpoints are averaged, and how.

    every   steps between checkpoints
    count   how many of the last ones
    kind    "ema": m = alpha theta + (1 - alpha) m from the oldest to the newest; "mean": all alike
    alpha   weight of the newest in "ema"
    Source  curriculum model averaging, Luo et al. 2025 (2511.18903): six checkpoints, alpha = 0.2, at a constant rate
            (CMA) or one that decays to about a third of its peak (CDMA). That 0.2 weighs the newest and not the past is
            our reading, UNVERIFIED.

    >>> Averaging(every=10, count=3, alpha=0.5).weight(3)
    array([0.25, 0.25, 0.5 ])
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(ge=1)
    count: int = Field(default=6, ge=1)
    kind: Literal["ema", "mean"] = "ema"
    alpha: float = Field(default=0.2, gt=0, le=1)

    def weight(self, n: int) -> Array:
        """f64[n], the weights of n checkpoints from the oldest to the newest; they sum to 1."""
        if self.kind == "mean":
            return np.full(n, 1.0 / n)
        weight = self.alpha * (1.0 - self.alpha) ** np.arange(n - 1, -1, -1.0)
        weight[0] = (1.0 - self.alpha) ** (n - 1)
        return weight


class CheckpointAverage:
    """The last ``count`` checkpoints of named arrays, in memory: that many copies of the weights."""

    def __init__(self, setting: Averaging) -> None:
        self.setting = setting
        self._kept: deque[dict[str, Array]] = deque(maxlen=setting.count)

    def __len__(self) -> int:
        return len(self._kept)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is taken after step ``step``, counted from 1."""
        return step % self.setting.every == 0

    def add(self, parameter: dict[str, Array]) -> None:
        """Keeps copies of the arrays as the newest checkpoint."""
        self._kept.append({name: value.copy() for name, value in parameter.items()})

    def average(self) -> dict[str, Array]:
        """The weighted mean of the checkpoints, summed in float64, in the dtype of the arrays; there must be one."""
        weight = self.setting.weight(len(self._kept))
        return {
            name: sum(w * one[name].astype(np.float64) for w, one in zip(weight, self._kept, strict=True)).astype(  # type: ignore[union-attr]
                value.dtype
            )
            for name, value in self._kept[-1].items()
        }

    def state(self) -> dict[str, Any]:
        """Nested arrays, to be given to ``restore``."""
        return {str(i): dict(one) for i, one in enumerate(self._kept)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state()``."""
        self._kept.clear()
        for i in range(len(state)):
            self.add({name: np.asarray(value) for name, value in state[str(i)].items()})
