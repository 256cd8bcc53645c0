"""Rollout engines: who draws completions, and the one that is built in.

Engines share one interface, ``Engine``. The built-in one samples with the policy itself, in batches with a shared
prompt cache; ``vllm_engine`` hands the work to vLLM. Whoever drew, two log-probabilities of each token are known:

logprob          of the policy at the sampling temperature, over the whole vocabulary: log pi(y_t), the denominator of
                 the ratio in the loss, and what a later pass of the policy over the completion gives again
sampler_logprob  of the distribution that the engine drew from: after top-p, renormalised, and in the engine's own
                 arithmetic. Equal to ``logprob`` for the built-in engine at top_p = 1

The randomness of a token is a pure function of (seed, stream, step, rollout, position), so it does not depend on the
batch, on what was sampled before or on a generator that would have to be saved. The built-in engine takes a token as
the inverse of the cumulative distribution at that number: two policies that differ little then draw mostly the same
tokens, which makes paired evaluations sharp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numba as nb
import numpy as np
import torch
from torch import Tensor

from curbench import philox
from curbench.train.policy import Policy, Prompt, completion_logit, start
from curbench.types import Array, Rollouts


@dataclass(frozen=True)
class TokenRollouts(Rollouts):
    """Rollouts of a language model, padded on the right to the longest completion; tensors lie where the model is.

    prompt       Prompt, the B prompts of the selection
    group        i64[R], the slot of each rollout
    completion   i64[R, L]; places at or beyond ``length`` hold padding
    logprob      f32[R, L] in numpy, log-probability of each token under the policy when it was drawn; 0 beyond
                 ``length``, and so are the next two
    sampler_logprob  f32[R, L] in numpy, under the distribution that the engine drew from
    entropy      f32[R, L] in numpy, of the policy's distribution at the sampling temperature, over the whole vocabulary
    """

    prompt: Prompt
    group: Tensor
    completion: Tensor
    logprob: Array
    sampler_logprob: Array
    entropy: Array

    def to(self, device: torch.device | str) -> TokenRollouts:
        """The same on another device."""
        prompt = Prompt(self.prompt.id.to(device), self.prompt.mask.to(device))
        return replace(self, prompt=prompt, group=self.group.to(device), completion=self.completion.to(device))

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
    """Sampled completions: completion i64[R, L], length i64[R] with what ended them; padding lies beyond.

    logprob, sampler_logprob, entropy  f32[R, L], as in ``TokenRollouts``
    gradient_sq  f64[R], sum over tokens of |e_token - pi|^2, the squared gradient of its log-probability with respect
                 to the logits: what is known of |grad log pi|^2 without a backward pass
    """

    completion: Tensor
    logprob: Tensor
    sampler_logprob: Tensor
    entropy: Tensor
    length: Tensor
    gradient_sq: Tensor

    def to(self, device: torch.device | str) -> Sample:
        """The same on another device."""
        return Sample(*(getattr(self, one.name).to(device) for one in fields(self)))


def concatenate(part: Sequence[Sample]) -> Sample:
    """The rows of all parts in order, the narrower ones padded with 0."""
    width = max(one.completion.shape[1] for one in part)

    def joined(name: str) -> Tensor:
        value = [getattr(one, name) for one in part]
        if value[0].dim() == 2:
            value = [torch.nn.functional.pad(one, (0, width - one.shape[1])) for one in value]
        return torch.cat(value)

    return Sample(*(joined(one.name) for one in fields(Sample)))


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    temperature  > 0, logits are divided by it
    top_p        in (0, 1], tokens are drawn from the nucleus of that mass; 1 draws from the whole vocabulary
    limit        largest number of new tokens
    stop         texts that end a completion as soon as one is in it; it keeps the tokens that the text is made of
    stop_token   ids of tokens that end a completion, beside those that end the policy's text
    """

    temperature: float = 1.0
    top_p: float = 1.0
    limit: int = 20
    stop: tuple[str, ...] = ()
    stop_token: tuple[int, ...] = ()


class Noise(NamedTuple):
    """The key of the randomness of rollouts: seed and stream of ``curbench.philox``, step, and row i64[R] of each."""

    seed: int
    stream: int
    step: int
    row: Array

    def take(self, index: Array) -> Noise:
        """That of some of the rows."""
        return self._replace(row=self.row[index])


