"""The page's sections about simulations: single ones, sweeps of test-beds, sweeps of learners."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from itertools import combinations
from typing import Any

import numpy as np

from curbench.report import sim_figures
from curbench.report.markup import figure, interval, note, table
from curbench.report.sweep import (
    CATEGORIES,
    Slope,
    Theorem,
    Unit,
    against,
    by_test_bed,
    cut,
    held,
    lines,
    looseness,
    policy,
    settings,
    slopes,
    swept,
    theorems,
)
from curbench.sim.axes import label
from curbench.sim.simulate import failed


def simulations(simulation: list[dict[str, Any]]) -> Iterable[str]:
    if not simulation:
        return
    yield "<h2>Simulated regret against proved bounds</h2>"
    yield note(
        "Mean over seeds with a 95 % interval; dashed, the bound at the step size and floor that ran; dotted, the "
        "minimax lower bound, which some test-bed of this size costs every algorithm and this one need not. A bound is "
        "tested on the conditional mean (p_form) of the regret with a one-sided 99.9 % limit; the certificate is "
        "an inequality that every single step of a correct curator satisfies, recomputed from the logged draws."
    )
    for name in dict.fromkeys(one["row"]["arms"] for one in simulation):
        yield figure(sim_figures.regret_figure(name, [one for one in simulation if one["row"]["arms"] == name]))
    rows = [one["row"] for one in simulation]
    yield from _budget({f"{against(row)} {policy(row)} K={row['arms_count']} m={row['batch']}": row for row in rows})
    yield from _theorems(theorems(rows))
    yield table(SIMULATION_HEAD, [_simulation_row(row) for row in rows])


def sweep(units: list[Unit]) -> Iterable[str]:
    if not units:
        return
    yield "<h2>Sweep</h2>"
    yield note(
        "Final regret per draw, the mean over seeds with a 95 % interval; dashed, the bound at the step size and floor "
        "that ran; dotted, the minimax lower bound, which some test-bed of this size costs every algorithm and this "
        "one need not. Vacuous bounds may lie above a picture. A panel holds the settings that are not on its axes "
        "fixed, where most of the units are; of equally many, at the largest T and K and the smallest m and delay. The "
        "table at the end has every unit."
    )
    bed = by_test_bed(units)
    shown = {name: cut(same) for name, same in bed.items()}
    for name, same in shown.items():
        yield figure(sim_figures.regret_figure(f"{name}  {held(same)}", same))
    axes = dict.fromkeys(axis for same in bed.values() for axis in swept(same))
    yield from _along(axes, bed, sim_figures.axis_figure)
    numbers = [axis for axis in axes if axis in settings(units[0]["row"]) and axis not in CATEGORIES]
    for x, y in combinations(sorted(numbers), 2):
        for title, of in HEAT.items():
            cells = sim_figures.complete(_heat(bed, x, y, of))
            if cells:
                yield figure(sim_figures.heat_figure(title, x, y, cells))
    yield from _budget({f"{name}  {policy(one['row'])}": one["row"] for name, same in shown.items() for one in same})
    ratio = looseness(unit for same in bed.values() for unit in same)
    if ratio:
        yield "<h3>How loose the bounds are</h3>"
        yield figure(sim_figures.looseness_figure(ratio))
    yield from _theorems(theorems(one["row"] for same in bed.values() for one in same))
    yield from _slope_table(slopes(units))
    yield f"<h3>All {len(units)} units</h3>"
    yield table(SIMULATION_HEAD, [_simulation_row(one["row"]) for same in bed.values() for one in same])


def _along(axes: Iterable[str], bed: dict[str, list[Unit]], draw: Callable[[str, Any], str]) -> Iterable[str]:
    """A figure for every swept axis, with a panel for each test-bed or learner that varies on it."""
    for axis in axes:
        panel = {f"{name}\n{held(cut(same, axis), axis)}": lines(same, axis) for name, same in bed.items()}
        shown = {title: line for title, line in panel.items() if line}
        if shown:
            yield figure(draw(axis, shown))


def _budget(rows: dict[str, dict[str, Any]]) -> Iterable[str]:
    kept = {name: row for name, row in rows.items() if row["budget"] is not None}
    if kept:
        yield "<h3>What the regret consisted of</h3>"
        yield note(
            "A bound made of parts bounds each part of the regret: the penalty for starting elsewhere and following "
            "the comparator, the stability of the steps, the cost of the exploration floor, and under a variation "
            "budget the drift within blocks. Spent and allowed, as shares of the bound; means over up to 40 seeds. The "
            "parts spent add up to more than the regret by what the one-step inequality leaves open."
        )
        yield figure(sim_figures.budget_figure(kept))


THEOREM_HEAD = (
    *("curator", "regret to", "bound", "theorem", "standing", "units", "bound / regret: median [range]"),
    *("vacuous in", "says something from round"),
)


def _theorems(found: list[Theorem]) -> Iterable[str]:
    yield "<h3>Which theorem covers which algorithm</h3>"
    yield note(
        "A bound is vacuous where always playing the worst arm would regret less. Proved bounds can fail a run; those "
        "called plotted have constants that were not checked against a proof. Without a theorem, the reason."
    )
    yield table(THEOREM_HEAD, [_theorem_row(one) for one in found], css="wrap")


def _short(value: float) -> str:
    """With one decimal, or in powers of ten where nobody reads the digits."""
    return f"{value:,.1f}" if value < 1e7 else f"{value:.1e}"


def _theorem_row(one: Theorem) -> list[str]:
    first = sorted(one.informative_from)
    span = "" if not first else f"{first[0][0]:,} of {first[0][1]:,}"
    if len(first) > 1 and first[-1] != first[0]:
        span += f" to {first[-1][0]:,} of {first[-1][1]:,}"
    loose = ""
    if one.ratio:
        loose = f"{_short(np.median(one.ratio))} [{_short(min(one.ratio))}, {_short(max(one.ratio))}]"
    return [
        *map(escape, (one.policy, one.comparator, one.bound or "none", one.source, one.status)),
        str(one.units),
        loose,
        f"{one.vacuous} of {one.units}" if one.bound else "",
        span,
    ]


HEAT: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "regret per round": lambda row: row["regret"]["mean"] / row["horizon"],
    "regret / bound": lambda row: row["bound"]["value"] and row["regret"]["mean"] / row["bound"]["value"],
}


def _heat(
    bed: dict[str, list[Unit]], x: str, y: str, of: Callable[[dict[str, Any]], float | None]
) -> dict[tuple[str, str], dict[tuple[float, float], float]]:
    """Cells (x, y) for every (test-bed, policy) with both axes swept."""
    panel: dict[tuple[str, str], dict[tuple[float, float], float]] = {}
    for name, same in bed.items():
        shown = cut(same, x, y)
        if not {x, y} <= set(swept(shown)):
            continue
        for row in (one["row"] for one in shown):
            at, value = settings(row), of(row)
            if value is not None and value > 0 and all(isinstance(at[axis], int | float) for axis in (x, y)):
                panel.setdefault((f"{name}  {held(shown, x, y)}", policy(row)), {})[at[x], at[y]] = value
    return panel


def learners(units: list[Unit]) -> Iterable[str]:
    if not units:
        return
    yield "<h2>Simulated learners</h2>"
    yield note(
        "Held-out competence, exact, against generated tokens: the mean over seeds with a 95 % interval. Oracle regret "
        "compares every step with the most valuable one along the run's own path, to first order, in units of "
        "competence. Wasted rollouts are those of groups whose rewards were all equal. Tokens to the target, halfway "
        "from the start to 1, are the median over all seeds."
    )
    bed = by_test_bed(units)
    shown = {name: cut(same) for name, same in bed.items()}
    for name, same in shown.items():
        curve = {policy(one["row"]): one for one in same}
        yield figure(sim_figures.competence_figure(f"{name}  {held(same)}", curve))
    yield from _along(
        dict.fromkeys(axis for same in bed.values() for axis in swept(same)), bed, sim_figures.competence_axis_figure
    )
    yield f"<h3>All {len(units)} units</h3>"
    yield table(LEARNER_HEAD, [_learner_row(one["row"]) for same in bed.values() for one in _best_first(same)])


def _best_first(units: list[Unit]) -> list[Unit]:
    """Units of one learner, setting by setting, the highest final competence first."""
    held = {str(settings(one["row"])): None for one in units}
    order = list(held)
    return sorted(units, key=lambda one: (order.index(str(settings(one["row"]))), -one["row"]["competence"]["mean"]))


LEARNER_HEAD = (
    *("learner / curator", "B", "G", "delay", "seeds", "steps", "tokens", "start", "competence", "mean over tokens"),
    *("tokens to target", "reached", "wasted", "oracle regret"),
)


def _learner_row(row: dict[str, Any]) -> list[str]:
    arrival = row["tokens_to_target"]
    return [
        escape(f"{label(row['learner'], row['parameter'])} / {policy(row)}"),
        *(escape(str(row[name])) for name in ("batch", "group", "delay", "seeds")),
        *(f"{row[name]:,}" for name in ("steps", "tokens")),
        f"{row['start']:.3f}",
        _span(row["competence"], 3),
        f"{row['area']['mean']:.3f}",
        "" if arrival is None else f"{arrival:,.0f}",
        f"{row['reached']} of {row['seeds']}",
        f"{row['wasted']['mean']:.2f}",
        "" if row["regret"] is None else _span(row["regret"], 2),
    ]


def _span(value: dict[str, Any], digits: int) -> str:
    text = f"{value['mean']:.{digits}f}"
    return text if value["lo"] is None else f"{text} [{value['lo']:.{digits}f}, {value['hi']:.{digits}f}]"


SLOPE_HEAD = ("test-bed", "curator", "axis", "held at", "slope of regret", "slope of its bound", "points")


def _slope_table(found: list[Slope]) -> Iterable[str]:
    if not found:
        return
    yield "<h3>How regret grows</h3>"
    yield note(
        "Exponent b in regret = a x^b, by least squares on log axes, with a 95 % t interval from the residuals: it "
        "widens with noise and with every departure from a power law, and two points have none."
    )
    rows = [
        [
            *map(escape, (one.arms, one.policy, one.axis, one.at)),
            *("" if slope is None else interval(slope) for slope in (one.regret, one.bound)),
            "" if one.regret is None else str(one.regret.n),
        ]
        for one in found
    ]
    yield table(SLOPE_HEAD, rows)


SIMULATION_HEAD = (
    *("test-bed / curator", "K", "T", "m", "delay", "noise", "seeds", "regret", "kind", "bound", "value", "verdict"),
    *("smallest slack", "us/round"),
)


def _simulation_row(row: dict[str, Any]) -> list[str]:
    regret, bound, certificate = row["regret"], row["bound"], row["certificate"]
    broken = failed(row)
    untested = "open" if bound.get("status") == "proved" else "plotted"  # only what is proved can fail
    verdict = {True: "holds", False: "violated", None: "" if bound["value"] is None else untested}[row["holds"]]
    if certificate["holds"] is False:
        verdict += ", certificate violated"
    if row["budget"] is not None and not row["budget"]["holds"]:
        verdict += ", budget violated"
    span = "" if regret["lo"] is None else f" [{regret['lo']:.1f}, {regret['hi']:.1f}]"
    return [
        escape(f"{label(row['arms'], row.get('parameter', {}))} / {label(row['curator'], row['hyper'])}"),
        *(escape(str(row[name])) for name in ("arms_count", "horizon", "batch")),
        escape(str(row.get("delay", 0))),
        escape(row["noise"]),
        escape(str(row["seeds"])),
        f"{regret['mean']:.1f}{span}",
        escape(f"{regret['comparator']}, {regret['kind']}"),
        f'<span title="{escape(bound["source"] or "")}">{escape(bound["name"])}</span>',
        "" if bound["value"] is None else _short(bound["value"]) + (" (vacuous)" if bound["vacuous"] else ""),
        f'<span class="bad">{verdict}</span>' if broken else verdict,
        "" if certificate["min_slack"] is None else f"{certificate['min_slack']:.1e}",
        escape(f"{row['us_per_round']:.2f} {row['driver']}"),
    ]
