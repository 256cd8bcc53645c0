"""Coverage of the intervals of off-policy replay, on the simulated learner, where the truth is known.

For every seed a curator trains the learner for some steps; its log is replayed with others. The truth is what their
selections would have been worth: at every actor state that the log visited the learner is branched, and the expected
utility of every problem there is exact (mean |advantage| of a group is twice ``teaching`` of its success rate).

    python benchmarks/replay_coverage.py --out benchmarks/results/replay/coverage.json
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from curbench.curators import curator_class
from curbench.curators.base import Curator
from curbench.loop import Budget, Spent, State, StepResult, run
from curbench.philox import spawn_seeds
from curbench.provenance import environment
from curbench.record import write_atomic
from curbench.replay import replay
from curbench.replay.estimators import ESTIMATORS
from curbench.signals import SIGNALS
from curbench.sim.learner import LEARNERS, Learner, LearnerActor, make_learner, teaching
from curbench.types import Array, Bank, Evaluation, Feedback

LOGGERS: dict[str, dict[str, Any]] = {"uniform": {}, "sec": {"temperature": 0.5, "design": "iid"}, "plr": {}}
"""Curators that draw the logs: by a systematic, an iid and an order design."""

REPLAYED: dict[str, dict[str, Any]] = {"sec": {}, "osmd": {}, "ucb1": {}, "mopps": {}}
BATCH, GROUP, DRAWS = 32, 8, 8


class States:
    """A recorder that keeps the feedback of every step, and the skill that it was drawn at."""

    def __init__(self, actor: LearnerActor) -> None:
        self.actor, self.skill, self.feedback = actor, [actor.skill], list[Feedback]()

    def step(self, result: StepResult, spent: Spent, metrics: dict[str, float]) -> None:
        self.feedback.append(result.feedback)
        self.skill.append(self.actor.skill)

    def evaluation(self, evaluation: Evaluation, spent: Spent) -> None: ...
    def checkpoint(self, state: State, spent: Spent) -> None: ...


def expected_utility(learner: Learner, skill: Array) -> Array:
    """f64[N], expected mean |advantage| of a group of each problem, at a skill."""
    right = expit(learner.train.logit(skill))
    wrong_paid, right_paid = learner.train.paid.T
    return 2.0 * teaching(right * right_paid + (1.0 - right) * wrong_paid, GROUP)


def make_log(learner: Learner, bank: Bank, logger: str, steps: int, seed: int) -> States:
    """One run of the learner under a curator."""
    curator_seed, actor_seed = spawn_seeds(seed, 2)
    common = {"batch": BATCH, "horizon": steps, "group": GROUP}
    curator = curator_class(logger)(bank, seed=curator_seed, **common, **LOGGERS[logger])
    states = States(LearnerActor(learner, actor_seed))
    signal = SIGNALS["mean_abs_advantage"]
    run(curator, states.actor, batch=BATCH, budget=Budget(steps=steps), signal=signal, record=states)
    return states


def coverage(setting: str, logger: str, *, logs: int, steps: int, first_seed: int = 0) -> list[dict[str, Any]]:
    """One row per replayed curator and estimator: share of the logs whose 95 % interval holds the truth."""
    learner = make_learner(setting, replace(LEARNERS[setting], problems=50))
    bank = learner.bank()
    row: dict[tuple[str, str], list[tuple[float, float, float]]] = {
        (name, estimator): [] for name in REPLAYED for estimator in ESTIMATORS
    }
    refused, effective = dict.fromkeys(REPLAYED, 0), {name: list[float]() for name in REPLAYED}
    for seed in range(first_seed, first_seed + logs):
        states = make_log(learner, bank, logger, steps, seed)
        utility = [expected_utility(learner, skill) for skill in states.skill[:-1]]
        for name, hyper in REPLAYED.items():

            def make(own: int, name: str = name, hyper: dict[str, Any] = hyper) -> Curator:
                return curator_class(name)(bank, seed=own, batch=BATCH, horizon=steps, group=GROUP, **hyper)

            result = replay(states.feedback, make, seed=seed, draws=DRAWS, keep=True)
            truth = float(np.mean([share @ u for share, u in zip(result.share, utility, strict=True)]))
            effective[name].append(result.effective)
            refused[name] += result.support().hi < 1.0
            for estimator, found in result.estimates().items():
                row[name, estimator].append((found.mean - truth, found.lo - truth, found.hi - truth))
    table = []
    for (name, estimator), error in row.items():
        off, lo, hi = np.array(error).T
        table.append(
            {
                "learner": setting,
                "logged_by": logger,
                "curator": name,
                "estimator": estimator,
                "logs": logs,
                "steps": steps,
                "covered": float(np.mean((lo <= 0.0) & (hi >= 0.0))),
                "bias": float(off.mean()),
                "bias_standard_error": float(off.std(ddof=1) / logs**0.5),
                "rmse": float(np.sqrt(np.mean(off**2))),
                "width": float(np.mean(hi - lo)),
                "effective_share": float(np.mean(effective[name]) / (steps * BATCH)),
                "refused": refused[name],
            }
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=2000, help="seeds per logging curator")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learner", default="plain")
    parser.add_argument("--loggers", nargs="+", choices=LOGGERS, default=list(LOGGERS))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    began, rows = time.process_time(), []
    for logger in asked.loggers:
        for row in coverage(asked.learner, logger, logs=asked.logs, steps=asked.steps):
            rows.append(row)
            print(
                f"{logger:8} {row['curator']:6} {row['estimator']:6} covered {row['covered']:.4f}  "
                f"bias {row['bias']:+.5f} ({row['bias_standard_error']:.5f})  width {row['width']:.4f}  "
                f"rmse {row['rmse']:.4f}  effective {row['effective_share']:.2f}  refused {row['refused']}",
                flush=True,
            )
    print(f"{time.process_time() - began:.0f} s of CPU")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(asked.out, json.dumps({"environment": environment(), "coverage": rows}, indent=1).encode())


if __name__ == "__main__":
    main()
