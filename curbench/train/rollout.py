"""The built-in rollout engine: batched sampling with a shared prompt cache and counter-based noise.

The randomness of a token is a pure function of (seed, step, rollout, position), so it does not depend on the batch, on
what was sampled before or on a generator that would have to be saved. A token is the inverse of the cumulative
distribution at that number: two policies that differ little then draw mostly the same tokens, which makes paired
evaluations sharp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor

from curbench import philox
from curbench.train.policy import Policy, Prompt, start
from curbench.types import Array, Rollouts


@dataclass(frozen=True)
class TokenRollouts(Rollouts):
    """Rollouts of a language model, padded on the right to the longest completion; tensors lie where the model is.

    prompt       Prompt, the B prompts of the selection
    group        i64[R], the slot of each rollout
    completion   i64[R, L]; places at or beyond ``length`` hold padding
    logprob      f32[R, L] in numpy, log-probability of each token when it was drawn; 0 beyond ``length``
    entropy      f32[R, L] in numpy, of the distribution that each token was drawn from, over the whole vocabulary
    """

    prompt: Prompt
    group: Tensor
    completion: Tensor
    logprob: Array
    entropy: Array

    def join(self, other: Rollouts, **rest: Any) -> Rollouts:
        assert isinstance(other, TokenRollouts)
        width = max(self.completion.shape[1], other.completion.shape[1])
        completion = [torch.nn.functional.pad(a, (0, width - a.shape[1])) for a in (self.completion, other.completion)]
        return super().join(
            other,
            prompt=self.prompt.join(other.prompt),
            group=torch.cat([self.group, other.group + len(self.selection)]),
            completion=torch.cat(completion),
            **rest,
        )


@dataclass(frozen=True)
class Sample:
    """Sampled completions: completion i64[R, L], logprob and entropy f32[R, L], length i64[R] with the end of text.

    gradient_sq  f64[R], sum over tokens of |e_token - pi|^2, the squared gradient of its log-probability with respect
                 to the logits: what is known of |grad log pi|^2 without a backward pass
    """

    completion: Tensor
    logprob: Tensor
    entropy: Tensor
    length: Tensor
    gradient_sq: Tensor


@nb.njit(cache=True)
def _uniform_table(seed, stream, step, row, width):
    out = np.empty((row.size, width))
    for i in range(row.size):
        for j in range(width):
            out[i, j] = philox.uniform(seed, stream, step, (row[i] << 32) + j)
    return out


def token_noise(seed: int, stream: int, step: int, row: Array, width: int) -> Array:
    """f64[R, width] in [0, 1): one number per token, keyed by (seed, stream, step, row, position).

    seed    64-bit seed
    stream  purpose of the draw, see ``curbench.philox``
    step    int in [0, 2^32), the policy's rollout step
    row     i64[R] in [0, 2^31), identity of each rollout within the step
    """
    return _uniform_table(np.uint64(seed), stream, step, np.asarray(row, np.int64), width)


def draw(logit: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One token per row, its log-probability, and what there is to know about the distribution it was drawn from.

    The token is the first whose cumulative probability reaches 1 - uniform.

    logit    f32[R, V]
    uniform  f64[R] in [0, 1), so a token of probability zero is never drawn
    Returns  (token i64[R], its log-probability f32[R], entropy f32[R], |e_token - pi|^2 f64[R])
    """
    logprob = (logit / temperature).log_softmax(1)
    probability = logprob.double().exp()
    cumulative = probability.cumsum(1)
    reach = (1.0 - uniform)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, reach)
    entropy = -torch.where(probability > 0, probability * logprob, 0.0).sum(1).float()
    gradient_sq = 1.0 - 2.0 * probability.gather(1, token)[:, 0] + probability.square().sum(1)
    return token[:, 0], logprob.gather(1, token)[:, 0], entropy, gradient_sq


@torch.no_grad()
def sample(policy: Policy, prompt: Prompt, group: Tensor, uniform: Tensor, *, temperature: float) -> Sample:
    """Samples one completion per row of ``group``, until end of text or until the noise is used up.

    prompt   B prompts
    group    i64[R], the prompt of each rollout
    uniform  f64[R, width], noise of each token; width is the largest number of new tokens
    Returns  completions trimmed to the longest, L <= width

    Rows that have ended leave the batch at once, so the work is proportional to the tokens that are returned.
    """
    rows, width = uniform.shape
    completion = torch.full((rows, width), policy.pad, device=policy.device)
    logprob = torch.zeros((rows, width), device=policy.device)
    entropy = torch.zeros((rows, width), device=policy.device)
    length = torch.zeros(rows, dtype=torch.int64, device=policy.device)
    gradient_sq = torch.zeros(rows, dtype=torch.float64, device=policy.device)
    end = torch.tensor(policy.eos, device=policy.device)
    logit, cache, mask, position = start(policy, prompt, group)
    live = torch.arange(rows, device=policy.device)
    for at in range(width):
        token, value, spread, square = draw(logit, uniform[live, at], temperature)
        completion[live, at] = token
        logprob[live, at] = value
        entropy[live, at] = spread
        length[live] += 1
        gradient_sq[live] += square
        keep = ~torch.isin(token, end)
        if at + 1 == width or not keep.any():
            break
        if not keep.all():
            cache.batch_select_indices(keep.nonzero()[:, 0])
            live, token, mask, position = live[keep], token[keep], mask[keep], position[keep]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        position = position + 1
        out = policy.model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logit = out.logits[:, -1].float()
    longest = int(length.max())
    return Sample(completion[:, :longest], logprob[:, :longest], entropy[:, :longest], length, gradient_sq)
