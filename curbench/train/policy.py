"""The policy: a local Hugging Face causal language model, its tokenizer, and the log-probability of a completion.

Prompts are padded on the left and run once per group; the rollouts of a group share the prompt's keys and values, in
sampling and in training alike. With G rollouts per group that saves (G - 1) / G of the prompt's work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from curbench.types import ActorView, Array

BASE = Path(__file__).parent.parent / "data" / "base"


@dataclass(frozen=True)
class Policy:
    """A causal language model in evaluation mode (no dropout) and its tokenizer.

    eos  ids of the tokens that end a completion
    pad  id that fills unused places; never read
    chat           whether a prompt is put to the model as what a user says, by the tokenizer's chat template
    system_prompt  what the system says before it
    """

    model: Any
    tokenizer: Any
    eos: tuple[int, ...]
    pad: int
    chat: bool = False
    system_prompt: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device


@dataclass(frozen=True)
class Prompt:
    """Tokenized prompts, padded on the left. id, mask: i64[B, P]; mask is 1 on tokens and 0 on padding."""

    id: Tensor
    mask: Tensor

    def select(self, index: Tensor) -> Prompt:
        """The prompts at those indices."""
        return Prompt(self.id[index], self.mask[index])

    def join(self, other: Prompt) -> Prompt:
        """These prompts and then others, the shorter ones padded on the left."""
        width = max(self.id.shape[1], other.id.shape[1])
        return Prompt(
            *(
                torch.cat([torch.nn.functional.pad(a, (width - a.shape[1], 0)) for a in pair])
                for pair in ((self.id, other.id), (self.mask, other.mask))
            )
        )


def load_policy(
    path: str | Path | None,
    suite: str = "countdown",
    *,
    device: str | None = None,
    dtype: str = "float32",
    attention: str = "sdpa",
    chat: bool = False,
    system_prompt: str | None = None,
) -> Policy:
    """The policy in a local model folder, as written by ``save_pretrained`` of any Hugging Face causal language model.

    path       folder with config.json, weights (safetensors) and tokenizer; nothing is downloaded, no code in it is
               run. None takes the small base model that ships with the suite
    device     default: a GPU if there is one, except for the base model that ships, which stays on the CPU
    dtype      of the weights in memory; in "bfloat16" the small steps of RL are lost to rounding
    attention  attention implementation of transformers: "sdpa" or "eager"
    chat, system_prompt  see ``Policy``
    Raises     ValueError if the folder is missing, is not such a folder, names no end-of-text token, or has no chat
               template where one is asked for.
    """
    folder = shipped_base(suite) if path is None else Path(path)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json; give a local Hugging Face folder")
    if device is None:
        device = "cuda" if path is not None and torch.cuda.is_available() else "cpu"
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for every load of a small model would bury ours
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation=attention, use_safetensors=True, **local
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} cannot be loaded as a causal language model: {reason}") from error
    if chat and not tokenizer.chat_template:
        raise ValueError(f"{folder} has no chat template; leave chat=true out")
    return replace(as_policy(model.to(device), tokenizer), chat=chat, system_prompt=system_prompt)


def shipped_base(suite: str) -> Path:
    """The folder of the base model that ships with a suite, its weights compared with the checksum of its recipe.

    Raises ValueError if the suite has no base model, or the weights are not those that the recipe made.
    """
    folder = BASE / suite
    if not (folder / "recipe.json").is_file():
        raise ValueError(f"suite {suite!r} ships no base model; give a local Hugging Face folder")
    expected = json.loads((folder / "recipe.json").read_text())["sha256"]
    found = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"{folder / 'model.safetensors'} has sha256 {found[:12]}..., and its recipe says {expected[:12]}...: "
            "install the package again"
        )
    return folder


def as_policy(model: Any, tokenizer: Any) -> Policy:
    """A policy from a model and a tokenizer in memory.

    Raises ValueError if neither names an end-of-text token.
    """
    named = getattr(model.generation_config, "eos_token_id", None)
    eos = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    if not eos:
        raise ValueError("the tokenizer names no end-of-text token (eos_token), so no completion could ever end")
    pad = tokenizer.pad_token_id
    return Policy(model.eval(), tokenizer, tuple(sorted(eos)), min(eos) if pad is None else pad)


def encode(policy: Policy, text: Sequence[str]) -> Prompt:
    """Tokenizes prompts, through the chat template where the policy has one, and pads them on the left to the longest.

    Raises ValueError if a prompt has no token.
    """
    token = policy.tokenizer([as_chat(policy, one) for one in text], add_special_tokens=not policy.chat)["input_ids"]
    width = max(map(len, token))
    if min(map(len, token)) == 0:
        raise ValueError("a prompt must have at least one token")
    ids = torch.full((len(token), width), policy.pad)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(token):
        ids[row, width - len(one) :] = torch.tensor(one)
        mask[row, width - len(one) :] = 1
    return Prompt(ids.to(policy.device), mask.to(policy.device))


def as_chat(policy: Policy, text: str) -> str:
    """The text of a prompt as the model is given it: as it is, or in the chat template with the model's turn opened."""
    if not policy.chat:
        return text
    system = [] if policy.system_prompt is None else [{"role": "system", "content": policy.system_prompt}]
    turn = [*system, {"role": "user", "content": text}]
    return policy.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


