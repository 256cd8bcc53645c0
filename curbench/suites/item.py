"""Suites made of items: what a question gives, its answer, and a task that says how to ask and how to score it.

A task draws items, writes them as a prompt and judges answers; a list of items and a task make a ``Suite``. Lists are
kept as Parquet files, and everything that is read from one is checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curbench.suites import SPLITS, Demonstration, Suite
from curbench.types import Bank

MAX_ANSWER = 20_000
"""Characters of a completion that are looked at; a longer one is wrong."""

ATTEMPTS = 100
"""Changes of an answer that are tried before a scorer is said to take anything."""

NGRAM_WIDTH = 48
STYLES = ("compact", "question")
TAGGED = "\nReason as long as you need, then give only the final answer between <answer> and </answer>."


class Item(NamedTuple):
    """One problem: what the question gives (JSON), a right answer, and its stratum."""

    given: dict[str, Any]
    answer: str
    stratum: int
    split: str = "train"


class Task:
    """How problems of one kind are drawn, asked and judged; a subclass says how."""

    name: str
    stratum_name: tuple[str, ...]

    def draw(self, stratum: int, generator: np.random.Generator) -> Item | None:
        """A fresh problem of a stratum, or None when this attempt gave none."""
        raise NotImplementedError(f"the problems of {self.name} are given, not drawn")

    def prompt(self, item: Item) -> str:
        """The question in the fewest tokens, for models trained from scratch; it identifies the problem."""
        raise NotImplementedError

    def question(self, item: Item) -> str:
        """The question in words, saying in which form the answer is expected."""
        raise NotImplementedError

    def success(self, item: Item, answer: str) -> bool:
        """Whether an answer, any text whatever of at most ``MAX_ANSWER`` characters, is right."""
        raise NotImplementedError

    def score(self, item: Item, answer: str) -> tuple[float, bool]:
        """The reward in [0, 1] and whether the answer is exactly right; by default the one says the other."""
        right = self.success(item, answer)
        return float(right), right

    def key(self, item: Item) -> str:
        """Identity of a problem: a digest of its compact prompt."""
        return sha256(self.prompt(item).encode()).hexdigest()[:16]

    def difficulty(self, item: Item) -> float | None:
        """A guess made before training, larger is harder; None where there is none."""
        return None

    def metrics(self) -> dict[str, float]:
        """What there is to report of the scoring since this was last asked."""
        return {}

    def example(self, train: Sequence[Item], generator: np.random.Generator) -> Item | None:
        """A problem to warm a model up on: a fresh one of a stratum drawn uniformly; None when this attempt gave none.

        train  the training items, for tasks whose drawing is slow
        """
        return self.draw(int(generator.integers(len(self.stratum_name))), generator)

    def spoil(self, item: Item, generator: np.random.Generator) -> str:
        """The item's answer with one of its words replaced by another, such that it is wrong."""
        word = item.answer.split()
        at = int(generator.integers(len(word)))
        choice = self.words(item)
        for _ in range(ATTEMPTS):
            wrong = " ".join([*word[:at], choice[int(generator.integers(len(choice)))], *word[at + 1 :]])
            if not self.success(item, wrong):
                return wrong
        raise ValueError(f"{self.name} takes every answer to {self.prompt(item)[:80]!r}: its scorer cannot be right")

    def words(self, item: Item) -> Sequence[str]:
        """What a word of an answer may be, right or wrong."""
        return [str(n) for n in range(100)]