class Drawn(NamedTuple):
    """What an engine drew: completion i64[R, L], its log-probability f32[R, L] there, 0 beyond length i64[R]."""

    completion: Tensor
    logprob: Tensor
    length: Tensor


class Engine(Protocol):
    """Who draws completions of a policy."""

    def draw(self, prompt: Prompt, group: Tensor, noise: Noise) -> Drawn:
        """One completion per row of ``group`` i64[R], the prompt of each; equal noise gives equal completions."""
        ...

    def sample(self, prompt: Prompt, group: Tensor, noise: Noise) -> Sample:
        """The same completions, and what the policy makes of them."""
        ...

    def changed(self) -> None:
        """Tells the engine that the policy's weights are others since it last sampled."""
        ...


class BuiltinEngine:
    """Samples with the policy itself.

    rows  completions at a time, which bounds memory; None takes all at once
    """

    def __init__(self, policy: Policy, sampling: Sampling, *, rows: int | None = None) -> None:
        self._policy, self._sampling, self._rows = policy, sampling, rows

    def draw(self, prompt: Prompt, group: Tensor, noise: Noise) -> Drawn:
        drawn = self.sample(prompt, group, noise)
        return Drawn(drawn.completion, drawn.sampler_logprob, drawn.length)

    def sample(self, prompt: Prompt, group: Tensor, noise: Noise) -> Sample:
        count = self._rows or len(group)
        part = []
        for begin in range(0, len(group), count):
            slot, inverse = torch.unique(group[begin : begin + count], return_inverse=True)
            uniform = token_noise(*noise[:3], noise.row[begin : begin + count], self._sampling.limit)
            some = prompt if count >= len(group) else prompt.select(slot)
            index = group if some is prompt else inverse
            part.append(sample(self._policy, some, index, torch.from_numpy(uniform).to(group.device), self._sampling))
        return part[0] if len(part) == 1 else concatenate(part)

    def changed(self) -> None:
        pass


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


def rollout_seed(noise: Noise) -> Array:
    """i64[R] in [0, 2^63), one seed per rollout, for engines that keep a generator for each.

    >>> rollout_seed(Noise(0, philox.ROLLOUT, 0, np.array([0, 1]))).shape
    (2,)
    """
    index = np.asarray(noise.row, np.uint64) << np.uint64(32)
    word = philox.words(np.uint64(noise.seed), noise.stream, noise.step, index).astype(np.uint64)
    return ((word[:, 0] | word[:, 1] << np.uint64(32)) >> np.uint64(1)).astype(np.int64)


class Draw(NamedTuple):
    """A token per row i64[R] and, of it, what ``Sample`` keeps: f32[R], f32[R], f32[R] and f64[R]."""

    token: Tensor
    logprob: Tensor
    sampler_logprob: Tensor
    entropy: Tensor
    gradient_sq: Tensor


def nucleus(probability: Tensor, top_p: float) -> Tensor:
    """bool[R, V], the smallest sets of most likely tokens whose probabilities reach top_p; the likeliest always is in.

    Source  Holtzman et al. 2020 (1904.09751), section 3.1; of equally likely tokens, those of lower ids come first.

    >>> nucleus(torch.tensor([[0.1, 0.6, 0.3]]), 0.7).tolist()
    [[False, True, True]]
    """
    value, order = probability.sort(dim=1, descending=True, stable=True)
    before = value.cumsum(1) - value
    return torch.zeros_like(probability, dtype=torch.bool).scatter(1, order, before < top_p)


def draw(logit: Tensor, uniform: Tensor, temperature: float, top_p: float = 1.0) -> Draw:
    """One token per row, its log-probabilities, and what there is to know about the policy's distribution there.

    The token is the first whose cumulative probability reaches 1 - uniform.

    logit    f32[R, V]
    uniform  f64[R] in [0, 1), so a token of probability zero is never drawn
    top_p    in (0, 1]; below 1 the token is drawn from the nucleus, and ``sampler_logprob`` is renormalised to it
    """
    logprob = (logit / temperature).log_softmax(1)
    probability = logprob.double().exp()
    entropy = -torch.where(probability > 0, probability * logprob, 0.0).sum(1).float()
    kept = probability if top_p == 1.0 else torch.where(nucleus(probability, top_p), probability, 0.0)
    cumulative = kept.cumsum(1)
    reach = (1.0 - uniform)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, reach).clamp(max=logit.shape[1] - 1)  # NaN is beyond every sum
    gradient_sq = 1.0 - 2.0 * probability.gather(1, token)[:, 0] + probability.square().sum(1)
    value = logprob.gather(1, token)[:, 0]
    sampler = value if top_p == 1.0 else value - cumulative[:, -1].log().float()
    return Draw(token[:, 0], value, sampler, entropy, gradient_sq)


