"""Writes what the league measured into docs/league.md and the page of every method: python docs/method_pages.py.

A page, docs/methods/NAME.md, is written by hand down to ``MARK``; below it stands what follows from the committed data,
so that no number goes stale (tests/report/test_committed_league.py). A claim is a sentence of the hand-written part,
"Claimed: better than `RIVAL`...", and is held against P(method > RIVAL).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from curbench.curators import CURATORS, split_admission
from curbench.record import read_json
from curbench.sim.league import BASELINE, League, read_league, standings

ROOT = Path(__file__).parents[1]
PAGES, RESULTS = ROOT / "docs/methods", ROOT / "benchmarks/results"
OVERVIEW = ROOT / "docs/league.md"
MARK = "<!-- Below: python docs/method_pages.py -->"
CLAIM = re.compile(r"Claimed: better than `([^`]+)`")
HEAD = ("entrant", "rank", "score", "score - uniform", "P(> uniform)", "wasted", "ms/step")


def family(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a curator: its variants, with and without an admission rule, the default first."""
    own = [row for row in rows if split_admission(row["curator"].split(" ")[0])[0] == name]
    return sorted(own, key=lambda row: (row["curator"] != name, row["curator"]))


def measured(name: str, text: str, league: League, rows: list[dict[str, Any]], cost: dict[str, Any]) -> str:
    """What stands below the mark. text: the hand-written part, for its claims."""
    own, by_name = family(name, rows), {row["curator"]: row for row in rows}
    rank = {row["curator"]: i + 1 for i, row in enumerate(rows)}
    table = [_line(HEAD), _line("---" for _ in HEAD)]
    for row in own:
        second = cost["curation_s"][row["curator"]]
        place = f"{rank[row['curator']]} of {len(rows)}"
        gain, over = _span(row["gain"], "+.3f"), _span(row["improvement"].get(BASELINE), ".2f")
        if row["curator"] == BASELINE:
            gain = over = ""
        waste, cells = f"{row['wasted']:.2f}", (f"`{row['curator']}`", place, _span(row["iqm"], ".3f"))
        table.append(_line((*cells, gain, over, waste, f"{1e3 * second:.2f}")))
    part = ["## Measured", "\n".join(table), _scenarios(own, by_name[BASELINE], league)]
    part += [_verdict(by_name[name], rival) for rival in CLAIM.findall(text)]
    command = f"curbench league {','.join(_companions(name, own, text))}"
    part.append(
        f"{own[0]['seeds']} paired seeds; what the columns mean: [the league](../league.md). The same runs: `{command}`"
    )
    return "\n\n".join(part) + "\n"


def _scenarios(own: list[dict[str, Any]], baseline: dict[str, Any], league: League) -> str:
    """Scores by scenario, and where the default gains most and least on the baseline."""
    heads = ["scenario", *(f"`{row['curator']}`" for row in own)]
    if baseline not in own:
        heads.append(f"`{BASELINE}`")
    lines = [_line(heads), _line("---" for _ in heads)]
    shown = own if baseline in own else [*own, baseline]
    for scenario in league.scenarios:
        lines.append(_line((scenario, *(f"{row['score'][scenario]:.3f}" for row in shown))))
    default = own[0]
    if default is baseline:
        value = default["score"]
        note = "Best scenario: {} ({:.3f}); worst: {} ({:.3f})."
    else:
        value = {s: default["score"][s] - baseline["score"][s] for s in league.scenarios}
        note = "Best scenario, against `uniform`: {} ({:+.3f}); worst: {} ({:+.3f})."
    best, worst = max(value, key=lambda s: value[s]), min(value, key=lambda s: value[s])
    return "\n".join(lines) + "\n\n" + note.format(best, value[best], worst, value[worst])


def taken_apart(name: str, league: League, rows: list[dict[str, Any]]) -> str:
    """What an ablation found, under the measured part."""
    table = [_line(("setting", "score", "score - default", "P(> default)")), _line("---" for _ in range(4))]
    for row in rows:
        setting = row["curator"].removeprefix(name).strip() or "default"
        own = setting == "default"
        gain, over = ("", "") if own else (_span(row["gain"], "+.3f"), _span(row["improvement"][name], ".2f"))
        table.append(_line((f"`{setting}`" if not own else "**default**", _span(row["iqm"], ".3f"), gain, over)))
    note = (
        f"Everything else at its default, {rows[0]['seeds']} paired seeds on {', '.join(league.scenarios)}: "
        f"`curbench league --ablation {name} --seeds {rows[0]['seeds']}`"
    )
    return "\n\n".join(["## Taken apart", note, "\n".join(table)]) + "\n"


