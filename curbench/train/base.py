"""Makes the small base models that ship with the suites: a decoder from scratch, warmed up on partly wrong examples.

A model warmed up on right answers only has little left for RL to find. One that has seen right and wrong answers side
by side knows more than it shows, as a pretrained model does, and RL with a verifier brings it out: that is what makes a
comparison of curricula possible in minutes on a laptop. The recipe, with every number it depends on, is written beside
the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from math import cos, pi
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from curbench import suites
from curbench.suites import Suite
from curbench.train.grpo import GRPOActor, GRPOConfig
from curbench.train.losses import length_mask
from curbench.train.policy import Policy, as_policy, encode

WORD = r"[A-Za-z]+|[0-9]{1,2}|."
SPREAD = (0.05, 0.9)
"""Pass rates that leave RL something to find: the warm-up may stop once those of all strata are in here."""


class Size(NamedTuple):
    """Shape of a decoder; its feed-forward layers have 8/3 as many units."""

    hidden: int
    layers: int
    heads: int


SIZES = {"tiny": Size(96, 4, 4), "small": Size(320, 8, 5), "medium": Size(832, 12, 13)}
"""About 0.5, 10 and 100 million parameters."""


def make_base(
    suite_name: str,
    out_dir: str | Path,
    *,
    seed: int = 0,
    steps: int = 2500,
    corruption: float = 0.45,
    batch: int = 128,
    learning_rate: float = 2e-3,
    bucket: int = 1,
    check_every: int = 500,
    size: Literal["tiny", "small", "medium"] = "tiny",
    hidden: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    device: str | None = None,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, Any]:
    """Trains a base model, writes it with its tokenizer and recipe.json to ``out_dir`` and returns the recipe.

    seed        of the weights and of the examples; equal seeds give equal weights on the same machine
    steps       optimiser steps of ``batch`` examples; the learning rate warms up over 100 and decays as a cosine to 5 %
    corruption  share of examples whose answer was made wrong by one random change: it grows from 0 at the first step to
                this at the last, so that the model learns first and is blurred later
    bucket      batches that are drawn together and parted by length, so that little of a batch is padding
    check_every steps between measurements of the held-out pass rates: the warm-up ends early when those of all strata
                are in ``SPREAD``, and the recipe says whether that was reached; 0 never looks
    size        shape of the decoder (Llama), see ``SIZES``; hidden, layers, heads change it one by one
    device      default: a GPU if there is one
    progress    called with the step and its loss
    Raises      ValueError for an unknown suite, an ``out_dir`` that already holds a model, or a share outside [0, 1].

    Examples are drawn afresh from the suite, never with a problem of its test split.
    """
    if not 0.0 <= corruption <= 1.0:
        raise ValueError(f"corruption is a share of the examples, in [0, 1]; got {corruption!r}")
    train, test = suites.load(suite_name, "train"), suites.load(suite_name, "test")
    out = Path(out_dir)
    if (out / "config.json").exists():
        raise ValueError(f"{out} already holds a model; choose another folder or delete it")
    tokenizer = word_tokenizer(train.prompt(i) + train.solution(i) for i in range(len(train.bank)))
    given = {"hidden": hidden, "layers": layers, "heads": heads}
    shape = SIZES[size]._replace(**{name: value for name, value in given.items() if value is not None})
    policy = tiny_policy(tokenizer, **shape._asdict(), seed=seed)
    policy.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    longest = max(map(len, tokenizer([train.solution(i) for i in range(len(train.bank))])["input_ids"]))
    width = max(GRPOConfig().max_new_tokens, longest + 1)

    def spread(step: int) -> bool:
        rate = pass_rate(policy, train, test, width, samples=1) if check_every and step % check_every == 0 else {}
        return bool(rate) and is_spread(rate)

    begin = perf_counter()
    loss, done = warm_up(
        policy,
        train,
        np.random.default_rng(seed),
        steps=steps,
        corruption=corruption,
        batch=batch,
        learning_rate=learning_rate,
        bucket=bucket,
        progress=progress,
        enough=spread,
    )
    rate = pass_rate(policy, train, test, width)
    seconds = perf_counter() - begin
    policy.model.to("cpu").save_pretrained(out)
    tokenizer.save_pretrained(out)
    recipe = {
        "suite": suite_name,
        "seed": seed,
        "steps": steps,
        "steps_taken": done,
        "check_every": check_every,
        "corruption": corruption,
        "batch": batch,
        "learning_rate": learning_rate,
        "bucket": bucket,
        **shape._asdict(),
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "torch": torch.__version__,
        "final_loss": round(loss, 4),
        "seconds": round(seconds),
        "pass_rate": rate,
        "spread": is_spread(rate),
        "sha256": sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    return recipe


def word_tokenizer(text: Iterable[str]) -> Any:
    """A tokenizer with one token per number below 100 and per word and symbol that occurs in ``text``.

    White space separates and is not kept. Returns a fast tokenizer of transformers, saved as tokenizer.json.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    number = [str(n) for n in range(100)]
    seen = {token for line in text for part in line.split() for token in re.findall(WORD, part)}
    vocabulary = ["<pad>", "<eos>", "<unk>", *number, *sorted(seen - set(number))]
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(WORD), "isolated")]
    )
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def tiny_policy(tokenizer: Any, *, hidden: int, layers: int, heads: int, seed: int) -> Policy:
    """A Llama decoder with tied embeddings and weights drawn from ``seed``, for that tokenizer.

    Llama and not Qwen2: for the latter, AutoTokenizer puts Qwen's own splitting rules over those in tokenizer.json.
    """
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):  # the constructor draws weights too, from the global generator
        model = LlamaForCausalLM(decoder_config(tokenizer, hidden, layers, heads))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # norms stay at one
                parameter.normal_(0.0, model.config.initializer_range, generator=generator)
    return as_policy(model, tokenizer)


