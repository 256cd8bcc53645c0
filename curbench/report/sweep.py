"""Sweeps: which axes were swept, the cuts through them that can be compared, slopes, theorems and looseness.

Rows are those of ``sim.grid`` or of ``sim.learner_grid``: both have settings, a policy and a number of interest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from curbench.sim.axes import label
from curbench.stats import Interval, log_slope

Unit = dict[str, Any]  # what ``sim.grid.read_unit`` or ``sim.learner_grid.read_learner_unit`` returns
Row = dict[str, Any]
Point = tuple[Any, Row]  # (value on an axis, a number or a text, row)

SYMBOL = {"arms_count": "K", "horizon": "T", "batch": "m", "delay": "delay", "noise": "noise"}
LEARNER_SYMBOL = {"batch": "B", "group": "G", "delay": "delay", "estimator": "estimator"}
INSTANCE = "instance"
UNSPOKEN = {"delay": 0, "noise": "bernoulli", "estimator": "grpo", INSTANCE: 0}
"""What is usual is not said in titles."""
CATEGORIES = frozenset({"noise", "estimator"})
"""Axes whose values are texts."""


def settings(row: Row) -> dict[str, Any]:
    """What a unit was run at, apart from its curator: the axes of the grid and the parameters of the test-bed."""
    if "learner" in row:
        asked = {name: value for name, value in row["budget"].items() if value is not None}
        named = {symbol: row[name] for name, symbol in LEARNER_SYMBOL.items()} | asked
    else:
        named = {symbol: row[name] for name, symbol in SYMBOL.items()}
    return named | {INSTANCE: row["instance_seed"]} | row["parameter"]


def against(row: Row) -> str:
    """The learner; or the test-bed, and what its regret is measured against."""
    return row["learner"] if "learner" in row else f"{row['arms']} ({row['regret']['comparator']})"


def policy(row: Row, without: str = "") -> str:
    """The curator with its hyper-parameters, but for one, and the signal if it was chosen."""
    chosen = {"signal": row["chosen_signal"]} if row.get("chosen_signal") else {}
    return label(row["curator"], {name: value for name, value in (row["hyper"] | chosen).items() if name != without})


def swept(units: Iterable[Unit]) -> list[str]:
    """Names of the settings and hyper-parameters with at least two different values; instances are no axis."""
    found: dict[str, set[Any]] = {}
    for one in units:
        for name, value in (settings(one["row"]) | one["row"]["hyper"]).items():
            if name in CATEGORIES or (_is_number(value) and name != INSTANCE):
                found.setdefault(name, set()).add(value)
    return [name for name, values in found.items() if len(values) > 1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def cut(units: Iterable[Unit], *free: str) -> list[Unit]:
    """The most units of one test-bed that agree on every setting but the ``free`` ones.

    Of equally many, those at the largest T and K and the smallest m and delay, with the usual noise.
    """
    group: dict[str, list[Unit]] = {}
    for one in units:
        held = {name: value for name, value in settings(one["row"]).items() if name not in free}
        group.setdefault(str(held), []).append(one)

    def rank(same: list[Unit]) -> tuple[float, ...]:
        row = same[0]["row"]
        t, k, m, delay = _size(row)
        usual = sum(settings(row).get(name) == value for name, value in UNSPOKEN.items())
        return len(same), t, k, -m, -delay, usual

    return max(group.values(), key=rank, default=[])


def _size(row: Row) -> tuple[float, ...]:
    """(T or steps, K, m or B, rounds of delay)."""
    at = settings(row)
    rounds = at["T"] if "T" in at else row["steps"]
    return rounds, at.get("K", 0), row["batch"], int(str(row["delay"]).partition(":")[0])


def held(units: list[Unit], *free: str) -> str:
    """What the units of a cut agree on, as a text; what is usual is left out.

    >>> held([])
    ''
    """
    first = settings(units[0]["row"]) if units else {}
    said = {name: value for name, value in first.items() if name not in free and UNSPOKEN.get(name) != value}
    return " ".join(f"{name}={value}" for name, value in said.items())


def lines(units: Iterable[Unit], axis: str) -> dict[str, list[Point]]:
    """(value on the axis, row) of every policy along one axis, increasing, where there are at least two."""
    line: dict[str, dict[Any, Row]] = {}
    for one in cut(units, axis):
        row = one["row"]
        value = (settings(row) | row["hyper"]).get(axis)
        if axis in CATEGORIES or _is_number(value):
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
    """Units grouped by test-bed and comparator, or learner, from small to large, uniform before the others."""
    group: dict[str, list[Unit]] = {}
    for one in units:
        group.setdefault(against(one["row"]), []).append(one)

    def order(one: Unit) -> tuple:
        row = one["row"]
        parameter = [(isinstance(value, str), value) for value in row["parameter"].values()]
        noise = row.get("noise", "")
        return *_size(row), noise, parameter, row["instance_seed"], row["curator"] != "uniform", policy(row)

    return {name: sorted(same, key=order) for name, same in group.items()}


def ratio(row: Row) -> float | None:
    """Bound over regret; None without a bound, or where the comparator was beaten."""
    return None if row["bound"]["value"] is None or row["regret"]["mean"] <= 0 else _over(row)


def _over(row: Row) -> float:
    return row["bound"]["value"] / row["regret"]["mean"]


def looseness(units: Iterable[Unit]) -> dict[str, list[tuple[float, bool]]]:
    """(bound / regret, whether the bound is vacuous) at every setting, for each "TEST-BED POLICY" that has a bound."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for one in units:
        row = one["row"]
        value = ratio(row)
        if value is not None:
            found.setdefault(f"{against(row)}  {policy(row)}", []).append((value, row["bound"]["vacuous"]))
    return found


class Theorem(NamedTuple):
    """Which theorem covered an algorithm, and what it was worth; without a ``bound``, ``source`` says why."""

    policy: str
    comparator: str
    bound: str | None
    source: str
    status: str
    units: int
    ratio: list[float]  # bound / regret where regret is positive
    vacuous: int
    informative_from: list[tuple[int, int]]  # (round, horizon) of the units that are not vacuous


def theorems(rows: Iterable[Row]) -> list[Theorem]:
    """One line for every algorithm, comparator and theorem, in the order of the rows."""
    group: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        bound = row["bound"]
        what = bound["name"] if bound["value"] is not None else "", bound["source"], bound["status"]
        group.setdefault((policy(row), row["regret"]["comparator"], *what), []).append(row)
    return [_theorem(what, same) for what, same in sorted(group.items())]


def _theorem(what: tuple[str, ...], rows: list[Row]) -> Theorem:
    name, comparator, bound, source, status = what
    said = [(row["bound"]["informative_from"], row["horizon"]) for row in rows]
    return Theorem(
        policy=name,
        comparator=comparator,
        bound=bound or None,
        source=source,
        status=status,
        units=len(rows),
        ratio=[value for value in map(ratio, rows) if value is not None],
        vacuous=sum(bool(row["bound"]["vacuous"]) for row in rows),
        informative_from=[(first, last) for first, last in said if first is not None],
    )
