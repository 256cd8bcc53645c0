"""The page: sections of tables and inline SVG in one HTML file that works from disk, without a network or scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

from curbench import suites
from curbench.curators.base import NEARLY_UNIFORM
from curbench.record import write_atomic
from curbench.report import figures
from curbench.report.collect import Collection, TrainingRun, collect
from curbench.report.kernels import kernels
from curbench.report.markup import figure, interval, note, table
from curbench.report.sim_sections import learners, simulations, sweep
from curbench.report.training import Result, by_setting, learning_curve, results, stratum_share

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
svg { max-width: 100%; height: auto; } .bad { color: #b00020; font-weight: 600; } code { font-size: 12px; }
"""


def write_report(paths: list[Path], out: Path) -> dict[str, Any]:
    """Writes the page of everything found under ``paths`` to ``out`` and returns counts of what it shows.

    An existing page is replaced: it is derived. Raises ValueError if ``out`` is anything else, nothing is found or a
    file is malformed.
    """
    if out.exists() and not out.read_bytes().startswith(HEADER.encode()):
        raise ValueError(f"{out} is not a report of ours and would be replaced; choose another --out")
    found = collect(paths)
    section = [
        *_training(found.training),
        *_unfinished(found.unfinished),
        *simulations(found.simulation),
        *sweep(found.sweep),
        *learners(found.learner),
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
        "kernel_rows": len(found.kernel),
        "training_runs": len(found.training),
        "unfinished_runs": len(found.unfinished),
    }


def _training(runs: list[TrainingRun]) -> Iterable[str]:
    for suite in dict.fromkeys(run.spec["suite"] for run in runs):
        same = [run for run in runs if run.spec["suite"] == suite]
        group = by_setting(same)
        yield f"<h2>Training on {escape(suite)}</h2>"
        yield note(
            "Held-out pass rate, every evaluation on the same problems with the same sampling seeds. The line is the "
            "mean over training seeds (thin lines: each seed); the band is a 95 % interval over problems. The axis "
            "counts all generated training tokens, those of rejected groups included."
        )
        yield figure(figures.learning_figure(suite, {name: learning_curve(runs) for name, runs in group.items()}))
        yield table(RESULT_HEAD, [_result_row(row) for row in results(same)])
        yield note(
            "Intervals are 95 %, paired over held-out problems after averaging over the training seeds: they hold no "
            "variance between further training seeds, so a difference between curators needs more seeds than these to "
            "be called one. Comparisons with uniform, where it ran with the same settings, are not corrected for their "
            "number. Effective support is exp(entropy of the draw) as a share of the bank, before any group is "
            "rejected. Curation time leaves out the first step of each process, which compiles."
        )
        bank = suites.load(suite).bank
        chosen = {
            name: stratum_share(runs, bank.stratum, len(bank.stratum_name))
            for name, runs in group.items()
            if any(run.selected_step.size for run in runs)
        }
        if chosen:
            yield "<h3>Which strata each curator chose</h3>"
            yield figure(figures.stratum_figure(chosen, bank.stratum_name))


def _unfinished(directory: list[Path]) -> Iterable[str]:
    if directory:
        names = ", ".join(map(str, directory))
        count = f"{len(directory)} unfinished run{'s' if len(directory) > 1 else ''}"
        yield note(f"Left out: {count}, to be continued with curbench train --resume: {names}.")


def _nearly_uniform(row: Result) -> str:
    """Says so where a curator that is not uniform draws as if it were."""
    return ", nearly uniform" if row.support >= NEARLY_UNIFORM and not row.curator.startswith("uniform") else ""


RESULT_HEAD = (
    *("curator", "seeds", "steps", "tokens", "before", "after", "change"),
    *("after &minus; uniform", "degenerate groups", "effective support", "curation time"),
)


def _result_row(row: Result) -> list[str]:
    versus = "" if row.versus_uniform is None else interval(row.versus_uniform)
    return [
        escape(row.curator),
        str(row.seeds),
        f"{row.steps:.0f}",
        f"{row.tokens:.0f}",
        f"{row.before:.3f}",
        f"{row.after:.3f}" + ("" if row.averaged is None else f" ({row.averaged:.3f} averaged)"),
        interval(row.change),
        versus,
        f"{100 * row.degenerate:.0f} %",
        f"{100 * row.support:.0f} %" + _nearly_uniform(row) if isfinite(row.support) else "",
        f"{100 * row.curator_share:.1f} %" if isfinite(row.curator_share) else "",
    ]


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
