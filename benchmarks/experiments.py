"""GRPO post-training under eight curators: paired seeds, equal generated tokens, one page.

    python benchmarks/experiments.py --out runs/experiments --jobs 2 [--minutes 30] [--suites countdown]
    python benchmarks/experiments.py --out runs/experiments --jobs 2 --ablation --suites knights_knaves

Runs that ``--out`` already holds are resumed or only read, so the command can be given again until all is done; a stop
at any time leaves runs that can be compared. At the end, and whenever the time is up, ``experiments.runs.parquet`` and
``experiments.html`` are made of what there is (with ``--ablation``, ``ablation.*``: our two curators with one thing
changed at a time, beside uniform).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from curbench.config import validate
from curbench.console import bars
from curbench.report import write_report
from curbench.sweep import run_grid
from curbench.train.run import TrainSpec, describe

SUITES = ("countdown", "arc_1d", "knights_knaves")


class Entrant(NamedTuple):
    """A curator, its hyper-parameters, and settings of the run."""

    curator: str
    hyper: dict[str, str] = {}  # noqa: RUF012  # of a NamedTuple: never written to
    setting: dict[str, Any] = {}  # noqa: RUF012


SHORT = {"dormant": "5", "warmup": "3"}
"""Of actor_curator; published: 20 and 5, a quarter of so short a run."""

HEAD = {"grpo": {"threads": 1, "target": {"form": "head"}}}
"""The head's form of the target gradient costs little (docs/training.md); only ``target_aligned`` has a target."""

CURATORS = {
    "uniform": Entrant("uniform"),
    "dapo": Entrant("dapo"),
    "sec": Entrant("sec"),
    "dump": Entrant("dump"),
    "pcl": Entrant("pcl"),
    "mopps": Entrant("mopps"),
    "actor_curator": Entrant("actor_curator", SHORT),
    "target_aligned": Entrant("target_aligned"),
}
ABLATION = {
    "uniform": Entrant("uniform"),
    "actor_curator": Entrant("actor_curator", SHORT),
    "actor_curator-cross_fit": Entrant("actor_curator", SHORT, {"signal": "policy_improvement_cross_fit"}),
    "actor_curator-abs_advantage": Entrant("actor_curator", SHORT, {"signal": "mean_abs_advantage"}),
    "actor_curator-floor": Entrant("actor_curator", SHORT | {"floor": "0.5"}),
    "actor_curator-strata": Entrant("actor_curator", SHORT, {"features": "strata"}),
    "target_aligned": Entrant("target_aligned"),
    "target_aligned-probe": Entrant("target_aligned", {}, {"grpo": {"threads": 1}}),
    "target_aligned-eta": Entrant("target_aligned", {"eta": "3"}),
    "target_aligned-linear": Entrant("target_aligned", {"scorer": "linear"}),
    "target_aligned-held_out": Entrant("target_aligned", {"held_out": "8", "every": "4"}),
}
"""What is suspected of a utility: it is measured on what was just trained on, it is noise, it explores too little."""

SEEDS = range(5)
TOKENS = 150_000
SETTING: dict[str, Any] = {"evaluate_every": 10} | HEAD

Group = tuple[Path, list[TrainSpec]]
"""Where runs are kept, and what they are."""


def plan(
    suite: str,
    *,
    seeds: Iterable[int],
    tokens: int,
    entrants: Mapping[str, Entrant] = CURATORS,
    **setting: Any,
) -> dict[str, list[TrainSpec]]:
    """All runs on one suite, by entrant."""
    common = {"suite": suite, "budget_tokens": tokens} | setting
    return {
        name: [
            validate(TrainSpec, common | one.setting | {"curator": one.curator, "curator_set": one.hyper, "seed": seed})
            for seed in seeds
        ]
        for name, one in entrants.items()
    }


def carry_out(
    label: str, groups: list[Group], *, jobs: int, slices: int = 1, deadline: float | None = None
) -> tuple[int, int]:
    """Advances all runs until they are complete, or it is late; (how many are complete, how many there are)."""
    when: dict[str, Any] = {"slices": slices, "deadline": deadline}
    finished, total = 0, sum(len(specs) for _, specs in groups)
    with bars() as bar:
        overall = bar(label, total)
        done: dict[tuple[Path, str, int], float] = {}
        for out, specs in groups:

            def progress(spec: TrainSpec, spent: Any, out: Path = out) -> None:
                done[out, spec.curator, spec.seed] = spec.budget.fraction(spent)
                overall.update(sum(done.values()))

            for row in run_grid(specs, out, jobs=jobs, resume=True, progress=progress, **when):
                finished += 1
                print(describe(row), flush=True)
    return finished, total


def show(found: list[Path], out: Path, name: str) -> None:
    """Writes data and page of the runs in these folders, if there are any."""
    found = [path for path in found if any(path.rglob("evals.jsonl"))]
    if found:
        page, pack = out / f"{name}.html", out / f"{name}.runs.parquet"
        write_report(found, page, pack=pack)
        write_report([pack], page)  # so that the page is what the data give, to the last digit
        print(f"page: {page}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    asked = parser.parse_args()
    deadline = None if asked.minutes is None else time.time() + 60 * asked.minutes
    suites = asked.suites.split(",")
    entrants = ABLATION if asked.ablation else CURATORS
    finished = total = 0
    folders: list[Path] = []
    for suite in suites:
        runs = plan(suite, seeds=range(asked.seeds), tokens=asked.tokens, entrants=entrants, **SETTING)
        # Runs are kept by curator: what differs from the main study in anything else has a folder of its own.
        place = {name: asked.out if name in CURATORS else asked.out / "ablation" / name for name in runs}
        groups = [
            (out, [one for name, specs in runs.items() if place[name] == out for one in specs])
            for out in dict.fromkeys(place.values())
        ]
        one, every = carry_out(suite, groups, jobs=asked.jobs, deadline=deadline)
        finished, total = finished + one, total + every
        folders += dict.fromkeys(place[name] / suite / entrants[name].curator for name in runs)
    print(f"{finished} of {total} runs are complete")
    show(folders, asked.out, "ablation" if asked.ablation else "experiments")
    sys.exit(0 if finished == total else 3)


if __name__ == "__main__":
    main()
