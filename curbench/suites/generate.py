"""Banks of items made once, kept in the user's cache, and never made of an item that takes too long."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curbench.suites.item import Item, Task, read_items, split_items, write_items
from curbench.suites.worker import CallFailed, CallTimeout, Worker

DATA = Path(__file__).parent.parent / "data"


class Recipe(NamedTuple):
    """What a bank is made of.

    task      ``module:Class`` of the task
    knobs     its keyword arguments
    seed      of all draws
    train, test  problems per stratum; a stratum that runs dry is kept as large as it gets, and shared alike
    attempts  draws per problem before a stratum counts as dry
    timeout_s  seconds for one draw: it is skipped by killing the process that works on it
    """

    task: str
    knobs: dict[str, Any]
    train: int
    test: int
    seed: int = 20260711
    attempts: int = 20
    timeout_s: float = 20.0


def cache_folder() -> Path:
    """Where banks are kept: $CURBENCH_CACHE, else curbench in $XDG_CACHE_HOME, else ~/.cache/curbench."""
    chosen = os.environ.get("CURBENCH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curbench"


def library_version() -> str:
    """The version of reasoning-gym that is installed, or "none"."""
    try:
        return version("reasoning-gym")
    except PackageNotFoundError:
        return "none"


def fresh_generator(seed: int, *at: int) -> np.random.Generator:
    """A counter-based generator for one draw: seeds and places that differ anywhere give independent streams.

    Libraries that seed an item with seed + index give seed 1 and seed 2 almost the same items; this does not.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *at])))


def draw_one(target: str, knobs: dict[str, Any], seed: int, stratum: int, index: int) -> list[Any] | None:
    """One item as JSON, or None: what the child process runs."""
    from curbench.suites import resolve

    return resolve(target)(**knobs).draw(stratum, fresh_generator(seed, stratum, index))


def generate(task: Task, recipe: Recipe, progress: Callable[[float], None] = lambda share: None) -> list[Item]:
    """Distinct items whose own answer is right, ``recipe.test`` of each stratum marked as test.

    progress  called with the share that is done
    Raises    ValueError if some stratum gave no problem at all.
    """
    strata, size = len(task.stratum_name), recipe.train + recipe.test
    item: list[Item] = []
    seen: set[str] = set()
    with Worker("curbench.suites.generate:draw_one", imports=[recipe.task.partition(":")[0]], guarded=False) as worker:
        for stratum in range(strata):
            found: list[Item] = []
            failed = ""
            for index in range(size * recipe.attempts):
                try:
                    drawn = worker.call(
                        recipe.task, recipe.knobs, recipe.seed, stratum, index, timeout_s=recipe.timeout_s
                    )
                except (CallTimeout, CallFailed) as error:
                    failed = f": {error}"
                    continue
                one = None if drawn is None else Item(*drawn)
                if one is not None and task.key(one) not in seen and task.success(one, one.answer):
                    seen.add(task.key(one))
                    found.append(one)
                    progress((stratum + len(found) / size) / strata)
                    if len(found) == size:
                        break
            if len(found) < 2:
                raise ValueError(f"{task.name}: no problems of {task.stratum_name[stratum]!r} could be made{failed}")
            test = min(recipe.test, len(found) // 2)
            item += split_items(task, found, test, recipe.seed)
    return item


def bank_file(recipe: Recipe) -> str:
    """Name of the file of a recipe: its task, and a digest of all it depends on.

    >>> bank_file(Recipe("curbench.suites.arc_1d:Arc1D", {}, 10, 2)).partition("-")[0]
    'arc_1d'
    """
    name = recipe.task.partition(":")[0].rpartition(".")[2]
    text = json.dumps([recipe, library_version()], sort_keys=True)
    return f"{name}-{sha256(text.encode()).hexdigest()[:12]}.parquet"


def load_items(
    task: Task, recipe: Recipe, shipped: str | None, progress: Callable[[float], None] = lambda share: None
) -> list[Item]:
    """The items of a recipe: those that ship with the package, else those in the cache, else made now and kept there.

    shipped  file in the package's data that holds this very recipe, or None
    """
    if shipped is not None:
        return read_items(DATA / shipped, task)
    path = cache_folder() / bank_file(recipe)
    if not path.exists():
        write_items(path, generate(task, recipe, progress), provenance(recipe))
    return read_items(path, task)


def provenance(recipe: Recipe) -> dict[str, Any]:
    """What a bank's file says about its making."""
    return {"recipe": recipe._asdict(), "generator": f"reasoning-gym {library_version()}"}