def decoder_config(tokenizer: Any, hidden: int, layers: int, heads: int) -> Any:
    """The configuration of transformers for a Llama decoder of that shape."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def warm_up(
    policy: Policy,
    suite: Suite,
    generator: np.random.Generator,
    *,
    steps: int,
    corruption: float,
    batch: int,
    learning_rate: float,
    bucket: int = 1,
    progress: Callable[[int, float], None],
    enough: Callable[[int], bool] = lambda step: False,
) -> tuple[float, int]:
    """Trains the policy in place on the answers of fresh examples: (mean loss of the last 100 steps, steps taken).

    enough  asked after every step whether to end there
    """
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    recent: list[float] = []
    waiting: list[tuple[list[str], list[str]]] = []
    for step in range(steps):
        if not waiting:
            waiting = by_length(*examples(suite, generator, corruption * step / steps, bucket * batch), batch)
            waiting = [waiting[i] for i in generator.permutation(bucket)] if bucket > 1 else waiting
        decay = 0.05 + 0.95 * 0.5 * (1 + cos(pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * decay
        loss = answer_loss(policy, *waiting.pop())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-99:], float(loss.detach())]
        progress(step + 1, recent[-1])
        if enough(step + 1):
            break
    return (float(np.mean(recent)), step + 1) if recent else (float("nan"), 0)


def examples(
    suite: Suite, generator: np.random.Generator, corruption: float, count: int
) -> tuple[list[str], list[str]]:
    """``count`` prompts and answers, a random share of them wrong."""
    drawn = [suite.demonstration(generator) for _ in range(count)]
    spoilt = generator.random(count) < corruption
    return [d.prompt for d in drawn], [d.wrong if s else d.right for d, s in zip(drawn, spoilt, strict=True)]


def by_length(prompt: list[str], answer: list[str], batch: int) -> list[tuple[list[str], list[str]]]:
    """Batches of examples, those of like length together.

    >>> by_length(["a b c", "a", "a b", ""], ["1", "2", "3", "4"], 2)
    [(['', 'a'], ['4', '2']), (['a b', 'a b c'], ['3', '1'])]
    """
    if len(prompt) == batch:
        return [(prompt, answer)]
    order = sorted(range(len(prompt)), key=lambda i: len(prompt[i]) + len(answer[i]))
    part = [order[begin : begin + batch] for begin in range(0, len(order), batch)]
    return [([prompt[i] for i in one], [answer[i] for i in one]) for one in part]


def answer_loss(policy: Policy, prompt: list[str], answer: list[str]) -> Tensor:
    """Mean cross-entropy of the answers' tokens, end of text included; one pass over prompt and answer together."""
    question = encode(policy, prompt)
    token = [[*one, policy.eos[0]] for one in policy.tokenizer(answer)["input_ids"]]
    length = torch.tensor([len(one) for one in token], device=policy.device)
    width = max(map(len, token))
    target = torch.tensor([one + [policy.pad] * (width - len(one)) for one in token], device=policy.device)
    full = torch.cat([question.id, target[:, :-1]], dim=1)
    mask = torch.cat([question.mask, torch.ones_like(target[:, :-1])], dim=1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    logit = policy.model(
        input_ids=full, attention_mask=mask, position_ids=position, use_cache=False, logits_to_keep=width
    ).logits
    loss = torch.nn.functional.cross_entropy(logit.transpose(1, 2), target, reduction="none")
    return (loss * length_mask(length, width)).sum() / length.sum()


def is_spread(rate: dict[str, dict[str, float]]) -> bool:
    """Whether the pass rates of all strata leave RL something to find.

    >>> is_spread({"easy": {"rate": 0.8, "n": 10}, "hard": {"rate": 0.0, "n": 10}})
    False
    """
    return all(SPREAD[0] <= one["rate"] <= SPREAD[1] for one in rate.values())


def pass_rate(policy: Policy, train: Suite, test: Suite, width: int, samples: int = 4) -> dict[str, dict[str, float]]:
    """Sampled pass rate on the test split at temperature 1, by stratum name: rate and number of completions.

    width  the largest number of new tokens
    """
    config = GRPOConfig(evaluation_samples=samples, max_new_tokens=width)
    result = GRPOActor(policy, train, test, seed=0, config=config).evaluate()
    rate = {}
    for stratum, name in enumerate(test.bank.stratum_name):
        inside = result.stratum == stratum
        n = int(result.n[inside].sum())
        if n:
            rate[name] = {"rate": round(float(result.success[inside].sum()) / n, 4), "n": n}
    return rate
