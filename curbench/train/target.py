"""The target gradient v of a policy, and how the policy gradient of every group aligns with it.

Both forms keep v <- v + memory (sum_b weight_b g_b - v) and report <g_b, v>, g_b = (1/G) sum_i A_i grad log pi(y_i):

ProbeTarget  over the trained weights, or those of the last layers. The products come from a forward pass at
             theta + eps v, v from a forward and a backward pass of the rollouts at theta
HeadTarget   over the output head alone, whose gradient has a closed form in what the training passes compute anyway
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
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
    ``seconds`` is what the last batch took, beside the passes that train
    """

    def __init__(self, forward: Forward, optimizer: torch.optim.AdamW, parameter: dict[str, Tensor]) -> None:
        self.forward = forward
        self.optimizer = optimizer
        self.parameter = parameter
        self.v: dict[str, Tensor] = {}
        self.seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the time of its block to ``seconds``."""
        begin = perf_counter()
        yield
        self.seconds += perf_counter() - begin

    def begin(self, rollouts: TokenRollouts, advantage: Array, target: Target, later: Array) -> None:
        """Takes up a batch, before the update.

        advantage  f64[R]
        later      bool[R], rollouts that will be run while ``watching``, each once
        Raises     ValueError if v is to be preconditioned and the optimiser does not train what it is the gradient of.
        """
        started = perf_counter()
        size = np.diff(rollouts.offset)
        share = advantage / np.repeat(size, size)
        scale = None if target.weight is None else share * np.repeat(target.weight, size)
        direction = {name: self._direction(name, target.preconditioned) for name in self.v}
        self._offset, self._share, self._memory = rollouts.offset, share, target.memory
        self._slope, self._total = self._measure(rollouts, direction, scale, later)
        self.seconds = perf_counter() - started

    def watching(self) -> AbstractContextManager[None]:
        """What the first passes of the update run in."""
        return nullcontext()

    def end(self) -> Array:
        """f64[B], <g_b, v> with v as it was, 0 where that was still zero; then v moves as ``Target`` says."""
        world = self.forward.world
        if self._total is not None:
            if world.size > 1:
                held = {
                    name: torch.zeros_like(self.parameter[name], dtype=torch.float32) if g is None else g.float()
                    for name, g in self._total.items()
                }
                world.sum_(list(held.values()))
                self._total = dict(held)
            self._follow(self._total, self._memory)
        return np.add.reduceat(self._share * world.sum(self._slope), self._offset[:-1])

    @abstractmethod
    def _measure(
        self, rollouts: TokenRollouts, direction: dict[str, Tensor], scale: Array | None, later: Array
    ) -> tuple[Array, dict[str, Tensor | None] | None]:
        """(derivative of the log-probability of each completion with a share, along the direction, f64[R]; gradient of
        sum_i scale_i log pi(y_i), or None without a scale); parts of both may be filled in while watching. Of several
        processes each has the part of its own rollouts."""

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
        self, rollouts: TokenRollouts, direction: dict[str, Tensor], scale: Array | None, later: Array
    ) -> tuple[Array, dict[str, Tensor | None] | None]:
        slope = self._probe(rollouts, self._share != 0, direction)
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

    so a product with v is a sum over tokens, no weight is moved and nothing runs backward. The hidden states and logits
    are those of the first training pass over each rollout: at the weights that sampled it, or a few optimiser steps
    later with several mini-batches. Only rollouts that are not trained on get a pass of their own. Where the head is
    tied to the embeddings, this is its own part of their gradient. W need not be trained.
    """

    def __init__(self, forward: Forward, optimizer: torch.optim.AdamW) -> None:
        self._head = forward.policy.model.get_output_embeddings()
        name = next(name for name, p in forward.policy.model.named_parameters() if p is self._head.weight)
        super().__init__(forward, optimizer, {name: self._head.weight})
        self._hidden: list[Tensor] = []

    def _measure(
        self, rollouts: TokenRollouts, direction: dict[str, Tensor], scale: Array | None, later: Array
    ) -> tuple[Array, dict[str, Tensor | None] | None]:
        ((name, weight),) = self.parameter.items()
        self._slope = np.zeros(self._share.size)
        self._along, self._scale = direction.get(name), scale
        self._sum = torch.zeros_like(weight, dtype=torch.float32)
        with torch.no_grad(), self.watching():
            for row in self.forward.parts(np.flatnonzero((self._share != 0) & ~later), rollouts.length):
                self.forward.logprob(rollouts, row)
        return self._slope, None if scale is None else {name: self._sum}

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._hidden = []
        hook = self._head.register_forward_pre_hook(lambda module, given: self._hidden.append(given[0].detach()))
        self.forward.watch = self.timed()(self._see)
        try:
            yield
        finally:
            self.forward.watch = None
            hook.remove()

    @torch.no_grad()
    def _see(self, row: Tensor, group: Tensor, completion: Tensor, mask: Tensor, logit: Tensor) -> None:
        # The first pass is that of the prompts, whose last states all their rollouts begin with.
        hidden = torch.cat([self._hidden[0][group], *self._hidden[1:]], dim=1).float()
        self._hidden.clear()
        self._check(hidden[0, 0], logit[0, 0])
        at = row.cpu().numpy()
        residual = -logit.softmax(2)  # e_y - pi, over the temperature and 0 beyond each rollout's end
        residual.scatter_add_(2, completion[:, :, None], torch.ones_like(residual[:, :, :1]))
        residual *= mask[:, :, None] / self.forward.temperature
        if self._along is not None:
            product = torch.nn.functional.linear(hidden, self._along)
            self._slope[at] = torch.einsum("nlv,nlv->n", residual, product).double().cpu().numpy()
        if self._scale is not None:
            weight = torch.from_numpy(self._scale[at]).float().to(residual.device)
            self._sum += torch.einsum("nlv,nld->vd", residual * weight[:, None, None], hidden)

    def _check(self, hidden: Tensor, logit: Tensor) -> None:
        """Raises ValueError if the model does more to its logits than the head does."""
        own = torch.nn.functional.linear(hidden, self._head.weight.float(), self._head.bias) / self.forward.temperature
        tolerance = 1e-3 if self.forward.precision == "float32" else 3e-2
        if not torch.allclose(own, logit, rtol=tolerance, atol=tolerance * float(logit.abs().max())):
            raise ValueError(
                "target.form=head needs logits that are the output head's own, and this model scales or caps them; "
                "choose target.form=probe"
            )
