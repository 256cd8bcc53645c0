"""The page's sections on training: curves, comparisons with uniform, strata, costs, and what the model wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from math import isfinite
from typing import Any

from curbench.curators.base import NEARLY_UNIFORM
from curbench.report import figures
from curbench.report.collect import TrainingRun
from curbench.report.compare import Comparison, comparable, compare, over_suites
from curbench.report.markup import figure, interval, note, table
from curbench.report.training import Result, by_setting, cost, learning_curve, results, stratum_share
from curbench.stats import Interval

SHOWN_CHARACTERS = 600


def training(runs: list[TrainingRun]) -> Iterator[str]:
    """Sections of all training runs: one per suite, and one over suites where the same curators ran on several."""
    suites: dict[str, list[TrainingRun]] = {}
    for run in runs:
        suites.setdefault(run.spec["suite"], []).append(run)
    for suite, all_of_it in suites.items():
        suites[suite] = comparable(all_of_it)
    if len(suites) > 1:
        yield from _over(suites)
    for suite, same in suites.items():
        yield from _suite(suite, same)


def _over(suites: dict[str, list[TrainingRun]]) -> Iterator[str]:
    rows = over_suites(suites)
    if len(rows) < 2:
        return
    yield f"<h2>Over {len(suites)} suites</h2>"
    yield note(
        f"{', '.join(suites)}, each counting alike. Final pass rate: interquartile mean over all seeds of all suites "
        "with a stratified bootstrap interval; the tokens that uniform's final rate took, over those of uniform "
        "itself: geometric mean over suites, inf where a suite never got there; all intervals are 95 %, over training "
        "seeds, and not corrected for the number of curators."
    )
    rest = [i for i, name in enumerate(COMPARISON_HEAD) if name != "tokens to target"]  # of one suite each
    cells = [_comparison(row, overall=True) for row in rows]
    yield table([COMPARISON_HEAD[i] for i in rest], [[row[i] for i in rest] for row in cells])


def _suite(suite: str, runs: list[TrainingRun]) -> Iterator[str]:
    group = by_setting(runs)
    yield f"<h2>Training on {escape(suite)}</h2>"
    seeds = sorted({run.spec["seed"] for run in runs})
    if any(run.status != "complete" for run in runs):
        yield note("These runs have not ended: all are shown up to the tokens that every one of them has reached.")
    yield note(
        "Held-out pass rate, every evaluation on the same problems with the same sampling seeds. The line is the mean "
        f"over training seeds ({', '.join(map(str, seeds))}; thin lines: each seed); the band is a 95 % interval over "
        "problems. Budgets count all generated training tokens, those of rejected groups included."
    )
    curves = {axis: {n: learning_curve(same, axis) for n, same in group.items()} for axis in ("tokens", "seconds")}
    yield figure(figures.learning_figure(suite, curves))
    yield "<h3>Against uniform, over training seeds</h3>"
    yield table(COMPARISON_HEAD, [_comparison(row) for row in compare(runs)])
    yield note(
        "Final: interquartile mean over seeds of the last evaluation, with a bootstrap interval. Gain: the paired "
        "difference to uniform, seed by seed, with Student's t or a normal interval; P(higher): the probability that a "
        "run ends above one of uniform. Tokens to target: until the interquartile mean over seeds first stands where "
        "uniform ends; the ratio is to the tokens that uniform itself needs for it. Bootstrap intervals over few seeds "
        "are narrow rather than wide."
    )
    yield "<h3>Over held-out problems</h3>"
    yield table(RESULT_HEAD, [_result_row(row) for row in results(runs)])
    yield note(
        "Intervals are 95 %, paired over held-out problems after averaging over the training seeds: they hold no "
        "variance between further training seeds. Comparisons are not corrected for their number. Effective support "
        "is exp(entropy of the draw) as a share of the bank, before any group is rejected."
    )
    yield from _strata(suite, group)
    yield "<h3>What a step costs</h3>"
    yield table(COST_HEAD, [_cost_row(name, same) for name, same in group.items()])
    yield note(
        "Curation is selecting, the utility's extra forward pass and learning; first steps, which compile, are out."
    )
    yield from _samples(group)


def _strata(suite: str, group: dict[str, list[TrainingRun]]) -> Iterator[str]:
    first = next(iter(group.values()))[0]
    chosen = {name: share for name, same in group.items() if (share := stratum_share(same)) is not None}
    if chosen and first.strata:
        yield "<h3>Which strata each curator chose</h3>"
        yield figure(figures.stratum_figure(chosen, first.strata))
    stratum = sorted(set(first.evaluation[0].get("stratum", [])))
    if len(stratum) > 1:
        curve = {str(s): {n: learning_curve(same, stratum=s) for n, same in group.items()} for s in stratum}
        yield "<h3>Held-out pass rate by stratum</h3>"
        yield figure(figures.stratum_rates_figure(suite, first.strata, curve))


def _samples(group: dict[str, list[TrainingRun]]) -> Iterator[str]:
    for name, same in group.items():
        run = same[0]
        before, after = (row.get("shown", []) for row in (run.evaluation[0], run.evaluation[-1]))
        if before and len(before) == len(after):
            rows = [
                [f"<code>{_text(one['prompt'])}</code>", _completion(one), _completion(other)]
                for one, other in zip(before, after, strict=True)
            ]
            yield f"<details><summary>What the model wrote: {escape(name)}, seed {run.spec['seed']}</summary>"
            yield table(("problem", "before", "after"), rows, css="wrap") + "</details>"


def _completion(one: dict[str, Any]) -> str:
    mark = "right" if one["success"] else '<span class="bad">wrong</span>'
    return f"{mark}: <code>{_text(one['text'])}</code>"


def _text(text: str) -> str:
    """Untrusted text, escaped and cut; a control character is shown as what it is."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text)[:SHOWN_CHARACTERS])
    return escape(shown + (" ..." if len(str(text)) > SHOWN_CHARACTERS else "")).replace("\n", "<br>")


