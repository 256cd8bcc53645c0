"""The experiments of ``experiments.py`` on one CUDA GPU: base models from scratch, then paired runs, offline.

    python benchmarks/gpu_experiments.py --minutes 25 --out runs/gpu-experiments [--size small]

Everything is resumable: the command can be given again with the same ``--out``. The budget of tokens of a run is chosen
once, from a step that is really made, so that one seed of all curators on one suite takes about ten minutes; suites
take turns seed by seed, so whatever the time allowed is a paired result.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from experiments import CURATORS, SUITES, carry_out, plan, show

from curbench.console import bars
from curbench.record import read_json, write_atomic
from curbench.train.base import make_base
from curbench.train.plan import estimate

ROUND_S = 600.0
"""Seconds that one seed of all curators on one suite may take."""

STEPS = 2500
LEARNING_RATE = {"tiny": 2e-3, "small": 1e-3, "medium": 4e-4}
"""Of the warm-up of a base model."""

SETTING: dict[str, Any] = {"batch": 64, "group": 16, "evaluate_every": 10, "grpo": {"target": {"form": "head"}}}


def base_model(suite: str, size: str, out: Path, device: str) -> Path:
    """The folder of the base model of a suite, made unless it is there."""
    folder = out / "base" / f"{suite}-{size}"
    if not (folder / "recipe.json").exists():
        with bars() as bar:
            shown = bar(f"base model of {suite}, {size}", STEPS)
            rate = LEARNING_RATE[size]
            note = lambda step, loss: shown.update(step)  # noqa: E731
            make_base(suite, folder, size=size, device=device, steps=STEPS, learning_rate=rate, progress=note)
    return folder


def budget(suite: str, model: Path, out: Path) -> int:
    """Generated tokens of a run, looked up once."""
    path = out / f"budget-{suite}.json"
    if not path.exists():
        (spec,) = plan(suite, seeds=[0], tokens=1, model=str(model), **SETTING)["uniform"]
        cost = estimate(spec)
        per_run = ROUND_S / len(CURATORS)
        tokens = int(per_run / cost.step_s * cost.step_tokens / 1.5)  # a step's signal, evaluations and loading
        write_atomic(path, json.dumps({"tokens": max(tokens, 20 * cost.step_tokens)} | cost._asdict()).encode())
    return int(read_json(path)["tokens"])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-experiments"))
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--size", default="small", choices=("tiny", "small", "medium"))
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    deadline = time.time() + 60 * asked.minutes
    asked.out.mkdir(parents=True, exist_ok=True)
    whole, suites = True, asked.suites.split(",")
    for seed in range(asked.seeds):
        for suite in suites:
            if time.time() >= deadline:
                sys.exit(3)
            model = base_model(suite, asked.size, asked.out, asked.device)
            tokens = budget(suite, model, asked.out)
            runs = plan(suite, seeds=[seed], tokens=tokens, model=str(model), **SETTING)
            specs = [spec for (spec,) in runs.values()]
            done, every = carry_out(f"{suite}, seed {seed}", [(asked.out, specs)], jobs=1, slices=4, deadline=deadline)
            whole &= done == every
            show([asked.out / one for one in suites], asked.out, "gpu-experiments")
    sys.exit(0 if whole else 3)


if __name__ == "__main__":
    main()
