"""What test_world has torchrun run in two processes, ``together.py OUT``: runs, one that resumes, one that fails."""

import sys
from pathlib import Path

from curbench.config import validate
from curbench.train.grpo import GRPOActor
from curbench.train.run import TrainSpec, follow, train
from curbench.train.world import company

STEPS = 3
GRPO = {"evaluation_problems": 15, "threads": 1, "micro_batch": 3, "minibatches": 2, "learning_rate": 1e-4}
SPEC = {"suite": "countdown", "budget_steps": STEPS, "batch": 5, "group": 4, "evaluate_every": 2, "checkpoint_every": 2}
CASE = {
    "ddp": {
        "curator": "target_aligned",
        "grpo": GRPO | {"snr": {"parts": 2}, "averaging": {"every": 1, "count": 2}, "evaluation_batch": 4},
    },
    "fsdp2": {
        "curator": "actor_curator",
        "curator_set": {"dormant": "1", "warmup": "1", "candidates": "64"},
        "grpo": GRPO,
        "parallel": "fsdp2",
    },
}
CUT, FAILED = "cut", "failed"
"""Folders of runs with the settings of "fsdp2": put down before its last step and resumed, and failed in that step."""


def spec(name):
    return validate(TrainSpec, SPEC | CASE[name])


def fail_after(updates):
    """Makes this process run out of memory in the update after so many."""
    update, count = GRPOActor.update, iter(range(updates))

    def counted(actor, *argument):
        if next(count, None) is None:
            raise MemoryError("there is no memory left on one of the processes")
        return update(actor, *argument)

    GRPOActor.update = counted


def main(out):
    with company() as world:
        if world.rank:
            fail_after((len(CASE) + 1) * STEPS + STEPS - 1)
            follow(world)
            return
        for name in CASE:
            train(spec(name), out / name)
        train(spec("fsdp2"), out / CUT, pause=lambda spent: spent.steps == STEPS - 1)
        train(spec("fsdp2"), out / CUT, resume=True)
        train(spec("fsdp2"), out / FAILED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
