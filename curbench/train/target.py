"""The target gradient v of a policy, and how the policy gradient of every group aligns with it.

Both forms keep v <- v + memory (sum_b weight_b g_b - v) and report <g_b, v>, g_b = (1/G) sum_i A_i grad log pi(y_i):

ProbeTarget  over the trained weights, or those of the last layers. The products come from a forward pass at
             theta + eps v, v from a forward and a backward pass of the rollouts at theta
HeadTarget   over the output head alone, whose gradient has a closed form: one forward pass gives both
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from curbench.train.forward import Forward
from curbench.train.rollout import TokenRollouts
from curbench.types import Array, Target

PROBE = 1e-3
"""Length of the step along the target gradient, relative to the norm of the weights."""


class TargetForm(BaseModel):
    """How the target gradient is kept.

    form    "probe" or "head", see above
    layers  the probe covers the last so many decoder layers and the weights after them; None: all trained weights
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["probe", "head"] = "probe"
    layers: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _layers_are_the_probes(self) -> TargetForm:
        if self.form == "head" and self.layers is not None:
            raise ValueError("target.layers belongs to target.form=probe; the head is one layer")
        return self


def target_gradient(
    form: TargetForm, forward: Forward, optimizer: torch.optim.AdamW, trained: dict[str, Tensor]
) -> TargetGradient:
    """A target gradient of this form, still zero.

    forward    of the policy
    optimizer  AdamW over ``trained``, for the preconditioner
    Raises     ValueError for more layers than the model has.
    """
    if form.form == "head":
        return HeadTarget(forward, optimizer)
    return ProbeTarget(forward, optimizer, trained if form.layers is None else last_layers(trained, form.layers))


