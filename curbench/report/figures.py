"""Figures as inline SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from itertools import cycle, islice
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from curbench.report.training import Curve
from curbench.types import Array

COLOUR = ("#3366aa", "#cc5533", "#228855", "#8855aa", "#aa8822", "#447788", "#884455", "#666666")
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
        figure, axis = plt.subplots(figsize=(5.4, 3.6))
        for colour, one in zip(_colours(), simulation, strict=False):
            t, curve = np.array(one["round"]), np.array(one["curve"], float)
            axis.plot(t, curve[:, 0], color=colour, label=_sim_label(one["row"]))
            axis.fill_between(t, curve[:, 1], curve[:, 2], color=colour, alpha=0.2, linewidth=0)
            if one["bound_curve"] is not None:
                axis.plot(t, np.array(one["bound_curve"], float), color=colour, linestyle="--", linewidth=1)
        axis.set(xlabel="round", ylabel="cumulative regret per draw", title=name, yscale="log", xscale="log")
        if max(one["round"][-1] for one in simulation) > 10:
            axis.set_xlim(left=10)
        axis.set_ylim(bottom=max(0.1, axis.get_ylim()[0]))
        axis.plot([], [], color="#555555", linestyle="--", linewidth=1, label="bound")
        axis.legend(fontsize=8)
        return svg(figure, f"Regret on {name}")


def _sim_label(row: dict[str, Any]) -> str:
    hyper = ", ".join(f"{k}={v}" for k, v in row["hyper"].items())
    return f"{row['curator']} K={row['arms_count']} m={row['batch']}" + (f" ({hyper})" if hyper else "")


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
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 4.2))
        for colour, (name, one) in zip(_colours(), curve.items(), strict=False):
            axis.plot(one.tokens, one.mean, color=colour, linewidth=2, marker="o", markersize=3, label=name)
            axis.fill_between(one.tokens, one.lo, one.hi, color=colour, alpha=0.12, linewidth=0)
            for tokens, rate in one.seed:
                axis.plot(tokens, rate, color=colour, linewidth=0.6, alpha=0.6)
        axis.set(xlabel="generated training tokens, rejected ones included", ylabel="held-out pass rate", title=suite)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x else "0"))
        axis.legend(fontsize=8, loc="lower right")
        return svg(figure, f"Learning curves on {suite}")


def stratum_figure(share: dict[str, tuple[Array, Array]], names: tuple[str, ...]) -> str:
    """What share of the selected problems came from each stratum over the steps, one panel per curator."""
    with plt.rc_context(STYLE | {"axes.grid": False}):
        columns = min(len(share), 4)
        rows = -(-len(share) // columns)
        size = (2.6 * columns + 0.8, 2.3 * rows + 0.4)
        figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
        for axis in axes.flat[len(share) :]:
            axis.set_visible(False)
        for axis, (name, (step, part)) in zip(axes.flat, share.items(), strict=False):
            axis.stackplot(step, part.T, colors=[*islice(_colours(), len(names))], labels=names, alpha=0.85)
            axis.set(title=name, xlabel="step", ylim=(0, 1), xlim=(step[0], step[-1]) if step.size > 1 else None)
        axes[0, 0].set_ylabel("share of selected problems")
        handle, label = axes[0, 0].get_legend_handles_labels()
        figure.legend(handle, label, loc="outside lower center", ncols=min(len(names), 6), fontsize=8)
        return svg(figure, "Strata chosen over time")


def _colours() -> Iterator[str]:
    return cycle(COLOUR)
