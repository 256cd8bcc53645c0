"""The target gradient v of a policy, and how the policy gradient of every group aligns with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from curbench.train.forward import Forward
from curbench.train.rollout import TokenRollouts
from curbench.types import Array, Target

PROBE = 1e-3
"""Length of the step along the target gradient, relative to the norm of the weights."""


class TargetGradient:
    """Keeps v <- v + memory (sum_b weight_b g_b - v) and reports <g_b, v>, g_b = (1/G) sum_i A_i grad log pi(y_i).

    forward    of the policy
    optimizer  AdamW over the same parameters, for the preconditioner
    parameter  what v is the gradient of, by name
    """

    def __init__(self, forward: Forward, optimizer: torch.optim.AdamW, parameter: dict[str, Tensor]) -> None:
        self.forward = forward
        self.optimizer = optimizer
        self.parameter = parameter
        self.v: dict[str, Tensor] = {}

    def align(self, rollouts: TokenRollouts, advantage: Array, target: Target) -> Array:
        """f64[B], <g_b, v>; then v moves as ``target`` says.

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
        direction = {name: self._direction(name, target.preconditioned) for name in self.v}
        length = float(sum(v.square().sum() for v in direction.values())) ** 0.5 if direction else 0.0
        if not length:
            return slope
        home = {name: p.data for name, p in self.parameter.items()}
        eps = PROBE * float(sum(p.square().sum() for p in home.values())) ** 0.5 / length
        try:
            for name, p in self.parameter.items():
                p.data = home[name] + (eps * direction[name]).to(p.dtype)
            for row in self.forward.parts(np.flatnonzero(asked), rollouts.length):
                at = row.cpu().numpy()
                new, mask = self.forward.logprob(rollouts, row)
                old = torch.tensor(rollouts.logprob[at, : new.shape[1]], device=new.device)
                slope[at] = (((new.double() - old) * mask).sum(1) / eps).cpu().numpy()
        finally:
            for name, p in self.parameter.items():
                p.data = home[name]
        return slope

    def _direction(self, name: str, preconditioned: bool) -> Tensor:
        """v, or v over the root of AdamW's second moment once there is one."""
        v, moment = self.v[name], self.optimizer.state[self.parameter[name]]
        step = float(moment["step"])
        if not preconditioned or step == 0:
            return v
        group = self.optimizer.param_groups[0]
        return v / ((moment["exp_avg_sq"] / (1 - group["betas"][1] ** step)).sqrt() + group["eps"])

    def _follow(self, rollouts: TokenRollouts, value: Array, memory: float) -> None:
        """v <- v + memory (gradient of sum_i value_i log pi(y_i) - v), at the present weights."""
        if not self.v:
            self.v = {name: torch.zeros_like(p) for name, p in self.parameter.items()}
        parameter = list(self.parameter.values())
        total: list[Tensor | None] = [None] * len(parameter)
        scale = torch.from_numpy(value).float().to(self.forward.policy.device)
        for row in self.forward.parts(np.flatnonzero(value), rollouts.length):
            new, mask = self.forward.logprob(rollouts, row)
            objective = (scale[row, None] * new * mask).sum()
            for i, g in enumerate(torch.autograd.grad(objective, parameter, allow_unused=True)):
                if g is not None:
                    before = total[i]
                    total[i] = g if before is None else before + g
        for v, gradient in zip(self.v.values(), total, strict=True):
            v.mul_(1 - memory) if gradient is None else v.lerp_(gradient, memory)

    def state(self) -> dict[str, Any]:
        """Named arrays, to be given to ``restore``; empty before the first batch."""
        return {name: v.detach().float().cpu().numpy().copy() for name, v in self.v.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a ``state()``."""
        self.v = {name: torch.from_numpy(np.array(v)).to(self.parameter[name]) for name, v in state.items()}
