"""Figures as inline SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from itertools import cycle, islice
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter

from curbench.report.training import Curve
from curbench.types import Array

COLOUR = (
    *("#3366aa", "#cc5533", "#228855", "#8855aa", "#aa8822", "#447788", "#884455", "#666666"),
    *("#66aadd", "#ee9977", "#77bb66", "#bb99dd"),
)
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def svg(figure: Figure, title: str) -> str:
    """The figure as one <svg> element that says what it shows; identical figures give identical text."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def regret_figure(name: str, simulation: list[dict[str, Any]]) -> str:
    """Regret of every curator on one test-bed over rounds, with the interval over seeds and the bound, dashed."""
    with plt.rc_context(STYLE):
        below = len(simulation) > 4  # a long legend would cover the curves
        columns = 1 if max(len(_sim_label(one["row"])) for one in simulation) > 36 else 2
        rows = len(simulation) // columns + 1
        figure, axis = plt.subplots(figsize=(5.4, 3.4 + 0.2 * rows if below else 3.6))
        for colour, one in zip(_colours(), simulation, strict=False):
            t, curve = np.array(one["round"]), np.array(one["curve"], float)
            axis.plot(t, curve[:, 0], color=colour, label=_sim_label(one["row"]))
            axis.fill_between(t, curve[:, 1], curve[:, 2], color=colour, alpha=0.2, linewidth=0)
            if one["bound_curve"] is not None:
                axis.plot(t, np.array(one["bound_curve"], float), color=colour, linestyle="--", linewidth=1)
        negative = min(one["curve"][-1][0] for one in simulation) < 0  # the comparator can be beaten
        scale: dict[str, Any] = {"value": "symlog", "linthresh": 10} if negative else {"value": "log"}
        axis.set(xlabel="round", ylabel="cumulative regret per draw", title=name, xscale="log")
        axis.set_yscale(**scale)
        if max(one["round"][-1] for one in simulation) > 10:
            axis.set_xlim(left=10)
        if not negative:
            axis.set_ylim(bottom=max(0.1, axis.get_ylim()[0]))
        axis.plot([], [], color="#555555", linestyle="--", linewidth=1, label="bound")
        if below:
            figure.legend(loc="outside lower center", ncols=columns, fontsize=8)
        else:
            axis.legend(fontsize=8)
        return svg(figure, f"Regret on {name}")


def _sim_label(row: dict[str, Any]) -> str:
    hyper = ", ".join(f"{k}={v}" for k, v in row["hyper"].items())
    return f"{row['curator']} K={row['arms_count']} m={row['batch']}" + (f" ({hyper})" if hyper else "")


