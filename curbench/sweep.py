"""Grids of training runs, one after the other or side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curbench.loop import Spent
    from curbench.train.run import TrainSpec

Progress = Callable[["TrainSpec", "Spent"], None]


def run_grid(
    specs: list[TrainSpec], out: Path, *, jobs: int = 1, resume: bool = False, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Result rows of all specs, as they finish. ``jobs`` > 1 uses that many processes, and the same bits result.

    Raises ValueError before anything starts if a run exists and ``resume`` is False.
    """
    from curbench.train.run import run_directory, train

    if not resume:
        for spec in specs:
            directory = run_directory(out, spec)
            if (directory / "run.json").exists():
                raise ValueError(f"a run exists in {directory}; pass --resume to continue it, or another --out")
    if jobs == 1:
        for spec in specs:
            yield train(spec, out, resume=resume, progress=partial(progress, spec))
        return
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue = manager.Queue()
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            waiting = {pool.submit(_work, i, spec, out, resume, queue) for i, spec in enumerate(specs)}
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(queue, specs, progress)
                for future in done:
                    yield future.result()


def _work(index: int, spec: TrainSpec, out: Path, resume: bool, queue: Any) -> dict[str, Any]:
    from curbench.train.run import train

    return train(spec, out, resume=resume, progress=lambda spent: queue.put((index, spent)))


def _drain(queue: Any, specs: list[TrainSpec], progress: Progress) -> None:
    while True:
        try:
            index, spent = queue.get_nowait()
        except Empty:
            return
        progress(specs[index], spent)
