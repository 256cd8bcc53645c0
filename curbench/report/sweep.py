"""Sweeps: which axes were swept, the cuts through them that can be compared, slopes and looseness."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from curbench.sim.axes import label
from curbench.stats import Interval, log_slope

Unit = dict[str, Any]  # what ``sim.grid.read_unit`` returns
Row = dict[str, Any]

SYMBOL = {"arms_count": "K", "horizon": "T", "batch": "m", "delay": "delay", "instance_seed": "instance"}


def settings(row: Row) -> dict[str, Any]:
    """What a unit was run at, apart from its curator: the axes of the grid and the parameters of the test-bed."""
    return {SYMBOL[name]: row[name] for name in SYMBOL} | row["parameter"]


def against(row: Row) -> str:
    """The test-bed, and what its regret is measured against."""
    return f"{row['arms']} ({row['regret']['comparator']})"


def policy(row: Row, without: str = "") -> str:
    """The curator with its hyper-parameters, but for one."""
    return label(row["curator"], {name: value for name, value in row["hyper"].items() if name != without})


def swept(units: Iterable[Unit]) -> list[str]:
    """Names of the settings and hyper-parameters with at least two different numbers; instances are no axis."""
    value: dict[str, set[float]] = {}
    for one in units:
        for name, number in (settings(one["row"]) | one["row"]["hyper"]).items():
            if isinstance(number, int | float) and name != SYMBOL["instance_seed"]:
                value.setdefault(name, set()).add(number)
    return [name for name, numbers in value.items() if len(numbers) > 1]


def cut(units: Iterable[Unit], *free: str) -> list[Unit]:
    """The most units of one test-bed that agree on every setting but the ``free`` ones.

    Of equally many, those at the largest T and K and the smallest m and delay.
    """
    group: dict[str, list[Unit]] = {}
    for one in units:
        held = {name: value for name, value in settings(one["row"]).items() if name not in free}
        group.setdefault(str(held), []).append(one)

    def rank(same: list[Unit]) -> tuple[float, ...]:
        t, k, m, delay = _size(same[0]["row"])
        return len(same), t, k, -m, -delay

    return max(group.values(), key=rank, default=[])


def _size(row: Row) -> tuple[float, ...]:
    """(T, K, m, rounds of delay)."""
    return row["horizon"], row["arms_count"], row["batch"], int(str(row["delay"]).partition(":")[0])


def held(units: list[Unit], *free: str) -> str:
    """What the units of a cut agree on, as a text.

    >>> held([])
    ''
    """
    first = settings(units[0]["row"]) if units else {}
    return " ".join(f"{name}={value}" for name, value in first.items() if name not in (*free, "instance"))


def lines(units: Iterable[Unit], axis: str) -> dict[str, list[tuple[float, Row]]]:
    """(value on the axis, row) of every policy along one axis, increasing, where there are at least two."""
    line: dict[str, dict[float, Row]] = {}
    for one in cut(units, axis):
        row = one["row"]
        value = (settings(row) | row["hyper"]).get(axis)
        if isinstance(value, int | float):
            line.setdefault(policy(row, axis), {})[value] = row
    return {name: sorted(points.items()) for name, points in line.items() if len(points) > 1}


class Slope(NamedTuple):
    """How the regret of a policy grows along an axis, and how its bound does; None where a value is not positive."""

    arms: str
    policy: str
    axis: str
    at: str
    regret: Interval | None
    bound: Interval | None


def slopes(units: list[Unit]) -> list[Slope]:
    """Slopes on log axes against T and m, for every policy on every test-bed."""
    found = []
    for arms, same in by_test_bed(units).items():
        for axis in (SYMBOL["horizon"], SYMBOL["batch"]):
            at = held(cut(same, axis), axis)
            for name, points in lines(same, axis).items():
                regret = _slope([(x, row["regret"]["mean"]) for x, row in points])
                bound = _slope([(x, row["bound"]["value"]) for x, row in points])
                found.append(Slope(arms, name, axis, at, regret, bound))
    return found


def _slope(points: list[tuple[float, float | None]]) -> Interval | None:
    if any(y is None or y <= 0 for _, y in points):
        return None
    x, y = np.array(points, float).T
    return log_slope(x, y)


def by_test_bed(units: Iterable[Unit]) -> dict[str, list[Unit]]:
    """Units grouped by test-bed and comparator, each group from small to large, uniform before the others."""
    group: dict[str, list[Unit]] = {}
    for one in units:
        group.setdefault(against(one["row"]), []).append(one)

    def order(one: Unit) -> tuple:
        row = one["row"]
        parameter = [(isinstance(value, str), value) for value in row["parameter"].values()]
        return *_size(row), parameter, row["instance_seed"], row["curator"] != "uniform", policy(row)

    return {name: sorted(same, key=order) for name, same in group.items()}


def looseness(units: Iterable[Unit]) -> dict[str, list[tuple[float, bool]]]:
    """(bound / regret, whether the bound is vacuous) at every setting, for each "TEST-BED POLICY" that has a bound."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for one in units:
        row = one["row"]
        if row["bound"]["value"] is not None and row["regret"]["mean"] > 0:
            ratio = row["bound"]["value"] / row["regret"]["mean"]
            found.setdefault(f"{against(row)}  {policy(row)}", []).append((ratio, row["bound"]["vacuous"]))
    return found
