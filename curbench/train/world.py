"""The processes that train one policy together, as ``torchrun`` starts them; alone, everything here does nothing.

Every process has the model, or its shard of it, and does its part of what all do at once: it samples some of the
groups, passes over some of the rollouts, and the gradients are added up. Terms of the loss are weighted by the whole
batch (``losses.token_weight``), so their gradients are summed, never averaged. Process 0 has the loop, the curator and
the record; the others hear what to do from it, see ``Conductor`` and ``serve``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from curbench.train.rollout import TokenRollouts
from curbench.types import ActorView, Array, Evaluation, Guidance, Reward, Rollouts, Selection, UpdateReport

if TYPE_CHECKING:
    from curbench.train.grpo import GRPOActor


class World:
    """One of ``size`` processes, and what they tell each other; all must call the same methods in the same order."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.broken = False
        self._told = dist.new_group(backend="gloo") if size > 1 else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """For what all do at once: after an error in it another may wait inside, and there is nobody to tell."""
        self.broken = True
        yield
        self.broken = False

    def broadcast(self, value: Any) -> Any:
        """The value that process 0 gave."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._told)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        box = [None] * self.size
        dist.all_gather_object(box, value, group=self._told)
        return box

    def share(self, count: int) -> slice:
        """This process's part of ``count`` things in a row.

        >>> World().share(5)
        slice(0, 5, None)
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, value: Any) -> Any:
        """f64[...], the sum over processes of numbers or an array; as it came if there is one."""
        if self.size == 1:
            return value
        total = torch.tensor(np.asarray(value, np.float64))
        dist.all_reduce(total, group=self._told)
        return total.numpy()

    def sum_(self, tensor: Sequence[Tensor]) -> None:
        """Replaces tensors by their sums over processes, the same bits on each."""
        if self.size > 1:
            for work in [dist.all_reduce(one, async_op=True) for one in tensor]:
                work.wait()

    def sum_gradients_(self, parameter: Sequence[Tensor]) -> None:
        """Replaces gradients by their sums; one that no process has stays None."""
        if self.size == 1:
            return
        some = np.any(self.gather([p.grad is not None for p in parameter]), axis=0)
        held = [p for p, has in zip(parameter, some, strict=True) if has]
        for p in held:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.sum_([p.grad for p in held if p.grad is not None])


@contextmanager
def company() -> Iterator[World]:
    """The world that torchrun made, from its environment variables; at the end of rank 0's block the others are told.

    Raises ValueError if this process has no GPU of its own on a machine with some.
    """
    local = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available()
    if cuda:
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}: "
                "give torchrun --nproc-per-node at most that"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    world = World(dist.get_rank(), dist.get_world_size())
    _present.append(world)
    try:
        yield world
    finally:
        _present.remove(world)
        if not world.broken:
            if world.rank == 0:
                world.broadcast(None)
            if "vllm" not in sys.modules:  # whose engine lives in these groups, and ends them when the process does
                dist.destroy_process_group()


_present: list[World] = []


def present() -> World:
    """The world of this process: inside of ``company`` its own, else one process alone."""
    return _present[-1] if _present else World()


class _Part:
    """What one process does of what all do at once."""

    def __init__(self, actor: GRPOActor, world: World) -> None:
        self.actor, self.world = actor, world
        self._report: UpdateReport | None = None

    def do(self, name: str, argument: Sequence[Any]) -> Any:
        with self.world.together():
            if name == "new_logprob":
                assert self._report is not None
                assert self._report.new_logprob is not None
                return self._report.new_logprob(*argument)
            owner = self.actor.view if name in ("hidden", "angle") else self.actor
            result = getattr(owner, name)(*argument)
            if name == "update":
                self._report = result
            return result


class Conductor:
    """An actor as the loop on rank 0 sees it: what needs the model is done on every process at once.

    Used in a ``with`` block, at whose end the others are done with this actor.
    """

    def __init__(self, actor: GRPOActor, world: World) -> None:
        self.actor, self._world, self._part = actor, world, _Part(actor, world)

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._world.broken:
            self._world.broadcast(None)

    @property
    def progress(self) -> float:
        return self.actor.progress

    @progress.setter
    def progress(self, value: float) -> None:
        self.actor.progress = value

    def _all(self, name: str, *argument: Any) -> Any:
        """The result of a method of the actor, called on every process."""
        self._world.broadcast((name, self.progress, [_on(one, "cpu") for one in argument]))
        return self._part.do(name, argument)

    def rollout(self, selection: Selection) -> TokenRollouts:
        return self._all("rollout", selection)

    def reward(self, rollouts: Rollouts) -> Reward:
        return self.actor.reward(rollouts)

    def update(self, rollouts: Rollouts, advantage: Array, admitted: Array, guidance: Guidance) -> UpdateReport:
        report = self._all("update", rollouts, advantage, admitted, guidance)
        return replace(report, new_logprob=self._new_logprob)

    def _new_logprob(self, asked: Array | None = None) -> Array:
        return self._all("new_logprob", asked)

    @property
    def view(self) -> ActorView:
        return ActorView(partial(self._all, "hidden"), partial(self._all, "angle"))

    def evaluate(self) -> Evaluation:
        return self._all("evaluate")

    def save(self, folder: Path) -> None:
        self._all("save", folder)

    def state(self) -> dict[str, Any]:
        return self._all("state")

    def restore(self, state: dict[str, Any]) -> None:
        self._all("restore", state)


def serve(actor: GRPOActor, world: World) -> None:
    """Does what ``Conductor`` says, until it is done."""
    part = _Part(actor, world)
    while (call := world.broadcast(None)) is not None:
        name, actor.progress, argument = call
        part.do(name, [_on(one, actor.policy.device) for one in argument])


def _on(value: Any, device: torch.device | str) -> Any:
    return value.to(device) if isinstance(value, TokenRollouts) else value


# --- FSDP2 ------------------------------------------------------------------------------------------------------------


def shard(model: nn.Module) -> None:
    """Shards the parameters of a model in place over the processes, each of its blocks a unit that is gathered alone.

    Gradients are summed over processes, not averaged.
    Raises ValueError if the model does not name its blocks.
    """
    from torch.distributed.fsdp import fully_shard

    names = getattr(model, "_no_split_modules", None) or ()
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError(f"{type(model).__name__} does not name its blocks to be sharded: use --parallel ddp")
    for module in (*blocks, model):
        fully_shard(module)
    for module in _sharded(model):
        # Sums alone: a factor beside them is a product that only NCCL can do on the way.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _sharded(model: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """The whole of a sharded model on every process, so that each can run it as often as it likes."""
    modules = _sharded(model)
    for module in modules:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(module is not model, recurse=False)
            module.reshard()


def full(tensor: Tensor) -> Tensor:
    """A tensor whole: gathered from, or summed over, the processes if it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(value: Tensor, tensor: Tensor) -> Tensor:
    """A whole value, the same on all processes, sharded as ``tensor`` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(tensor, DTensor):
        return value
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