def stop_rule(policy: Policy, stop: Sequence[str]) -> Callable[[Tensor], Tensor]:
    """Tells of completions i64[R, n], of which no shorter part held a stop text, whether they do now: bool[R]."""
    # A text of n bytes lies in the last n tokens, as each adds one at least; decoders treat the first token of a text
    # in their own way, and tokens that print nothing may lie between: hence some more.
    window = max(len(text.encode()) for text in stop) + 8

    def stops(completion: Tensor) -> Tensor:
        tail = policy.tokenizer.batch_decode(completion[:, -window:].tolist(), skip_special_tokens=True)
        return torch.tensor([any(text in one for text in stop) for one in tail], device=completion.device)

    return stops


@torch.no_grad()
def sample(policy: Policy, prompt: Prompt, group: Tensor, uniform: Tensor, sampling: Sampling) -> Sample:
    """Samples one completion per row of ``group``, until end of text, a stop, or until the noise is used up.

    prompt   B prompts
    group    i64[R], the prompt of each rollout
    uniform  f64[R, width], noise of each token; width is the largest number of new tokens
    Returns  completions trimmed to the longest, L <= width

    Rows that have ended leave the batch at once, so the work is proportional to the tokens that are returned.
    """
    rows, width = uniform.shape
    completion = torch.full((rows, width), policy.pad, device=policy.device)
    logprob, sampler_logprob, entropy = (torch.zeros((rows, width), device=policy.device) for _ in range(3))
    length = torch.zeros(rows, dtype=torch.int64, device=policy.device)
    gradient_sq = torch.zeros(rows, dtype=torch.float64, device=policy.device)
    end = torch.tensor(policy.eos + sampling.stop_token, device=policy.device)
    stops = stop_rule(policy, sampling.stop) if sampling.stop else None
    logit, cache, mask, position = start(policy, prompt, group)
    live = torch.arange(rows, device=policy.device)
    for at in range(width):
        drawn = draw(logit, uniform[live, at], sampling.temperature, sampling.top_p)
        token = drawn.token
        completion[live, at] = token
        logprob[live, at] = drawn.logprob
        sampler_logprob[live, at] = drawn.sampler_logprob
        entropy[live, at] = drawn.entropy
        length[live] += 1
        gradient_sq[live] += drawn.gradient_sq
        keep = ~torch.isin(token, end)
        if stops is not None:
            keep &= ~stops(completion[live, : at + 1])
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
    completion, logprob, sampler_logprob, entropy = (
        value[:, :longest] for value in (completion, logprob, sampler_logprob, entropy)
    )
    return Sample(completion, logprob, sampler_logprob, entropy, length, gradient_sq)


@torch.no_grad()
def rescore(
    policy: Policy, prompt: Prompt, group: Tensor, drawn: Drawn, temperature: float, *, rows: int | None = None
) -> Sample:
    """What ``sample`` would have said of completions that another engine drew, from a pass of the policy over them.

    drawn  with the log-probabilities of that engine
    rows   completions at a time; None takes all at once
    """
    count, width = drawn.completion.shape
    part = []
    for begin in range(0, count, rows or count):
        chosen = slice(begin, begin + (rows or count))
        slot, inverse = torch.unique(group[chosen], return_inverse=True)
        token, length = drawn.completion[chosen], drawn.length[chosen]
        logprob = completion_logit(policy, prompt.select(slot), inverse, token, temperature).log_softmax(2)
        probability = logprob.exp()
        inside = torch.arange(width, device=token.device) < length[:, None]
        at = token[:, :, None]
        square = 1.0 - 2.0 * probability.gather(2, at)[:, :, 0] + probability.square().sum(2)
        entropy = -torch.where(probability > 0, probability * logprob, 0.0).sum(2)
        part.append(
            Sample(
                completion=token,
                logprob=torch.where(inside, logprob.gather(2, at)[:, :, 0], 0.0),
                sampler_logprob=drawn.logprob[chosen],
                entropy=torch.where(inside, entropy, 0.0),
                length=length,
                gradient_sq=torch.where(inside, square, 0.0).double().sum(1),
            )
        )
    return part[0] if len(part) == 1 else concatenate(part)
