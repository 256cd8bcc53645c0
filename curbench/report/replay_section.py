"""The page's section on replayed logs: what other curators' selections would have been worth, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from curbench.report.markup import note, table

HEAD = ("log", "drawn by", "replayed", "signal", "logged", "IPS", "SNIPS", "DR", "effective slots")


def replays(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One table of all replayed logs."""
    if not rows:
        return
    yield "<h2>Replayed logs</h2>"
    yield note(
        "Mean utility of the selections that were logged, and estimates of what other curators' would have had, with "
        f"intervals: {rows[0]['says']}."
    )
    lines = []
    for row in rows:
        value = [row["logged"], *(row["estimates"][name] for name in ("ips", "snips", "dr"))]
        text = [f"{one['mean']:.3f} [{one['lo']:.3f}, {one['hi']:.3f}]" for one in value]
        setting = ", ".join(f"{name}={one}" for name, one in row["hyper"].items())
        who = row["curator"] + (f" ({setting})" if setting else "")
        slots = f"{row['effective_slots']:.0f} of {row['slots']}"
        lines.append([escape(str(one)) for one in (row["run"], row["logged_by"], who, row["signal"], *text, slots)])
    yield table(HEAD, lines)
