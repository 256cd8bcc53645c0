"""Low-rank adapters through peft: the model's own weights stay as they are, and only the adapters are trained."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import torch
from pydantic import BaseModel, ConfigDict, Field

from curbench.train.policy import Policy


class LoRA(BaseModel):
    """Adapters W + (alpha / rank) B A; without dropout, so that sampled and recomputed log-probabilities agree.

    rank, alpha  of every adapter
    modules      names of the linear layers that get one, separated by commas, or "all-linear": all but the output head
    Source       Hu et al. 2021 (2106.09685)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    modules: str = "all-linear"


def adapt(policy: Policy, setting: LoRA, seed: int) -> Policy:
    """The policy with adapters in place of its weights as what is trained; B = 0, so it does not differ yet.

    seed    of A, uniform in [-1, 1] / sqrt(inputs) as peft draws it, by a generator of its own
    Raises  ValueError if the model has no such modules, ModuleNotFoundError without peft.
    """
    from peft import LoraConfig, get_peft_model

    modules = setting.modules if setting.modules == "all-linear" else setting.modules.split(",")
    config = LoraConfig(
        r=setting.rank, lora_alpha=setting.alpha, target_modules=modules, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights too, from the global generator
        try:
            model = get_peft_model(policy.model, config)
        except ValueError as error:
            raise ValueError(f"grpo.lora.modules={setting.modules}: {str(error).splitlines()[0]}") from error
    generator = torch.Generator().manual_seed(seed % 2**63)
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.data.copy_((torch.rand(p.shape, generator=generator) * 2 - 1) / sqrt(p.shape[1]))
    return replace(policy, model=model.eval())
