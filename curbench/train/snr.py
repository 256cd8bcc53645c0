"""A step size from the signal-to-noise ratio of the gradient, estimated from the parts of one batch."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from curbench.types import Array


def signal_and_noise(part_sq: Array, mean_sq: float) -> tuple[float, float]:
    """(S, V): unbiased estimates of the squared norm of the true gradient and of the variance of the batch's own.

        v = K / (K - 1) (mean_k |g_k|^2 - |g|^2),   V = v / K,   S = |g|^2 - V, which may be negative

    part_sq  f64[K], |g_k|^2 of the gradients of K independent parts of the batch, K >= 2
    mean_sq  |g|^2 of their mean g
    Source   elementary.

    >>> signal_and_noise(np.array([4.0, 4.0]), 2.0)  # g_1 and g_2 at right angles
    (0.0, 2.0)
    """
    noise = (float(np.mean(part_sq)) - mean_sq) / (len(part_sq) - 1)
    return mean_sq - noise, noise


class SNRStep(BaseModel):
    """The learning rate times clip(S / (S + V), floor, 1), with running means of S and V.

    For an L-smooth objective the step that improves it most in expectation is (1 / L) S / (S + V). Under AdamW, which
    has normalised the step already, read it as a schedule that slows down where the gradient is noise.

    parts   K of ``signal_and_noise``: the groups of a batch are dealt out to this many parts, K > 1
    memory  weight of the past in the running means
    floor   smallest multiplier
    Source  OBLR-PO (2511.23310), whose constants and clipping are UNVERIFIED: these defaults are ours.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    parts: int = Field(default=4, ge=2)
    memory: float = Field(default=0.9, ge=0, lt=1)
    floor: float = Field(default=0.1, gt=0, le=1)


class SignalToNoise:
    """The running means behind ``SNRStep``."""

    def __init__(self, setting: SNRStep) -> None:
        self.setting = setting
        self.signal = self.noise = 0.0

    def observe(self, part_sq: Array, mean_sq: float) -> float:
        """Takes in the gradients of a step, before it is made, and returns the multiplier of its learning rate."""
        memory = self.setting.memory
        signal, noise = signal_and_noise(part_sq, mean_sq)
        # Both start at 0, so their common bias cancels in the ratio.
        self.signal = memory * self.signal + (1.0 - memory) * signal
        self.noise = memory * self.noise + (1.0 - memory) * noise
        return self.multiplier

    @property
    def multiplier(self) -> float:
        """clip(S / (S + V), floor, 1), and 1 before anything was noisy."""
        signal = max(0.0, self.signal)
        return max(self.setting.floor, signal / (signal + self.noise)) if self.noise > 0.0 else 1.0
