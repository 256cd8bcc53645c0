"""Figures of simulations: regret curves, cuts along axes, heat maps, looseness, budgets, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullFormatter

from curbench.report.draw import NUMBERS, STYLE, LogNumbers, colours, number, panels, svg, wrap

Row = dict[str, Any]
ABOVE = 4.0
"""How far above everything that says something an axis goes on: a vacuous bound leaves the picture."""
GREY = "#555555"


def regret_figure(name: str, simulation: list[Row]) -> str:
    """Regret of every curator on one test-bed over rounds, with the interval over seeds.

    Dashed, the bound; dotted, the minimax lower bound, which some test-bed of this size costs every algorithm.
    """
    label = _sim_labels([one["row"] for one in simulation])
    below = len(simulation) > 4  # a long legend would cover the curves
    columns = 1 if max(map(len, label)) > 36 else 2
    label = [wrap(text, 78 if columns == 1 else 40) for text in label]
    height = sum(text.count("\n") + 1 for text in label) / columns + 1
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.4, 3.4 + 0.19 * height if below else 3.6))
        lower: dict[tuple, None] = {}
        for colour, text, one in zip(colours(), label, simulation, strict=False):
            t, curve = np.array(one["round"]), np.array(one["curve"], float)
            axis.plot(t, curve[:, 0], color=colour, label=text)
            axis.fill_between(t, curve[:, 1], curve[:, 2], color=colour, alpha=0.2, linewidth=0)
            if one["bound_curve"] is not None:
                axis.plot(t, np.array(one["bound_curve"], float), color=colour, linestyle="--", linewidth=1)
            if one["lower_curve"] is not None:
                lower[(*one["round"],), (*one["lower_curve"],)] = None
        for t, curve in lower:
            axis.plot(t, np.array(curve, float), color=GREY, linestyle=":", linewidth=1.2)
        negative = min(one["curve"][-1][0] for one in simulation) < 0  # the comparator can be beaten
        axis.set(xlabel="round", ylabel="cumulative regret per draw", title=wrap(name, 62), xscale="log")
        _regret_scale(axis, [number for one in simulation for number in _heights(one["row"])], negative)
        axis.xaxis.set_major_formatter(NUMBERS)
        last = max(one["round"][-1] for one in simulation)
        if last > 10:
            axis.set_xlim(10, last)
        if not negative:
            axis.set_ylim(bottom=max(0.1, axis.get_ylim()[0]))
        axis.plot([], [], color=GREY, linestyle="--", linewidth=1, label="bound")
        if any(np.isfinite(np.array(curve, float)).any() for _, curve in lower):
            axis.plot([], [], color=GREY, linestyle=":", linewidth=1.2, label="minimax lower bound")
        if below:
            figure.legend(loc="outside lower center", ncols=columns, fontsize=8)
        else:
            axis.legend(fontsize=8)
        return svg(figure, f"Regret on {name}")


def _sim_labels(rows: list[Row]) -> list[str]:
    """Curators with hyper-parameters, and with K and m where these differ among the rows."""
    size = [f" K={row['arms_count']} m={row['batch']}" for row in rows]
    hyper = [", ".join(f"{name}={value}" for name, value in row["hyper"].items()) for row in rows]
    return [
        row["curator"] + (at if len(set(size)) > 1 else "") + (f" ({own})" if own else "")
        for row, at, own in zip(rows, size, hyper, strict=True)
    ]


def _heights(row: Row) -> list[float]:
    """What must be seen of a row: its regret, and its bound unless it is vacuous."""
    bound = row["bound"]
    return [row["regret"]["mean"], *([bound["value"]] if bound["value"] is not None and not bound["vacuous"] else [])]


def _regret_scale(axis: Any, heights: list[float], negative: bool) -> None:
    """A log scale, symmetric where the comparator can be beaten, that ends not far above what must be seen."""
    scale: dict[str, Any] = {"value": "symlog", "linthresh": 10} if negative else {"value": "log"}
    axis.set_yscale(**scale)
    axis.yaxis.set_major_formatter(NUMBERS if negative else LogNumbers())
    axis.yaxis.set_minor_formatter(NullFormatter() if negative else LogNumbers())
    top = ABOVE * max(heights)
    if np.isfinite(top) and 0 < top < axis.get_ylim()[1]:
        axis.set_ylim(top=top)


Panel = dict[str, dict[str, list[tuple[Any, Row]]]]
"""Lines of (value on the axis, row) by policy, by title."""


def axis_figure(axis: str, panel: Panel) -> str:
    """Final regret of every policy along a swept axis, with intervals and bounds (dashed), one panel per test-bed."""

    def bounds(at: Any, colour: str, x: list[float], rows: list[Row], style: str) -> None:
        value = [_number(row["bound"]["value"], np.nan) for row in rows]
        at.plot(x, value, color=colour, linestyle=style and "--", marker="" if style else "_", linewidth=1)

    with plt.rc_context(STYLE):
        figure, axes, handle = _along(axis, panel, "regret", bounds)
        for at, line in zip(axes.flat, panel.values(), strict=False):
            rows = [row for points in line.values() for _, row in points]
            heights = [y for row in rows for y in _heights(row)]
            _regret_scale(at, heights, min(row["regret"]["mean"] for row in rows) < 0)
        handle["bound"] = plt.Line2D([], [], color=GREY, linestyle="--", linewidth=1)
        return _with_legend(figure, axes, handle, "regret per draw", f"Regret against {axis}")


def competence_axis_figure(axis: str, panel: Panel) -> str:
    """Final competence under every policy along a swept axis, with intervals, one panel per learner."""
    with plt.rc_context(STYLE):
        figure, axes, handle = _along(axis, panel, "competence", lambda *_: None)
        return _with_legend(figure, axes, handle, "final competence", f"Competence against {axis}")


def _along(axis: str, panel: Panel, of: str, beside: Callable[..., None]) -> tuple[Any, Any, dict[str, Any]]:
    """(figure, axes, handles) with means and intervals of the entry ``of`` of rows along an axis, texts in any order.

    beside  draws what belongs to a line: (axes, colour, positions, rows, line style)
    """
    colour = dict(zip(dict.fromkeys(name for line in panel.values() for name in line), colours(), strict=False))
    columns = min(len(panel), 4)
    lines = -(-(len(colour) + 1) // max(columns, 2))
    figure, axes = panels(len(panel), 4.2 if columns == 1 else 3.0, 2.6, legend_rows=lines)
    for at, (title, line) in zip(axes.flat, panel.items(), strict=False):
        ticks = sorted({x for points in line.values() for x, _ in points})
        texts = isinstance(ticks[0], str)
        style = "" if texts else "-"
        for i, (name, points) in enumerate(line.items()):
            aside = 0.6 * (i + 0.5) / len(line) - 0.3  # texts are far apart: equal values need not cover each other
            x, rows = [ticks.index(x) + aside if texts else x for x, _ in points], [row for _, row in points]
            mean = np.array([row[of]["mean"] for row in rows])
            reach = np.array([[_number(row[of][end], mean[i]) for i, row in enumerate(rows)] for end in ("lo", "hi")])
            mark = {"color": colour[name], "marker": "o", "markersize": 3, "capsize": 2}
            at.errorbar(x, mean, np.abs(reach - mean), linestyle=style, **mark)
            beside(at, colour[name], x, rows, style)
        at.set_title(wrap(title, 40), fontsize=8)
        at.set_xlabel(axis)
        if texts:
            at.set_xticks(range(len(ticks)), [wrap(tick.replace(":", " "), 10) for tick in ticks], fontsize=7)
            at.set_xlim(-0.5, len(ticks) - 0.5)
        else:
            _number_axis(at, ticks)
    return figure, axes, {name: plt.Line2D([], [], color=c, marker="o", markersize=3) for name, c in colour.items()}


def _with_legend(figure: Any, axes: Any, handle: dict[str, Any], what: str, title: str) -> str:
    for row in axes:
        row[0].set_ylabel(what)
    name = [wrap(text, 60) for text in handle]
    figure.legend(handle.values(), name, loc="outside lower center", ncols=max(axes.shape[1], 2), fontsize=8)
    return svg(figure, title)


def _number_axis(at: Any, ticks: list[float]) -> None:
    """Ticks at the swept values, on a log scale where all are positive."""
    at.set_xscale("log" if min(ticks) > 0 else "symlog", **({} if min(ticks) > 0 else {"linthresh": 1}))
    at.set_xticks(ticks, [number(x) for x in ticks], fontsize=8)
    at.xaxis.set_minor_formatter(NullFormatter())
    if min(ticks) == 0:
        at.set_xlim(left=-0.3)


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def heat_figure(title: str, x: str, y: str, panel: dict[tuple[str, str], dict[tuple[float, float], float]]) -> str:
    """A number in each cell over two swept axes, one panel per test-bed and policy, all on one colour scale."""
    value = [number for cell in panel.values() for number in cell.values()]
    norm = LogNorm(min(value), max(max(value), 1.01 * min(value)))
    with plt.rc_context(STYLE | {"axes.grid": False}):
        across = min(6, len({policy for _, policy in panel}))
        cells = [({c for c, _ in cell}, {r for _, r in cell}) for cell in panel.values()]
        width = max(2.3, 0.42 * max(len(column) for column, _ in cells) + 0.6)
        height = max(1.9, 0.24 * max(len(line) for _, line in cells) + 0.9)
        figure, axes = panels(len(panel), width, height, columns=across)
        for at, (name, cell) in zip(axes.flat, panel.items(), strict=False):
            column, line = sorted({key[0] for key in cell}), sorted({key[1] for key in cell})
            table = np.array([[cell.get((c, r), np.nan) for c in column] for r in line])
            image = at.pcolormesh(table, norm=norm, cmap="viridis", edgecolors="white", linewidth=0.5)
            for (i, j), entry in np.ndenumerate(table):
                if np.isfinite(entry):
                    ink = "white" if norm(entry) < 0.6 else "black"
                    at.text(j + 0.5, i + 0.5, f"{entry:.2g}", color=ink, ha="center", va="center", fontsize=7)
            at.set_xticks(np.arange(len(column)) + 0.5, [number(c) for c in column], fontsize=7)
            at.set_yticks(np.arange(len(line)) + 0.5, [number(r) for r in line], fontsize=7)
            at.set_title("\n".join(wrap(part, int(13 * width)) for part in name), fontsize=8)
            at.set(xlabel=x, ylabel=y)
        bar = figure.colorbar(image, ax=axes, label=title, aspect=30, format=LogNumbers())
        bar.minorformatter = LogNumbers()
        return svg(figure, f"{title} over {x} and {y}")


WIDEST = 1e4
"""Bound over regret from which on a figure only says that it is further out."""


def looseness_figure(ratio: dict[str, list[tuple[float, bool]]]) -> str:
    """Bound over regret, a dot per setting, a line per algorithm and test-bed; hollow where the bound is vacuous."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 1.0 + 0.22 * len(ratio)))
        for y, (colour, points) in enumerate(zip(colours(), ratio.values(), strict=False)):
            for vacuous in (False, True):
                x = [value for value, says_nothing in points if says_nothing == vacuous]
                fill = "none" if vacuous else colour
                for mark, at in (
                    ("o", [one for one in x if one <= WIDEST]),
                    (">", [WIDEST for one in x if one > WIDEST]),
                ):
                    axis.plot(at, [y] * len(at), mark, color=colour, markerfacecolor=fill, markersize=5)
        axis.axvline(1, color="#333333", linewidth=0.8)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(NUMBERS)
        axis.xaxis.set_minor_formatter(NullFormatter())
        _rows(axis, list(ratio))
        axis.set_xlabel("bound / regret (left of 1: violated; hollow: vacuous; arrow: above 10,000)")
        return svg(figure, "Looseness of the bounds")


