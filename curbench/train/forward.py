"""Log-probabilities of rollouts under the policy as it is now, in parts of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from curbench.train.losses import length_mask
from curbench.train.policy import Policy, chosen_logprob, completion_logit
from curbench.train.rollout import TokenRollouts
from curbench.train.world import World, gathered
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
    world        the processes that share the work
    sharded      whether each has a part of the weights only

    ``watch``    is called with every pass of ``logprob``, if it is set
    """

    def __init__(
        self,
        policy: Policy,
        *,
        temperature: float,
        micro_batch: int,
        precision: str = "float32",
        world: World | None = None,
        sharded: bool = False,
    ) -> None:
        self.policy = policy
        self.world = world or World()
        self.sharded = sharded
        self.temperature = temperature
        self.micro_batch = micro_batch
        self.precision = precision
        self.watch: Watch | None = None

    def autocast(self) -> AbstractContextManager[object]:
        """What every pass of the model runs in, sampling included."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.policy.device.type, getattr(torch, self.precision))

    def whole(self) -> AbstractContextManager[None]:
        """What passes run in that are not the same on all processes: there each has all of the weights."""
        return gathered(self.policy.model) if self.sharded else nullcontext()

    def parts(self, row: Array, length: Array) -> Iterator[Tensor]:
        """Rows in parts of at most ``micro_batch``, rollouts of like length together so that little is padding.

        Of several processes each gets its share, all lengths among it.
        """
        row = row[np.argsort(length[row], kind="stable")][self.world.rank :: self.world.size]
        for start in range(0, row.size, self.micro_batch):
            yield torch.from_numpy(np.sort(row[start : start + self.micro_batch])).to(self.policy.device)

    def exact(self) -> Forward:
        """The same in float32, for differences that the rounding of another precision would drown."""
        return Forward(
            self.policy,
            temperature=self.temperature,
            micro_batch=self.micro_batch,
            world=self.world,
            sharded=self.sharded,
        )

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
        found = []
        with self.whole():
            for part in self.parts(row, rollouts.length):
                value, mask = self.logprob(rollouts, part)
                found.append((part.cpu().numpy(), (value * mask).cpu().numpy()))
        for where, number in chain.from_iterable(self.world.gather(found)):
            out[where, : number.shape[1]] = number
        return out
