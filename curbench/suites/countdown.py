"""The suite ``countdown``: make a target from two to five numbers with + - * / and parentheses.

The bank is a Parquet file in the package, made once by ``python -m curbench.suites.countdown OUT.parquet`` with the
generator of reasoning-gym (extra ``tasks``), deduplicated and split on (sorted numbers, target). Reading it needs
neither that library nor a network. Answers are scored by ``verify.reaches_target``, never evaluated as code.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import gcd, log, prod, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curbench.suites import Demonstration, Suite
from curbench.suites.item import in_style
from curbench.suites.verify import reaches_target
from curbench.types import Bank

BANK = Path(__file__).parent.parent / "data" / "countdown.parquet"
STRATUM = (2, 3, 4, 5)
STRATUM_NAME = tuple(f"{n} numbers" for n in STRATUM)
QUESTION = "\nUse every number exactly once, with + - * / and parentheses; answer with the expression alone."
DEMONSTRATION_SHARE = (0.15, 0.35, 0.3, 0.2)


class Problem(NamedTuple):
    """One row of the bank: the numbers in the order of the prompt, the target and one right answer."""

    split: str
    number: tuple[int, ...]
    target: int
    solution: str

    @property
    def key(self) -> str:
        """Identity of the problem: the order of the numbers does not matter.

        >>> Problem("train", (7, 3), 21, "7*3").key
        '3,7=21'
        """
        return f"{','.join(map(str, sorted(self.number)))}={self.target}"


class Countdown:
    """The problems of one split, as a ``curbench.suites.Suite``."""

    name = "countdown"

    def __init__(self, problem: Sequence[Problem], held_out: frozenset[str] = frozenset()) -> None:
        self._problem = tuple(problem)
        self._held_out = held_out
        self.bank = Bank(
            key=np.array([p.key for p in self._problem]),
            stratum=np.array([len(p.number) - STRATUM[0] for p in self._problem]),
            stratum_name=STRATUM_NAME,
            feature=np.array([feature(p.number, p.target) for p in self._problem], np.float32),
            difficulty=np.array([difficulty(p.number, p.target) for p in self._problem]),
            length=np.array([len(prompt(p.number, p.target)) for p in self._problem]),
            prompt=self.prompt,
        )

    def prompt(self, problem: int) -> str:
        """The text that a model is given.

        >>> Countdown([Problem("train", (7, 3), 21, "7*3")]).prompt(0)
        'Make 21 from 7 3:'
        """
        return prompt(self._problem[problem].number, self._problem[problem].target)

    def solution(self, problem: int) -> str:
        """A completion that succeeds."""
        return self._problem[problem].solution

    def number(self, problem: int) -> tuple[int, ...]:
        """The given numbers, in the order of the prompt."""
        return self._problem[problem].number

    def target(self, problem: int) -> int:
        """The number to reach."""
        return self._problem[problem].target

    def verify(self, problem: int, completion: str) -> tuple[float, bool]:
        """(1.0, True) if the whole completion, stripped, is a right answer, else (0.0, False); see ``reaches_target``.

        >>> Countdown([Problem("train", (7, 3), 21, "7*3")]).verify(0, " 3 * 7 ")
        (1.0, True)
        """
        row = self._problem[problem]
        success = reaches_target(completion.strip(), row.number, row.target)
        return float(success), success

    def metrics(self) -> dict[str, float]:
        """None: its scorer cannot fail."""
        return {}

    def demonstration(self, generator: np.random.Generator) -> Demonstration:
        """A fresh problem, drawn much as the library draws its own, but never one of the test split."""
        while True:
            count = int(generator.choice(STRATUM, p=DEMONSTRATION_SHARE))
            one = random_chain(count, generator)
            if one is not None and one.key not in self._held_out:
                shown = [one.number[i] for i in generator.permutation(count)]
                return Demonstration(prompt(shown, one.target), one.solution, spoil(one, generator))


def load(name: str, split: str, *, progress: object = None, style: str = "compact") -> Suite:
    """The problems of one split of the bank in the package; ``style`` as in ``made.load``."""
    problem = read_bank(BANK)
    held_out = frozenset(p.key for p in problem if p.split == "test")
    suite = Countdown([p for p in problem if p.split == split], held_out)
    return in_style(suite, style, lambda problem: suite.prompt(problem) + QUESTION)


def prompt(number: Sequence[int], target: int) -> str:
    """The question as text."""
    return f"Make {target} from {' '.join(map(str, number))}:"


def feature(number: Sequence[int], target: int) -> list[float]:
    """24 numbers of order one, read off the question alone: sizes, divisibility, and where the target lies.

    number  the given numbers, in any order
    """
    n, total, largest, smallest = len(number), sum(number), max(number), min(number)
    mean = total / n
    deviation = sqrt(sum((v - mean) ** 2 for v in number) / n)
    one_hot = [n == count for count in STRATUM]
    size = [target / 50, total / 50, largest / 20, smallest / 20, mean / 20, deviation / 10]
    ratio = [
        min(target / total, 3.0),
        min(target / largest, 5.0) / 5,
        log(target) / 5,
        log(prod(number)) / 10,
        target > total,
        target > largest,
    ]
    arithmetic = [
        sum(target % v == 0 for v in number) / n,
        not _needs_product(number, target),
        target % 2,
        total % 2,
        target in number,
        1 in number,
        len(set(number)) / n,
        gcd(*number) > 1,
    ]
    return [*one_hot, *size, *ratio, *arithmetic]


def _needs_product(number: Sequence[int], target: int) -> bool:
    """Whether signs alone cannot reach the target: a signed sum has the parity of the sum and is at most the sum."""
    return target > sum(number) or (sum(number) - target) % 2 == 1


def difficulty(number: Sequence[int], target: int) -> float:
    """A guess in [0, 1) made before training: more numbers, and a target that signs alone cannot reach, are harder.

    >>> difficulty((3, 7), 10), difficulty((3, 7), 21)
    (0.0, 0.125)
    """
    return (len(number) - STRATUM[0]) / len(STRATUM) + 0.125 * _needs_product(number, target)


# --- Demonstrations ---------------------------------------------------------------------------------------------------


def random_chain(count: int, generator: np.random.Generator) -> Problem | None:
    """A random problem whose answer is ((a o b) o c) ..., or None when a value on the way is not a positive integer.

    Numbers are uniform in 1..20 and operators uniform, except that a quotient that is not whole becomes a difference;
    the target is at most 99.
    """
    number = [int(n) for n in generator.integers(1, Recipe.max_value + 1, count)]
    operator = ["+-*/"[int(o)] for o in generator.integers(0, 4, count - 1)]
    value, text, sum_inside = number[0], str(number[0]), False
    for o, n in zip(operator, number[1:], strict=True):
        if o == "/" and value % n:
            o = "-"
        if o in "*/" and sum_inside:
            text = f"({text})"
        text += f"{o}{n}"
        sum_inside = o in "+-"
        value = {"+": value + n, "-": value - n, "*": value * n, "/": value // n}[o]
        if value <= 0:
            return None
    return Problem("train", tuple(number), value, text) if value <= Recipe.max_target else None


def spoil(problem: Problem, generator: np.random.Generator) -> str:
    """The answer with one number or operator replaced at random, such that it is wrong."""
    token = re.findall(r"[0-9]+|.", problem.solution)
    place = [i for i, t in enumerate(token) if t not in "()"]
    while True:
        at = place[int(generator.integers(len(place)))]
        other = "+-*/"[int(generator.integers(4))]
        if token[at].isdigit():
            other = str(generator.integers(1, Recipe.max_value + 1))
        wrong = "".join([*token[:at], other, *token[at + 1 :]])
        if not reaches_target(wrong, problem.number, problem.target):
            return wrong


# --- The file ---------------------------------------------------------------------------------------------------------


def content_hash(problem: Sequence[Problem]) -> str:
    """sha256 over all rows in order; stored in the file and compared when it is read."""
    rows = "\n".join(f"{p.split}\t{p.number}\t{p.target}\t{p.solution}" for p in problem)
    return sha256(rows.encode()).hexdigest()


def write_bank(path: Path, problem: Sequence[Problem], provenance: dict[str, Any]) -> None:
    """Writes the bank as Parquet; ``provenance`` and the content hash go to the metadata under ``curbench``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = json.dumps({**provenance, "sha256": content_hash(problem)}, sort_keys=True)
    schema = pa.schema(
        [
            ("split", pa.string()),
            ("number", pa.list_(pa.int32())),
            ("target", pa.int32()),
            ("solution", pa.string()),
        ],
        metadata={"curbench": about},
    )
    column = {name: [getattr(p, name) for p in problem] for name in schema.names}
    pq.write_table(pa.table(column, schema=schema), path, compression="zstd")