def last_layers(parameter: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The parameters of the last ``count`` decoder layers and those after them, in the order of the model.

    The layer is the first number in a name. An output head that is tied to the embeddings is not among them.
    Raises ValueError for more layers than there are.

    >>> list(last_layers(dict.fromkeys(["embed.weight", "layers.0.w", "layers.1.w", "head.weight"]), 1))
    ['layers.1.w', 'head.weight']
    """
    number = {name: int(found[1]) for name in parameter if (found := re.search(r"\.(\d+)\.", name))}
    depth = max(number.values(), default=-1) + 1
    if count > depth:
        raise ValueError(f"target.layers must be at most the {depth} layers of the model; got {count}")
    names = list(parameter)
    first = min(i for i, name in enumerate(names) if number.get(name, -1) >= depth - count)
    return {name: parameter[name] for name in names[first:]}


class TargetGradient(ABC):
    """What the forms share.

    parameter  what v is the gradient of, by name
    """

    def __init__(self, forward: Forward, optimizer: torch.optim.AdamW, parameter: dict[str, Tensor]) -> None:
        self.forward = forward
        self.optimizer = optimizer
        self.parameter = parameter
        self.v: dict[str, Tensor] = {}

    def align(self, rollouts: TokenRollouts, advantage: Array, target: Target) -> Array:
        """f64[B], <g_b, v>; then v moves as ``target`` says. Where v is still zero, so is the answer.

        Raises ValueError if v is to be preconditioned and the optimiser does not train what it is the gradient of.
        """
        size = np.diff(rollouts.offset)
        share = advantage / np.repeat(size, size)
        scale = None if target.weight is None else share * np.repeat(target.weight, size)
        direction = {name: self._direction(name, target.preconditioned) for name in self.v}
        slope, gradient = self._measure(rollouts, share != 0, direction, scale)
        if gradient is not None:
            self._follow(gradient, target.memory)
        return np.add.reduceat(share * slope, rollouts.offset[:-1])

    @abstractmethod
    def _measure(
        self, rollouts: TokenRollouts, asked: Array, direction: dict[str, Tensor], scale: Array | None
    ) -> tuple[Array, dict[str, Tensor | None] | None]:
        """(derivative of each completion's log-probability along the direction f64[R], 0 where not asked for;
        gradient of sum_i scale_i log pi(y_i), or None without a scale), both at the present weights."""

    def _direction(self, name: str, preconditioned: bool) -> Tensor:
        """v, or v over the root of AdamW's second moment once there is one."""
        moment = self.optimizer.state.get(self.parameter[name])
        if not preconditioned:
            return self.v[name]
        if moment is None:
            raise ValueError(
                f"{name} is not trained, so the optimiser has nothing to precondition its target gradient with; "
                "set target_aligned.preconditioned=false, or target.form=probe"
            )
        step = float(moment["step"])
        if step == 0:
            return self.v[name]
        group = self.optimizer.param_groups[0]
        return self.v[name] / ((moment["exp_avg_sq"] / (1 - group["betas"][1] ** step)).sqrt() + group["eps"])

    def _follow(self, gradient: dict[str, Tensor | None], memory: float) -> None:
        if not self.v:
            self.v = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self.parameter.items()}
        for name, v in self.v.items():
            one = gradient[name]
            v.mul_(1 - memory) if one is None else v.lerp_(one, memory)

    def state(self) -> dict[str, Any]:
        """Named arrays, to be given to ``restore``; empty before the first batch."""
        return {name: v.cpu().numpy().copy() for name, v in self.v.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state()``, whose entries may have come in any order."""
        device = self.forward.policy.device
        # The order of the model, because norms are sums over the names in turn.
        self.v = {name: torch.from_numpy(np.array(state[name])).to(device) for name in self.parameter if name in state}


class ProbeTarget(TargetGradient):
    """<g_b, v> = (1/G) sum_i A_i (log pi_{theta + eps v}(y_i) - log pi_theta(y_i)) / eps, up to O(eps).

    The probe moves the weights by ``PROBE`` of their own norm, and they are put back bit for bit. It always runs in
    float32: in bfloat16 a displacement of 1e-3 is less than a rounding. With another precision log pi_theta is
    therefore run anew as well.
    """

    def _measure(
        self, rollouts: TokenRollouts, asked: Array, direction: dict[str, Tensor], scale: Array | None
    ) -> tuple[Array, dict[str, Tensor | None] | None]:
        slope = self._probe(rollouts, asked, direction)
        return slope, None if scale is None else self._gradient(rollouts, scale)

    @torch.no_grad()
    def _probe(self, rollouts: TokenRollouts, asked: Array, direction: dict[str, Tensor]) -> Array:
        slope = np.zeros(asked.size)
        length = float(sum(v.square().sum() for v in direction.values())) ** 0.5 if direction else 0.0
        if not length:
            return slope
        row = np.flatnonzero(asked)
        exact = self.forward.exact()
        old = rollouts.logprob if self.forward.precision == "float32" else exact.all_logprob(rollouts, row)
        home = {name: p.data for name, p in self.parameter.items()}
        eps = PROBE * float(sum(p.square().sum() for p in home.values())) ** 0.5 / length
        try:
            for name, p in self.parameter.items():
                p.data = home[name] + (eps * direction[name]).to(p.dtype)
            for part in exact.parts(row, rollouts.length):
                at = part.cpu().numpy()
                new, mask = exact.logprob(rollouts, part)
                before = torch.tensor(old[at, : new.shape[1]], device=new.device)
                slope[at] = (((new.double() - before) * mask).sum(1) / eps).cpu().numpy()
        finally:
            for name, p in self.parameter.items():
                p.data = home[name]
        return slope

    def _gradient(self, rollouts: TokenRollouts, scale: Array) -> dict[str, Tensor | None]:
        parameter = list(self.parameter.values())
        total: list[Tensor | None] = [None] * len(parameter)
        weight = torch.from_numpy(scale).float().to(self.forward.policy.device)
        for row in self.forward.parts(np.flatnonzero(scale), rollouts.length):
            new, mask = self.forward.logprob(rollouts, row)
            objective = (weight[row, None] * new * mask).sum()
            for i, g in enumerate(torch.autograd.grad(objective, parameter, allow_unused=True)):
                if g is not None:
                    before = total[i]
                    total[i] = g if before is None else before + g
        return dict(zip(self.parameter, total, strict=True))


class HeadTarget(TargetGradient):
    """The gradient of the weights W of the output head, from its inputs h_t and the residuals of the softmax:

        grad_W log pi(y) = (1/temperature) sum_t (e_{y_t} - pi_t) h_t'

    so a product with v is a sum over tokens, and no weight is moved and nothing runs backward. Where the head is tied
    to the embeddings, this is its own part of their gradient. W need not be trained.
    """

    def __init__(self, forward: Forward, optimizer: torch.optim.AdamW) -> None:
        self._head = forward.policy.model.get_output_embeddings()
        name = next(name for name, p in forward.policy.model.named_parameters() if p is self._head.weight)
        super().__init__(forward, optimizer, {name: self._head.weight})

    @torch.no_grad()
    def _measure(
        self, rollouts: TokenRollouts, asked: Array, direction: dict[str, Tensor], scale: Array | None
    ) -> tuple[Array, dict[str, Tensor | None] | None]:
        (name,) = self.parameter
        slope = np.zeros(asked.size)
        v = direction.get(name)
        total = None if scale is None else torch.zeros_like(self.parameter[name], dtype=torch.float32)
        if v is None and total is None:
            return slope, None
        for row in self.forward.parts(np.flatnonzero(asked), rollouts.length):
            at = row.cpu().numpy()
            hidden, residual = self._hidden_and_residual(rollouts, row)
            if v is not None:
                slope[at] = torch.einsum("nlv,nlv->n", residual, hidden @ v.T).double().cpu().numpy()
            if total is not None and scale is not None:
                weight = torch.from_numpy(scale[at]).float().to(residual.device)
                total += torch.einsum("nlv,nld->vd", residual * weight[:, None, None], hidden)
        return slope, None if total is None else {name: total}

    def _hidden_and_residual(self, rollouts: TokenRollouts, row: Tensor) -> tuple[Tensor, Tensor]:
        """(inputs of the head f32[n, L, d], (e_y - pi) / temperature f32[n, L, V], 0 beyond each rollout's end)."""
        seen: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        try:
            logit, token, mask = self.forward.logit(rollouts, row)
        finally:
            hook.remove()
        # The first pass is that of the prompts, whose last states every rollout of theirs begins with.
        group = torch.unique(rollouts.group[row], return_inverse=True)[1]
        hidden = torch.cat([seen[0][group], *seen[1:]], dim=1).float()
        self._check(hidden[0, 0], logit[0, 0])
        residual = -logit.softmax(2)
        residual.scatter_add_(2, token[:, :, None], torch.ones_like(residual[:, :, :1]))
        return hidden, residual * (mask[:, :, None] / self.forward.temperature)

    def _check(self, hidden: Tensor, logit: Tensor) -> None:
        """Raises ValueError if the model does more to its logits than the head does."""
        own = torch.nn.functional.linear(hidden, self._head.weight.float(), self._head.bias) / self.forward.temperature
        tolerance = 1e-3 if self.forward.precision == "float32" else 3e-2
        if not torch.allclose(own, logit, rtol=tolerance, atol=tolerance * float(logit.abs().max())):
            raise ValueError(
                "target.form=head needs logits that are the output head's own, and this model scales or caps them; "
                "choose target.form=probe"
            )
