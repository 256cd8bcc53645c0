"""Rollouts by vLLM, in the process that trains: the weights are pushed to its engine whenever they have changed.

Every rollout is a request with a seed of its own, a function of (seed, stream, step, rollout), so equal seeds draw the
same on the same machine; rollouts of a group share their prompt through vLLM's prefix cache, which is emptied with
every push. vLLM's arithmetic is not that of the policy: its log-probabilities are kept as ``sampler_logprob``, and the
policy passes over the completions once for its own, which the loss uses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from curbench.train.policy import Policy, Prompt
from curbench.train.rollout import Drawn, Noise, Sample, Sampling, rescore, rollout_seed


class VLLMSetting(BaseModel):
    """Of the engine: what vLLM calls by these names, and

    dtype                   of the weights in the engine; None: that of the policy
    max_model_len           longest prompt and completion together; None: what the model was made for
    gpu_memory_utilization  share of the GPU's memory that the engine takes: the rest is for training
    enforce_eager           no compilation and no CUDA graphs; None: on the CPU only
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    dtype: str | None = None
    max_model_len: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float = Field(default=0.3, gt=0, lt=1)
    enforce_eager: bool | None = None


class VLLMEngine:
    """Samples with vLLM; the ``Engine`` of ``--engine vllm``.

    policy    whose weights are sampled from; the engine's own start as random numbers and never matter
    folder    of the model: its configuration and tokenizer are read again by vLLM
    rows      completions at a time in the policy's pass over them; None takes all at once
    parallel  one engine on each of several processes that torchrun started

    Raises ModuleNotFoundError without vLLM, ValueError if vLLM cannot run the model.
    """

    def __init__(
        self,
        policy: Policy,
        sampling: Sampling,
        folder: str | Path,
        setting: VLLMSetting,
        *,
        rows: int | None = None,
        parallel: bool = False,
    ) -> None:
        dtype = setting.dtype or str(policy.model.dtype).removeprefix("torch.")
        self._policy, self._sampling, self._rows, self._stale = policy, sampling, rows, True
        self._llm = _start(str(folder), dtype, setting, policy.device.type == "cpu", parallel)
        self._longest = self._llm.model_config.max_model_len
        self._request = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.limit,
            "logprobs": 0,
            "stop_token_ids": [*policy.eos, *sampling.stop_token],
            "stop": list(sampling.stop),
            "detokenize": bool(sampling.stop),
        }

    def changed(self) -> None:
        """The weights will be pushed before the next sample."""
        self._stale = True

    def draw(self, prompt: Prompt, group: Tensor, noise: Noise) -> Drawn:
        """One completion per row of ``group``, see ``rollout.Engine``.

        Raises ValueError if a prompt and the longest completion are more than vLLM's ``max_model_len``.
        """
        if self._stale:
            self.push()
        longest = int(prompt.mask.sum(1).max()) + self._sampling.limit
        if longest > self._longest:
            raise ValueError(
                f"a prompt and its completion may take {longest} tokens, and vLLM was told to expect "
                f"{self._longest}: raise vllm.max_model_len or lower grpo.max_new_tokens"
            )
        token = [row[mask == 1].tolist() for row, mask in zip(prompt.id, prompt.mask, strict=True)]
        request = [{"prompt_token_ids": token[slot]} for slot in group.tolist()]
        from vllm import SamplingParams

        params = [SamplingParams(seed=seed, **self._request) for seed in rollout_seed(noise).tolist()]
        return self._padded([one.outputs[0] for one in self._llm.generate(request, params, use_tqdm=False)])

    def sample(self, prompt: Prompt, group: Tensor, noise: Noise) -> Sample:
        """The same completions, and what the policy makes of them in a pass over them."""
        drawn = self.draw(prompt, group, noise)
        return rescore(self._policy, prompt, group, drawn, self._sampling.temperature, rows=self._rows)

    def push(self) -> None:
        """Copies the policy's weights to the engine and empties its prefix cache."""
        weight = ((name, p.detach()) for name, p in self._policy.model.named_parameters(remove_duplicate=False))
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weight, "is_checkpoint_format": True})
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache: prompts would keep the keys of older weights")
        self._stale = False

    def _padded(self, output: list[Any]) -> Drawn:
        width = max(len(one.token_ids) for one in output)
        completion = torch.full((len(output), width), self._policy.pad)
        logprob = torch.zeros(len(output), width)
        for row, one in enumerate(output):
            token = list(one.token_ids)
            completion[row, : len(token)] = torch.tensor(token)
            value = [place[drawn].logprob for place, drawn in zip(one.logprobs, token, strict=True)]
            logprob[row, : len(token)] = torch.tensor(value)
        length = torch.tensor([len(one.token_ids) for one in output])
        device = self._policy.device
        return Drawn(completion.to(device), logprob.to(device), length.to(device))


@lru_cache(maxsize=1)
def _start(folder: str, dtype: str, setting: VLLMSetting, cpu: bool, parallel: bool) -> Any:
    """vLLM's engine for a model, with random weights; runs that follow each other in a process share it."""
    # In this process, so that weights are handed over as they are; nothing is reported to anybody.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}.items():
        os.environ.setdefault(name, value)
    if cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import vllm

    with _without_llvm():
        return vllm.LLM(
            model=folder,
            dtype=dtype,
            max_model_len=setting.max_model_len,
            gpu_memory_utilization=setting.gpu_memory_utilization,
            enforce_eager=cpu if setting.enforce_eager is None else setting.enforce_eager,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            load_format="dummy",
            # On CPUs vLLM keeps a packed copy of the output head, and reloads none that shares the embedding's weights;
            # as two they both are.
            hf_overrides={"tie_word_embeddings": False},
            disable_log_stats=True,
            seed=0,
            **({"distributed_executor_backend": "external_launcher"} if parallel else {}),
        )


@contextmanager
def _without_llvm() -> Iterator[None]:
    """Hides numba's handle of LLVM: it answers to every name, and vLLM 0.32 on CPUs, when it looks for its kernels in
    all modules that are loaded, takes it for one."""
    name = "llvmlite.binding.ffi"
    hidden = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if hidden is not None:
            sys.modules[name] = hidden
