"""GRPO post-training under eight curators: paired seeds, equal generated tokens, one page.

    python benchmarks/experiments.py --out runs/experiments --jobs 2 [--minutes 30] [--suites countdown]

Runs that ``--out`` already holds are resumed or only read, so the command can be given again until all is done; a stop
at any time leaves runs that can be compared. At the end, and whenever the time is up, ``experiments.runs.parquet`` and
``experiments.html`` are made of what there is.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from curbench.config import validate
from curbench.console import bars
from curbench.report import write_report
from curbench.sweep import run_grid
from curbench.train.run import TrainSpec, describe

SUITES = ("countdown", "arc_1d", "knights_knaves")
CURATORS: dict[str, dict[str, str]] = {
    "uniform": {},
    "dapo": {},
    "sec": {},
    "dump": {},
    "pcl": {},
    "mopps": {},
    "actor_curator": {"dormant": "5", "warmup": "3"},  # published: 20 and 5, a quarter of so short a run
    "target_aligned": {},
}
SEEDS = range(5)
TOKENS = 150_000
SETTING: dict[str, Any] = {"evaluate_every": 10, "grpo": {"threads": 1, "target": {"form": "head"}}}
"""The head's form of the target gradient costs little (docs/training.md); only ``target_aligned`` has a target."""
NAME = "experiments"


def plan(suite: str, *, seeds: range, tokens: int, model: str | None = None, **setting: Any) -> list[TrainSpec]:
    """All runs on one suite."""
    common = {"suite": suite, "budget_tokens": tokens, "model": model} | setting
    return [
        validate(TrainSpec, common | {"curator": name, "curator_set": hyper, "seed": seed})
        for seed in seeds
        for name, hyper in CURATORS.items()
    ]


def carry_out(suites: dict[str, list[TrainSpec]], out: Path, *, jobs: int, slices: int, deadline: float | None) -> bool:
    """Advances all runs until they are complete, or it is late; writes data and page. True when all are complete."""
    finished, total = 0, sum(map(len, suites.values()))
    with bars() as bar:
        for suite, specs in suites.items():
            overall, done = bar(suite, len(specs)), dict[tuple[str, int], float]()

            def progress(spec: TrainSpec, spent: Any, done: dict = done, overall: Any = overall) -> None:
                done[spec.curator, spec.seed] = spec.budget.fraction(spent)
                overall.update(sum(done.values()))

            for row in run_grid(
                specs, out, jobs=jobs, resume=True, slices=slices, deadline=deadline, progress=progress
            ):
                finished += 1
                print(describe(row), flush=True)
    print(f"{finished} of {total} runs are complete")
    if not any(out.rglob("evals.jsonl")):
        return False
    page, pack = out / f"{NAME}.html", out / f"{NAME}.runs.parquet"
    write_report([out], page, pack=pack)
    summary = write_report([pack], page)  # so that the page is what the data give, to the last digit
    print(f"page: {summary['report']}")
    return finished == total


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    asked = parser.parse_args()
    deadline = None if asked.minutes is None else time.time() + 60 * asked.minutes
    suites = {
        suite: plan(suite, seeds=range(asked.seeds), tokens=asked.tokens, **SETTING)
        for suite in asked.suites.split(",")
    }
    whole = carry_out(suites, asked.out, jobs=asked.jobs, slices=1, deadline=deadline)
    sys.exit(0 if whole else 3)


if __name__ == "__main__":
    main()
