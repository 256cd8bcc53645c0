"""A bank of the user: a JSONL or Parquet file of problems, each with its answer and the name of a verifier."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from curbench.suites import Suite, label
from curbench.suites.item import Item, Task, as_suite, in_style
from curbench.suites.judge import Judge
from curbench.suites.verify import same_choice, same_number

VERIFIERS: dict[str, Callable[[str, str], bool]] = {
    "exact": lambda answer, right: answer == right.strip(),
    "number": same_number,
    "choice": same_choice,
}
"""Our own; beside them ``math``, which is math-verify, and ``module:function`` of the user."""

COLUMN = ("id", "prompt", "answer", "stratum", "difficulty", "verifier", "test")
TEST_SHARE = 0.2


class UserTask(Task):
    """The task of a file of problems. A given is {"id", "prompt", "verifier", "difficulty"}."""

    def __init__(self, name: str, stratum_name: tuple[str, ...], timeout_s: float) -> None:
        self.name = name
        self.stratum_name = stratum_name
        self._timeout_s = timeout_s
        self._judge: dict[str, Judge] = {}

    def prompt(self, item: Item) -> str:
        """The prompt as it stands in the file."""
        return item.given["prompt"]

    def question(self, item: Item) -> str:
        """The same."""
        return item.given["prompt"]

    def key(self, item: Item) -> str:
        """The id of the file."""
        return item.given["id"]

    def difficulty(self, item: Item) -> float | None:
        """That of the file."""
        return item.given["difficulty"]

    def judge(self, verifier: str) -> Judge:
        """The process of a verifier that is not ours."""
        if verifier not in self._judge:
            target, needs = ("curbench.suites.judge:math", ["math_verify"]) if verifier == "math" else (verifier, [])
            self._judge[verifier] = Judge(target, self._timeout_s, needs)
        return self._judge[verifier]

    def score(self, item: Item, answer: str) -> tuple[float, bool]:
        """What the problem's verifier says."""
        ours = VERIFIERS.get(item.given["verifier"])
        if ours is None:
            return self.judge(item.given["verifier"]).score(answer, item.answer)
        right = ours(answer, item.answer)
        return float(right), right

    def success(self, item: Item, answer: str) -> bool:
        """Whether the score is 1."""
        return self.score(item, answer)[1]

    def metrics(self) -> dict[str, float]:
        """Those of all judges, added up."""
        total: dict[str, float] = {}
        for judge in self._judge.values():
            for name, value in judge.metrics().items():
                total[name] = total.get(name, 0.0) + value
        return total

    def example(self, train: Sequence[Item], generator: np.random.Generator) -> Item:
        """A training problem of the file."""
        return train[int(generator.integers(len(train)))]


def load(
    name: str,
    split: str,
    *,
    progress: object = None,
    verifier: str = "exact",
    test: str | None = None,
    timeout_s: float = 5.0,
    style: str = "compact",
) -> Suite:
    """The problems of one split of a file.

    name       path of a .jsonl or .parquet file with the columns prompt and answer, and where wanted id, stratum (a
               name or a number), difficulty (a number, larger is harder), verifier and test (true: held out)
    verifier   of problems that name none: exact, number, choice, math or ``module:function``
    test       path of a second file, of held-out problems
    timeout_s  seconds that a verifier which is not ours has for one answer
    Raises     ValueError naming file, line and rule; a row is named by its number from 1, as lines are.

    Without a ``test`` file or column, a fifth of the problems is held out: those whose prompts have the smallest hash.
    """
    row = list(read_rows(Path(name), verifier))
    if test is not None:
        row = [r | {"test": False} for r in row] + [r | {"test": True} for r in read_rows(Path(test), verifier)]
    _require_distinct(row)
    if all(r["test"] is None for r in row):
        rank = sorted(row, key=lambda r: sha256(r["prompt"].encode()).digest())
        for place, r in enumerate(rank):
            r["test"] = place < max(1, TEST_SHARE * len(row))
    sides = {bool(r["test"]) for r in row}
    if len(sides) < 2:
        raise ValueError(f"{name} has no {'training' if True in sides else 'held-out'} problem; both are needed")
    stratum_name = tuple(dict.fromkeys(r["stratum"] for r in row))
    task = UserTask(label(name), stratum_name, float(timeout_s))
    item = [
        Item(
            {key: r[key] for key in ("id", "prompt", "verifier", "difficulty")},
            r["answer"],
            stratum_name.index(r["stratum"]),
            "test" if r["test"] else "train",
        )
        for r in row
    ]
    for one in {one.given["verifier"]: one for one in item if one.given["verifier"] not in VERIFIERS}.values():
        task.judge(one.given["verifier"]).try_out(one.answer, one.answer)
    suite = as_suite(task, item, split)
    return in_style(suite, style, suite.question)


