"""What the target gradient of ``target_aligned`` adds to a training step, by form.

    python benchmarks/target_cost.py --out target_cost.json
    python benchmarks/target_cost.py --model FOLDER --device cuda --precision bfloat16

A step is a rollout, its rewards and an update, of the shipped model or of a local folder, at the batch of a run. All
forms see the same rollouts, in turns, round after round, with steps too small to change the policy. Rows, in
milliseconds of wall time, medians over the rounds:

rollout, reward, update  the step without a target gradient
FORM                     how much longer the update takes that aligns every group and moves v; ``share`` is that part of
                         the step with it
FORM, v kept             the same without moving v: the steps of the held-out form between two held-out batches
policy improvement       what the published utility costs: one pass of the updated policy over the same rollouts
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

FORMS = {
    "probe": {},
    "probe, last 2 layers": {"layers": 2},
    "probe, last layer": {"layers": 1},
    "head": {"form": "head"},
}


def measure(model, suite, *, batch, group, tokens, rounds, device, precision, lora):
    import torch

    from curbench.advantage import group_advantage
    from curbench.suites import load
    from curbench.train.grpo import GRPOActor, GRPOConfig
    from curbench.train.policy import load_policy
    from curbench.train.target import TargetForm, target_gradient
    from curbench.types import Guidance, Selection, Target

    def clocked(work):
        begin = perf_counter()
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        return result, 1e3 * (perf_counter() - begin)

    train = load(suite, "train")
    setting = {"max_new_tokens": tokens, "threads": None if device == "cuda" else 1, "precision": precision}
    if lora:
        setting["lora"] = {"rank": lora}
    policy = load_policy(model, suite, device=device)
    actor = GRPOActor(policy, train, train, seed=0, config=GRPOConfig(learning_rate=1e-12, **setting))
    follower = {
        name: target_gradient(TargetForm(**form), actor._forward, actor._optimizer, actor._parameter)
        for name, form in FORMS.items()
    }
    spent = {name: [] for name in ("rollout", "reward", "update", "policy improvement")}
    spent |= {name + kept: [] for name in FORMS for kept in ("", ", v kept")}
    generator = np.random.default_rng(0)
    for turn in range(rounds + 1):  # the first warms up
        problem = generator.choice(len(train.bank), batch, replace=False)
        selection = Selection(0, turn, problem, np.full(batch, 0.5), np.full(batch, group), "systematic")
        rollouts, spent_rollout = clocked(partial(actor.rollout, selection))
        reward, spent_reward = clocked(partial(actor.reward, rollouts))
        advantage, stats = group_advantage(rollouts, reward)
        took = {"rollout": spent_rollout, "reward": spent_reward}
        update = partial(actor.update, rollouts, advantage, np.ones(batch, bool))
        report, took["update"] = clocked(update)
        _, took["policy improvement"] = clocked(partial(report.new_logprob, advantage != 0))
        for name, actor._target in follower.items():
            for kept, weight in (("", np.full(batch, 1.0 / batch)), (", v kept", None)):
                # Under adapters the head is not trained, and has no preconditioner.
                guidance = Guidance(target=Target(weight, preconditioned=not (lora and name == "head")))
                _, ms = clocked(partial(update, guidance))
                took[name + kept] = ms - took["update"]
        for name, ms in took.items() if turn else ():
            spent[name].append(ms)
    ms = {name: float(np.median(all_)) for name, all_ in spent.items()}
    step = ms["rollout"] + ms["reward"] + ms["update"]
    size = sum(p.numel() for p in policy.model.parameters())
    common = {"model": str(model or suite), "parameters": size, "batch": batch, "group": group, "tokens": tokens}
    common |= {"device": device, "precision": precision, "lora": lora, "rounds": rounds}
    common |= {"degenerate": float(stats.degenerate.mean())}
    for name, value in ms.items():
        extra = name not in ("rollout", "reward", "update")
        yield common | {"row": name, "ms": round(value, 2), "share": round(value / (step + extra * value), 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="local Hugging Face folder; default: the small model of the suite")
    parser.add_argument("--suite", default="countdown")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=20, help="largest number of new tokens")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 trains all weights")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    chosen = vars(parser.parse_args())
    out = chosen.pop("out")
    rows = list(measure(chosen.pop("model"), chosen.pop("suite"), **chosen))
    for row in rows:
        print(f"{row['row']:28}{row['ms']:10.2f} ms{100 * row['share']:8.1f} %")
    if out:
        from curbench.provenance import environment

        out.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
