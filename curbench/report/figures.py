"""Figures of kernel timings and of training runs."""

from __future__ import annotations

from itertools import islice
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from curbench.report.draw import COLOUR, NUMBERS, STYLE, colours, panels, svg, wrap
from curbench.report.training import Curve
from curbench.types import Array


def ratio_figure(op: str, rows: list[dict[str, Any]]) -> str:
    """How many times faster than each peer, one dot per row, on a log axis with the break-even line."""
    rows = [row for row in rows if row["ratio"] is not None]
    label = [f"{_case(row)} vs {row['peer']}" for row in rows]
    cases = list(dict.fromkeys(map(_case, rows)))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 0.6 + 0.2 * len(rows)))
        for y, row in enumerate(rows):
            colour = COLOUR[cases.index(_case(row)) % len(COLOUR)]
            axis.plot([1, row["ratio"]], [y, y], color=colour, linewidth=1.5)
            axis.plot(row["ratio"], y, "o", color=colour, markersize=5)
            if row.get("target") is not None:
                axis.plot(row["target"], y, "|", color="#333333", markersize=9)
            text = f"{row['ratio']:,.{2 if row['ratio'] < 10 else 0}f}x"
            axis.annotate(text, (row["ratio"], y), (6, -3), textcoords="offset points", fontsize=7)
        axis.axvline(1, color="#333333", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yticks(range(len(rows)), label, fontsize=7)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}x"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(x=0.12, y=0.6 / max(1, len(rows)))
        axis.invert_yaxis()
        axis.set_xlabel("time of the peer / time of curbench (right of 1x: curbench is faster; bar: target)")
        return svg(figure, f"Time ratios of {op}")


def time_figure(op: str, rows: list[dict[str, Any]]) -> str:
    """Time against size, log-log: one panel per variant, a line for ours and one for each peer."""
    kinds = list(dict.fromkeys(map(_kind, rows)))
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    with plt.rc_context(STYLE):
        figure, axes = panels(len(kinds), 2.9, 2.5, columns=3, legend_rows=-(-(len(peers) + 1) // 4))
        for axis, kind in zip(axes.flat, kinds, strict=False):
            own = [row for row in rows if _kind(row) == kind]
            for peer, colour in zip(peers, colours(), strict=False):
                line = sorted((_size(row), row["peer_us"]) for row in own if row["peer"] == peer and row["peer_us"])
                axis.plot(*zip(*line, strict=True) if line else ([], []), "o-", color=colour, markersize=3, label=peer)
            best = {_size(row): row["us"] for row in sorted(own, key=lambda row: -row["us"])}
            axis.plot(*zip(*sorted(best.items()), strict=True), "ko-", markersize=3, linewidth=2, label="curbench")
            axis.set(title=kind, xscale="log", yscale="log", xlabel="entries", ylabel="us")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(LogLocator(numticks=5))
                side.set_major_formatter(NUMBERS)
                side.set_minor_formatter(NullFormatter())
            axis.margins(0.1)
        handle, label = axes[0, 0].get_legend_handles_labels()
        figure.legend(handle, label, loc="outside lower center", ncols=4, fontsize=8)
        return svg(figure, f"Time against size of {op}")


def ceiling_figure(rows: list[dict[str, Any]]) -> str:
    """The share of what the machine can do that each shape of each op attains, as bars."""
    share = {
        f"{row['op']} {_case(row)}": row["fraction_of_ceiling"]
        for row in rows
        if row["fraction_of_ceiling"] is not None
    }
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 0.8 + 0.2 * len(share)))
        axis.barh(range(len(share)), list(share.values()), color=COLOUR[0], height=0.7)
        axis.axvline(1, color="#333333", linewidth=0.8)
        axis.set_yticks(range(len(share)), list(share), fontsize=7)
        axis.margins(y=0.01)
        axis.invert_yaxis()
        axis.set_xlabel("fraction of the ceiling that was measured in the same alternation")
        return svg(figure, "Fraction of the measured ceiling")


