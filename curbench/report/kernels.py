"""Sections of the page about kernel timings: time against size, ratios to peers, shares of what the machine can do."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from curbench.report import figures
from curbench.report.markup import figure, note, table

Row = dict[str, Any]

HEAD = (
    *("variant", "shape", "type", "threads", "back-end", "peer", "us", "peer us", "ratio", "target", "bytes"),
    "of ceiling",
)


def kernels(rows: list[Row]) -> Iterable[str]:
    """The section, or nothing without rows."""
    if not rows:
        return
    yield "<h2>Kernels against what people run today</h2>"
    yield note(
        "Medians, ours and the peer's timed alternately in one process with the stated threads, after both were "
        "checked against the reference. The ceiling is what one thread reached in the same alternation: reading (on a "
        "GPU, copying) as many bytes, from memory or from the cache that holds them, or multiplying and adding in "
        "registers. Small shapes are bound by the call, draws by random numbers, trees by latency: their share is low."
    )
    targets = [row for row in rows if row.get("met") is not None]
    if targets:
        missed = [row for row in targets if not row["met"]]
        yield note(f"Of {len(targets)} targets, {len(targets) - len(missed)} are met; missed ones are in red.")
    for op in dict.fromkeys(row["op"] for row in rows):
        own = [row for row in rows if row["op"] == op]
        yield f"<h3>{escape(op)}</h3>"
        if any(row["ratio"] is not None for row in own):
            yield figure(figures.time_figure(op, own))
            yield figure(figures.ratio_figure(op, own))
        yield table(HEAD, [_cells(row) for row in own])
    yield "<h3>Share of the machine</h3>"
    yield figure(figures.ceiling_figure(rows))


def _cells(row: Row) -> list[str]:
    share, target = row["fraction_of_ceiling"], row.get("target")
    said = "" if target is None else f"{target:g}"
    untimed = row["ratio"] is None
    if target is not None and not untimed and row["ratio"] / share < target:
        said += f" ({row['ratio'] / share:.2g} at the ceiling)"
    return [
        *(escape(str(row[name])) for name in ("variant", "shape", "dtype", "threads", "backend", "peer")),
        _time(row, "us"),
        escape(row.get("note") or "") if untimed else _time(row, "peer_us"),
        "" if untimed else f"{row['ratio']:.2f}",
        f'<span class="bad">{said}</span>' if row.get("met") is False else said,
        f"{row['bytes']:,}" if row["bytes"] is not None else "",
        "" if share is None else f"{100 * share:.0f} % of {escape(row.get('ceiling', 'read'))}",
    ]


def _time(row: Row, name: str) -> str:
    ends = row.get(f"{name}_range")
    hint = f' title="20 % to 80 %: {ends[0]:.1f} to {ends[1]:.1f}"' if ends else ""
    return f"<span{hint}>{row[name]:,.1f}</span>"
