"""What a GRPO run can be told: one model of settings, apart from the language model and the seed."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from curbench.averaging import Averaging
from curbench.schedules import Schedule
from curbench.train.length import LengthBudget
from curbench.train.lora import LoRA
from curbench.train.rollout import Sampling
from curbench.train.snr import SNRStep
from curbench.train.target import TargetForm


def _listed(value: Any) -> Any:
    """A text of the command line as a list: JSON if it begins with a bracket, else as its only entry."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else [value]


Listed = BeforeValidator(_listed)


class Preset(NamedTuple):
    """A method by name: the advantage estimator of the run, and the actor's settings."""

    estimator: str
    setting: dict[str, Any]


PRESETS = {
    "grpo": Preset("grpo", {"ratio": "token", "aggregation": "sequence_mean", "clip_low": 0.2, "clip_high": 0.2}),
    "dr_grpo": Preset("dr_grpo", {"ratio": "token", "aggregation": "constant", "clip_low": 0.2, "clip_high": 0.2}),
    "gspo": Preset("grpo", {"ratio": "sequence", "aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4}),
    "dapo": Preset(
        "grpo",
        {"ratio": "token", "aggregation": "token_mean", "clip_low": 0.2, "clip_high": 0.28, "overlong": 0.2},
    ),
    "rloo": Preset("rloo", {"ratio": "likelihood", "aggregation": "sequence_mean", "clip_low": 0.2, "clip_high": 0.2}),
}
"""Sources: Shao et al. 2024 (2402.03300); Liu et al. 2025 (2503.20783); Zheng et al. 2025 (2507.18071); Yu et al. 2025
(2503.14476), whose dynamic sampling is the curator ``dapo``; Ahmadian et al. 2024 (2402.14740), with TRL's clip."""


class GRPOConfig(BaseModel):
    """Everything that an update, a rollout and an evaluation depend on, apart from the model and the seed.

    loss                                      a method of ``PRESETS``: its settings become the defaults of the next four
                                              and of ``overlong``, and its estimator that of the run. None: the
                                              defaults below, GRPO averaged over tokens
    ratio, aggregation, clip_low, clip_high   the loss, see ``curbench.train.losses``
    kl, kl_estimator, kl_correction           coefficient of a penalty on the divergence from the policy before
                                              training, its estimator, and whether that is multiplied by the ratio
    overlong                                  the reward falls by 1 over this last share of ``max_new_tokens``
    drop_truncated                            completions cut at ``max_new_tokens`` leave the loss and its normaliser
    learning_rate, beta1, beta2, weight_decay AdamW; grad_clip bounds the gradient's norm
    schedule                                  what the rate is multiplied by over the run, see ``curbench.schedules``
    snr                                       multiplies it further, by the gradient's signal-to-noise ratio
    averaging                                 averaged weights are evaluated next to the last ones
    length                                    token budget and length reward, see ``curbench.train.length``
    lora                                      train low-rank adapters only, see ``curbench.train.lora``
    precision                                 of forward and backward passes and of sampling; weights, moments and
                                              log-probabilities stay float32
    target                                    how a target gradient is kept, see ``curbench.train.target``
    epochs, minibatches                       passes over a batch, and optimiser steps per pass, each on whole groups
    micro_batch                               rollouts per forward pass of an update; bounds memory, never the result
    temperature, top_p, max_new_tokens        of sampling, in training and in evaluation; the loss is that of the whole
                                              vocabulary's distribution at the temperature, whatever top_p
    stop, stop_tokens                         texts and ids that end a completion, beside the end of text: one, or a
                                              JSON list; it keeps what ended it
    rollout_batch                             completions that the policy samples, or passes over after another engine
                                              sampled them, at a time; None takes all
    importance_cap                            weigh every token by pi / (what the engine drew from), at most this much:
                                              truncated importance sampling (Ionides 2008) for top_p < 1 and for
                                              engines of other arithmetic; None leaves the difference uncorrected
    evaluation_problems                       held-out problems, spread evenly over the test split; None takes all
    evaluation_samples, evaluation_seed       completions per held-out problem and the seed of their noise: keep both
                                              equal across runs, so that evaluations are paired
    evaluation_batch                          completions sampled at a time
    threads                                   of torch, for the whole process; None leaves them alone. Equal bits need
                                              an equal number

    >>> GRPOConfig(loss="dapo", clip_high=0.3).model_dump(include={"aggregation", "clip_low", "clip_high"})
    {'aggregation': 'token_mean', 'clip_low': 0.2, 'clip_high': 0.3}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: Literal["grpo", "dr_grpo", "gspo", "dapo", "rloo"] | None = None
    ratio: Literal["token", "sequence", "likelihood"] = "token"
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    clip_high: float = Field(default=0.2, ge=0)
    kl: float = Field(default=0.0, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_correction: bool = True
    overlong: float = Field(default=0.0, ge=0, le=1)
    drop_truncated: bool = False
    learning_rate: float = Field(default=3e-4, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Schedule = Schedule()
    snr: SNRStep | None = None
    averaging: Averaging | None = None
    length: LengthBudget | None = None
    lora: LoRA | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    target: TargetForm = TargetForm()
    grad_clip: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    minibatches: int = Field(default=1, ge=1)
    micro_batch: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=20, ge=1)
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Listed] = ()
    stop_tokens: Annotated[tuple[int, ...], Listed] = ()
    rollout_batch: int | None = Field(default=None, ge=1)
    importance_cap: float | None = Field(default=None, ge=1)
    evaluation_problems: int | None = Field(default=None, ge=1)
    evaluation_samples: int = Field(default=1, ge=1)
    evaluation_seed: int = Field(default=0, ge=0)
    evaluation_batch: int = Field(default=512, ge=1)
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _preset_comes_first(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("loss") in PRESETS:
            return PRESETS[value["loss"]].setting | value
        return value

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn."""
        return Sampling(self.temperature, self.top_p, self.max_new_tokens, self.stop, self.stop_tokens)
