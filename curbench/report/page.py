"""The page: sections of tables and inline SVG in one HTML file that works from disk, without a network or scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from curbench.record import write_atomic
from curbench.report.collect import Collection, collect, write_pack
from curbench.report.kernels import kernels
from curbench.report.markup import note, table
from curbench.report.replay_section import replays
from curbench.report.sim_sections import learners, simulations, sweep
from curbench.report.training_sections import training, unfinished

HEADER = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>curbench report</title>'
"""How every page begins, by which it is known as one of ours."""

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1320px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 2.4rem; border-bottom: 1px solid #ddd; }
p.note { color: #555; max-width: 50rem; }
table { border-collapse: collapse; font-size: 12.5px; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
.wrap td { white-space: normal; overflow-wrap: anywhere; text-align: left; }
th { background: #f6f6f6; font-weight: 600; } .wrap th, td:first-child, th:first-child { text-align: left; }
figure { display: inline-block; margin: .5rem .5rem .5rem 0; vertical-align: top; }
details { margin: .4rem 0; } summary { cursor: pointer; }
svg { max-width: 100%; height: auto; } .bad { color: #b00020; font-weight: 600; } code { font-size: 12px; }
"""


def write_report(paths: list[Path], out: Path, *, pack: Path | None = None) -> dict[str, Any]:
    """Writes the page of everything found under ``paths`` to ``out`` and returns counts of what it shows.

    pack  also put the training runs into this one file, from which the page can be made again

    An existing page is replaced: it is derived. Raises ValueError if ``out`` is anything else, nothing is found or a
    file is malformed.
    """
    if out.exists() and not out.read_bytes().startswith(HEADER.encode()):
        raise ValueError(f"{out} is not a report of ours and would be replaced; choose another --out")
    found = collect(paths)
    if pack is not None:
        write_pack(pack, found.training)
    section = [
        *training(found.training),
        *unfinished(found.unfinished),
        *simulations(found.simulation),
        *sweep(found.sweep),
        *learners(found.learner),
        *replays(found.replay),
        *kernels(found.kernel),
        *_provenance(found),
    ]
    html = (
        f"{HEADER}"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body>\n<h1>curbench report</h1>\n" + "\n".join(section) + "\n</body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, html.encode())
    return {
        "report": str(out.resolve()),
        "simulations": len(found.simulation),
        "units": len(found.sweep),
        "learner_units": len(found.learner),
        "replays": len(found.replay),
        "kernel_rows": len(found.kernel),
        "training_runs": len(found.training),
        "unfinished_runs": len(found.unfinished),
    }


def _provenance(found: Collection) -> Iterable[str]:
    yield "<h2>Provenance</h2>"
    seen: dict[tuple, int] = {}
    for one in found.environment:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items() if version)
        commit = one["commit"] or "none: not a git checkout"
        key = (one["command"], commit, versions, f"Python {one['python']}", one["machine"])
        seen[key] = seen.get(key, 0) + 1
    rows = [[f"<code>{escape(key[0])}</code>", *map(escape, key[1:]), str(count)] for key, count in seen.items()]
    head = ("command", "commit (+ with changes)", "versions", "Python", "machine", "results")
    yield table(head, rows, css="wrap")
    seeds = sorted({run.spec["seed"] for run in found.training})
    if seeds:
        yield note(f"Training seeds: {', '.join(map(str, seeds))}. Settings of every run are in its run.json.")