def _rows(axis: Any, name: list[str]) -> None:
    """Names down the left side, the first on top."""
    axis.set_yticks(range(len(name)), [wrap(text, 64) for text in name], fontsize=8)
    axis.set_ylim(len(name) - 0.5, -0.5)


PARTS = {"penalty": "#3366aa", "stability": "#cc5533", "floor": "#aa8822", "drift": "#8855aa"}
LEFTMOST = -0.6


def budget_figure(spent: dict[str, Row]) -> str:
    """What the regret of mirror steps consisted of, above the parts of the bound, both as shares of the bound.

    spent  rows with a budget, by name; a dot is the regret itself
    """
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axis = plt.subplots(figsize=(8.4, 1.3 + 0.34 * len(spent)))
        for y, row in enumerate(spent.values()):
            total = sum(row["budget"][part]["bound"] for part in PARTS)
            for value, lift, alpha in (("mean", -0.18, 1.0), ("bound", 0.18, 0.45)):
                left, right = 0.0, 0.0
                for part, colour in PARTS.items():
                    share = row["budget"][part][value] / total
                    start = right if share >= 0 else left
                    axis.barh(y + lift, share, 0.34, left=start, color=colour, alpha=alpha, linewidth=0)
                    left, right = left + min(share, 0.0), right + max(share, 0.0)
            axis.plot(row["regret"]["mean"] / total, y - 0.18, "o", color="black", markersize=4)
        axis.axvline(1, color="#333333", linewidth=0.8)
        axis.axvline(0, color="#333333", linewidth=0.8)
        axis.set_xlim(left=max(axis.get_xlim()[0], LEFTMOST), right=1.05)
        _rows(axis, list(spent))
        axis.set_xlabel("share of the bound (dark: spent; light: allowed; dot: regret)")
        handle = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in PARTS.values()]
        figure.legend(handle, PARTS, loc="outside lower center", ncols=4, fontsize=8)
        return svg(figure, "What the regret consisted of")


