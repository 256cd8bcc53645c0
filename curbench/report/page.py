"""The page: sections of tables and inline SVG in one HTML file that works from disk, without a network or scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

from curbench import suites
from curbench.record import write_atomic
from curbench.report import figures
from curbench.report.collect import Collection, TrainingRun, collect
from curbench.report.sweep import Slope, Unit, by_test_bed, cut, held, lines, looseness, policy, settings, slopes, swept
from curbench.report.training import Result, by_setting, learning_curve, results, stratum_share
from curbench.sim.axes import label
from curbench.stats import Interval

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
th { background: #f6f6f6; font-weight: 600; } td:first-child, th:first-child { text-align: left; }
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
        *_simulation(found.simulation),
        *_sweep(found.sweep),
        *_kernel(found.kernel),
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
        "kernel_rows": len(found.kernel),
        "training_runs": len(found.training),
        "unfinished_runs": len(found.unfinished),
    }


def _training(runs: list[TrainingRun]) -> Iterable[str]:
    for suite in dict.fromkeys(run.spec["suite"] for run in runs):
        same = [run for run in runs if run.spec["suite"] == suite]
        group = by_setting(same)
        yield f"<h2>Training on {escape(suite)}</h2>"
        yield _note(
            "Held-out pass rate, every evaluation on the same problems with the same sampling seeds. The line is the "
            "mean over training seeds (thin lines: each seed); the band is a 95 % interval over problems. The axis "
            "counts all generated training tokens, those of rejected groups included."
        )
        yield _figure(figures.learning_figure(suite, {name: learning_curve(runs) for name, runs in group.items()}))
        yield _table(RESULT_HEAD, [_result_row(row) for row in results(same)])
        yield _note(
            "Intervals are 95 %, paired over held-out problems after averaging over the training seeds: they hold no "
            "variance between further training seeds, so a difference between curators needs more seeds than these to "
            "be called one. Comparisons with uniform, where it ran with the same settings, are not corrected for their "
            "number. Curation time leaves out the first step of each process, which compiles."
        )
        bank = suites.load(suite).bank
        chosen = {
            name: stratum_share(runs, bank.stratum, len(bank.stratum_name))
            for name, runs in group.items()
            if any(run.selected_step.size for run in runs)
        }
        if chosen:
            yield "<h3>Which strata each curator chose</h3>"
            yield _figure(figures.stratum_figure(chosen, bank.stratum_name))


def _unfinished(directory: list[Path]) -> Iterable[str]:
    if directory:
        names = ", ".join(map(str, directory))
        count = f"{len(directory)} unfinished run{'s' if len(directory) > 1 else ''}"
        yield _note(f"Left out: {count}, to be continued with curbench train --resume: {names}.")


RESULT_HEAD = (
    *("curator", "seeds", "steps", "tokens", "before", "after", "change"),
    *("after &minus; uniform", "degenerate groups", "curation time"),
)


def _result_row(row: Result) -> list[str]:
    versus = "" if row.versus_uniform is None else _interval(row.versus_uniform)
    return [
        escape(row.curator),
        str(row.seeds),
        f"{row.steps:.0f}",
        f"{row.tokens:.0f}",
        f"{row.before:.3f}",
        f"{row.after:.3f}" + ("" if row.averaged is None else f" ({row.averaged:.3f} averaged)"),
        _interval(row.change),
        versus,
        f"{100 * row.degenerate:.0f} %",
        f"{100 * row.curator_share:.1f} %" if isfinite(row.curator_share) else "",
    ]


def _interval(value: Interval) -> str:
    text = f"{value.mean:+.3f}"
    return f"{text} [{value.lo:+.3f}, {value.hi:+.3f}]" if isfinite(value.lo) else text


def _simulation(simulation: list[dict[str, Any]]) -> Iterable[str]:
    if not simulation:
        return
    yield "<h2>Simulated regret against proved bounds</h2>"
    yield _note(
        "Mean over seeds with a 95 % interval; dashed, the bound at the step size and floor that ran. A bound is "
        "tested on the conditional mean (p_form) of the regret with a one-sided 99.9 % limit; the certificate is "
        "an inequality that every single step of a correct curator satisfies, recomputed from the logged draws."
    )
    for name in dict.fromkeys(one["row"]["arms"] for one in simulation):
        yield _figure(figures.regret_figure(name, [one for one in simulation if one["row"]["arms"] == name]))
    yield _table(SIMULATION_HEAD, [_simulation_row(one["row"]) for one in simulation])


def _sweep(units: list[Unit]) -> Iterable[str]:
    if not units:
        return
    yield "<h2>Sweep</h2>"
    yield _note(
        "Final regret per draw, the mean over seeds with a 95 % interval; dashed, the bound at the step size and floor "
        "that ran. A panel holds the settings that are not on its axes fixed, where most of the units are; of equally "
        "many, at the largest T and K and the smallest m and delay. The table at the end has every unit."
    )
    bed = by_test_bed(units)
    for name, same in bed.items():
        largest = cut(same)
        yield _figure(figures.regret_figure(f"{name}  {held(largest)}", largest))
    axes = dict.fromkeys(axis for same in bed.values() for axis in swept(same))
    for axis in axes:
        panel = {f"{name}\n{held(cut(same, axis), axis)}": lines(same, axis) for name, same in bed.items()}
        shown = {title: line for title, line in panel.items() if line}
        if shown:
            yield _figure(figures.axis_figure(axis, shown))
    for x, y in combinations(sorted(axes.keys() & settings(units[0]["row"]).keys() - {"delay"}), 2):
        for title, of in HEAT.items():
            cells = _heat(bed, x, y, of)
            if cells:
                yield _figure(figures.heat_figure(title, x, y, cells))
    ratio = looseness(unit for same in bed.values() for unit in same)
    if ratio:
        yield "<h3>How loose the bounds are</h3>"
        yield _figure(figures.looseness_figure(ratio))
    yield from _slope_table(slopes(units))
    yield f"<h3>All {len(units)} units</h3>"
    yield _table(SIMULATION_HEAD, [_simulation_row(one["row"]) for same in bed.values() for one in same])


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
            if value is not None and value > 0:
                panel.setdefault((f"{name}  {held(shown, x, y)}", policy(row)), {})[at[x], at[y]] = value
    return panel


SLOPE_HEAD = ("test-bed", "curator", "axis", "held at", "slope of regret", "slope of its bound", "points")


def _slope_table(found: list[Slope]) -> Iterable[str]:
    if not found:
        return
    yield "<h3>How regret grows</h3>"
    yield _note(
        "Exponent b in regret = a x^b, by least squares on log axes, with a 95 % t interval from the residuals: it "
        "widens with noise and with every departure from a power law, and two points have none."
    )
    rows = [
        [
            *map(escape, (one.arms, one.policy, one.axis, one.at)),
            *("" if slope is None else _interval(slope) for slope in (one.regret, one.bound)),
            "" if one.regret is None else str(one.regret.n),
        ]
        for one in found
    ]
    yield _table(SLOPE_HEAD, rows)


SIMULATION_HEAD = (
    *("test-bed / curator", "K", "T", "m", "delay", "seeds", "regret", "kind", "bound", "value", "verdict"),
    *("smallest slack", "us/round"),
)


def _simulation_row(row: dict[str, Any]) -> list[str]:
    regret, bound, certificate = row["regret"], row["bound"], row["certificate"]
    failed = row["holds"] is False or certificate["holds"] is False
    untested = "open" if bound.get("status") == "proved" else "plotted"  # only what is proved can fail
    verdict = {True: "holds", False: "violated", None: "" if bound["value"] is None else untested}[row["holds"]]
    if certificate["holds"] is False:
        verdict += ", certificate violated"
    span = "" if regret["lo"] is None else f" [{regret['lo']:.1f}, {regret['hi']:.1f}]"
    return [
        escape(f"{label(row['arms'], row.get('parameter', {}))} / {label(row['curator'], row['hyper'])}"),
        *(escape(str(row[name])) for name in ("arms_count", "horizon", "batch")),
        escape(str(row.get("delay", 0))),
        escape(str(row["seeds"])),
        f"{regret['mean']:.1f}{span}",
        escape(f"{regret['comparator']}, {regret['kind']}"),
        f'<span title="{escape(bound["source"] or "")}">{escape(bound["name"])}</span>',
        "" if bound["value"] is None else f"{bound['value']:.1f}" + (" (vacuous)" if bound["vacuous"] else ""),
        f'<span class="bad">{verdict}</span>' if failed else verdict,
        "" if certificate["min_slack"] is None else f"{certificate['min_slack']:.1e}",
        escape(f"{row['us_per_round']:.2f} {row['driver']}"),
    ]


def _kernel(rows: list[dict[str, Any]]) -> Iterable[str]:
    if not rows:
        return
    yield "<h2>Kernels against what people run today</h2>"
    yield _note(
        "Medians, ours and the peer's timed alternately in one process with the stated threads, after both were "
        "checked against the reference. The ceiling is the read bandwidth measured in the same run; small shapes "
        "fit a cache and are bound by latency, so no share of it is given."
    )
    yield _figure(figures.ratio_figure(rows))
    yield _table(KERNEL_HEAD, [_kernel_row(row) for row in rows])


KERNEL_HEAD = ("op", "shape", "type", "threads", "back-end", "peer", "us", "peer us", "ratio", "bytes", "of ceiling")


def _kernel_row(row: dict[str, Any]) -> list[str]:
    share = row["fraction_of_ceiling"]
    return [
        *(escape(str(row[name])) for name in ("op", "shape", "dtype", "threads", "backend", "peer")),
        f"{row['us']:.1f}",
        f"{row['peer_us']:.1f}",
        f"{row['ratio']:.2f}",
        f"{row['bytes']:,}" if row["bytes"] is not None else "",
        "" if share is None else f"{100 * share:.0f} %",
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
    yield _table(head, rows, css="wrap")
    seeds = sorted({run.spec["seed"] for run in found.training})
    if seeds:
        yield _note(f"Training seeds: {', '.join(map(str, seeds))}. Settings of every run are in its run.json.")


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _figure(picture: str) -> str:
    return f"<figure>{picture}</figure>"


def _table(head: Iterable[str], rows: list[list[str]], css: str = "") -> str:
    """A table whose cells are HTML already; whoever makes a cell escapes it."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{css}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
