"""What grids of every kind are made of: values as YAML has them, their product, and one Parquet file per unit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BeforeValidator, Field

from curbench.record import write_atomic
from curbench.sim.arms import noise_text, parse_noise
from curbench.sim.delay import delay_text, parse_delay


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e5 as a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _entries(value: Any) -> Any:
    """[(name, {parameter: [value, ...]}), ...] of a name, a mapping by name, or a list of either."""
    entries = []
    for one in _listed(value):
        named = one.items() if isinstance(one, dict) else [(one, None)]
        for name, given in named:
            if not isinstance(name, str) or not isinstance(given or {}, dict):
                raise ValueError("write NAME, or NAME: {PARAMETER: [VALUE, ...]}")
            entries.append((name, {key: _listed(choice) for key, choice in (given or {}).items()}))
    return entries


def _noise(value: Any) -> str | None:
    """The shortest way to write a noise."""
    return None if value is None else noise_text(parse_noise(str(value)))


Value = TypeVar("Value")
Listed = Annotated[list[Value], Field(min_length=1), BeforeValidator(_listed)]
Whole = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Late = Annotated[int | str, BeforeValidator(lambda value: delay_text(parse_delay(value)))]
Scatter = Annotated[str | None, BeforeValidator(_noise)]
Entries = Annotated[
    list[tuple[str, dict[str, Annotated[list[Any], Field(min_length=1)]]]],
    Field(min_length=1),
    BeforeValidator(_entries),
]


def choices(axis: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Every way to take one value from each axis.

    >>> list(choices({"a": [1, 2], "b": [3]}))
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    for value in product(*axis.values()):
        yield dict(zip(axis, value, strict=True))


def label(name: str, setting: dict[str, Any]) -> str:
    """A name with its settings.

    >>> label("osmd", {"eta": 0.1}), label("osmd", {})
    ('osmd eta=0.1', 'osmd')
    """
    return " ".join([name, *(f"{key}={value}" for key, value in setting.items())])


class Unit(Protocol):
    """One simulation of a grid, of arms or of a learner."""

    HEAD: ClassVar[tuple[str, ...]]

    @property
    def path(self) -> Path:
        """Where it is kept, the name telling everything that was asked for."""

    def run(self, out: Path, environment: dict[str, Any]) -> dict[str, Any]:
        """Simulates it on one thread, keeps it under ``out`` and returns its row."""

    def read(self, out: Path) -> dict[str, Any]:
        """Its row, from the file."""

    @staticmethod
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        """One line of the table under ``HEAD``."""

    @staticmethod
    def failed(row: dict[str, Any]) -> bool:
        """True when something that is proved is violated."""


def unit_path(folder: str, name: str, curator: str, asked: dict[str, Any], content: bytes = b"") -> Path:
    """FOLDER/NAME-CURATOR-hash.parquet, the hash over everything asked for and the ``content`` of files."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    digest.update(content)
    words = (re.sub(r"\W+", "_", word) for word in (name, curator))
    return Path(folder) / f"{'-'.join(words)}-{digest.hexdigest()[:12]}.parquet"


def write_row(path: Path, column: dict[str, Any], content: dict[str, Any], kind: dict[str, Any]) -> None:
    """One row per file and one schema for all, so that a folder reads as one table.

    column   plain values and lists
    content  row and environment, kept as JSON
    kind     Arrow types of the columns that may be null, which Arrow could not tell from a single file
    """
    column = column | {name: json.dumps(value, sort_keys=True) for name, value in content.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.array([value], kind.get(name)) for name, value in column.items()}), sink)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, sink.getvalue().to_pybytes())


def read_row(path: Path, *names: str) -> dict[str, Any]:
    """row, environment and the named columns of a file of ``write_row``.

    Raises ValueError, with the name of the file, if it is no such file.
    """
    try:
        (column,) = pq.read_table(path, partitioning=None).to_pylist()
        content = {name: json.loads(column[name]) for name in ("row", "environment")}
        return content | {name: column[name] for name in names}
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a result of curbench sweep ({error}); remove it and sweep again") from None