COMPARISON_HEAD = (
    *("curator", "seeds", "final pass rate", "gain over uniform", "relative", "P(higher)"),
    *("tokens to target", "ratio to uniform", "seeds that reach it"),
)


def _comparison(row: Comparison, overall: bool = False) -> list[str]:
    return [
        escape(row.curator),
        str(row.seeds),
        _plain(row.final, "{:.3f}"),
        "" if row.gain is None else interval(row.gain),
        "" if row.relative is None else _plain(row.relative, "{:+.1%}"),
        "" if row.probability is None else _plain(row.probability, "{:.2f}"),
        "" if row.tokens is None else _plain(row.tokens, "{:,.0f}", never="not reached"),
        "" if row.ratio is None else _plain(row.ratio, "{:.2f}", never="not reached"),
        f"{row.reached}" if overall or row.gain is not None or row.tokens is not None else "",
    ]


def _plain(value: Interval, style: str, never: str = "inf") -> str:
    """A mean with its interval, unsigned unless ``style`` signs it; what is infinite is said in words."""

    def text(x: float) -> str:
        return style.format(x) if isfinite(x) else ("inf" if x > 0 else "-inf")

    mean = text(value.mean) if isfinite(value.mean) else never
    if not isfinite(value.lo) and not isfinite(value.hi):
        return mean
    return f"{mean} [{text(value.lo)}, {text(value.hi)}]"


def _nearly_uniform(row: Result) -> str:
    """Says so where a curator that is not uniform draws as if it were."""
    return ", nearly uniform" if row.support >= NEARLY_UNIFORM and not row.curator.startswith("uniform") else ""


RESULT_HEAD = (
    *("curator", "seeds", "steps", "tokens", "before", "after", "change"),
    *("after &minus; uniform", "degenerate groups", "effective support"),
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
    ]


COST_HEAD = ("curator", "step, s", "curation, ms", "curation, share", "tokens/s", "peak memory, MB")


def _cost_row(name: str, runs: list[TrainingRun]) -> list[str]:
    one = cost(runs)
    cell = [f"{one.step_s:.3f}", f"{one.curator_ms:.1f}", f"{100 * one.curator_share:.1f} %"]
    cell += [f"{one.tokens_per_s:,.0f}", f"{one.memory_mb:,.0f}"]
    return [escape(name), *(text if isfinite(x) else "" for x, text in zip(one, cell, strict=True))]


def unfinished(directory: Iterable[Any]) -> Iterator[str]:
    """Says which runs have not ended, and what is shown of them."""
    names = list(map(str, directory))
    if names:
        count = f"{len(names)} unfinished run{'s' if len(names) > 1 else ''}"
        yield note(
            f"Left out, while there are seeds that have ended: {count}, to be continued with curbench train --resume: "
            f"{', '.join(names[:12])}{' ...' if len(names) > 12 else ''}."
        )