def _kind(row: dict[str, Any]) -> str:
    """What rows of an op have in common that differ in size only."""
    return " ".join(filter(None, (row["variant"], row["dtype"], row["backend"])))


def _case(row: dict[str, Any]) -> str:
    return f"{row['shape']} {_kind(row)}"


def _size(row: dict[str, Any]) -> int:
    return int(row["size"])


def learning_figure(suite: str, curve: dict[str, dict[str, Curve]]) -> str:
    """Held-out pass rate against tokens and seconds: mean over seeds, band over problems, thin lines per seed.

    curve  by axis ("tokens" or "seconds"), then by curator
    """
    names = list(next(iter(curve.values())))
    label = {name: wrap(name, 100) for name in names}
    lines = sum(text.count("\n") + 1 for text in label.values())
    with plt.rc_context(STYLE):
        columns = 1 if max(map(len, label.values())) > 40 else 4
        rows = lines if columns == 1 else -(-len(names) // columns)
        figure, axes = plt.subplots(1, len(curve), figsize=(5.6 * len(curve), 3.9 + 0.18 * rows), squeeze=False)
        for axis, (kind, curves) in zip(axes.flat, curve.items(), strict=True):
            for colour, (name, one) in zip(colours(), curves.items(), strict=False):
                axis.plot(one.at, one.mean, color=colour, linewidth=2, marker="o", markersize=3, label=label[name])
                axis.fill_between(one.at, one.lo, one.hi, color=colour, alpha=0.08, linewidth=0)
                for x, rate in one.seed:
                    axis.plot(x, rate, color=colour, linewidth=0.5, alpha=0.45)
            axis.set(xlabel=AXIS[kind], ylabel="held-out pass rate")
            axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
        handle, text = axes[0, 0].get_legend_handles_labels()
        figure.legend(handle, text, fontsize=8, loc="outside lower center", ncols=columns)
        return svg(figure, f"Learning curves on {suite}")


AXIS = {
    "tokens": "generated training tokens, rejected ones included",
    "seconds": "seconds of training, evaluations left out",
}


def stratum_rates_figure(suite: str, names: tuple[str, ...], curve: dict[str, dict[str, Curve]]) -> str:
    """Held-out pass rate against tokens, one panel per stratum, a line per curator. curve: by stratum, by curator."""
    with plt.rc_context(STYLE):
        curators = list(next(iter(curve.values())))
        figure, axes = panels(len(curve), 2.8, 2.2, legend_rows=-(-len(curators) // 4))
        for axis, (stratum, curves) in zip(axes.flat, curve.items(), strict=False):
            for colour, (name, one) in zip(colours(), curves.items(), strict=False):
                axis.plot(one.at, one.mean, color=colour, linewidth=1.4, label=wrap(name, 40))
            axis.set(title=names[int(stratum)] if int(stratum) < len(names) else stratum, xlabel="tokens")
            axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
            axis.margins(y=0.1)
        axes[0, 0].set_ylabel("held-out pass rate")
        handle, label = axes[0, 0].get_legend_handles_labels()
        figure.legend(handle, label, loc="outside lower center", ncols=4, fontsize=8)
        return svg(figure, f"Pass rate by stratum on {suite}")


def stratum_figure(share: dict[str, tuple[Array, Array]], names: tuple[str, ...]) -> str:
    """What share of the selected problems came from each stratum over the steps, one panel per curator."""
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = panels(len(share), 2.6, 2.3)
        for axis, (name, (step, part)) in zip(axes.flat, share.items(), strict=False):
            axis.stackplot(step, part.T, colors=[*islice(colours(), len(names))], labels=names, alpha=0.85)
            axis.set(title=name, xlabel="step", ylim=(0, 1), xlim=(step[0], step[-1]) if step.size > 1 else None)
        axes[0, 0].set_ylabel("share of selected problems")
        handle, label = axes[0, 0].get_legend_handles_labels()
        figure.legend(handle, label, loc="outside lower center", ncols=min(len(names), 6), fontsize=8)
        return svg(figure, "Strata chosen over time")