def competence_figure(name: str, curve: dict[str, Row]) -> str:
    """Held-out competence of a learner against generated tokens: mean and 95 % interval over seeds, by policy.

    curve  lists tokens, mean, lo, hi by policy; lo and hi may hold None
    """
    label = [wrap(policy, 40) for policy in curve]
    height = sum(text.count("\n") + 1 for text in label) / 2
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.4, 3.6 + 0.19 * height))
        for colour, text, one in zip(colours(), label, curve.values(), strict=False):
            tokens, mean, lo, hi = (np.array(one[part], float) for part in ("tokens", "mean", "lo", "hi"))
            axis.plot(tokens, mean, color=colour, label=text)
            axis.fill_between(tokens, lo, hi, color=colour, alpha=0.2, linewidth=0)
        target = {one["row"]["target"] for one in curve.values()}
        if len(target) == 1 and max(target) <= max(max(one["mean"]) for one in curve.values()):
            axis.axhline(*target, color=GREY, linestyle=":", linewidth=1, label="target")
        axis.set(xlabel="generated tokens", ylabel="held-out competence", title=wrap(name, 62))
        axis.xaxis.set_major_formatter(NUMBERS)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return svg(figure, f"Learning curves on {name}")


Cells = dict[tuple[str, str], dict[tuple[float, float], float]]


def complete(cells: Cells) -> Cells:
    """The panels that hold a full table of at least two by two."""

    def full(cell: Iterable[tuple[float, float]]) -> bool:
        at = set(cell)
        columns, rows = {c for c, _ in at}, {r for _, r in at}
        return min(len(columns), len(rows)) > 1 and len(at) == len(columns) * len(rows)

    return {name: cell for name, cell in cells.items() if full(cell)}
