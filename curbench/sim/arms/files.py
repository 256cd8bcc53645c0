"""Means from the user's own files: CSV, Parquet or NumPy. Their origin is unknown: read, checked, never executed."""

from __future__ import annotations

import csv
import re
import zlib
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curbench.sim.arms.model import BERNOULLI, LARGEST_MEAN_BYTES, Arms, Noise, equal_segments
from curbench.types import Array

Table = tuple[Array | None, Array]
"""(start i64[S], None if the file has no such column; mean f64[S, K])"""


def arms_from_file(
    path: str | Path, *, horizon: int | None = None, comparator: str = "switching", noise: Noise = BERNOULLI
) -> Arms:
    """Arms with the means of a file: one column per arm, one row per segment.

    path     .csv (commas; a header is optional), .parquet, or .npy (a matrix). A first column named ``start`` holds
             the first round of each row; without it the rows share the horizon equally
    horizon  T; default one round per row, which needs a file without ``start``
    Raises   ValueError, naming the file, the line and the rule, for anything else than a full table of numbers in
             [0, 1] with increasing starts from 0; FileNotFoundError if there is no file.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path}: means are read from {', '.join(READERS)}; got {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is no file")
    if path.stat().st_size > LARGEST_MEAN_BYTES:
        raise ValueError(f"{path} exceeds {LARGEST_MEAN_BYTES >> 30} GiB")
    start, mean = READERS[path.suffix](path)
    if start is not None and horizon is None:
        raise ValueError(f"{path} has a column start, so it needs a horizon")
    rounds = len(mean) if horizon is None else horizon
    if start is None:
        start = equal_segments(str(path), len(mean), rounds)
    elif start[-1] >= rounds:
        raise ValueError(f"{path}: the last segment starts at {start[-1]}, but the horizon is {rounds}")
    return Arms(_name(path, start, mean), start, mean, rounds, comparator, f"file {path.name}", noise=noise)


def _name(path: Path, start: Array, mean: Array) -> str:
    """The file's name with a checksum of its content, so that results of two versions are kept apart."""
    stem = re.sub(r"[^\w.-]", "_", path.stem).lstrip(".-") or "means"
    return f"{stem}-{zlib.crc32(mean.tobytes(), zlib.crc32(start.tobytes())):08x}"


def read_csv(path: Path) -> Table:
    """The table of a CSV file; lines are counted from 1, header included."""
    rows: list[list[float]] = []
    lines: list[int] = []
    names: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if not rows and not names and cells and all(_number(cell) is None for cell in cells):
                    names = [cell.strip() for cell in cells]
                    continue
                rows.append([_cell(path, reader.line_num, j, cell) for j, cell in enumerate(cells)])
                lines.append(reader.line_num)
                if len(cells) != len(names or rows[0]) or not cells:
                    expected = len(names or rows[0])
                    raise ValueError(f"{path}, line {lines[-1]}: {len(cells)} cells where {expected} are expected")
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if not rows:
        raise ValueError(f"{path}: no rows of means")
    return _checked(path, np.array(rows), names[:1] == ["start"], "line", np.array(lines))


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _cell(path: Path, line: int, column: int, cell: str) -> float:
    value = _number(cell)
    if value is None:
        what = f"{cell[:40]!r} is no number" if cell.strip() else "a cell is empty"
        raise ValueError(f"{path}, line {line}, column {column + 1}: {what}")
    return value


def read_parquet(path: Path) -> Table:
    """The table of a Parquet file; rows are counted from 1."""
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows * file.metadata.num_columns * 8 > LARGEST_MEAN_BYTES:
            raise ValueError(f"{path} holds more than {LARGEST_MEAN_BYTES >> 30} GiB of means")
        table = file.read()
        column = [_column(path, *one) for one in zip(table.column_names, table.columns, strict=True)]
        started = table.column_names[:1] == ["start"]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a Parquet file ({_first_line(error)})") from None
    if not column or not column[0].size:
        raise ValueError(f"{path}: no rows of means")
    return _checked(path, np.stack(column, axis=1), started, "row", np.arange(1, len(table) + 1))


def _column(path: Path, name: str, value: pa.ChunkedArray) -> Array:
    if not (pa.types.is_floating(value.type) or pa.types.is_integer(value.type)):
        raise ValueError(f"{path}, column {name}: means are numbers, not {value.type}")
    if value.null_count:
        row = value.is_null().to_pylist().index(True) + 1
        raise ValueError(f"{path}, row {row}, column {name}: a cell is empty")
    return value.to_numpy().astype(np.float64)


DAMAGED_HEADER = (ValueError, TypeError, OverflowError, OSError, SyntaxError, TokenError, RecursionError, MemoryError)
"""What NumPy raises on a header that is no dictionary of a shape and a type."""


def read_npy(path: Path) -> Table:
    """The matrix of a NumPy file; rows are counted from 1. Pickled objects are refused."""
    try:
        content = np.lib.format.open_memmap(path, mode="r")
    except DAMAGED_HEADER as error:
        raise ValueError(f"{path}: not a NumPy matrix ({_first_line(error)})") from None
    if content.ndim != 2 or content.size == 0 or content.dtype.kind not in "fiu":
        raise ValueError(f"{path}: means are a matrix of numbers; got {content.dtype} of shape {content.shape}")
    return _checked(path, np.array(content, np.float64, order="C"), False, "row", np.arange(1, len(content) + 1))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _checked(path: Path, table: Array, started: bool, unit: str, line: Array) -> Table:
    """(start, mean) of a table, every rule checked; ``line`` i64[S] says what to call a row."""
    mean = table[:, 1:] if started else table
    if mean.shape[1] == 0:
        raise ValueError(f"{path}: no column of means besides start")
    bad = np.argwhere(~((mean >= 0) & (mean <= 1)))
    if bad.size:
        row, arm = bad[0]
        where = f"{path}, {unit} {line[row]}, column {arm + 1 + started}"
        raise ValueError(f"{where}: a mean must be in [0, 1]; got {mean[row, arm]}")
    if not started:
        return None, mean
    start = table[:, 0]
    whole = np.flatnonzero(~((start == np.floor(start)) & (start >= 0) & (start < 2**53)))
    if whole.size:
        raise ValueError(f"{path}, {unit} {line[whole[0]]}: start must be a whole number; got {start[whole[0]]}")
    if start[0] != 0:
        raise ValueError(f"{path}, {unit} {line[0]}: the first segment must start at 0; got {start[0]:.0f}")
    falling = np.flatnonzero(np.diff(start) <= 0)
    if falling.size:
        row = falling[0] + 1
        raise ValueError(
            f"{path}, {unit} {line[row]}: starts must increase; got {start[row]:.0f} after {start[row - 1]:.0f}"
        )
    return start.astype(np.int64), np.ascontiguousarray(mean)


READERS = {".csv": read_csv, ".parquet": read_parquet, ".npy": read_npy}