def _finding(row: dict[str, Any], rival: str) -> str:
    """What the league says to: better than the rival."""
    one = row["improvement"][rival]
    if one["lo"] is None or one["lo"] <= 0.5 <= one["hi"]:
        return "neither confirmed nor contradicted"
    return "confirmed" if one["lo"] > 0.5 else "contradicted"


def _verdict(row: dict[str, Any], rival: str) -> str:
    """A claim held against the probability of improvement."""
    return (
        f"**{_finding(row, rival).capitalize()}** on this learner, at equal rollouts and with defaults: better than "
        f"`{rival}`. Here P(> `{rival}`) = {_span(row['improvement'][rival], '.2f')}."
    )


def overview(league: League, rows: list[dict[str, Any]], claims: dict[str, list[str]]) -> str:
    """The ranking, and what became of the claims. claims: rivals by curator."""
    table = [_line(("", "entrant", "seeds", "score", "score - uniform", "P(> uniform)", "best", "worst"))]
    table.append(_line("---" for _ in range(8)))
    for place, row in enumerate(rows, 1):
        name, _ = split_admission(row["curator"].split(" ")[0])
        best, worst = (pick(row["score"], key=row["score"].get) for pick in (max, min))
        one = [str(place), f"[{row['curator']}](methods/{name}.md)", str(row["seeds"]), _span(row["iqm"], ".3f")]
        other = row["curator"] != BASELINE
        one += [_span(row["gain"], "+.3f") if other else "", _span(row["improvement"].get(BASELINE), ".2f")]
        table.append(_line((*one, f"{best} {row['score'][best]:.2f}", f"{worst} {row['score'][worst]:.2f}")))
    by_name = {row["curator"]: row for row in rows}
    found: dict[str, list[str]] = {"confirmed": [], "neither confirmed nor contradicted": [], "contradicted": []}
    for name, rivals in claims.items():
        for rival in rivals:
            found[_finding(by_name[name], rival)].append(f"[{name}](methods/{name}.md) > {rival}")
    part = [
        "## Result",
        "\n".join(table),
        "Claims, of the papers and of our own method, held against these runs with everything at its defaults:",
    ]
    part.append("\n".join(f"- {what}: {', '.join(who) or 'none'}" for what, who in found.items()))
    return "\n\n".join(part) + "\n"


def _companions(name: str, own: list[dict[str, Any]], text: str) -> list[str]:
    """Curators to name on the command line; uniform always takes part."""
    entrant = [row["curator"].split(" ")[0] for row in own]
    return list(dict.fromkeys([name, *entrant, *(rival for rival in CLAIM.findall(text) if rival != BASELINE)]))


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _span(interval: dict[str, Any] | None, form: str) -> str:
    if interval is None:
        return ""
    text = f"{interval['mean']:{form}}"
    return text if interval["lo"] is None else f"{text} [{interval['lo']:{form}}, {interval['hi']:{form}}]"


def pages(league: League, rows: list[dict[str, Any]], cost: dict[str, Any]) -> dict[Path, str]:
    """The text of every page, by its path; that of a curator with a committed ablation has its table.

    Raises ValueError for a curator without one.
    """
    text, claims = {}, {}
    for name in CURATORS:
        path = PAGES / f"{name}.md"
        if not path.exists():
            raise ValueError(f"{name} has no page; write what it maximises and when it fails into {path}")
        hand = _hand(path)
        text[path] = f"{hand}\n\n{MARK}\n\n{measured(name, hand, league, rows, cost)}"
        ablation = RESULTS / f"ablation-{name}" / "league.parquet"
        if ablation.exists():
            found = read_league(ablation)
            text[path] += f"\n{taken_apart(name, found, standings(found))}"
        claims[name] = CLAIM.findall(hand)
    text[OVERVIEW] = f"{_hand(OVERVIEW)}\n\n{MARK}\n\n{overview(league, rows, claims)}"
    return text


def _hand(path: Path) -> str:
    """The part that is written by hand."""
    return path.read_text().partition(MARK)[0].rstrip()


if __name__ == "__main__":
    data = read_league(RESULTS / "league/league.parquet")
    for where, content in pages(data, standings(data), read_json(RESULTS / "league/cost.json")).items():
        where.write_text(content)