def read_bank(path: Path) -> list[Problem]:
    """The rows of a bank file, every one checked: untrusted, like any file.

    Raises ValueError naming the file, the row (counted from 0) and the rule, for a file that is not Parquet, columns
    that differ, a row that breaks a rule, a problem that appears twice or content that is not what was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error
    if table.column_names != list(Problem._fields):
        raise ValueError(f"{path} must have the columns {', '.join(Problem._fields)}; got {table.column_names}")
    problem: list[Problem] = []
    seen: dict[str, int] = {}
    for row, value in enumerate(table.to_pylist()):
        broken = _broken_rule(value)
        if broken:
            raise ValueError(f"{path}, row {row}: {broken}")
        one = Problem(value["split"], tuple(value["number"]), value["target"], value["solution"])
        if one.key in seen:
            raise ValueError(f"{path}, row {row}: problem {one.key} is already in row {seen[one.key]}")
        seen[one.key] = row
        problem.append(one)
    about = json.loads((table.schema.metadata or {}).get(b"curbench", b"{}"))
    if about.get("sha256") != content_hash(problem):
        raise ValueError(f"{path}: the rows are not those that were written (sha256 differs); make the bank again")
    return problem


def _broken_rule(value: dict[str, Any]) -> str | None:
    """The first rule that a row breaks, as the end of a sentence, or None."""
    number, target = value["number"], value["target"]
    if value["split"] not in ("train", "test"):
        return f"split must be train or test; got {value['split']!r}"
    if not isinstance(number, list) or len(number) not in STRATUM:
        return f"a problem has {STRATUM[0]} to {STRATUM[-1]} numbers; got {number!r}"
    if not all(isinstance(n, int) and n > 0 for n in number):
        return f"numbers must be positive integers; got {number!r}"
    if not isinstance(target, int) or target <= 0:
        return f"the target must be a positive integer; got {target!r}"
    solution = value["solution"]
    if not isinstance(solution, str) or not reaches_target(solution, number, target):
        return f"the solution {solution!r} does not make {target} from {number}"
    return None


# --- Making the bank --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What the bank in the package is made of; ``size`` counts problems per stratum, train and test together.

    There are only a few hundred two-number problems in this range; a stratum that runs dry is kept as large as it gets.
    """

    seed: int = 20260711
    size: dict[int, int] = field(default_factory=lambda: {2: 640, 3: 2128, 4: 1628, 5: 1128})
    test: int = 128
    max_value: int = 20
    max_target: int = 99
    attempts_per_problem: int = 12
    timeout_s: float = 20.0


