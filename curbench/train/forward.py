"""Log-probabilities of rollouts under the policy as it is now, in parts of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from curbench.train.losses import length_mask
from curbench.train.policy import Policy, chosen_logprob, completion_logit
from curbench.train.rollout import TokenRollouts
from curbench.types import Array

Watch = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""Sees a pass: rows i64[n], prompt of each i64[n], completions i64[n, L], 1 on their tokens f32[n, L], and their logits
over the temperature f32[n, L, V]."""


class Forward:
    """Runs rollouts through the policy.

    temperature  of sampling; log-probabilities are those of the distribution that was sampled from
    micro_batch  rollouts per pass; bounds memory, never the result
    precision    "float32", or "bfloat16" for matrix products and the cache of keys and values: weights, sums,
                 softmaxes and log-probabilities stay float32
    ``watch``    is called with every pass of ``logprob``, if it is set
    """

    def __init__(self, policy: Policy, *, temperature: float, micro_batch: int, precision: str = "float32") -> None:
        self.policy = policy
        self.temperature = temperature
        self.micro_batch = micro_batch
        self.precision = precision
        self.watch: Watch | None = None

    def autocast(self) -> AbstractContextManager[object]:
        """What every pass of the model runs in, sampling included."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.policy.device.type, getattr(torch, self.precision))

    def parts(self, row: Array, length: Array) -> Iterator[Tensor]:
        """Rows in parts of at most ``micro_batch``, rollouts of like length together so that little is padding."""
        row = row[np.argsort(length[row], kind="stable")]
        for start in range(0, row.size, self.micro_batch):
            yield torch.from_numpy(np.sort(row[start : start + self.micro_batch])).to(self.policy.device)

    def exact(self) -> Forward:
        """The same in float32, for differences that the rounding of another precision would drown."""
        return Forward(self.policy, temperature=self.temperature, micro_batch=self.micro_batch)

    def logprob(self, rollouts: TokenRollouts, row: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probabilities of the sampled tokens, 1 on them and 0 beyond), f32[len(row), longest of these rows].

        Log-probabilities beyond the end of a rollout are meaningless. Gradients flow unless the caller forbids them.
        """
        length = torch.tensor(rollouts.length[row.cpu().numpy()], device=self.policy.device)
        slot, group = torch.unique(rollouts.group[row], return_inverse=True)
        completion = rollouts.completion[row, : int(length.max())]
        with self.autocast():
            logit = completion_logit(self.policy, rollouts.prompt.select(slot), group, completion, self.temperature)
        mask = length_mask(length, completion.shape[1])
        if self.watch is not None:
            self.watch(row, group, completion, mask, logit.detach())
        return chosen_logprob(logit, completion), mask

    @torch.no_grad()
    def all_logprob(self, rollouts: TokenRollouts, row: Array) -> Array:
        """f32[R, L], log-probabilities of the rollouts ``row``, 0 beyond their lengths; the sampler's of all others."""
        out = rollouts.logprob.copy()
        for part in self.parts(row, rollouts.length):
            value, mask = self.logprob(rollouts, part)
            out[part.cpu().numpy(), : value.shape[1]] = (value * mask).cpu().numpy()
        return out
