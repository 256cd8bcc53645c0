"""Writes the tables of the README from the results that are committed: python benchmarks/readme_tables.py

``benchmarks/results/<machine>/bench.json`` comes from ``curbench bench --out``, ``campaign.json`` from
gpu_campaign.py. A test compares the README with them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ABSENT = "not measured yet"

Row = dict[str, Any]


def microseconds(us: float) -> str:
    """
    >>> microseconds(31.24), microseconds(67890.0)
    ('31.2 us', '67.9 ms')
    """
    return f"{us:.1f} us" if us < 1000 else f"{us / 1000:.1f} ms"


def cpu_table(results: Path) -> str:
    """A line per case with a target: our time, its share of the ceiling, and the ratio to each peer."""
    lines = []
    for path in sorted(results.glob("*/bench.json")):
        found = json.loads(path.read_text())
        cases: dict[tuple, list[Row]] = {}
        for row in found["rows"]:
            if row["backend"] == "cpu":
                cases.setdefault((row["op"], row["shape"], row["variant"], row["dtype"]), []).append(row)
        lines += [f"{found['environment']['machine']}, one thread:", ""]
        lines += ["| row | op | | ours | of ceiling | times faster than (target) |", "|---|---|---|---|---|---|"]
        table = []
        for (op, *what), rows in cases.items():
            number = [row["target_row"] for row in rows if row["target_row"] is not None]
            if not number:
                continue
            own = rows[0]
            share = f"{100 * own['fraction_of_ceiling']:.0f} % {own['ceiling']}"
            against = ", ".join(map(ratio, rows))
            shape = " ".join(filter(None, what))
            table.append(
                (number[0], f"| {number[0]} | `{op}` | {shape} | {microseconds(own['us'])} | {share} | {against} |")
            )
        lines += [line for _, line in sorted(table, key=lambda one: one[0])] + [""]
    return "\n".join(lines).strip() or ABSENT


def ratio(row: Row) -> str:
    if row["ratio"] is None:
        return f"{row['peer']}: {row['note']}"
    digits = 1 if row["ratio"] < 100 else 0
    target = "" if row["target"] is None else f" ({row['target']:g}{'' if row['met'] else ', missed'})"
    return f"{row['peer']} {row['ratio']:,.{digits}f}{target}"


def gpu_table(results: Path) -> str:
    """A line per case, of every GPU that was measured."""
    lines = []
    for path in sorted(results.glob("*/campaign.json")):
        found = json.loads(path.read_text())
        lines += [f"{found['device']['name']}:", "", "| row | op | | ours | target | of copy | times faster than |"]
        lines += ["|---|---|---|---|---|---|---|"]
        cases: dict[tuple, list[Row]] = {}
        for row in found["rows"]:
            cases.setdefault((row["target_row"], row["op"], row["shape"], row["variant"], row["dtype"]), []).append(row)
        for (number, op, *what), rows in sorted(cases.items()):
            own = rows[0]
            aim = (
                ""
                if own["target_us"] is None
                else microseconds(own["target_us"]) + (", missed" * (own["met"] is False))
            )
            share = f"{100 * own['fraction_of_ceiling']:.0f} %"
            against = ", ".join(f"{row['peer']} {row['ratio']:.1f}" for row in rows if row["ratio"] is not None)
            shape = " ".join(filter(None, what))
            lines.append(f"| {number} | `{op}` | {shape} | {microseconds(own['us'])} | {aim} | {share} | {against} |")
        lines.append("")
    return "\n".join(lines).strip() or ABSENT


def written(text: str, results: Path) -> str:
    """The text with what is between its markers replaced by the tables of these results."""
    for name, table in (("cpu", cpu_table(results)), ("gpu", gpu_table(results))):
        begin, end = f"<!-- {name} table -->\n", f"\n<!-- end of {name} table -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        if not re.search(pattern, text, re.DOTALL):
            raise ValueError(f"the text has no part between {begin.strip()} and {end.strip()}")
        text = re.sub(pattern, lambda _, inside=table, a=begin, b=end: a + inside + b, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(written(readme.read_text(), RESULTS))
