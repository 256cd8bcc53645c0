"""A language model that scores prompts: the faithful, expensive head of neural curators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curbench.curators.neural import gaussian
from curbench.types import Bank

BYTES = 256
"""Vocabulary of the decoder from scratch: the bytes of a prompt, and one symbol for padding."""

SCRATCH: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LONGEST = 512
"""Tokens of a prompt that are read: the last ones, where it is longer."""


class LanguageScorer(nn.Module):
    """(problem i64[M]) -> score f32[M]: a decoder reads the prompt, a linear head reads the state of its last token.

    model  local folder of a Hugging Face decoder with its tokenizer; None makes a byte-level Llama of two layers, its
           weights drawn from ``seed``

    The scalar head starts at zero. There is no dropout. Nothing is downloaded, no code in the folder is run.

    Raises ValueError if the bank has no prompts, or the folder is not such a model.
    """

    def __init__(self, bank: Bank, model: str | None, seed: int) -> None:
        super().__init__()
        if bank.prompt is None:
            raise ValueError("a head of kind model reads prompts, and this bank has none")
        self.prompt = bank.prompt
        self.tokenizer: Any = None
        if model is None:
            self.backbone: Any = _from_scratch(seed)
        else:
            self.tokenizer, self.backbone = _pretrained(model)
        self.last = nn.Linear(self.backbone.config.hidden_size, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.eval()

    def tokens(self, problem: int) -> list[int]:
        """Ids of a prompt, its last ``LONGEST``; one symbol for an empty one."""
        text = self.prompt(problem)
        ids = list(text.encode()) if self.tokenizer is None else self.tokenizer(text)["input_ids"]
        return ids[-LONGEST:] or [0]

    def forward(self, problem: Tensor) -> Tensor:
        token = [self.tokens(int(i)) for i in problem]
        length = torch.tensor([len(one) for one in token])
        width = int(length.max())
        ids = torch.tensor([one + [0] * (width - len(one)) for one in token])
        mask = (torch.arange(width) < length[:, None]).long()
        state = self.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.last(state[torch.arange(len(token)), length - 1].float())[:, 0]


def _from_scratch(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(vocab_size=BYTES, max_position_embeddings=LONGEST, **SCRATCH)
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights too, from the global generator
        backbone = LlamaModel(config)
    with torch.no_grad():
        for index, parameter in enumerate(backbone.parameters()):
            if parameter.dim() > 1:  # norms stay at one
                parameter.copy_(gaussian(parameter.shape, seed, index) * config.initializer_range)
    return backbone


def _pretrained(folder: str) -> tuple[Any, Any]:
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} is not a model folder: it has no config.json; give a local Hugging Face folder")
    from transformers import AutoModel, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        return (
            AutoTokenizer.from_pretrained(folder, **local),
            AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **local),
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} cannot be loaded as a language model: {reason}") from error
