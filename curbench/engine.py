"""Tasks side by side: on a pool of processes, or on Ray on this machine; the same results with either."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Ready = Callable[[Any], list[Any]]
"""From the items that are being worked on to those that may start now."""
Engine = Callable[[Callable[[Item], Result], Ready, int, Callable[[], None]], Iterator[tuple[Item, Result]]]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
TICK_S = 0.2
DIED = "a worker process died, perhaps for want of memory; run it again with fewer --jobs: what had finished is kept"


def each(
    task: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    engine: str = "pool",
    tick: Callable[[], None] = lambda: None,
    key: Callable[[Item], Hashable] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Pairs (item, task(item)) as they finish, computed in ``jobs`` processes of one thread each.

    task    a module's function, or a ``functools.partial`` of one
    tick    called a few times per second while waiting
    key     items with equal keys are worked on one after another, in their order; default: all are independent
    Raises  what a task raises, after stopping the others; ValueError for an unknown engine or jobs below 1; OSError if
            a process dies. On Ctrl-C, which only this process sees, the workers are stopped where they are.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; choose from {', '.join(ENGINES)}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1; got {jobs}")
    if not items:
        return
    todo, jobs = list(items), min(jobs, len(items))

    def ready(working: list[Item]) -> list[Item]:
        busy = {key(item) for item in working} if key else set()
        started: list[Item] = []
        for item in list(todo):
            if len(working) + len(started) == jobs:
                break
            if key and key(item) in busy:
                continue
            todo.remove(item)
            started.append(item)
            if key:
                busy.add(key(item))
        return started

    yield from ENGINES[engine](task, ready, jobs, tick)


def _pool(task, ready, jobs, tick):
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    finished = False
    try:
        with _for_children():
            waiting = {pool.submit(task, item): item for item in ready([])}  # the first submission starts all workers
        while waiting:
            done, _ = wait(waiting, TICK_S, FIRST_COMPLETED)
            tick()
            for future in done:
                item = waiting.pop(future)
                result = future.result()
                waiting |= {pool.submit(task, one): one for one in ready(list(waiting.values()))}
                yield item, result
        finished = True
    except BrokenProcessPool:
        raise OSError(DIED) from None
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)
        if not finished:
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()


def _ray(task, ready, jobs, tick):
    import ray

    with _for_children():
        ray.init("local", num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        call = ray.remote(max_retries=0)(_call)
        waiting = {call.remote(task, item): item for item in ready([])}
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=TICK_S)
            tick()
            for one in done:
                item = waiting.pop(one)
                result = ray.get(one)
                waiting |= {call.remote(task, other): other for other in ready(list(waiting.values()))}
                yield item, result
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.WorkerCrashedError:
        raise OSError(DIED) from None
    finally:
        ray.shutdown()


def _call(task: Callable[[Any], Any], item: Any) -> Any:
    return task(item)


ENGINES: dict[str, Engine] = {"pool": _pool, "ray": _ray}


@contextmanager
def _for_children() -> Iterator[None]:
    """Processes started inside inherit one thread each, no usage statistics, and deafness to Ctrl-C."""
    wanted = ONE_THREAD | {"RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
