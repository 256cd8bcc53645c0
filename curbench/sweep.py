"""Grids: of training runs, and of simulations; side by side in processes of their own, with the same bits."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from curbench.engine import each

if TYPE_CHECKING:
    from curbench.loop import Spent
    from curbench.sim.axes import Unit
    from curbench.train.run import TrainSpec

Progress = Callable[["TrainSpec", "Spent"], None]


def run_grid(
    specs: list[TrainSpec],
    out: Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    progress: Progress,
    preparing: Callable[[TrainSpec, int, int], None] = lambda spec, count, done: None,
) -> Iterator[dict[str, Any]]:
    """Result rows of all specs, as they finish. ``jobs`` > 1 uses that many processes, and the same bits result.

    progress   called after every step of every run
    preparing  called while features are made, see ``train.run.prepare``
    Raises ValueError before anything starts if a curator refuses its settings or a run exists and ``resume`` is False.
    """
    from curbench.train.run import check, prepare, train

    check(specs, out, resume=resume)
    prepare(specs, out, preparing)
    if jobs == 1:
        for spec in specs:
            yield train(spec, out, resume=resume, progress=partial(progress, spec))
        return
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue = manager.Queue()
        task = partial(_train, specs=specs, out=out, resume=resume, queue=queue)
        drain = partial(_drain, queue, specs, progress)
        for _, row in each(task, range(len(specs)), jobs=jobs, tick=drain):
            yield row


def _train(index: int, specs: list[TrainSpec], out: Path, resume: bool, queue: Any) -> dict[str, Any]:
    from curbench.train.run import train

    return train(specs[index], out, resume=resume, progress=lambda spent: queue.put((index, spent)))


def _drain(queue: Any, specs: list[TrainSpec], progress: Progress) -> None:
    while True:
        try:
            index, spent = queue.get_nowait()
        except Empty:
            return
        progress(specs[index], spent)


def run_sweep(
    units: list[Unit], out: Path, *, jobs: int, engine: str = "pool", progress: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Rows of all units, in their order; those that ``out`` already holds are read, not run.

    progress  called for every unit that is there
    Raises    ValueError for an unknown engine, or a file in ``out`` that is not what it should be.
    """
    from curbench.provenance import environment

    row = {}
    for unit in units:
        if (out / unit.path).exists():
            row[unit.path] = unit.read(out)
            progress()
    missing = [unit for unit in units if unit.path not in row]
    task = partial(_run, out=out, environment=environment())
    for unit, made in each(task, missing, jobs=jobs, engine=engine):
        row[unit.path] = made
        progress()
    return [row[unit.path] for unit in units]


def _run(unit: Unit, out: Path, environment: dict[str, Any]) -> dict[str, Any]:
    return unit.run(out, environment)
