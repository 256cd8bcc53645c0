"""What an experiment will cost, from one step that is really made: nothing is written."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from curbench.loop import step
from curbench.philox import spawn_seeds
from curbench.provenance import memory_mb
from curbench.signals import SIGNALS
from curbench.train.grpo import GRPOActor
from curbench.train.run import TrainSpec, make_curator, make_engine


class Cost(NamedTuple):
    """What runs with the settings of one spec cost, measured on one step of it.

    step_tokens, step_rollouts, step_s   of one step of training
    evaluations, evaluation_s            how many a run makes, and the estimated time of each
    steps, tokens, run_s                 of a whole run
    memory_mb                            peak of the process, or of the accelerator where the model is on one
    checkpoint_mb                        of the largest tensors of a checkpoint: weights and two moments, float32
    """

    parameters: int
    step_tokens: int
    step_rollouts: int
    step_s: float
    evaluations: int
    evaluation_s: float
    steps: int
    tokens: int
    run_s: float
    memory_mb: float
    checkpoint_mb: float


def estimate(spec: TrainSpec) -> Cost:
    """The cost of a run of ``spec``: one step to warm up, one on the clock, the rest by proportion.

    Completions may become longer or shorter as the policy learns, and a curator with several rounds per step uses up
    a budget of tokens in fewer steps: the estimate by tokens is the better one.

    Raises ValueError for what ``train`` would refuse.
    """
    curator_seed, actor_seed = spawn_seeds(spec.seed, 2)
    suite, test = spec.load_suite("train"), spec.load_suite("test")
    policy = spec.load_policy()
    plain = spec.model_copy(update={"curator": "uniform", "curator_set": {}})
    curator = make_curator(plain, suite.bank, curator_seed)
    engine = make_engine(spec, policy)
    actor = GRPOActor(policy, suite, test, seed=actor_seed, config=spec.grpo, engine=engine)
    for _ in range(2):
        begin = perf_counter()
        result = step(curator, actor, batch=spec.batch, signal=SIGNALS[curator.signal], estimator=spec.estimator)
        seconds = perf_counter() - begin
    tokens, rollouts = int(result.feedback.tokens.sum()), int(result.selection.rollouts.sum())
    limit = [ceil(spec.budget_tokens / tokens)] if spec.budget_tokens else []
    limit += [ceil(spec.budget_rollouts / rollouts)] if spec.budget_rollouts else []
    limit += [spec.budget_steps] if spec.budget_steps else []
    steps = min(limit)
    held_out = min(spec.grpo.evaluation_problems or len(test.bank), len(test.bank)) * spec.grpo.evaluation_samples
    evaluation = result.seconds["rollout"] * held_out / rollouts
    evaluations = 1 + ceil(steps / spec.evaluate_every)
    parameters = sum(p.numel() for p in policy.model.parameters())
    return Cost(
        parameters=parameters,
        step_tokens=tokens,
        step_rollouts=rollouts,
        step_s=seconds,
        evaluations=evaluations,
        evaluation_s=evaluation,
        steps=steps,
        tokens=steps * tokens,
        run_s=steps * seconds + evaluations * evaluation,
        memory_mb=memory_mb(),
        checkpoint_mb=3 * 4 * parameters / 1e6,
    )


def plan(specs: list[TrainSpec], out: Path, *, jobs: int) -> dict[str, Any]:
    """What ``specs`` would do: the runs in their order, and what they cost together.

    >>> from curbench.train.run import TrainSpec
    >>> spec = TrainSpec(suite="countdown", curator="uniform", budget_steps=3, batch=2, group=2)
    >>> plan([spec], Path("runs"), jobs=1)["total"]["rollouts"]
    12
    """
    cost = estimate(specs[0])
    side = min(jobs, len(specs), os.cpu_count() or 1)
    return {
        "suite": specs[0].suite,
        "model": specs[0].model or f"the base model of {specs[0].suite}",
        "parameters": cost.parameters,
        "curators": list(dict.fromkeys(spec.curator for spec in specs)),
        "seeds": list(dict.fromkeys(spec.seed for spec in specs)),
        "out": str(out),
        "run": cost._asdict() | {"rollouts": cost.steps * cost.step_rollouts},
        "total": {
            "runs": len(specs),
            "tokens": len(specs) * cost.tokens,
            "rollouts": len(specs) * cost.steps * cost.step_rollouts,
            "seconds": len(specs) * cost.run_s / side,
            "memory_mb": side * cost.memory_mb,
            "checkpoints_mb": len(specs) * cost.checkpoint_mb,
        },
    }


def describe_plan(row: dict[str, Any]) -> str:
    """The plan for people."""
    run, total = row["run"], row["total"]
    return "\n".join(
        (
            f"{total['runs']} runs on {row['suite']}: {len(row['curators'])} curators ({', '.join(row['curators'])}), "
            f"seeds {', '.join(map(str, row['seeds']))}",
            f"model          {row['model']}, {row['parameters']:,} parameters",
            f"each run       about {run['steps']:,} steps, {run['rollouts']:,} rollouts, {run['tokens']:,} tokens, "
            f"{run['evaluations']} evaluations, {run['run_s'] / 60:.1f} minutes",
            f"all runs       about {total['tokens']:,} tokens, {total['seconds'] / 60:.0f} minutes, "
            f"{total['memory_mb'] / 1e3:.1f} GB of memory, {total['checkpoints_mb'] / 1e3:.2f} GB of checkpoints",
            f"measured         on one uniform step: {run['step_tokens']:,} tokens in {run['step_s']:.2f} s",
            f"nothing was written to {row['out']}",
        )
    )
