"""The GRPO actor: a language model that samples groups, is rewarded by a suite's verifier and takes clipped steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from curbench import philox
from curbench.averaging import CheckpointAverage
from curbench.suites import Suite
from curbench.train.forward import Forward
from curbench.train.length import overlong_penalty
from curbench.train.lora import adapt
from curbench.train.memory import out_of_memory
from curbench.train.objective import Objective
from curbench.train.policy import Policy, Prompt, decode, encode, prompt_view
from curbench.train.reference import Reference
from curbench.train.rollout import BuiltinEngine, Drawn, Engine, Noise, Sample, TokenRollouts, concatenate, stop_rule
from curbench.train.settings import GRPOConfig
from curbench.train.snr import SignalToNoise
from curbench.train.target import target_gradient
from curbench.train.world import World, full, like, shard
from curbench.types import (
    PLAIN,
    ActorView,
    Array,
    Completion,
    Evaluation,
    Guidance,
    Reward,
    Rollouts,
    Selection,
    UpdateReport,
)

Drawing = TypeVar("Drawing", Drawn, Sample)

ADAM_EPS = 1e-8
ELSEWHERE = "the last checkpoint is whole; run again with a lower grpo.learning_rate or grpo.grad_clip in another --out"

SHOWN = 8
"""Held-out problems, spread evenly, whose first completion is kept for people to read."""


class GRPOActor:
    """Trains a policy on the problems that a curator selects; implements ``curbench.loop.Actor``.

    policy  the model to train, in place
    train   suite whose bank the selections index
    test    suite of held-out problems
    seed    64-bit seed of all sampling: key of the noise, with step, rollout and position as counter
    engine  who draws completions of the policy; None: the built-in one
    world   the processes that share the work; each method is then called on all of them at once
    sharded whether each process keeps a part of the weights only (FSDP2), or all of them

    ``progress`` is the loop's: schedules of the learning rate and of the token budget read it.
    """

    def __init__(
        self,
        policy: Policy,
        train: Suite,
        test: Suite,
        *,
        seed: int,
        config: GRPOConfig,
        engine: Engine | None = None,
        world: World | None = None,
        sharded: bool = False,
    ) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if config.lora is not None:
            policy = adapt(policy, config.lora, seed)
        if sharded:
            if config.kl and config.lora is None:
                raise ValueError("grpo.kl keeps a copy of all weights: use --parallel ddp, or grpo.lora")
            shard(policy.model)
        self.policy = policy
        self._world = world = world or World()
        self._sharded = sharded
        self.config = config
        self.policy_step = 0
        self.progress = 0.0
        self._train = train
        self._test = test
        self._seed = seed
        self._engine = engine or BuiltinEngine(policy, config.sampling, rows=config.rollout_batch)
        self._rollout_step = 0
        self._snr = SignalToNoise(config.snr) if config.snr else None
        self._average = CheckpointAverage(config.averaging) if config.averaging else None
        self._parameter = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        self._forward = Forward(
            policy,
            temperature=config.temperature,
            micro_batch=config.micro_batch,
            precision=config.precision,
            world=world,
            sharded=sharded,
        )
        adapted = config.lora is not None
        self._reference = Reference(self._forward, self._parameter, adapted=adapted) if config.kl else None
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
        self._target = target_gradient(config.target, self._forward, self._optimizer, self._parameter)

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
        slot = torch.from_numpy(group).to(self.policy.device)
        noise = Noise(self._seed, philox.ROLLOUT, self._rollout_step, np.arange(group.size))
        with out_of_memory("a rollout", "lower grpo.rollout_batch, which is all of them unless it is set"):
            drawn = self._sampled_by_all(prompt, slot, noise)
        self._rollout_step += 1
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
            sampler_logprob=drawn.sampler_logprob.cpu().numpy(),
            entropy=drawn.entropy.cpu().numpy(),
        )

    def reward(self, rollouts: Rollouts) -> Reward:
        """The verdict of the suite's verifier on every completion, shaped by what the settings say of lengths."""
        assert isinstance(rollouts, TokenRollouts)
        problem = np.repeat(rollouts.selection.problem, rollouts.selection.rollouts)
        verdict = self._verify(self._train, problem, rollouts.completion, rollouts.length)
        if self.config.length is not None:
            verdict = self.config.length.shape(verdict, rollouts.length, self.progress)
        if self.config.overlong:
            penalty = overlong_penalty(rollouts.length, self.config.max_new_tokens, self.config.overlong)
            verdict = replace(verdict, reward=verdict.reward + penalty)
        return verdict

    def _encode(self, suite: Suite, problem: Array) -> Prompt:
        text = [suite.prompt(int(i)) for i in problem]
        budget = self.config.length
        return encode(self.policy, text if budget is None else [budget.instruct(one, self.progress) for one in text])

    def _sampled_by_all(self, prompt: Prompt, slot: Tensor, noise: Noise) -> Sample:
        """Samples of all rows: every process draws for the groups that are its share."""
        if self._world.size == 1:
            return self._sampled(self._engine.sample, prompt, slot, noise)
        mine = self._world.share(len(prompt.id))
        row = ((slot >= mine.start) & (slot < mine.stop)).nonzero()[:, 0]
        with self._forward.whole():
            part = None
            if len(row):
                drawn = self._sampled(self._engine.sample, prompt, slot[row], noise.take(row.cpu().numpy()))
                part = drawn.to("cpu")
        parts = [one for one in self._world.gather(part) if one is not None]
        return concatenate(parts).to(self.policy.device)

    def _sampled(self, how: Callable[..., Drawing], prompt: Prompt, slot: Tensor, noise: Noise) -> Drawing:
        with self._forward.autocast():
            drawn = how(prompt, slot, noise)
        if not drawn.logprob.isfinite().all():
            raise FloatingPointError(f"the policy of step {self.policy_step} samples with probability NaN; {ELSEWHERE}")
        return drawn

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
        guidance   weights of rollouts or tokens in the loss; whether to follow a target gradient, see ``train.target``

        Rollouts whose advantage is zero have no gradient: they count in the normaliser, and are not run. When no
        admitted rollout has an advantage, no optimiser step is made and the policy step stays. With a penalty on the
        divergence every admitted rollout has a gradient.
        Raises FloatingPointError, before the weights are touched, for a loss or gradient that is not finite, and
        MemoryError when the machine has too little memory.
        """
        assert isinstance(rollouts, TokenRollouts)
        with out_of_memory("an update", "lower grpo.micro_batch"):
            return self._update(rollouts, np.asarray(advantage, np.float64), admitted, guidance)

    def _update(self, rollouts: TokenRollouts, value: Array, admitted: Array, guidance: Guidance) -> UpdateReport:
        if self._sharded and guidance.target is not None:
            raise ValueError("the probe along a target gradient moves whole weights: use --parallel ddp")
        if self.config.drop_truncated:
            guidance = guidance.only(~self._truncated(rollouts))
        given, weight = value, None
        if guidance.weight is not None:
            weight = np.broadcast_to(guidance.weight.reshape(value.size, -1), rollouts.logprob.shape)
            value = value * weight.any(axis=1)
        if self.config.importance_cap is not None:
            # In float64: the ratio to what a sampler of other arithmetic drew from may be large before it is cut.
            ratio = np.exp(rollouts.logprob.astype(np.float64) - rollouts.sampler_logprob)
            ratio = np.minimum(ratio, self.config.importance_cap)
            weight = ratio if weight is None else weight * ratio
        group = np.repeat(np.arange(len(admitted)), np.diff(rollouts.offset))
        reference = None
        if self._reference is not None:
            reference = self._reference.logprob(rollouts, np.flatnonzero(admitted[group]))
        follows = guidance.target is not None
        if guidance.target is not None:
            self._target.begin(rollouts, given, guidance.target, admitted[group] & (value != 0))
        sums: dict[str, float] = {}
        steps = 0
        for epoch in range(self.config.epochs):
            with self._target.watching() if follows and epoch == 0 else nullcontext():
                for slot in np.array_split(np.flatnonzero(admitted), self.config.minibatches):
                    row = np.flatnonzero(np.isin(group, slot))
                    if np.any(value[row]) or (reference is not None and row.size):
                        for name, number in self._step(rollouts, row, value, weight, reference).items():
                            sums[name] = sums.get(name, 0.0) + number
                        steps += 1
        alignment, alignment_s = None, 0.0
        if follows:
            with self._target.timed():
                alignment = self._target.end()
            alignment_s = self._target.seconds
        self.policy_step += steps > 0
        if steps:
            self._engine.changed()
        if self._average is not None and self._average.due(self._rollout_step):
            self._average.add({name: _to_array(p) for name, p in self._parameter.items()})
        metrics = self._metrics(rollouts, sums, steps)
        if not steps:
            return UpdateReport(self.policy_step, lambda asked=None: rollouts.logprob, alignment, metrics, alignment_s)
        again = partial(self._new_logprob, rollouts, self.policy_step)
        return UpdateReport(self.policy_step, again, alignment, metrics, alignment_s)

    def _truncated(self, rollouts: TokenRollouts) -> Array:
        """bool[R], completions that were cut at the limit of new tokens: nothing ended them."""
        config, completion = self.config, rollouts.completion
        last = completion.cpu().numpy()[np.arange(rollouts.length.size), rollouts.length - 1]
        cut = (rollouts.length == config.max_new_tokens) & ~np.isin(last, self.policy.eos + config.stop_tokens)
        if config.stop and cut.any():
            cut[cut] = ~stop_rule(self.policy, config.stop)(completion[torch.from_numpy(cut)]).cpu().numpy()
        return cut

    def _step(
        self, rollouts: TokenRollouts, row: Array, value: Array, factor: Array | None, reference: Array | None
    ) -> dict[str, float]:
        """One optimiser step on the rollouts ``row``, tokens weighted by ``factor``; sums for the metrics."""
        objective = Objective(self._forward, self.config, rollouts, row, value, factor, reference)
        self._optimizer.zero_grad()
        rate = self.config.learning_rate * self.config.schedule(self.progress)
        if self._snr is None:
            self._backward(objective, row)
        else:
            rate *= self._backward_in_parts(objective, self._snr, row)
        self._optimizer.param_groups[0]["lr"] = rate
        sums = dict(zip(objective.sums, self._world.sum(list(objective.sums.values())), strict=True))
        norm_l1 = sum(float(full(p.grad.abs().sum())) for p in self._parameter.values() if p.grad is not None)
        norm = float(full(torch.nn.utils.clip_grad_norm_(self._parameter.values(), self.config.grad_clip)))
        if not (isfinite(sums["loss"]) and isfinite(norm)):
            raise FloatingPointError(
                f"the update at step {self.policy_step} has loss {sums['loss']:g} and gradient norm "
                f"{norm:g}, so it was not made; {ELSEWHERE}"
            )
        self._optimizer.step()
        return {**sums, "grad_norm": norm, "grad_norm_l1": norm_l1, "learning_rate": rate}

    def _backward(self, objective: Objective, row: Array) -> None:
        """Leaves the gradient of these rows' terms, of all processes together."""
        objective.backward(row)
        if not self._sharded:
            self._world.sum_gradients_(list(self._parameter.values()))

    def _backward_in_parts(self, objective: Objective, snr: SignalToNoise, row: Array) -> float:
        """Leaves the gradient of all rows, made part by part, and returns the multiplier of the rate that they say.

        row  rollouts that enter the step; their groups are dealt out to the parts in turn
        """
        parts = snr.setting.parts
        part = np.unique(objective.group[row], return_inverse=True)[1] % parts
        total = [torch.zeros_like(p) for p in self._parameter.values()]
        part_sq = np.zeros(parts)
        for k in range(parts):
            self._backward(objective, row[part == k])
            for p, sum_ in zip(self._parameter.values(), total, strict=True):
                if p.grad is not None:
                    # Terms are normalised by the whole batch, so a part alone estimates ``parts`` times its own.
                    part_sq[k] += float(full(p.grad.square().sum())) * parts**2
                    sum_ += p.grad
            self._optimizer.zero_grad()
        for p, sum_ in zip(self._parameter.values(), total, strict=True):
            p.grad = sum_
        return snr.observe(part_sq, sum(float(full(g.square().sum())) for g in total))

    # --- What others ask for ------------------------------------------------------------------------------------------

    @property
    def view(self) -> ActorView:
        """Hidden states of the training prompts under the present policy."""
        return prompt_view(self.policy, self._train.prompt)

    def _new_logprob(self, rollouts: TokenRollouts, policy_step: int, asked: Array | None = None) -> Array:
        """f32[R, L], log-probabilities under the policy of that step, 0 beyond the length; old ones where not asked."""
        if policy_step != self.policy_step:
            raise RuntimeError(
                f"new log-probabilities belong to policy step {policy_step}, and the policy is at {self.policy_step}: "
                "ask for them before the next update"
            )
        row = np.arange(len(rollouts.logprob)) if asked is None else np.flatnonzero(asked)
        return self._forward.all_logprob(rollouts, row)

    def _metrics(self, rollouts: TokenRollouts, sums: dict[str, float], steps: int) -> dict[str, float]:
        tokens = max(sums.get("tokens", 0.0), 1.0)
        return {
            "loss": sums.get("loss", 0.0) / max(steps, 1),
            "grad_norm": sums.get("grad_norm", 0.0) / max(steps, 1),
            "grad_norm_l1": sums.get("grad_norm_l1", 0.0) / max(steps, 1),
            "ratio_mean": sums.get("ratio", tokens) / tokens,
            "clip_fraction": sums.get("clipped", 0.0) / tokens,
            "log_ratio_sq": sums.get("log_ratio_sq", 0.0) / tokens,
            "approx_kl": sums.get("divergence", 0.0) / tokens,
            **({} if self._reference is None else {"kl": sums.get("kl", 0.0) / tokens}),
            "entropy": -float(rollouts.logprob.sum()) / float(rollouts.length.sum()),
            "learning_rate": sums.get("learning_rate", 0.0) / max(steps, 1),
            "sampler_gap": float(np.abs(rollouts.logprob - rollouts.sampler_logprob).sum() / rollouts.length.sum()),
            **self._schedule_metrics(),
            **self._train.metrics(),
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
        with self._forward.whole():
            last = self._evaluate()
        if self._average is None or not len(self._average):
            return last
        kept = {name: p.detach().clone() for name, p in self._parameter.items()}
        self._set(self._average.average())
        with self._forward.whole():
            averaged = self._evaluate()
        for name, p in self._parameter.items():
            p.data.copy_(kept[name])
        self._engine.changed()
        return replace(last, averaged=averaged)

    def _set(self, parameter: dict[str, Array]) -> None:
        for name, p in self._parameter.items():
            p.data.copy_(like(torch.from_numpy(np.array(parameter[name])), p))
        self._engine.changed()

    def _evaluate(self) -> Evaluation:
        config = self.config
        bank = self._test.bank
        count = min(config.evaluation_problems or len(bank), len(bank))
        problem = np.arange(count) * len(bank) // count
        index = np.repeat(np.arange(count), config.evaluation_samples)
        success = np.zeros(index.size, np.int64)
        tokens = 0
        show = set(np.linspace(0, count - 1, SHOWN).astype(int) * config.evaluation_samples)
        shown: list[Completion] = []
        mine = np.arange(index.size)[self._world.share(index.size)]
        for begin in range(0, mine.size, config.evaluation_batch):
            row = mine[begin : begin + config.evaluation_batch]
            distinct, group = np.unique(problem[index[row]], return_inverse=True)
            slot = torch.from_numpy(group).to(self.policy.device)
            noise = Noise(config.evaluation_seed, philox.EVALUATION, 0, row)
            with out_of_memory("an evaluation", "lower grpo.evaluation_batch"):
                drawn = self._sampled(self._engine.draw, self._encode(self._test, distinct), slot, noise)
            length = drawn.length.cpu().numpy()
            tokens += int(length.sum())
            success[row] = self._verify(self._test, problem[index[row]], drawn.completion, length).success
            for i in sorted(show.intersection(row.tolist())):
                at, here = int(problem[index[i]]), i - int(row[0])
                (text,) = decode(self.policy, drawn.completion[here : here + 1], [int(length[here])])
                shown.append(Completion(at, self._test.prompt(at), text, bool(success[i])))
        success, tokens = self._world.sum(success), int(self._world.sum(tokens))
        shown = list(chain.from_iterable(self._world.gather(shown)))
        return Evaluation(
            success=np.bincount(index, success, count).astype(np.int64),
            n=np.bincount(index, minlength=count),
            tokens=tokens,
            stratum=bank.stratum[problem],
            shown=tuple(shown),
        )

    def save(self, folder: Path) -> None:
        """Writes a normal Hugging Face folder, tokenizer included; with adapters one of peft, which names its base."""
        weight = None
        if self._sharded:
            weight = {name: full(value) for name, value in self.policy.model.state_dict().items()}
        if self._world.rank == 0:
            self.policy.model.save_pretrained(folder, state_dict=weight)
            self.policy.tokenizer.save_pretrained(folder)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue exactly: trained weights, moments and counters as arrays and integers.

        16-bit weights are stored as float32, which holds them exactly.
        """
        adam = {name: self._optimizer.state[p] for name, p in self._parameter.items()}
        return {
            "policy_step": self.policy_step,
            "rollout_step": self._rollout_step,
            "optimizer_step": int(next(iter(adam.values()))["step"]),
            "parameter": self._arrays(self._parameter),
            "exp_avg": self._arrays({name: s["exp_avg"] for name, s in adam.items()}),
            "exp_avg_sq": self._arrays({name: s["exp_avg_sq"] for name, s in adam.items()}),
            "target": self._target.state(),
            **({} if self._snr is None else {"snr": {"signal": self._snr.signal, "noise": self._snr.noise}}),
            **({} if self._average is None else {"average": self._average.state()}),
        }

    def _arrays(self, tensor: dict[str, Tensor]) -> dict[str, Array]:
        """Whole arrays on the process that writes them; the others only give their parts."""
        found = {}
        for name, value in tensor.items():
            whole = full(value.detach())
            if self._world.rank == 0:
                found[name] = _to_array(whole)
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state()`` of an actor with the same model, seed and configuration.

        Raises ValueError if the state has other parameters than the model.
        """
        if state["parameter"].keys() != self._parameter.keys():
            differing = sorted(state["parameter"].keys() ^ self._parameter.keys())
            raise ValueError(f"the state is of another model: {len(differing)} parameters differ, {differing[0]} first")
        self.policy_step = int(state["policy_step"])
        self._rollout_step = int(state["rollout_step"])
        self._target.restore(state["target"])
        self._set(state["parameter"])
        if self._snr is not None:
            self._snr.signal, self._snr.noise = state["snr"]["signal"], state["snr"]["noise"]
        if self._average is not None:
            self._average.restore(state["average"])
        for name, p in self._parameter.items():
            moment = self._optimizer.state[p]
            moment["step"].fill_(float(state["optimizer_step"]))
            for kind in ("exp_avg", "exp_avg_sq"):
                moment[kind].copy_(like(torch.from_numpy(np.array(state[kind][name])), moment[kind]))


def _to_array(tensor: Tensor) -> Array:
    return full(tensor.detach()).float().cpu().numpy().copy()
