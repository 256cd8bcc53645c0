"""The page of a league: a table to sort, curves to pick from, profiles and pairs, in one file that needs no network.

Drawn here and not by matplotlib, so that lines can be picked and the same data gives the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np

from curbench.report.page import HEADER, STYLE
from curbench.sim.league import ABLATED, BASELINE, GREEDY, SCENARIOS, League
from curbench.stats import performance_profile
from curbench.types import Array

COLOUR = ("#3366aa", "#cc5533", "#228855", "#8855aa", "#aa8822", "#dd77aa")
SHOWN = 5
"""Curators picked at first, the best ones, besides the baseline and the oracle."""

THRESHOLD = np.linspace(-0.2, 1.4, 81)
WIDTH, HEIGHT, MARGIN = 290, 190, 34

LEAGUE_STYLE = """
.sort th { cursor: pointer; user-select: none; } .sort tbody tr { cursor: pointer; }
tr.on td:first-child { font-weight: 700; }
.lines path { fill: none; stroke: #bbb; stroke-width: .7; opacity: .6; }
.lines path.on { stroke: var(--c); stroke-width: 2; opacity: 1; } .lines path.base { stroke: #000; }
.lines path.oracle { stroke: #000; stroke-width: 1.2; stroke-dasharray: 4 3; opacity: 1; }
.lines text { font-size: 10px; fill: #444; } .lines line { stroke: #ddd; stroke-width: .6; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; background: #ddd; }
tr.on .swatch { background: var(--c); } .pairs td { font-size: 10px; padding: .1rem .25rem; }
.pairs th { font-size: 10px; padding: .1rem .25rem; } .pairs thead th { writing-mode: vertical-rl; }
"""

SCRIPT = """
for (const table of document.querySelectorAll('table.sort')) {
  table.querySelectorAll('th').forEach((head, column) => head.addEventListener('click', () => {
    const body = table.tBodies[0], up = head.dataset.up !== '1';
    const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const order = (a, b) => isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b;
    const rows = [...body.rows].sort((a, b) => order(value(a), value(b)) * (up ? 1 : -1));
    head.dataset.up = up ? '1' : '0';
    body.append(...rows);
  }));
}
for (const row of document.querySelectorAll('tr[data-curator]')) row.addEventListener('click', () => {
  const on = row.classList.toggle('on');
  for (const line of document.querySelectorAll('path[data-curator="' + row.dataset.curator + '"]')) {
    line.classList.toggle('on', on);
    if (on) line.parentNode.append(line);
  }
});
"""


def league_page(league: League, standings: list[dict[str, Any]], cost: dict[str, Any]) -> str:
    """The page as one HTML text: a function of its arguments alone.

    standings, cost  see ``sim.league.standings`` and ``sim.league.gather``
    """
    ranked = [row["curator"] for row in standings]
    colour = {name: COLOUR[i % len(COLOUR)] for i, name in enumerate(ranked)}
    picked = {*ranked[:SHOWN], league.baseline}
    part = [
        *_table(league, standings, cost, colour, picked),
        "<h2>Learning curves</h2>",
        _note(
            "Mean held-out competence over generated tokens. Pick curators in the table; black: "
            f"{league.baseline}; dashed: oracle"
        ),
        *_curves(league, colour, picked),
        "<h2>Performance profiles</h2>",
        _note("Share of runs whose score is above a threshold, averaged over scenarios: higher is better everywhere."),
        _profiles(league, colour, picked),
        "<h2>Who beats whom</h2>",
        _note(
            "P(a run of the row scores higher than a run of the column), averaged over scenarios, over the seeds both "
            "ran. Shaded where the 95 % interval (hover) lies above or below one half; not corrected for their number."
        ),
        _pairs(standings),
        *_provenance(cost),
    ]
    subject = "League of curators" if league.baseline == BASELINE else f"Ablation of {escape(league.baseline)}"
    return (
        f'{HEADER}<link rel="icon" href="data:,"><style>{STYLE}{LEAGUE_STYLE}</style></head><body>\n'
        f"<h1>{subject} on the simulated learner</h1>\n"
        + "\n".join(part)
        + f"\n<script>{SCRIPT}</script></body></html>\n"
    )


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _table(
    league: League, standings: list[dict[str, Any]], cost: dict[str, Any], colour: dict[str, str], picked: set[str]
) -> Iterable[str]:
    yield _note(
        "A score is the share of what the greedy oracle gains in held-out competence from the start: 0 learnt nothing, "
        "1 as much as under an oracle that sees what each problem would teach in one step. IQM: mean of the middle "
        "half of all runs, with a 95 % stratified bootstrap interval. Beats: rivals against which the interval of the "
        "probability of improvement lies above one half. Score - baseline: mean paired difference over scenarios. "
        "Wasted: share of rollouts in groups of equal rewards. What a name does not say is at its published default; "
        "rollouts, problems and luck are the same for all. Click a head to sort, a row to show its curves."
    )
    than = escape(league.baseline)
    head = ["curator", "source", "seeds", "IQM of scores", f"P(&gt; {than})", f"score - {than}", "beats"]
    head += ["IQM over the run", "wasted", "curation, ms/step", *map(escape, league.scenarios)]
    rows = []
    for row in standings:
        name = row["curator"]
        second = cost["curation_s"].get(name)
        best = {s: max(other["score"][s] for other in standings) for s in league.scenarios}
        cell = [
            f'<td data-v="{escape(name)}"><span class="swatch"></span>{escape(name)}</td>',
            f"<td>{escape(row['source'])}</td>",
            _number(row["seeds"], "d"),
            _span(row["iqm"]),
            _span(row["improvement"].get(league.baseline), "{:.2f}"),
            _span(None if name == league.baseline else row["gain"], "{:+.3f}"),
            _number(row["beats"], "d"),
            _span(row["early_iqm"]),
            _number(row["wasted"], ".2f"),
            "<td></td>" if second is None else _number(1e3 * second, ".2f"),
            *(
                _number(
                    row["score"][s],
                    ".3f",
                    bold=row["score"][s] == best[s],
                    title=f"competence {row['competence'][s]:.3f}",
                )
                for s in league.scenarios
            ),
        ]
        on = ' class="on"' if name in picked else ""
        shade = "#000" if name == league.baseline else colour[name]
        rows.append(f'<tr{on} data-curator="{escape(name)}" style="--c: {shade}">{"".join(cell)}</tr>')
    top = "".join(f"<th>{text}</th>" for text in head)
    yield f'<table class="sort"><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _number(value: float, form: str, *, bold: bool = False, title: str = "") -> str:
    text = f"{value:{form}}"
    hint = f' title="{title}"' if title else ""
    return f'<td data-v="{value!r}"{hint}>{f"<b>{text}</b>" if bold else text}</td>'


def _span(interval: dict[str, float | None] | None, form: str = "{:.3f}") -> str:
    if interval is None:
        return "<td></td>"
    text = form.format(interval["mean"])
    if interval["lo"] is not None:
        text += f" [{form.format(interval['lo'])}, {form.format(interval['hi'])}]"
    return f'<td data-v="{interval["mean"]!r}">{text}</td>'


def _curves(league: League, colour: dict[str, str], picked: set[str]) -> Iterable[str]:
    for scenario in league.scenarios:
        line = {name: league.entry[scenario, name].curve for name in (*league.curators, GREEDY)}
        top = max(float(curve[:, 1].max()) for curve in line.values())
        low = min(float(curve[:, 1].min()) for curve in line.values())
        right = max(float(curve[-1, 0]) for curve in line.values())
        title = f"{scenario} ({(SCENARIOS | ABLATED)[scenario]})"
        yield _panel(title, line, (0.0, right), (low, top), "tokens", league.baseline, colour, picked)


def _profiles(league: League, colour: dict[str, str], picked: set[str]) -> str:
    line = {
        name: np.stack([THRESHOLD, performance_profile(league.score(name), THRESHOLD)], axis=1)
        for name in (*league.curators, GREEDY)
    }
    ends = (float(THRESHOLD[0]), float(THRESHOLD[-1]))
    return _panel("all scenarios", line, ends, (0.0, 1.0), "score", league.baseline, colour, picked, scale=2.0)


def _panel(
    title: str,
    line: dict[str, Array],
    x: tuple[float, float],
    y: tuple[float, float],
    axis: str,
    baseline: str,
    colour: dict[str, str],
    picked: set[str],
    scale: float = 1.0,
) -> str:
    """An <svg> of one line f64[n, 2] per curator, the picked ones in front."""
    width, height = WIDTH * scale, HEIGHT * scale
    span = x[1] - x[0] or 1.0, y[1] - y[0] or 1.0

    def at(point: Array) -> str:
        right = MARGIN + (point[0] - x[0]) / span[0] * (width - MARGIN - 6)
        down = height - MARGIN - (point[1] - y[0]) / span[1] * (height - MARGIN - 22)
        return f"{right:.1f},{down:.1f}"

    mark = []
    for share in (0.0, 0.5, 1.0):
        level, place = y[0] + share * span[1], x[0] + share * span[0]
        (left, down), (right, _) = (at(np.array([edge, level])).split(",") for edge in x)
        mark.append(f'<line x1="{left}" y1="{down}" x2="{right}" y2="{down}"/>')
        mark.append(f'<text x="{MARGIN - 3}" y="{down}" text-anchor="end">{level:.2f}</text>')
        across = at(np.array([place, y[0]])).split(",")[0]
        anchor = ("start", "middle", "end")[int(2 * share)]
        text = f"{place / 1000:.0f}k" if x[1] > 1000 else f"{place:.1f}"
        mark.append(f'<text x="{across}" y="{height - MARGIN + 13:.0f}" text-anchor="{anchor}">{text}</text>')
    mark.append(f'<text x="{width / 2:.0f}" y="{height - 6:.0f}" text-anchor="middle">{axis}</text>')
    mark.append(f'<text x="{width / 2:.0f}" y="12" text-anchor="middle" font-weight="bold">{escape(title)}</text>')
    path = []
    for name, points in sorted(line.items(), key=lambda item: item[0] in picked or item[0] == GREEDY):
        kind = "oracle" if name == GREEDY else "base on" if name == baseline else "on" if name in picked else ""
        style = "" if name in (GREEDY, baseline) else f' style="--c: {colour[name]}"'
        where, label = "M" + " ".join(map(at, points)), escape(name)
        path.append(f'<path class="{kind}" data-curator="{label}"{style} d="{where}"><title>{label}</title></path>')
    return (
        f'<figure><svg class="lines" role="img" aria-label="{escape(title)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{"".join(mark)}<g>{"".join(path)}</g></svg></figure>'
    )


def _pairs(standings: list[dict[str, Any]]) -> str:
    names = [row["curator"] for row in standings]
    body = []
    for row in standings:
        cell = [f"<th>{escape(row['curator'])}</th>"]
        for name in names:
            one = row["improvement"].get(name)
            if one is None:
                cell.append("<td></td>")
                continue
            sure = one["lo"] is not None and (one["lo"] > 0.5 or one["hi"] < 0.5)
            tint = "#cfe8d4" if one["mean"] > 0.5 else "#f3d6cf"
            hint = "" if one["lo"] is None else f' title="[{one["lo"]:.2f}, {one["hi"]:.2f}]"'
            shade = f' style="background: {tint}"' if sure else ""
            cell.append(f"<td{hint}{shade}>{one['mean']:.2f}</td>")
        body.append(f"<tr>{''.join(cell)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *names))
    return f'<table class="pairs"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _provenance(cost: dict[str, Any]) -> Iterable[str]:
    yield "<h2>Provenance</h2>"
    yield _note(
        "Curation is the time of selecting, of the signal and of learning from the feedback, per step on one thread: "
        "the median. It depends on the machine; nothing else on the page depends on a clock."
    )
    for place in cost["environment"]:
        versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items() if version)
        commit = place["commit"] or "no commit: not a git checkout"
        where = escape(f"{commit}; {versions}; {place['machine']}")
        yield f"<p><code>{escape(place['command'])}</code><br>{where}</p>"
