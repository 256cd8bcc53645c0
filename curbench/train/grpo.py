"""The GRPO actor: a language model that samples groups, is rewarded by a suite's verifier and takes clipped steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from curbench import philox
from curbench.averaging import Averaging, CheckpointAverage
from curbench.schedules import Schedule
from curbench.suites import Suite
from curbench.train.length import LengthBudget
from curbench.train.losses import length_mask, surrogate, token_weight
from curbench.train.policy import Policy, Prompt, completion_logprob, decode, encode, prompt_view
from curbench.train.rollout import Sample, TokenRollouts, sample, token_noise
from curbench.train.snr import SignalToNoise, SNRStep
from curbench.types import (
    PLAIN,
    ActorView,
    Array,
    Evaluation,
    Guidance,
    Reward,
    Rollouts,
    Selection,
    Target,
    UpdateReport,
)

PROBE = 1e-3
"""Length of the step along the target gradient, relative to the norm of the weights."""

ADAM_EPS = 1e-8


class GRPOConfig(BaseModel):
    """Everything that an update, a rollout and an evaluation depend on, apart from the model and the seed.

    ratio, aggregation, clip_low, clip_high   the loss, see ``curbench.train.losses``
    learning_rate, beta1, beta2, weight_decay AdamW; grad_clip bounds the gradient's norm
    schedule                                  what the rate is multiplied by over the run, see ``curbench.schedules``
    snr                                       multiplies it further, by the gradient's signal-to-noise ratio
    averaging                                 averaged weights are evaluated next to the last ones
    length                                    token budget and length reward, see ``curbench.train.length``
    epochs, minibatches                       passes over a batch, and optimiser steps per pass, each on whole groups
    micro_batch                               rollouts per forward pass of an update; bounds memory, never the result
    temperature, max_new_tokens               of sampling, in training and in evaluation
    evaluation_problems                       held-out problems, spread evenly over the test split; None takes all
    evaluation_samples, evaluation_seed       completions per held-out problem and the seed of their noise: keep both
                                              equal across runs, so that evaluations are paired
    evaluation_batch                          completions sampled at a time
    threads                                   of torch, for the whole process; None leaves them alone. Equal bits need
                                              an equal number
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: Literal["token", "sequence"] = "token"
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    clip_high: float = Field(default=0.2, ge=0)
    learning_rate: float = Field(default=3e-4, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Schedule = Schedule()
    snr: SNRStep | None = None
    averaging: Averaging | None = None
    length: LengthBudget | None = None
    grad_clip: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    minibatches: int = Field(default=1, ge=1)
    micro_batch: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=20, ge=1)
    evaluation_problems: int | None = Field(default=None, ge=1)
    evaluation_samples: int = Field(default=1, ge=1)
    evaluation_seed: int = Field(default=0, ge=0)
    evaluation_batch: int = Field(default=512, ge=1)
    threads: int | None = Field(default=None, ge=1)


