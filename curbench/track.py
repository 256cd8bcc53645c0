"""Where the numbers of a run can be watched while it trains: TensorBoard, or Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes numbers by name and step."""

    def numbers(self, value: dict[str, float], step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in ``directory``/tensorboard. first: steps from here on are written anew."""

    def __init__(self, directory: Path, spec: dict[str, Any], first: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(directory / "tensorboard", purge_step=first)  # type: ignore[no-untyped-call]

    def numbers(self, value: dict[str, float], step: int) -> None:
        for name, number in value.items():
            self._writer.add_scalar(name, number, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases in ``directory``/wandb: offline, unless WANDB_MODE says otherwise."""

    def __init__(self, directory: Path, spec: dict[str, Any], first: int | None) -> None:
        import wandb

        name = "/".join(directory.parts[-3:])
        os.environ.setdefault("WANDB_MODE", "offline")
        self._run = wandb.init(project="curbench", name=name, config=spec, dir=directory, reinit="create_new")

    def numbers(self, value: dict[str, float], step: int) -> None:
        self._run.log(value | {"step": step})  # its own count of steps cannot go back, as a resumed run does

    def flush(self) -> None:
        pass  # it writes by itself

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, dict[str, Any], int | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
}
MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def trackers(names: tuple[str, ...]) -> list[Callable[[Path, dict[str, Any], int | None], Tracker]]:
    """What makes the trackers of these names; nothing is written yet.

    Raises ValueError for an unknown name, ModuleNotFoundError where its package is missing.

    >>> trackers(())
    []
    """
    from importlib import import_module

    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker {name!r}; choose from {', '.join(TRACKERS)}, or none")
        import_module(MODULES[name])
    return [TRACKERS[name] for name in names]