def prompt_view(policy: Policy, prompt: Callable[[int], str]) -> ActorView:
    """What the policy, as it is at the time of asking, makes of the prompts of problems."""

    def state(problem: Array, depth: float) -> tuple[Tensor, Tensor]:
        return prompt_state(policy, encode(policy, [prompt(int(i)) for i in problem]), depth)

    def hidden(problem: Array, depth: float = 1.0) -> Array:
        value, mask = state(problem, depth)
        return ((value * mask).sum(1) / mask.sum(1)).cpu().numpy()

    def angle(problem: Array) -> Array:
        value, mask = state(problem, 1.0)
        count = mask.sum((1, 2))
        total = (torch.nn.functional.normalize(value, dim=2) * mask).sum(1).square().sum(1)
        return ((total - count) / (count * (count - 1)).clamp(min=1)).double().cpu().numpy()

    return ActorView(hidden, angle)


@torch.no_grad()
def prompt_state(policy: Policy, prompt: Prompt, depth: float) -> tuple[Tensor, Tensor]:
    """(hidden states f32[B, P, D] of the prompts' tokens, mask f32[B, P, 1]); what lies under padding is meaningless.

    depth   share of the layers below the state, in (0, 1]: 1 is the last one, as the output head sees it
    Raises  ValueError for another depth.
    """
    if not 0.0 < depth <= 1.0:
        raise ValueError(f"depth is a share of the layers, in (0, 1]; got {depth!r}")
    position = (prompt.mask.cumsum(1) - 1).clamp(min=0)
    out = policy.model(
        input_ids=prompt.id,
        attention_mask=prompt.mask,
        position_ids=position,
        use_cache=False,
        logits_to_keep=1,
        output_hidden_states=True,
    )
    layer = out.hidden_states
    return layer[max(1, round(depth * (len(layer) - 1)))].float(), prompt.mask[:, :, None].float()


def decode(policy: Policy, completion: Tensor, length: Sequence[int]) -> list[str]:
    """The text of each completion, without the end-of-text token. completion: i64[R, L]; length: int[R]."""
    token = [row[:n] for row, n in zip(completion.tolist(), length, strict=True)]
    return policy.tokenizer.batch_decode(token, skip_special_tokens=True)


def start(policy: Policy, prompt: Prompt, group: Tensor) -> tuple[Tensor, Any, Tensor, Tensor]:
    """Runs the prompts once and hands their state to every rollout: (logit, cache, mask, position).

    group     i64[R], the prompt of each rollout
    logit     f32[R, V], of the first completion token
    mask      i64[R, P], and position i64[R] of the last prompt token
    """
    position = (prompt.mask.cumsum(1) - 1).clamp(min=0)
    out = policy.model(
        input_ids=prompt.id,
        attention_mask=prompt.mask,
        position_ids=position,
        use_cache=True,
        logits_to_keep=1,
    )
    cache = out.past_key_values
    cache.batch_select_indices(group)
    return out.logits[group, -1].float(), cache, prompt.mask[group], position[group, -1]


def completion_logit(policy: Policy, prompt: Prompt, group: Tensor, completion: Tensor, temperature: float) -> Tensor:
    """f32[R, L, V], logits of every completion token given all before it, divided by the temperature.

    Arguments are those of ``completion_logprob``.
    """
    first, cache, mask, position = start(policy, prompt, group)
    logit = first[:, None]
    width = completion.shape[1]
    if width > 1:
        step = torch.arange(1, width, device=completion.device)
        out = policy.model(
            input_ids=completion[:, :-1],
            attention_mask=torch.cat([mask, mask.new_ones(len(group), width - 1)], dim=1),
            position_ids=position[:, None] + step,
            past_key_values=cache,
            use_cache=True,
        )
        logit = torch.cat([logit, out.logits.float()], dim=1)
    return logit / temperature


def completion_logprob(
    policy: Policy, prompt: Prompt, group: Tensor, completion: Tensor, temperature: float = 1.0
) -> Tensor:
    """f32[R, L], log-probability of every completion token given all before it, at a sampling temperature.

    prompt      B prompts
    group       i64[R], the prompt of each rollout
    completion  i64[R, L], padded on the right; values at padded places are meaningless
    temperature > 0; logits are divided by it

    Gradients flow unless the caller forbids them. Equals, token by token, what the sampler reports for its own draws.
    """
    return chosen_logprob(completion_logit(policy, prompt, group, completion, temperature), completion)


def chosen_logprob(logit: Tensor, token: Tensor) -> Tensor:
    """f32[R, L], log-probability of the tokens i64[R, L] of logits f32[R, L, V]."""
    return logit.gather(2, token[:, :, None])[:, :, 0] - logit.logsumexp(2)