def library_problem(recipe: Recipe, count: int, index: int) -> tuple[tuple[int, ...], int, str] | None:
    """Numbers, target and an answer from reasoning-gym, or None if its generator gave up on that index.

    The library seeds an item with dataset seed + index, so strata are kept 10 million apart.
    """
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(
        "countdown",
        size=index + 1,
        seed=recipe.seed + count * 10_000_000,
        min_numbers=count,
        max_numbers=count,
        max_value=recipe.max_value,
        min_target=1,
        max_target=recipe.max_target,
    )
    try:
        item = dataset[index]
    except ValueError:
        return None
    about = item["metadata"]
    return tuple(about["numbers"]), about["target"], item["answer"].replace(" ", "")


def generate(recipe: Recipe, progress: Callable[[int], None] = lambda count: None) -> list[Problem]:
    """The rows of a bank: distinct problems whose stored answer really is right, train and test apart.

    progress  called with the number of numbers once per problem found

    An item that takes longer than ``timeout_s`` is skipped by killing the process that works on it.
    """
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    row: list[Problem] = []
    pool = context.Pool(1)
    for count, size in recipe.size.items():
        found: dict[str, Problem] = {}
        for index in range(size * recipe.attempts_per_problem):
            try:
                drawn = pool.apply_async(library_problem, (recipe, count, index)).get(recipe.timeout_s)
            except multiprocessing.TimeoutError:
                pool.terminate()
                pool = context.Pool(1)
                continue
            if drawn is None:
                continue
            one = Problem("train", *drawn)
            if one.key not in found and reaches_target(one.solution, one.number, one.target):
                found[one.key] = one
                progress(count)
                if len(found) == size:
                    break
        row += split(list(found.values()), recipe)
    pool.terminate()
    return row


def split(problem: Sequence[Problem], recipe: Recipe) -> list[Problem]:
    """The same problems, ``recipe.test`` of them marked as test: those with the smallest keyed hash of their key."""
    rank = sorted(problem, key=lambda p: sha256(f"{recipe.seed}:{p.key}".encode()).digest())
    return [p._replace(split="test" if i < recipe.test else "train") for i, p in enumerate(rank)]


def main(argument: Sequence[str] | None = None) -> None:
    """Makes the bank file; ``python -m curbench.suites.countdown OUT.parquet``."""
    from dataclasses import asdict
    from importlib.metadata import version

    from rich.console import Console
    from rich.progress import Progress

    parser = argparse.ArgumentParser(prog="python -m curbench.suites.countdown", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    choice = parser.parse_args(argument)
    recipe = Recipe(seed=choice.seed)
    with Progress(console=Console(stderr=True)) as bar:
        task = {n: bar.add_task(f"{n} numbers", total=size) for n, size in recipe.size.items()}
        problem = generate(recipe, lambda count: bar.advance(task[count]))
    provenance = {"recipe": asdict(recipe), "generator": f"reasoning-gym {version('reasoning-gym')} countdown"}
    write_bank(choice.out, problem, provenance)
    print(f"{choice.out}  {len(problem)} problems  sha256 {content_hash(problem)}")


if __name__ == "__main__":
    main()
