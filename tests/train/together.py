"""What test_world has torchrun run in two processes, ``together.py OUT``: four runs, the last to its failure."""

import sys
from pathlib import Path

from curbench.config import validate
from curbench.train.grpo import GRPOActor
from curbench.train.run import TrainSpec, follow, train
from curbench.train.world import company

SPEC = {
    "suite": "countdown",
    "budget_steps": 4,
    "batch": 5,
    "group": 4,
    "evaluate_every": 2,
    "checkpoint_every": 2,
    "grpo": {"evaluation_problems": 15, "threads": 1, "micro_batch": 3, "minibatches": 2, "learning_rate": 1e-4},
}
NEURAL = {"dormant": "1", "warmup": "1", "candidates": "64"}
SNR = {"snr": {"parts": 2}, "averaging": {"every": 2, "count": 2}, "evaluation_batch": 4}
CASE = {
    "ddp": {"curator": "actor_curator", "curator_set": NEURAL, "grpo": SPEC["grpo"] | SNR},
    "fsdp2": {"curator": "actor_curator", "curator_set": NEURAL, "grpo": SPEC["grpo"] | SNR, "parallel": "fsdp2"},
    "aligned": {"curator": "target_aligned"},
    "cut": {"curator": "sec", "parallel": "fsdp2"},
}


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
            fail_after(4 * (len(CASE) - 1) + 2)
            follow(world)
        else:
            for name in CASE:
                train(spec(name), out / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
