"""Grids: of training runs, and of simulations; side by side in processes of their own, with the same bits."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, NamedTuple

from curbench.engine import each

if TYPE_CHECKING:
    from curbench.loop import Spent
    from curbench.sim.axes import Unit
    from curbench.train.run import TrainSpec

Progress = Callable[["TrainSpec", "Spent"], None]


class Turn(NamedTuple):
    """To advance one run: the index of its spec, share of the budget to reach, and whether this is its first turn."""

    run: int
    share: float
    first: bool


def run_grid(
    specs: list[TrainSpec],
    out: Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    slices: int = 1,
    deadline: float | None = None,
    track: tuple[str, ...] = ("tensorboard",),
    progress: Progress,
    preparing: Callable[[TrainSpec, int, int], None] = lambda spec, count, done: None,
) -> Iterator[dict[str, Any]]:
    """Result rows of all specs, as they finish. ``jobs`` > 1 uses that many processes, and the same bits result.

    slices     seed by seed, the runs advance in turns, each by this share of its budget: a stop at any time leaves
               runs that can be compared
    deadline   ``time.time()`` at which runs are put down, to be resumed; their rows are left out
    track      where the numbers can be watched, see ``curbench.track``
    progress   called after every step of every run
    preparing  called while features are made, see ``train.run.prepare``
    Raises ValueError before anything starts if a curator refuses its settings or a run exists and ``resume`` is False.
    """
    from curbench.train.run import check, prepare

    check(specs, out, resume=resume)
    prepare(specs, out, preparing)
    task = partial(_train, specs=specs, out=out, resume=resume, deadline=deadline, track=track)
    told: set[int] = set()
    for (index, *_), row in _advance(_turns(specs, slices), task, specs, jobs, progress):
        if row is not None and index not in told:
            told.add(index)
            yield row


def _advance(
    turns: list[Turn], task: Callable[..., dict[str, Any] | None], specs: list[TrainSpec], jobs: int, progress: Progress
) -> Iterator[tuple[Turn, dict[str, Any] | None]]:
    """Every turn with what it gave, the turns of one run one after another."""
    if jobs == 1:
        for turn in turns:
            yield turn, task(turn, tell=lambda index, spent: progress(specs[index], spent))
        return
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue = manager.Queue()
        drain = partial(_drain, queue, specs, progress)
        yield from each(partial(task, tell=partial(_put, queue)), turns, jobs=jobs, tick=drain, key=itemgetter(0))


def _turns(specs: list[TrainSpec], slices: int) -> list[Turn]:
    """What to do, in order: seed by seed, and within a seed share by share."""
    if slices < 1:
        raise ValueError(f"slices must be at least 1; got {slices}")
    seeds = list(dict.fromkeys(spec.seed for spec in specs))
    return [
        Turn(index, part / slices, part == 1)
        for seed in seeds
        for part in range(1, slices + 1)
        for index, spec in enumerate(specs)
        if spec.seed == seed
    ]


def _train(
    turn: Turn,
    specs: list[TrainSpec],
    out: Path,
    resume: bool,
    deadline: float | None,
    track: tuple[str, ...],
    tell: Callable[[int, Spent], None],
) -> dict[str, Any] | None:
    """Advances one run to its share; its row once it is complete, None before and after the deadline."""
    from curbench.train.run import train

    run, share, first = turn

    def late() -> bool:
        return deadline is not None and time.time() >= deadline

    if late():
        return None
    return train(
        specs[run],
        out,
        resume=resume or not first,
        progress=partial(tell, run),
        track=track,
        pause=lambda spent: specs[run].budget.fraction(spent) >= share or late(),
    )


def _put(queue: Any, index: int, spent: Spent) -> None:
    queue.put((index, spent))


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
