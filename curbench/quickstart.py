"""The first-run tour: simulate, check and time kernels, check the base model, compare curators, write the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curbench.record import write_atomic

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much the tour does: for people with ten minutes, and with two."""

    horizon: int
    seeds: int
    budget_tokens: int
    training_seeds: int


FULL = Size(horizon=10_000, seeds=100, budget_tokens=300_000, training_seeds=2)
FAST = Size(horizon=2_000, seeds=30, budget_tokens=60_000, training_seeds=2)

SIMULATIONS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("stationary", "exp3", 1, {}),
    ("stationary", "osmd", 1, {}),
    ("switching", "uniform", 8, {}),
    ("switching", "sec", 8, {}),
    ("switching", "osmd", 8, {"segments": 10}),
    ("drifting", "osmd", 8, {"method": "restart", "variation": 10.0}),
)
"""Test-bed, curator, draws per round, hyper-parameters."""

CURATORS: dict[str, dict[str, str]] = {
    "uniform": {},
    "uniform+nondegenerate": {},
    "sec": {},
    "actor_curator": {"dormant": "5", "warmup": "3"},
}
"""Compared at equal generated tokens; the published 20 + 5 dormant and warm-up steps would fill a run this short."""

BASE_STEPS = 100  # of warm-up from scratch; the base model that ships took thousands


def tour(out: Path, *, fast: bool, bar: Any, say: Say) -> dict[str, Any]:
    """Runs the tour into ``out`` and returns where the report is and what failed; a finished part is not repeated.

    bar  ``make(label, total)`` of ``console.bars``;  say  takes one line of results
    """
    size = FAST if fast else FULL
    failed = [
        *_simulate(out, size, bar, say),
        *_kernels(out, bar, say),
        *_base_model(bar, say),
    ]
    _train(out, size, bar, say)
    from curbench.report import write_report

    summary = write_report([out], out / "report.html")
    return {**summary, "failed": failed}


def _simulate(out: Path, size: Size, bar: Any, say: Say) -> list[str]:
    """Regret against proved bounds, on three test-beds."""
    from curbench.sim.arms import make_arms
    from curbench.sim.simulate import describe, keep, kept, simulate

    failed = []
    for name, curator, batch, hyper in SIMULATIONS:
        spec = {"seeds": size.seeds, "batch": batch, "instance_seed": 0}
        arms = make_arms(name, horizon=size.horizon)
        row = kept(out, arms, curator, hyper, spec, resume=True)
        if row is None:
            progress = bar(f"sim {name}/{curator}", size.seeds)
            result = simulate(arms, curator, seeds=size.seeds, batch=batch, hyper=hyper, progress=progress.advance)
            keep(out, result, spec)
            row = result.row()
        say(describe(row))
        if row["holds"] is False or row["certificate"]["holds"] is False:
            failed.append(f"{name}/{curator}: a bound or certificate is violated")
    return failed


def _kernels(out: Path, bar: Any, say: Say) -> list[str]:
    """Every op against its reference on odd shapes, then against its peers on the clock."""
    from curbench import bench

    failed = bench.self_check()
    say(f"kernel self-check: {'; '.join(failed) if failed else 'every op agrees with its reference'}")
    path = out / "bench.json"
    if not path.exists():
        timing = bench.run(fast=True, progress=bar("kernels", 1.0).update)
        failed += timing.failed
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(bench.document(timing), indent=1).encode())
    for row in json.loads(path.read_text())["rows"]:
        say(bench.describe(row))
    return failed


def _base_model(bar: Any, say: Say) -> list[str]:
    """The base model that ships is the one its recipe made, and making one from scratch works on this machine."""
    import numpy as np

    from curbench import suites
    from curbench.train.base import tiny_policy, warm_up
    from curbench.train.policy import load_policy, shipped_base

    recipe = json.loads((shipped_base("countdown") / "recipe.json").read_text())
    shape = {name: recipe[name] for name in ("hidden", "layers", "heads")}
    fresh = tiny_policy(load_policy(None, "countdown").tokenizer, **shape, seed=0)
    progress = bar("base model", BASE_STEPS)
    loss: list[float] = []

    def note(step: int, value: float) -> None:
        loss.append(value)
        progress.update(step)

    train = suites.load("countdown", "train")
    rng = np.random.default_rng(0)
    warm_up(fresh, train, rng, steps=BASE_STEPS, corruption=0.0, batch=32, learning_rate=2e-3, progress=note)
    rate = ", ".join(f"{name} {stated['rate']:.2f}" for name, stated in recipe["pass_rate"].items())
    say(f"base model: weights match their recipe; pass rates {rate}")
    say(f"base model: {BASE_STEPS} warm-up steps from scratch, loss {loss[0]:.2f} -> {loss[-1]:.2f}")
    return [] if loss[-1] < 0.75 * loss[0] else ["warming up a base model from scratch does not lower its loss"]


def _train(out: Path, size: Size, bar: Any, say: Say) -> None:
    """GRPO under every curator, at equal generated tokens."""
    from curbench.config import validate
    from curbench.sweep import run_grid
    from curbench.train.run import TrainSpec, describe

    jobs = min(2, os.cpu_count() or 1)
    specs = [
        validate(
            TrainSpec,
            {"suite": "countdown", "curator": name, "seed": seed, "budget_tokens": size.budget_tokens}
            | {"curator_set": hyper, "grpo": {"threads": 1}},
        )
        for seed in range(size.training_seeds)
        for name, hyper in CURATORS.items()
    ]
    done: dict[int, float] = {}
    overall = bar(f"GRPO, {len(specs)} runs", len(specs))

    def progress(spec: TrainSpec, spent: Any) -> None:
        done[specs.index(spec)] = spec.budget.fraction(spent)
        overall.update(sum(done.values()))

    for row in run_grid(specs, out, jobs=jobs, resume=True, progress=progress):
        say(describe(row))
