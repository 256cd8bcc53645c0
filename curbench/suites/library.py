"""Any dataset of reasoning-gym as a suite, by ``rg:NAME``, scored by the library in a process that can be killed."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np

from curbench.settings import convert
from curbench.suites import Progress, Suite
from curbench.suites.generate import Recipe, load_items
from curbench.suites.item import Item, Task, as_suite, in_style
from curbench.suites.judge import TIMEOUT_S, Judge

TRAIN, TEST = 500, 64


class Library(Task):
    """The task of one dataset. A given is {"entry"}: question, answer and metadata, as the library made them.

    dataset    its name in reasoning-gym
    timeout_s  seconds for the score of one answer
    knob       the fields of its configuration
    """

    stratum_name = ("all",)

    def __init__(self, dataset: str, timeout_s: float = TIMEOUT_S, **knob: Any) -> None:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS

        if dataset not in DATASETS:
            raise ValueError(f"reasoning-gym {reasoning_gym.__version__} has no dataset {dataset!r}")
        self.name = f"rg:{dataset}"
        self._dataset = dataset
        self._knob = convert(DATASETS[dataset][1], knob, reserved=frozenset({"seed", "size"}))
        self._judge = Judge("curbench.suites.library:score_answer", timeout_s, ["reasoning_gym"])

    def draw(self, stratum: int, generator: np.random.Generator) -> Item | None:
        """The first entry of the dataset for a random seed."""
        import reasoning_gym

        seed = int(generator.integers(1 << 31))
        entry = reasoning_gym.create_dataset(self._dataset, size=1, seed=seed, **self._knob)[0]
        if not isinstance(entry["answer"], str) or not entry["answer"]:
            return None
        return Item({"entry": json.loads(json.dumps(entry, default=str))}, entry["answer"], stratum)

    def prompt(self, item: Item) -> str:
        """The question."""
        return item.given["entry"]["question"]

    def question(self, item: Item) -> str:
        """The question."""
        return self.prompt(item)

    def score(self, item: Item, answer: str) -> tuple[float, bool]:
        """The library's score; an answer equal to the stored one is right, whatever the library says of it."""
        if answer == item.answer:
            return 1.0, True
        return self._judge.score(answer, self._dataset, self._knob, item.given["entry"])

    def success(self, item: Item, answer: str) -> bool:
        """Whether the score is 1."""
        return self.score(item, answer)[1]

    def metrics(self) -> dict[str, float]:
        """Those of the judge."""
        return self._judge.metrics()


@cache
def _dataset(name: str, knob: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=1, seed=0, **json.loads(knob))


def score_answer(answer: str, dataset: str, knob: dict[str, Any], entry: dict[str, Any]) -> float:
    """What the library scores; runs in the child process only, since several of its scorers evaluate the answer."""
    score = _dataset(dataset, json.dumps(knob)).score_answer(answer, entry)
    return min(max(float(score), 0.0), 1.0)


def load(
    name: str, split: str, *, progress: Progress, style: str = "compact", timeout_s: float = TIMEOUT_S, **knob: Any
) -> Suite:
    """The problems of one split of ``rg:DATASET``; ``knob`` are the fields of the dataset's configuration."""
    dataset = name.partition(":")[2]
    task = Library(dataset, float(timeout_s), **knob)
    recipe = Recipe("curbench.suites.library:Library", {"dataset": dataset, **knob}, train=TRAIN, test=TEST)
    suite = as_suite(task, load_items(task, recipe, None, progress), split)
    return in_style(suite, style, suite.question)