def read_rows(path: Path, verifier: str) -> Iterator[dict[str, Any]]:
    """Every row of a file, checked, with all of ``COLUMN`` and where it stands in the file ("at").

    Raises ValueError naming the file, the line and the rule.
    """
    count = 0
    for line, raw in _raw_rows(path):
        count += 1
        yield _checked(raw, f"{path}, line {line}", f"{path.stem}:{line}", verifier)
    if not count:
        raise ValueError(f"{path} holds no problem")


def _raw_rows(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            yield from enumerate(pq.read_table(path).to_pylist(), 1)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a Parquet file: {error}") from error
        return
    with open(path, encoding="utf-8") as file:
        try:
            for line, text in enumerate(file, 1):
                if text.strip():
                    yield line, json.loads(text)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {line}: not JSON: {error}") from error


def _checked(raw: Any, at: str, default_id: str, verifier: str) -> dict[str, Any]:
    """One row with all columns; ValueError for the first rule that it breaks."""
    if not isinstance(raw, dict):
        raise ValueError(f"{at}: a problem is an object with prompt and answer; got {type(raw).__name__}")
    row: dict[str, Any] = {name: raw.get(name) for name in COLUMN} | {"at": at}
    if isinstance(row["answer"], int | float) and not isinstance(row["answer"], bool):
        row["answer"] = str(row["answer"])
    for name in ("prompt", "answer"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{at}: {name} must be a text that is not empty; got {row[name]!r}")
    unknown = [name for name in raw if name not in COLUMN]
    if unknown:
        raise ValueError(f"{at}: unknown column {unknown[0]!r}; the columns are {', '.join(COLUMN)}")
    if not isinstance(row["difficulty"], int | float | None) or row["difficulty"] != row["difficulty"]:
        raise ValueError(f"{at}: difficulty must be a number; got {row['difficulty']!r}")
    if not isinstance(row["test"], bool | None):
        raise ValueError(f"{at}: test must be true or false; got {row['test']!r}")
    row["id"] = default_id if row["id"] is None else str(row["id"])
    row["stratum"] = "all" if row["stratum"] is None else str(row["stratum"])
    row["verifier"] = row["verifier"] or verifier
    known = isinstance(row["verifier"], str) and (
        row["verifier"] in VERIFIERS or row["verifier"] == "math" or ":" in row["verifier"]
    )
    if not known:
        raise ValueError(
            f"{at}: unknown verifier {row['verifier']!r}; choose from {', '.join(VERIFIERS)}, math or module:function"
        )
    ours = VERIFIERS.get(row["verifier"])
    if ours is not None and not ours(row["answer"].strip(), row["answer"]):
        raise ValueError(f"{at}: the answer {row['answer']!r} is not one that the verifier {row['verifier']} can read")
    return row


def _require_distinct(row: list[dict[str, Any]]) -> None:
    for name in ("id", "prompt"):
        seen: dict[str, str] = {}
        for one in row:
            if one[name] in seen:
                raise ValueError(f"{one['at']}: the {name} is already that of {seen[one[name]]}")
            seen[one[name]] = one["at"]