class GRPOActor:
    """Trains a policy on the problems that a curator selects; implements ``curbench.loop.Actor``.

    policy  the model to train, in place
    train   suite whose bank the selections index
    test    suite of held-out problems
    seed    64-bit seed of all sampling: key of the noise, with step, rollout and position as counter

    ``progress`` is the loop's: schedules of the learning rate and of the token budget read it.
    """

    def __init__(self, policy: Policy, train: Suite, test: Suite, *, seed: int, config: GRPOConfig) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.policy = policy
        self.config = config
        self.policy_step = 0
        self.progress = 0.0
        self._train = train
        self._test = test
        self._seed = seed
        self._rollout_step = 0
        self._snr = SignalToNoise(config.snr) if config.snr else None
        self._average = CheckpointAverage(config.averaging) if config.averaging else None
        self._parameter = dict(policy.model.named_parameters())
        self._target: dict[str, Tensor] = {}
        self._optimizer = torch.optim.AdamW(
            self._parameter.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=ADAM_EPS,
            weight_decay=config.weight_decay,
        )
        for p in self._parameter.values():
            moment = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self._optimizer.state[p] = {"step": torch.tensor(0.0), **moment}

    # --- Rollouts and rewards -----------------------------------------------------------------------------------------

    def rollout(self, selection: Selection) -> TokenRollouts:
        """Samples a group of completions for every selected problem.

        Raises ValueError if a group has one rollout only: its advantage relative to the group would always be zero.
        """
        if selection.rollouts.min() < 2:
            raise ValueError(
                f"GRPO compares the rollouts of a group, so a group needs at least 2; "
                f"got {int(selection.rollouts.min())}: choose a larger group size"
            )
        prompt = self._encode(self._train, selection.problem)
        group = np.repeat(np.arange(len(selection)), selection.rollouts)
        noise = token_noise(
            self._seed, philox.ROLLOUT, self._rollout_step, np.arange(group.size), self.config.max_new_tokens
        )
        self._rollout_step += 1
        slot = torch.from_numpy(group).to(self.policy.device)
        drawn = self._sample(prompt, slot, noise)
        return TokenRollouts(
            selection=selection,
            offset=np.concatenate([[0], np.cumsum(selection.rollouts)]),
            length=drawn.length.cpu().numpy(),
            policy_step=np.full(group.size, self.policy_step),
            gradient_sq=drawn.gradient_sq.cpu().numpy(),
            prompt=prompt,
            group=slot,
            completion=drawn.completion,
            logprob=drawn.logprob.cpu().numpy(),
            entropy=drawn.entropy.cpu().numpy(),
        )

    def reward(self, rollouts: Rollouts) -> Reward:
        """The verdict of the suite's verifier on every completion, shaped by the length budget if there is one."""
        assert isinstance(rollouts, TokenRollouts)
        problem = np.repeat(rollouts.selection.problem, rollouts.selection.rollouts)
        verdict = self._verify(self._train, problem, rollouts.completion, rollouts.length)
        budget = self.config.length
        return verdict if budget is None else budget.shape(verdict, rollouts.length, self.progress)

    def _encode(self, suite: Suite, problem: Array) -> Prompt:
        text = [suite.prompt(int(i)) for i in problem]
        budget = self.config.length
        return encode(self.policy, text if budget is None else [budget.instruct(one, self.progress) for one in text])

    def _sample(self, prompt: Prompt, group: Tensor, noise: Array) -> Sample:
        uniform = torch.from_numpy(noise).to(self.policy.device)
        return sample(self.policy, prompt, group, uniform, temperature=self.config.temperature)

    def _verify(self, suite: Suite, problem: Array, completion: Tensor, length: Array) -> Reward:
        text = decode(self.policy, completion, length.tolist())
        verdict = [suite.verify(int(i), one) for i, one in zip(problem, text, strict=True)]
        reward, success = (np.array(one) for one in zip(*verdict, strict=True))
        return Reward(reward=reward, success=success)

    # --- Update -------------------------------------------------------------------------------------------------------

    def update(self, rollouts: Rollouts, advantage: Array, admitted: Array, guidance: Guidance = PLAIN) -> UpdateReport:
        """Takes ``epochs * minibatches`` clipped steps on the admitted groups and advances the policy step by one.

        advantage  f64[R]
        admitted   bool[B]; other groups do not enter the loss nor its normaliser
        guidance   weights of rollouts or tokens in the loss; whether to follow a target gradient, see ``_align``

        Rollouts whose advantage is zero have no gradient: they count in the normaliser, and are not run. When no
        admitted rollout has an advantage, no optimiser step is made and the policy step stays.
        """
        assert isinstance(rollouts, TokenRollouts)
        value = np.asarray(advantage, np.float64)
        alignment = None if guidance.target is None else self._align(rollouts, value, guidance.target)
        weight = None
        if guidance.weight is not None:
            weight = np.broadcast_to(guidance.weight.reshape(value.size, -1), rollouts.logprob.shape)
            value = value * weight.any(axis=1)
        group = np.repeat(np.arange(len(admitted)), np.diff(rollouts.offset))
        sums: dict[str, float] = {}
        steps = 0
        for _ in range(self.config.epochs):
            for slot in np.array_split(np.flatnonzero(admitted), self.config.minibatches):
                row = np.flatnonzero(np.isin(group, slot))
                if np.any(value[row]):
                    for name, number in self._step(rollouts, row, value, weight).items():
                        sums[name] = sums.get(name, 0.0) + number
                    steps += 1
        self.policy_step += steps > 0
        if self._average is not None and self._average.due(self._rollout_step):
            self._average.add({name: _to_array(p) for name, p in self._parameter.items()})
        metrics = self._metrics(rollouts, sums, steps)
        if not steps:
            return UpdateReport(self.policy_step, lambda asked=None: rollouts.logprob, alignment, metrics)
        return UpdateReport(
            self.policy_step, partial(self._new_logprob, rollouts, self.policy_step), alignment, metrics
        )

    def _step(self, rollouts: TokenRollouts, row: Array, value: Array, factor: Array | None) -> dict[str, float]:
        """One optimiser step on the rollouts ``row``, tokens weighted by ``factor``; sums for the metrics."""
        config = self.config
        device = self.policy.device
        length = torch.from_numpy(rollouts.length.astype(np.int64)).to(device)
        old = torch.tensor(rollouts.logprob, device=device)
        weight = torch.zeros_like(old)
        chosen = torch.from_numpy(row).to(device)
        scale = None if factor is None else torch.tensor(factor[row], dtype=torch.float32, device=device)
        weight[chosen] = token_weight(length[chosen], weight.shape[1], config.aggregation, config.max_new_tokens, scale)
        advantage = torch.from_numpy(value).float().to(device)
        sums = dict.fromkeys(("loss", "ratio", "clipped", "log_ratio_sq", "tokens"), 0.0)

        def backward(rows: Array) -> None:
            for part in self._micro_batches(rows[value[rows] != 0], rollouts.length):
                new = self._logprob(rollouts, part)
                width = new.shape[1]
                term = surrogate(
                    new,
                    old[part, :width],
                    advantage[part],
                    length[part],
                    ratio=config.ratio,
                    clip_low=config.clip_low,
                    clip_high=config.clip_high,
                )
                loss = -(weight[part, :width] * term.value).sum()
                loss.backward()
                sums["loss"] += float(loss.detach())
                sums["ratio"] += float(term.ratio.sum())
                sums["clipped"] += float(term.clipped.sum())
                sums["log_ratio_sq"] += float(term.log_ratio.square().sum())
                sums["tokens"] += float(length[part].sum())

        self._optimizer.zero_grad()
        rate = config.learning_rate * config.schedule(self.progress)
        if self._snr is None:
            backward(row)
        else:
            rate *= self._backward_in_parts(backward, row, rollouts.group.cpu().numpy()[row])
        self._optimizer.param_groups[0]["lr"] = rate
        norm_l1 = sum(float(p.grad.abs().sum()) for p in self._parameter.values() if p.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(self._parameter.values(), config.grad_clip)
        self._optimizer.step()
        return {**sums, "grad_norm": float(norm), "grad_norm_l1": norm_l1, "learning_rate": rate}

    def _backward_in_parts(self, backward: Callable[[Array], None], row: Array, group: Array) -> float:
        """Leaves the gradient of all rows, made part by part, and returns the multiplier of the rate that they say.

        row    rollouts that enter the step; group: the slot of each. The groups are dealt out to the parts in turn
        """
        assert self._snr is not None
        parts = self._snr.setting.parts
        part = np.unique(group, return_inverse=True)[1] % parts
        total = [torch.zeros_like(p) for p in self._parameter.values()]
        part_sq = np.zeros(parts)
        for k in range(parts):
            backward(row[part == k])
            for p, sum_ in zip(self._parameter.values(), total, strict=True):
                if p.grad is not None:
                    # Terms are normalised by the whole batch, so a part alone estimates ``parts`` times its own.
                    part_sq[k] += float(p.grad.square().sum()) * parts**2
                    sum_ += p.grad
            self._optimizer.zero_grad()
        for p, sum_ in zip(self._parameter.values(), total, strict=True):
            p.grad = sum_
        return self._snr.observe(part_sq, sum(float(g.square().sum()) for g in total))

    # --- Target gradient ----------------------------------------------------------------------------------------------

    def _align(self, rollouts: TokenRollouts, advantage: Array, target: Target) -> Array:
        """f64[B], <g_b, v> for g_b = (1/G) sum_i A_i grad log pi(y_i); then v moves as ``Target`` says.

        One forward pass at theta + eps v gives all of them: g_b . v = (1/G) sum_i A_i (log pi_{theta + eps v}(y_i) -
        log pi_theta(y_i)) / eps, up to O(eps). The probe moves the weights by ``PROBE`` of their own norm, and they are
        put back bit for bit. Where v is still zero, so is the answer.
        """
        size = np.diff(rollouts.offset)
        share = advantage / np.repeat(size, size)
        alignment = np.add.reduceat(share * self._probe(rollouts, share != 0, target), rollouts.offset[:-1])
        if target.weight is not None:
            self._follow(rollouts, share * np.repeat(target.weight, size), target.memory)
        return alignment

    @torch.no_grad()
    def _probe(self, rollouts: TokenRollouts, asked: Array, target: Target) -> Array:
        """f64[R], derivative of each completion's log-probability along v; 0 where not asked for."""
        slope = np.zeros(asked.size)
        direction = {name: self._direction(name, target.preconditioned) for name in self._target}
        length = float(sum(v.square().sum() for v in direction.values())) ** 0.5 if direction else 0.0
        if not length:
            return slope
        home = {name: p.data for name, p in self._parameter.items()}
        eps = PROBE * float(sum(p.square().sum() for p in home.values())) ** 0.5 / length
        try:
            for name, p in self._parameter.items():
                p.data = home[name] + (eps * direction[name]).to(p.dtype)
            for row in self._micro_batches(np.flatnonzero(asked), rollouts.length):
                at = row.cpu().numpy()
                new = self._logprob(rollouts, row).double()
                old = torch.tensor(rollouts.logprob[at, : new.shape[1]], device=new.device)
                mask = length_mask(torch.tensor(rollouts.length[at], device=new.device), new.shape[1])
                slope[at] = (((new - old) * mask).sum(1) / eps).cpu().numpy()
        finally:
            for name, p in self._parameter.items():
                p.data = home[name]
        return slope

    def _direction(self, name: str, preconditioned: bool) -> Tensor:
        """v, or v over the root of AdamW's second moment once there is one."""
        v, moment = self._target[name], self._optimizer.state[self._parameter[name]]
        step = float(moment["step"])
        if not preconditioned or step == 0:
            return v
        return v / ((moment["exp_avg_sq"] / (1 - self.config.beta2**step)).sqrt() + ADAM_EPS)

    def _follow(self, rollouts: TokenRollouts, value: Array, memory: float) -> None:
        """v <- v + memory (gradient of sum_i value_i log pi(y_i) - v), at the present weights."""
        if not self._target:
            self._target = {name: torch.zeros_like(p) for name, p in self._parameter.items()}
        self._optimizer.zero_grad()
        scale = torch.from_numpy(value).float().to(self.policy.device)
        for row in self._micro_batches(np.flatnonzero(value), rollouts.length):
            new = self._logprob(rollouts, row)
            mask = length_mask(torch.tensor(rollouts.length[row.cpu().numpy()], device=new.device), new.shape[1])
            (scale[row, None] * new * mask).sum().backward()
        for name, p in self._parameter.items():
            v = self._target[name]
            v.mul_(1 - memory) if p.grad is None else v.lerp_(p.grad, memory)
        self._optimizer.zero_grad()

    # --- Forward passes -----------------------------------------------------------------------------------------------

    @property
    def view(self) -> ActorView:
        """Hidden states of the training prompts under the present policy."""
        return prompt_view(self.policy, self._train.prompt)

    def _micro_batches(self, row: Array, length: Array) -> Iterator[Tensor]:
        """Rows in parts of at most ``micro_batch``, rollouts of like length together so that little is padding."""
        row = row[np.argsort(length[row], kind="stable")]
        for start in range(0, row.size, self.config.micro_batch):
            yield torch.from_numpy(np.sort(row[start : start + self.config.micro_batch])).to(self.policy.device)

    def _logprob(self, rollouts: TokenRollouts, row: Tensor) -> Tensor:
        """f32[len(row), longest of these rows], log-probability of the sampled tokens under the current policy."""
        slot, group = torch.unique(rollouts.group[row], return_inverse=True)
        width = int(rollouts.length[row.cpu().numpy()].max())
        return completion_logprob(
            self.policy,
            rollouts.prompt.select(slot),
            group,
            rollouts.completion[row, :width],
            self.config.temperature,
        )

    @torch.no_grad()
    def _new_logprob(self, rollouts: TokenRollouts, policy_step: int, asked: Array | None = None) -> Array:
        """f32[R, L], log-probabilities under the policy of that step, 0 beyond the length; old ones where not asked."""
        if policy_step != self.policy_step:
            raise RuntimeError(
                f"new log-probabilities belong to policy step {policy_step}, and the policy is at {self.policy_step}: "
                "ask for them before the next update"
            )
        out = rollouts.logprob.copy()
        rows = np.arange(len(out)) if asked is None else np.flatnonzero(asked)
        for row in self._micro_batches(rows, rollouts.length):
            new = self._logprob(rollouts, row)
            new *= length_mask(torch.tensor(rollouts.length[row.cpu().numpy()], device=new.device), new.shape[1])
            out[row.cpu().numpy(), : new.shape[1]] = new.cpu().numpy()
        return out

    def _metrics(self, rollouts: TokenRollouts, sums: dict[str, float], steps: int) -> dict[str, float]:
        tokens = max(sums.get("tokens", 0.0), 1.0)
        return {
            "loss": sums.get("loss", 0.0) / max(steps, 1),
            "grad_norm": sums.get("grad_norm", 0.0) / max(steps, 1),
            "grad_norm_l1": sums.get("grad_norm_l1", 0.0) / max(steps, 1),
            "ratio_mean": sums.get("ratio", tokens) / tokens,
            "clip_fraction": sums.get("clipped", 0.0) / tokens,
            "log_ratio_sq": sums.get("log_ratio_sq", 0.0) / tokens,
            "entropy": -float(rollouts.logprob.sum()) / float(rollouts.length.sum()),
            "learning_rate": sums.get("learning_rate", 0.0) / max(steps, 1),
            **self._schedule_metrics(),
        }

    def _schedule_metrics(self) -> dict[str, float]:
        """What the schedules of this run are at."""
        metrics = {}
        if self.config.length is not None:
            metrics["token_budget"] = self.config.length.tokens(self.progress)
        if self._snr is not None:
            metrics |= {"gradient_signal": self._snr.signal, "gradient_noise": self._snr.noise}
        return metrics

    # --- Evaluation and state -----------------------------------------------------------------------------------------

    def evaluate(self) -> Evaluation:
        """Results on the held-out problems, sampled with the same noise whatever the run, the curator or the step.

        Those of the averaged weights come with them, once there are any: that doubles the cost.
        """
        last = self._evaluate()
        if self._average is None or not len(self._average):
            return last
        kept = {name: p.detach().clone() for name, p in self._parameter.items()}
        self._set(self._average.average())
        averaged = self._evaluate()
        for name, p in self._parameter.items():
            p.data.copy_(kept[name])
        return replace(last, averaged=averaged)

    def _set(self, parameter: dict[str, Array]) -> None:
        for name, p in self._parameter.items():
            p.data.copy_(torch.from_numpy(np.array(parameter[name])))

    def _evaluate(self) -> Evaluation:
        config = self.config
        bank = self._test.bank
        count = min(config.evaluation_problems or len(bank), len(bank))
        problem = np.arange(count) * len(bank) // count
        index = np.repeat(np.arange(count), config.evaluation_samples)
        success = np.zeros(index.size, np.int64)
        tokens = 0
        for begin in range(0, index.size, config.evaluation_batch):
            row = np.arange(begin, min(begin + config.evaluation_batch, index.size))
            drawn = self._evaluate_rows(problem[index[row]], row)
            length = drawn.length.cpu().numpy()
            tokens += int(length.sum())
            success[row] = self._verify(self._test, problem[index[row]], drawn.completion, length).success
        return Evaluation(
            success=np.bincount(index, success, count).astype(np.int64),
            n=np.bincount(index, minlength=count),
            tokens=tokens,
            stratum=bank.stratum[problem],
        )

    def _evaluate_rows(self, problem: Array, row: Array) -> Sample:
        distinct, group = np.unique(problem, return_inverse=True)
        prompt = self._encode(self._test, distinct)
        noise = token_noise(self.config.evaluation_seed, philox.EVALUATION, 0, row, self.config.max_new_tokens)
        return self._sample(prompt, torch.from_numpy(group).to(self.policy.device), noise)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue exactly: weights, moments and counters as arrays and integers.

        16-bit weights are stored as float32, which holds them exactly.
        """
        adam = {name: self._optimizer.state[p] for name, p in self._parameter.items()}
        return {
            "policy_step": self.policy_step,
            "rollout_step": self._rollout_step,
            "optimizer_step": int(next(iter(adam.values()))["step"]),
            "parameter": {name: _to_array(p) for name, p in self._parameter.items()},
            "exp_avg": {name: _to_array(s["exp_avg"]) for name, s in adam.items()},
            "exp_avg_sq": {name: _to_array(s["exp_avg_sq"]) for name, s in adam.items()},
            "target": {name: _to_array(v) for name, v in self._target.items()},
            **({} if self._snr is None else {"snr": {"signal": self._snr.signal, "noise": self._snr.noise}}),
            **({} if self._average is None else {"average": self._average.state()}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state()`` of an actor with the same model, seed and configuration.

        Raises ValueError if the state has other parameters than the model.
        """
        if state["parameter"].keys() != self._parameter.keys():
            differing = sorted(state["parameter"].keys() ^ self._parameter.keys())
            raise ValueError(f"the state is of another model: {len(differing)} parameters differ, {differing[0]} first")
        self.policy_step = int(state["policy_step"])
        self._rollout_step = int(state["rollout_step"])
        self._target = {
            name: torch.from_numpy(np.array(v)).to(self._parameter[name]) for name, v in state["target"].items()
        }
        self._set(state["parameter"])
        if self._snr is not None:
            self._snr.signal, self._snr.noise = state["snr"]["signal"], state["snr"]["noise"]
        if self._average is not None:
            self._average.restore(state["average"])
        for name, p in self._parameter.items():
            moment = self._optimizer.state[p]
            moment["step"].fill_(float(state["optimizer_step"]))
            for kind in ("exp_avg", "exp_avg_sq"):
                moment[kind].copy_(torch.from_numpy(np.array(state[kind][name])))


def _to_array(tensor: Tensor) -> Array:
    return tensor.detach().float().cpu().numpy().copy()
