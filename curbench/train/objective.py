"""The loss of one optimiser step, whose gradient is made part by part."""

from __future__ import annotations

import numpy as np
import torch

from curbench.train.forward import Forward
from curbench.train.losses import surrogate, token_weight
from curbench.train.rollout import TokenRollouts
from curbench.train.settings import GRPOConfig
from curbench.types import Array


class Objective:
    """-sum over tokens of weight * surrogate, on the rollouts ``row``.

    row        i64[], rollouts that enter the step and its normaliser
    advantage  f64[R]; rollouts of advantage zero count in the normaliser, and are not run
    factor     f64[R, L] or None, weights of tokens, see ``losses.token_weight``

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
    ) -> None:
        self.forward = forward
        self.config = config
        self.rollouts = rollouts
        self.group = np.repeat(np.arange(len(rollouts.selection)), np.diff(rollouts.offset))
        self.sums = dict.fromkeys(("loss", "ratio", "clipped", "log_ratio_sq", "tokens"), 0.0)
        device = forward.policy.device
        self._runs = advantage != 0
        self._length = torch.from_numpy(rollouts.length.astype(np.int64)).to(device)
        self._old = torch.tensor(rollouts.logprob, device=device)
        self._advantage = torch.from_numpy(advantage).float().to(device)
        self._weight = torch.zeros_like(self._old)
        chosen = torch.from_numpy(row).to(device)
        scale = None if factor is None else torch.tensor(factor[row], dtype=torch.float32, device=device)
        self._weight[chosen] = token_weight(
            self._length[chosen], self._weight.shape[1], config.aggregation, config.max_new_tokens, scale
        )

    def backward(self, row: Array) -> None:
        """Adds the gradient of these rollouts' terms to that of the parameters."""
        config = self.config
        for part in self.forward.parts(row[self._runs[row]], self.rollouts.length):
            new, _ = self.forward.logprob(self.rollouts, part)
            width = new.shape[1]
            term = surrogate(
                new,
                self._old[part, :width],
                self._advantage[part],
                self._length[part],
                ratio=config.ratio,
                clip_low=config.clip_low,
                clip_high=config.clip_high,
            )
            loss = -(self._weight[part, :width] * term.value).sum()
            loss.backward()
            self.sums["loss"] += float(loss.detach())
            self.sums["ratio"] += float(term.ratio.sum())
            self.sums["clipped"] += float(term.clipped.sum())
            self.sums["log_ratio_sq"] += float(term.log_ratio.square().sum())
            self.sums["tokens"] += float(self._length[part].sum())