def axis_figure(axis: str, panel: dict[str, dict[str, list[tuple[float, dict[str, Any]]]]]) -> str:
    """Final regret of every policy along a swept axis, with intervals and bounds (dashed), one panel per test-bed."""
    colour = dict(zip(dict.fromkeys(name for line in panel.values() for name in line), _colours(), strict=False))
    with plt.rc_context(STYLE):
        columns = min(len(panel), 4)
        figure, axes = _panels(len(panel), 3.0, 2.6, legend_rows=-(-(len(colour) + 1) // columns))
        for at, (title, line) in zip(axes.flat, panel.items(), strict=False):
            for name, points in line.items():
                x, rows = zip(*points, strict=True)
                mean = np.array([row["regret"]["mean"] for row in rows])
                reach = np.array([[_number(row["regret"][end], mean[i]) for i, row in enumerate(rows)] for end in ENDS])
                error = np.abs(reach - mean)
                at.errorbar(x, mean, error, color=colour[name], marker="o", markersize=3, capsize=2, label=name)
                bound = [_number(row["bound"]["value"], np.nan) for row in rows]
                at.plot(x, bound, color=colour[name], linestyle="--", linewidth=1)
            at.set_title(title, fontsize=8)
            at.set(xlabel=axis, yscale="log", xscale="symlog" if axis == "delay" else "log")
            ticks = sorted({x for points in line.values() for x, _ in points})
            at.set_xticks(ticks, [f"{x:g}" for x in ticks], fontsize=8)
            at.xaxis.set_minor_formatter(NullFormatter())
            if axis == "delay":
                at.set_xlim(left=-0.3)
            at.yaxis.set_major_formatter(PlainLogFormatter())
            at.yaxis.set_minor_formatter(PlainLogFormatter())
        for row in axes:
            row[0].set_ylabel("regret per draw")
        handle = [plt.Line2D([], [], color=shade, marker="o", markersize=3) for shade in colour.values()]
        handle.append(plt.Line2D([], [], color="#555555", linestyle="--", linewidth=1))
        figure.legend(handle, [*colour, "bound"], loc="outside lower center", ncols=columns, fontsize=8)
        return svg(figure, f"Regret against {axis}")


class PlainLogFormatter(LogFormatter):
    """Labels the ticks that matplotlib would, with plain numbers: 0.3 and not 3e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


ENDS = ("lo", "hi")


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def heat_figure(title: str, x: str, y: str, panel: dict[tuple[str, str], dict[tuple[float, float], float]]) -> str:
    """A number in each cell over two swept axes, one panel per test-bed and policy, all on one colour scale."""
    value = [number for cell in panel.values() for number in cell.values()]
    norm = LogNorm(min(value), max(max(value), 1.01 * min(value)))
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = _panels(len(panel), 2.3, 1.9, columns=min(6, len({policy for _, policy in panel})))
        for at, (name, cell) in zip(axes.flat, panel.items(), strict=False):
            column, line = sorted({key[0] for key in cell}), sorted({key[1] for key in cell})
            table = np.array([[cell.get((c, r), np.nan) for c in column] for r in line])
            image = at.pcolormesh(table, norm=norm, cmap="viridis", edgecolors="white", linewidth=0.5)
            for (i, j), number in np.ndenumerate(table):
                ink = "white" if np.isnan(number) or norm(number) < 0.6 else "black"
                at.text(j + 0.5, i + 0.5, f"{number:.2g}", color=ink, ha="center", va="center", fontsize=7)
            at.set_xticks(np.arange(len(column)) + 0.5, [f"{c:g}" for c in column], fontsize=7)
            at.set_yticks(np.arange(len(line)) + 0.5, [f"{r:g}" for r in line], fontsize=7)
            at.set_title("\n".join(name), fontsize=8)
            at.set(xlabel=x, ylabel=y)
        bar = figure.colorbar(image, ax=axes, label=title, aspect=30, format=PlainLogFormatter())
        bar.minorformatter = PlainLogFormatter()
        return svg(figure, f"{title} over {x} and {y}")


def looseness_figure(ratio: dict[str, list[tuple[float, bool]]]) -> str:
    """Bound over regret, a dot per setting, a line per algorithm and test-bed; hollow where the bound is vacuous."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 1.0 + 0.22 * len(ratio)))
        for y, (colour, points) in enumerate(zip(_colours(), ratio.values(), strict=False)):
            for vacuous in (False, True):
                x = [value for value, says_nothing in points if says_nothing == vacuous]
                fill = "none" if vacuous else colour
                axis.plot(x, [y] * len(x), "o", color=colour, markerfacecolor=fill, markersize=5)
        axis.axvline(1, color="#333333", linewidth=0.8)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        axis.set_yticks(range(len(ratio)), ratio, fontsize=8)
        axis.set_ylim(len(ratio) - 0.5, -0.5)
        axis.set_xlabel("bound / regret (left of 1: violated; hollow: the bound is vacuous)")
        return svg(figure, "Looseness of the bounds")


def _panels(count: int, width: float, height: float, columns: int = 4, legend_rows: int = 1) -> tuple[Figure, Any]:
    """A figure with ``count`` visible panels in rows of at most ``columns``, and room for a legend below."""
    columns = min(count, columns)
    rows = -(-count // columns)
    size = (width * columns + 0.8, height * rows + 0.4 + 0.2 * legend_rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes


def ratio_figure(rows: list[dict[str, Any]]) -> str:
    """How many times faster than each peer, one dot per row, on a log axis with the break-even line."""
    rows = [row for row in rows if row["ratio"] is not None]
    label = [f"{row['op']} {row['shape']} {row['backend']} vs {row['peer']}" for row in rows]
    ops = list(dict.fromkeys(row["op"] for row in rows))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 0.6 + 0.24 * len(rows)))
        for y, row in enumerate(rows):
            colour = COLOUR[ops.index(row["op"]) % len(COLOUR)]
            axis.plot([1, row["ratio"]], [y, y], color=colour, linewidth=1.5)
            axis.plot(row["ratio"], y, "o", color=colour, markersize=5)
            text = f"{row['ratio']:,.{2 if row['ratio'] < 10 else 0}f}x"
            axis.annotate(text, (row["ratio"], y), (6, -3), textcoords="offset points", fontsize=8)
        axis.axvline(1, color="#333333", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yticks(range(len(rows)), label, fontsize=8)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}x"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(x=0.12)
        axis.invert_yaxis()
        axis.set_xlabel("time of the peer / time of curbench (right of 1x: curbench is faster)")
        return svg(figure, "Kernel time ratios")


def learning_figure(suite: str, curve: dict[str, Curve]) -> str:
    """Held-out pass rate against generated tokens: mean over seeds, band over problems, thin lines per seed."""
    label = {name: fill(name, 100) for name in curve}
    lines = sum(text.count("\n") + 1 for text in label.values())
    below = max(map(len, curve)) > 40  # long labels would cover the curves
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 4.2 + 0.18 * lines * below))
        for colour, (name, one) in zip(_colours(), curve.items(), strict=False):
            axis.plot(one.tokens, one.mean, color=colour, linewidth=2, marker="o", markersize=3, label=label[name])
            axis.fill_between(one.tokens, one.lo, one.hi, color=colour, alpha=0.12, linewidth=0)
            for tokens, rate in one.seed:
                axis.plot(tokens, rate, color=colour, linewidth=0.6, alpha=0.6)
        axis.set(xlabel="generated training tokens, rejected ones included", ylabel="held-out pass rate", title=suite)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x else "0"))
        if below:
            figure.legend(fontsize=8, loc="outside lower center")
        else:
            axis.legend(fontsize=8, loc="lower right")
        return svg(figure, f"Learning curves on {suite}")


def stratum_figure(share: dict[str, tuple[Array, Array]], names: tuple[str, ...]) -> str:
    """What share of the selected problems came from each stratum over the steps, one panel per curator."""
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = _panels(len(share), 2.6, 2.3)
        for axis, (name, (step, part)) in zip(axes.flat, share.items(), strict=False):
            axis.stackplot(step, part.T, colors=[*islice(_colours(), len(names))], labels=names, alpha=0.85)
            axis.set(title=name, xlabel="step", ylim=(0, 1), xlim=(step[0], step[-1]) if step.size > 1 else None)
        axes[0, 0].set_ylabel("share of selected problems")
        handle, label = axes[0, 0].get_legend_handles_labels()
        figure.legend(handle, label, loc="outside lower center", ncols=min(len(names), 6), fontsize=8)
        return svg(figure, "Strata chosen over time")


def _colours() -> Iterator[str]:
    return cycle(COLOUR)
