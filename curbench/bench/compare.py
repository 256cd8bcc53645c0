"""Benchmarks on disk, and whether a new one is slower than an old one."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

from curbench.bench.measure import Row, Timing
from curbench.kernels.extension import load
from curbench.provenance import environment

SLACK = 1.15
"""A row may be this much slower before the spread of its samples is counted."""

KEY = ("op", "variant", "shape", "dtype", "threads", "backend", "peer")
NUMBERS = ("us", "peer_us", "ratio")
RANGES = ("us_range", "peer_us_range")


class Comparison(NamedTuple):
    """Sentences, one per row that changed; what is not named is the same within noise."""

    slower: list[str]  # regressions
    faster: list[str]
    other: list[str]  # another machine, rows that only one of the two has, what could not be compared


def document(timing: Timing) -> dict[str, Any]:
    """What is kept of a benchmark: rows, what was skipped, and where they come from. No path, host or user name."""
    place = environment() | {
        "instruction_set": load().isa(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }
    return {"environment": place, "rows": timing.rows, "skipped": timing.skipped}


def read_document(path: Path) -> dict[str, Any]:
    """What ``document`` made, from a file. Raises ValueError, naming the file, if it is none."""
    from curbench.record import read_json, require_keys  # here: the ops are timed where its packages may be absent

    if not path.exists():
        raise ValueError(f"{path} does not exist; give a bench.json that curbench bench wrote with --out")
    content = read_json(path)
    require_keys(path, content, "environment", "rows")
    require_keys(f"{path}: environment", content["environment"], "machine")
    if not isinstance(content["rows"], list):
        raise ValueError(f"{path}: rows is not a list; give a bench.json that curbench bench wrote with --out")
    for row in content["rows"]:
        require_keys(f"{path}: a row", row, *KEY, *NUMBERS, *RANGES)
        _check(path, row)
    return content


def _check(path: Path, row: Row) -> None:
    def positive(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0

    missing = row["ratio"] is None and row["peer_us"] is None
    numbers = [row["us"], *([] if missing else [row["peer_us"], row["ratio"]])]
    ranges = [row["us_range"], *([] if missing else [row["peer_us_range"]])]
    paired = all(isinstance(one, list) and len(one) == 2 for one in ranges)
    if not (paired and all(map(positive, numbers)) and all(positive(end) for one in ranges for end in one)):
        raise ValueError(f"{path}: the times of {_name(row)} are not positive numbers; measure it again")


def compare(old: dict[str, Any], new: dict[str, Any], *, part: bool = False) -> Comparison:
    """Which rows of ``new`` are slower than those of ``old``, as documents.

    A row is slower when its ratio to the peer of the same run fell and, where both come from the same machine, its
    time rose as well, each by more than SLACK times the spread of the samples: neither a busy machine, which slows the
    peer too, nor a peer that became faster is a regression. On another machine times say nothing, and ratios decide.

    part     ``new`` times only some ops or shapes, so what it lacks is not missed

    >>> row = dict(zip(KEY, ("draw", "race", "9", "float32", 1, "cpu", "numpy"))) | {"us": 1.0, "us_range": [1.0, 1.0]}
    >>> row |= {"peer_us": 8.0, "peer_us_range": [8.0, 8.0], "ratio": 8.0}
    >>> late = row | {"us": 2.0, "us_range": [2.0, 2.0], "ratio": 4.0}
    >>> place = {"machine": "mine"}
    >>> compare({"rows": [row], "environment": place}, {"rows": [late], "environment": place}).slower
    ['draw 9 race float32 on cpu: 8.00x numpy before, 4.00x now; 1.0 us before, 2.0 us now (beyond 1.15x)']
    """
    machines = [one["environment"]["machine"] for one in (old, new)]
    same = machines[0] == machines[1]
    result = Comparison([], [], [])
    if not same:
        result.other.append(f"another machine: {machines[0]} before, {machines[1]} now; only ratios are compared")
    before, now = ({tuple(row[name] for name in KEY): row for row in one["rows"]} for one in (old, new))
    for key, row in now.items():
        if key not in before:
            result.other.append(f"{_name(row)}: {row['peer']} is new")
        else:
            _compare_row(before[key], row, same, result)
    missing = [row for key, row in before.items() if key not in now and not part]
    result.other.extend(f"{_name(row)}: {row['peer']} is missing" for row in missing)
    return result


def _compare_row(old: Row, new: Row, same_machine: bool, result: Comparison) -> None:
    if old["ratio"] is None or new["ratio"] is None:
        if (old["ratio"] is None) != (new["ratio"] is None):
            when = "ran before and does not now" if new["ratio"] is None else "runs now and did not before"
            result.other.append(f"{_name(new)}: {new['peer']} {when}")
        return
    ratio = old["ratio"] / new["ratio"]  # above 1: slower
    time = new["us"] / old["us"]
    own = max(_spread(old["us_range"]), _spread(new["us_range"]))
    all_ = own * max(_spread(old["peer_us_range"]), _spread(new["peer_us_range"]))
    said = (
        f"{_name(new)}: {old['ratio']:.2f}x {new['peer']} before, {new['ratio']:.2f}x now; "
        f"{old['us']:.1f} us before, {new['us']:.1f} us now (beyond {SLACK * all_:.3g}x)"
    )
    if ratio > SLACK * all_ and (time > SLACK * own or not same_machine):
        result.slower.append(said)
    elif ratio < 1 / (SLACK * all_) and (time < 1 / (SLACK * own) or not same_machine):
        result.faster.append(said)


def _spread(ends: list[float]) -> float:
    """Half of the distance between 20 % and 80 % of the samples, as a factor."""
    return (ends[1] / ends[0]) ** 0.5


def _name(row: Row) -> str:
    shape = " ".join(filter(None, (str(row["shape"]), row["variant"], row["dtype"])))
    return f"{row['op']} {shape} on {row['backend']}"