class TaskSuite:
    """The items of one split under their task, as a ``curbench.suites.Suite``.

    held_out  keys of the test split, which demonstrations avoid
    """

    def __init__(self, task: Task, item: Sequence[Item], held_out: frozenset[str] = frozenset()) -> None:
        self.name = task.name
        self.task = task
        self.item = tuple(item)
        self._held_out = held_out
        stratum = np.array([one.stratum for one in self.item])
        self.bank = text_bank(
            key=[task.key(one) for one in self.item],
            stratum=stratum,
            stratum_name=task.stratum_name,
            difficulty=guess([task.difficulty(one) for one in self.item]),
            prompt=self.prompt,
        )

    def prompt(self, problem: int) -> str:
        """The text that a model is given."""
        return self.task.prompt(self.item[problem])

    def question(self, problem: int) -> str:
        """The same in words."""
        return self.task.question(self.item[problem])

    def solution(self, problem: int) -> str:
        """A completion that succeeds."""
        return self.item[problem].answer

    def verify(self, problem: int, completion: str) -> tuple[float, bool]:
        """What the task says of the whole completion, stripped; (0.0, False) for one that is too long."""
        if len(completion) > MAX_ANSWER:
            return 0.0, False
        return self.task.score(self.item[problem], completion.strip())

    def metrics(self) -> dict[str, float]:
        """Those of the task."""
        return self.task.metrics()

    def demonstration(self, generator: np.random.Generator) -> Demonstration:
        """A problem of the same kind, never one of the test split; see ``Task.example``."""
        while True:
            one = self.task.example(self.item, generator)
            if one is not None and self.task.key(one) not in self._held_out:
                return Demonstration(self.task.prompt(one), one.answer, self.task.spoil(one, generator))


class InWords:
    """A suite asked in words, for models that can read: the answer is what stands in the last <answer> tags.

    question  the text of a problem, by index; how to give the answer is said after it
    """

    def __init__(self, suite: Suite, question: Callable[[int], str]) -> None:
        self.name = suite.name
        self._suite = suite
        self._question = question
        length = [len(self.prompt(i)) for i in range(len(suite.bank))]
        self.bank = replace(suite.bank, length=np.array(length), prompt=self.prompt)

    def prompt(self, problem: int) -> str:
        """The question, and how to give the answer."""
        return self._question(problem) + TAGGED

    def solution(self, problem: int) -> str:
        """The answer in its tags."""
        return f"<answer>{self._suite.solution(problem)}</answer>"

    def verify(self, problem: int, completion: str) -> tuple[float, bool]:
        """The verdict on the tagged answer; (0.0, False) where there is none."""
        answer = tagged(completion)
        return (0.0, False) if answer is None else self._suite.verify(problem, answer)

    def metrics(self) -> dict[str, float]:
        """Those of the suite."""
        return self._suite.metrics()

    def demonstration(self, generator: np.random.Generator) -> Demonstration:
        """That of the suite in its shortest form: small models are warmed up on that."""
        return self._suite.demonstration(generator)


def guess(difficulty: Sequence[float | None]) -> np.ndarray | None:
    """f32[N], or None if some problem has no guess."""
    known = [value for value in difficulty if value is not None]
    return np.array(known, np.float32) if len(known) == len(difficulty) else None


def in_style(suite: Suite, style: str, question: Callable[[int], str]) -> Suite:
    """The suite as it is for "compact", in words for "question".

    Raises ValueError for another style.
    """
    if style not in STYLES:
        raise ValueError(f"style is one of {', '.join(STYLES)}; got {style!r}")
    return suite if style == "compact" else InWords(suite, question)


def tagged(completion: str) -> str | None:
    """What stands between the last <answer> and the </answer> that follows it, or None.

    >>> tagged("<answer>1</answer> no: <answer>2</answer>"), tagged("2")
    ('2', None)
    """
    _, opened, rest = completion.rpartition("<answer>")
    answer, closed, _ = rest.partition("</answer>")
    return answer if opened and closed else None


def text_bank(
    key: Sequence[str],
    stratum: np.ndarray,
    stratum_name: tuple[str, ...],
    difficulty: np.ndarray | None,
    prompt: Callable[[int], str],
) -> Bank:
    """A bank of prompts with the features that are read off them: stratum, length and hashed n-grams."""
    text = [prompt(i) for i in range(len(key))]
    return Bank(
        key=np.array(key),
        stratum=stratum,
        stratum_name=stratum_name,
        feature=default_feature(text, stratum, len(stratum_name)),
        difficulty=difficulty,
        length=np.array([len(one) for one in text]),
        prompt=prompt,
    )


