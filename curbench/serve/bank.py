"""Banks from files, for problems that no suite of ours holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curbench.record import read_lines
from curbench.types import Bank

COLUMNS = ("key", "stratum", "difficulty", "length", "feature")


def read_bank(path: Path) -> Bank:
    """The bank of a file: .parquet, or .jsonl with one object per problem.

    Columns: key (text, unique) and stratum (text or whole number); difficulty (number), length (whole number) and
    feature (numbers, as many for each) if all problems have them. Others are left alone.
    Raises  ValueError, naming the file, for another ending, a damaged file or a column that is missing or wrong.
    """
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path).to_pydict()
        elif path.suffix == ".jsonl":
            rows = read_lines(path, "key", "stratum")
            names = [name for name in COLUMNS if any(name in row for row in rows)]
            table = {name: [row.get(name) for row in rows] for name in names}
        else:
            raise ValueError(f"{path} is neither a .jsonl nor a .parquet file")
        return _bank(path, table)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"{path} is no bank: {error}") from None


def _bank(path: Path, table: dict[str, list[Any]]) -> Bank:
    for name in ("key", "stratum"):
        if name not in table:
            raise ValueError(f"{path} lacks the column {name}")
    given = {name: table[name] for name in COLUMNS if name in table}
    for name, column in given.items():
        if any(value is None for value in column):
            raise ValueError(f"{path}: problem {[v is None for v in column].index(True)} lacks its {name}")
    key, stratum = [str(one) for one in given.pop("key")], given.pop("stratum")
    label, number = np.unique([str(one) for one in stratum], return_inverse=True)
    try:
        return Bank(key=key, stratum=number, stratum_name=tuple(label.tolist()), **given)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
