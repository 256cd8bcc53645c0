"""The loss of one optimiser step, whose gradient is made part by part."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from torch import Tensor

from curbench.train.forward import Forward
from curbench.train.losses import divergence, surrogate, token_weight
from curbench.train.rollout import TokenRollouts
from curbench.train.settings import GRPOConfig
from curbench.types import Array


class Objective:
    """-sum over tokens of weight * (surrogate - kl * divergence), on the rollouts ``row``.

    row        i64[], rollouts that enter the step and its normaliser
    advantage  f64[R]; rollouts of advantage zero count in the normaliser, and are run only if there is a divergence
    factor     f64[R, L] or None, weights of tokens, see ``losses.token_weight``
    reference  f32[R, L] or None, log-probabilities under the policy before training; needed if ``kl`` is not zero

    The normaliser is that of all of ``row``, so gradients of parts of it add up to that of the whole. ``sums`` adds up,
    over the rollouts that were run, what the metrics of the step are made of.
    """

    def __init__(
        self,
        forward: Forward,
        config: GRPOConfig,
        rollouts: TokenRollouts,
        row: Array,
        advantage: Array,
        factor: Array | None,
        reference: Array | None = None,
    ) -> None:
        self.forward = forward
        self.config = config
        self.rollouts = rollouts
        self.group = np.repeat(np.arange(len(rollouts.selection)), np.diff(rollouts.offset))
        self.sums = dict.fromkeys(("loss", "ratio", "clipped", "log_ratio_sq", "divergence", "kl", "tokens"), 0.0)
        device = forward.policy.device
        self._reference = None if reference is None else torch.from_numpy(reference).to(device)
        self._length = torch.from_numpy(rollouts.length.astype(np.int64)).to(device)
        self._old = torch.tensor(rollouts.logprob, device=device)
        self._advantage = torch.from_numpy(advantage).float().to(device)
        self._weight = torch.zeros_like(self._old)
        chosen = torch.from_numpy(row).to(device)
        scale = None if factor is None else torch.tensor(factor[row], dtype=torch.float32, device=device)
        self._weight[chosen] = token_weight(
            self._length[chosen], self._weight.shape[1], config.aggregation, config.max_new_tokens, scale
        )
        self._runs = advantage != 0 if reference is None else self._weight.any(dim=1).cpu().numpy()

    def backward(self, row: Array) -> None:
        """Adds the gradient of these rollouts' terms to that of the parameters.

        Of several processes each adds its share, so that their gradients and ``sums`` add up to those of all rollouts.
        """
        row = row[self._runs[row]]
        passes = 0
        for part in self.forward.parts(row, self.rollouts.length):
            loss = self._terms(part)
            loss.backward()
            self.sums["loss"] += float(loss.detach())
            passes += 1
        if self.forward.sharded:
            # Sharded weights are gathered, and gradients reduced, by all processes at once: each makes as many passes.
            most = ceil(ceil(row.size / self.forward.world.size) / self.forward.micro_batch)
            for _ in range(most - passes):
                new, _ = self.forward.logprob(self.rollouts, torch.from_numpy(row[:1]).to(self._old.device))
                (0.0 * new.sum()).backward()

    def _terms(self, part: Tensor) -> Tensor:
        """The sum of these rollouts' terms; what the metrics need of them is added to ``sums``."""
        config, length, sums = self.config, self._length[part], self.sums
        new, _ = self.forward.logprob(self.rollouts, part)
        width = new.shape[1]
        old = self._old[part, :width]
        term = surrogate(
            new,
            old,
            self._advantage[part],
            length,
            ratio=config.ratio,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
        )
        value = term.value
        if self._reference is not None:
            kl = divergence(new, self._reference[part, :width], length, config.kl_estimator)
            value = value - config.kl * (kl * term.ratio if config.kl_correction else kl)
            sums["kl"] += float(kl.detach().sum())
        sums["ratio"] += float(term.ratio.detach().sum())
        sums["clipped"] += float(term.clipped.sum())
        sums["log_ratio_sq"] += float(term.log_ratio.square().sum())
        sums["divergence"] += float(divergence(old, new.detach(), length).sum())
        sums["tokens"] += float(length.sum())
        return -(self._weight[part, :width] * value).sum()