def default_feature(prompt: Sequence[str], stratum: np.ndarray, strata: int) -> np.ndarray:
    """f32[N, strata + 1 + 48]: the stratum as one column each, the prompt's length, and its hashed n-grams."""
    from curbench.features import ngram

    one_hot = stratum[:, None] == np.arange(strata)
    length = np.log1p([len(one) for one in prompt])[:, None] / 5
    return np.concatenate([one_hot, length, ngram(prompt, NGRAM_WIDTH)], axis=1).astype(np.float32)


def as_suite(task: Task, item: Sequence[Item], split: str) -> TaskSuite:
    """The suite of one split of all items."""
    held_out = frozenset(task.key(one) for one in item if one.split == "test")
    return TaskSuite(task, [one for one in item if one.split == split], held_out)


def split_items(task: Task, item: Sequence[Item], test: int, seed: int) -> list[Item]:
    """The same items, ``test`` of each stratum marked as test: those with the smallest keyed hash of their key."""
    rank = sorted(item, key=lambda one: sha256(f"{seed}:{task.key(one)}".encode()).digest())
    seen: dict[int, int] = {}
    marked = []
    for one in rank:
        seen[one.stratum] = seen.get(one.stratum, 0) + 1
        marked.append(one._replace(split="test" if seen[one.stratum] <= test else "train"))
    return sorted(marked, key=lambda one: one.stratum)


# --- Files ------------------------------------------------------------------------------------------------------------


def content_hash(item: Sequence[Item]) -> str:
    """sha256 over all rows in order; stored in the file and compared when it is read."""
    rows = "\n".join(json.dumps(one, sort_keys=True) for one in item)
    return sha256(rows.encode()).hexdigest()


def write_items(path: Path, item: Sequence[Item], provenance: dict[str, Any]) -> None:
    """Writes items as Parquet, in one step; ``provenance`` and the content hash go to the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = json.dumps({**provenance, "sha256": content_hash(item)}, sort_keys=True)
    column = {
        "split": [one.split for one in item],
        "stratum": pa.array([one.stratum for one in item], pa.int32()),
        "given": [json.dumps(one.given) for one in item],
        "answer": [one.answer for one in item],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    pq.write_table(pa.table(column).replace_schema_metadata({"curbench": about}), part, compression="zstd")
    os.replace(part, path)


def read_items(path: Path, task: Task) -> list[Item]:
    """The items of a file, every one checked: untrusted, like any file.

    Raises ValueError naming the file, the row (counted from 0) and the rule, for a file that is not Parquet, columns
    that differ, an item whose own answer fails, a problem that appears twice or content that is not what was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "delete it, and it is made again"
    try:
        table = pq.read_table(path)
        rows = [Item(json.loads(r["given"]), r["answer"], r["stratum"], r["split"]) for r in table.to_pylist()]
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of items ({error}): {remedy}") from error
    about = json.loads((table.schema.metadata or {}).get(b"curbench", b"{}"))
    if about.get("sha256") != content_hash(rows):
        raise ValueError(f"{path}: the rows are not those that were written (sha256 differs): {remedy}")
    seen: dict[str, int] = {}
    for row, one in enumerate(rows):
        if one.split not in SPLITS or not 0 <= one.stratum < len(task.stratum_name):
            raise ValueError(f"{path}, row {row}: split {one.split!r}, stratum {one.stratum!r} do not exist: {remedy}")
        if not task.success(one, one.answer):
            raise ValueError(f"{path}, row {row}: the answer {one.answer!r} is not right: {remedy}")
        name = task.key(one)
        if name in seen:
            raise ValueError(f"{path}, row {row}: the problem is already in row {seen[name]}: {remedy}")
        seen[name] = row
    return rows
