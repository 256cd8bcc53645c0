"""The curator inside TRL: late draws, the loop's own selections, exact resume, every schedule of generations."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("trl")

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig

from curbench import kernels
from curbench.curators import curator_class
from curbench.integrations.trl import CuratedGRPOTrainer, dataset_bank, make_curator
from curbench.loop import step
from curbench.record import flatten
from curbench.signals import SIGNALS
from curbench.train.base import tiny_policy, word_tokenizer
from curbench.types import Bank, Reward, Rollouts, UpdateReport

PROMPTS = [f"{i} plus {i % 7} is" for i in range(40)]
DATA = Dataset.from_dict({"prompt": PROMPTS, "level": [i // 10 for i in range(40)], "row": list(range(40))})
QUIET = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}


def paid(completion_ids, row, **_):
    """Half of the completions, whatever the model: those whose first token and row have an even sum."""
    return [float((ids[0] + i) % 2 == 0) for ids, i in zip(completion_ids, row, strict=True)]


def settings(folder, **change):
    """4 prompts of 4 completions in 2 micro-steps, which are one optimizer step."""
    default = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": 4}
    default |= {"max_completion_length": 5, "max_steps": 4, "learning_rate": 0.03, "logging_steps": 1, "seed": 7}
    default |= {"save_strategy": "no", "beta": 0.0, "output_dir": str(folder)}
    return GRPOConfig(**QUIET | default | change)


def trainer(folder, label="sec", *, signal=None, reward=paid, hyper=None, **change):
    args = settings(folder, **change)
    policy = tiny_policy(word_tokenizer(PROMPTS), hidden=16, layers=1, heads=2, seed=1)
    curator = make_curator(label, dataset_bank(DATA, stratum="level", difficulty="row"), args, **hyper or {})
    kept = []
    update, select = curator.update, curator.select
    curator.update = lambda feedback: (kept.append(("update", feedback)), update(feedback))[1]
    curator.select = lambda batch: (lambda s: (kept.append(("select", s)), s)[1])(select(batch))
    made = CuratedGRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        args=args,
        train_dataset=DATA,
        curator=curator,
        signal=signal,
    )
    made.events = kept
    return made


def feedbacks(made):
    return [value for kind, value in made.events if kind == "update"]


def weights(made):
    return {name: value.clone() for name, value in made.accelerator.unwrap_model(made.model).state_dict().items()}


@pytest.fixture(autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_draws_are_late_though_the_dataloader_runs_ahead(tmp_path):
    """TRL reads the rows of the next batch before it generates this one; the curator hears of this one first."""
    made = trainer(tmp_path)
    read, prompts = [], []
    sampler = made._get_train_sampler()
    made._get_train_sampler = lambda dataset: (read.append(len(made.events)) or i for i in sampler)
    generate = made._generate
    made._generate = lambda given: (prompts.append(given), generate(given))[1]
    made.train()
    assert [kind for kind, _ in made.events] == ["select", "update"] * 4
    assert read.count(0) >= 2 * 16, "rows of two batches are read before anything is selected"
    for selection, given, feedback in zip(made.events[::2], prompts, feedbacks(made), strict=True):
        assert given == [PROMPTS[i] for i in np.repeat(selection[1].problem, 4)]
        assert (feedback.staleness == 0).all()
        assert feedback.selection is selection[1]


class Replay:
    """An actor that answers as TRL's did, batch after batch, so that the loop sees the same feedback."""

    view, progress = None, 0.0

    def __init__(self, told):
        self.told = iter(told)

    def rollout(self, selection):
        self.reward_, length = next(self.told)
        return Rollouts(selection, np.arange(len(selection) + 1) * 4, length, np.zeros(length.size))

    def reward(self, rollouts):
        return self.reward_

    def update(self, *_):
        return UpdateReport(0)


@pytest.mark.parametrize("label", ["sec", "osmd", "mopps", "adarft", "sec+nondegenerate", "actor_curator", "thompson"])
def test_selections_are_those_of_the_reference_loop_for_the_same_feedback(label, tmp_path):
    hyper = {"pool": 2} if label == "mopps" else {}
    hyper = {"dormant": 1, "warmup": 1, "candidates": 20} if label == "actor_curator" else hyper
    made = trainer(tmp_path, label, signal="pass_rate", hyper=hyper, max_steps=5)
    told, grade = [], made.ledger.grade
    made.ledger.grade = lambda ticket, reward, success, *, length, **rest: (
        told.append((Reward(reward, success), np.asarray(length))),
        grade(ticket, reward, success, length=length, **rest | {"advantage": None}),
    )[1]
    made.train()
    bank = dataset_bank(DATA, stratum="level", difficulty="row")
    curator = make_curator(label, bank, made.args, **hyper)
    actor = Replay(told)
    for feedback in feedbacks(made):
        again = step(curator, actor, batch=4, signal=SIGNALS["pass_rate"]).feedback
        np.testing.assert_array_equal(again.selection.problem, feedback.selection.problem)
        np.testing.assert_array_equal(again.selection.propensity, feedback.selection.propensity)
        np.testing.assert_array_equal(again.utility, feedback.utility)
        np.testing.assert_array_equal(again.admitted, feedback.admitted)


class Stop(TrainerCallback):
    def __init__(self, at):
        self.at = at

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("signal", "change"),
    [
        ("mean_abs_advantage", {}),
        ("policy_improvement", {"steps_per_generation": 4, "num_iterations": 2, "max_steps": 8}),  # in the middle of 4
        ("policy_improvement", {"steps_per_generation": 1}),  # two generations in one optimizer step
    ],
)
def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(signal, change, tmp_path):
    change = {"save_strategy": "steps", "save_steps": 2 if len(change) < 2 else 3} | change
    whole = trainer(tmp_path / "whole", signal=signal, **change)
    whole.train()
    killed = trainer(tmp_path / "killed", signal=signal, **change)
    killed.add_callback(Stop(change["save_steps"] + 1))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = trainer(tmp_path / "killed", signal=signal, **change)
    resumed.train(resume_from_checkpoint=True)
    after = [value for kind, value in resumed.events if kind == "select"]
    before = [value for kind, value in whole.events if kind == "select"]
    assert 0 < len(after) < len(before)
    for a, b in zip(reversed(after), reversed(before), strict=False):
        np.testing.assert_array_equal(a.problem, b.problem)
        np.testing.assert_array_equal(a.propensity, b.propensity)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    for one, other in zip(flatten(whole.ledger.state()), flatten(resumed.ledger.state()), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize(
    ("change", "batches", "staleness"),
    [
        ({}, 4, [0]),
        ({"num_iterations": 2}, 2, [0]),
        ({"steps_per_generation": 4, "num_iterations": 2, "max_steps": 8}, 2, [0]),
        ({"gradient_accumulation_steps": 1, "max_steps": 6}, 6, [0]),
        ({"steps_per_generation": 1, "num_generations": 4, "max_steps": 3}, 6, [1, 0]),
    ],
)
def test_every_schedule_of_generations_feeds_back_after_the_update(change, batches, staleness, tmp_path):
    made = trainer(tmp_path, **change)
    made.train()
    got = feedbacks(made)
    assert len(got) == batches
    assert [f.staleness.tolist() for f in got] == [
        [staleness[i % len(staleness)]] * len(f.selection) for i, f in enumerate(got)
    ]
    assert made.ledger.open == []


@pytest.mark.parametrize("iterations", [1, 2])
def test_policy_improvement_is_that_of_the_models_before_and_after_the_update(iterations, tmp_path):
    made = trainer(tmp_path, signal="policy_improvement", max_steps=iterations, num_iterations=iterations)
    seen, grade = [], made._grade
    made._grade = lambda ticket, output: (
        seen.append({k: v.clone() for k, v in output.items()}),
        grade(ticket, output),
    )[1]
    policy = tiny_policy(word_tokenizer(PROMPTS), hidden=16, layers=1, heads=2, seed=1)
    made.train()
    (batch,), (feedback,) = seen, feedbacks(made)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].shape[1]

    def logprob(model):
        with torch.no_grad():
            logit = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
        return logit.log_softmax(-1).gather(2, batch["completion_ids"][:, :, None])[:, :, 0].numpy()

    after = tiny_policy(word_tokenizer(PROMPTS), hidden=16, layers=1, heads=2, seed=2)
    after.model.load_state_dict(weights(made))
    text = made._logs["rewards"]["paid"]
    reward = np.array(list(text)[:16], np.float64)
    expected = kernels.policy_improvement(
        logprob(after.model),
        logprob(policy.model),
        kernels.group_advantage(reward, 4, estimator="dr_grpo").advantage,
        4,
        mask=batch["completion_mask"].bool().numpy(),
    ).utility
    assert np.abs(expected).max() > 1e-4
    # Two float32 forward passes that differ in padding and attention kernels: a few 1e-6 per log-probability.
    np.testing.assert_allclose(feedback.utility, expected, atol=2e-5)


def test_groups_that_are_not_admitted_leave_the_loss_and_its_count(tmp_path):
    def first_only(prompts, **_):
        return [float(i == 0) for i in range(len(prompts))]

    made = trainer(tmp_path, "uniform+nondegenerate", reward=first_only, max_steps=1)
    seen, grade = [], made._grade
    made._grade = lambda ticket, output: (seen.append(output), grade(ticket, output))[1]
    made.train()
    (feedback,) = feedbacks(made)
    assert feedback.admitted.tolist() == [True, False, False, False]
    used = (seen[0]["completion_mask"] * seen[0]["tool_mask"]).sum(1)
    assert (used > 0).tolist() == [True] * 4 + [False] * 12
    assert seen[0]["num_items_in_batch"] == used.sum()


def test_a_cross_fitted_signal_trains_on_half_of_every_group(tmp_path):
    made = trainer(tmp_path, signal="policy_improvement_cross_fit", max_steps=1)
    seen, grade = [], made._grade
    made._grade = lambda ticket, output: (seen.append(output), grade(ticket, output))[1]
    made.train()
    used = (seen[0]["tool_mask"] > 0).any(1).reshape(4, 4)
    assert used.tolist() == [[True, False, True, False]] * 4
    assert torch.equal(seen[0]["advantages"] != 0, (seen[0]["advantages"] != 0) & used.ravel())


def test_d3s_drops_rollouts_from_the_loss(tmp_path):
    made = trainer(tmp_path, "d3s", max_steps=2)
    seen, grade = [], made._grade
    made._grade = lambda ticket, output: (seen.append(output), grade(ticket, output))[1]
    made.train()
    assert [int((output["tool_mask"] > 0).any(1).sum()) for output in seen] == [4, 10]  # 25 % and 62.5 % of 16


def test_rollouts_that_no_function_scores_are_left_out(tmp_path):
    def some(completion_ids, row, **_):
        return [None if k == 1 else value for k, value in enumerate(paid(completion_ids, row))]

    made = trainer(tmp_path, reward=some, max_steps=2)
    made.train()
    assert feedbacks(made)[0].stats.n.tolist() == [3, 4, 4, 4]
    nothing = trainer(tmp_path, reward=lambda prompts, **_: [None] * 4 + [1.0] * (len(prompts) - 4), max_steps=2)
    nothing.train()
    assert nothing.ledger.metrics()["tickets_dropped"] == 2


def test_the_log_has_what_the_curator_says(tmp_path):
    made = trainer(tmp_path)
    made.train()
    assert {"curator/entropy", "curator/utility", "curator/tickets_observed"} <= made.state.log_history[1].keys()
    assert [row["curator/tickets_observed"] for row in made.state.log_history[:4]] == [1, 2, 3, 4]


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path):
    bank = dataset_bank(DATA, stratum="level", difficulty="row")
    with pytest.raises(ValueError, match="the dataset has no column 'difficulty'; it has prompt, level, row"):
        dataset_bank(DATA, difficulty="difficulty")
    with pytest.raises(ValueError, match="set max_steps in GRPOConfig"):
        make_curator("sec", bank, settings(tmp_path, max_steps=-1))
    with pytest.raises(ValueError, match="Dapo needs more rollouts or groups of other sizes"):
        trainer(tmp_path, "dapo")
    with pytest.raises(ValueError, match="TRL follows no target gradient"):
        trainer(tmp_path, "target_aligned")
    with pytest.raises(ValueError, match="looks at the actor's hidden states"):
        trainer(tmp_path, "gain_rl").train()
    args = settings(tmp_path)
    policy = tiny_policy(word_tokenizer(PROMPTS), hidden=16, layers=1, heads=2, seed=1)
    common = {"model": policy.model, "processing_class": policy.tokenizer, "reward_funcs": paid, "args": args}
    small = make_curator("sec", Bank(key=["a", "b", "c", "d"], stratum=[0] * 4), args)
    with pytest.raises(ValueError, match="the bank has 4 problems and the training dataset 40 rows"):
        CuratedGRPOTrainer(**common, train_dataset=DATA, curator=small)
    other = curator_class("sec")(bank, seed=0, batch=8, horizon=4, group=2)
    with pytest.raises(ValueError, match="4 prompts of 4 completions, and the curator is made for 8 of 2"):
        CuratedGRPOTrainer(**common, train_dataset=DATA, curator=other)
    with pytest.raises(ValueError, match=r"pass a datasets.Dataset, not a stream"):
        CuratedGRPOTrainer(**common, train_dataset=DATA.to_iterable_dataset(), curator=small)


def test_a_checkpoint_without_the_curator_is_refused(tmp_path):
    change = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer(tmp_path, **change).train()
    (tmp_path / "checkpoint-2" / "curator.safetensors").unlink()
    with pytest.raises(ValueError, match=r"curator.safetensors is missing: the checkpoint was made without"):
        trainer(tmp_path, **change).train(resume_from_checkpoint=True)


PROCESS = """
import json, sys
from tests.integrations.test_trl import feedbacks, paid, trainer
rewards, prompts = [], []
def noted(**given):
    rewards.append(paid(**given))
    return rewards[-1]
made = trainer(sys.argv[1] + "/out", signal="policy_improvement", reward=noted, per_device_train_batch_size=4,
               max_steps=3, save_strategy="steps", save_steps=2, ddp_backend="gloo")
generate = made._generate
made._generate = lambda given: (prompts.append(list(given)), generate(given))[1]
made.train(resume_from_checkpoint=sys.argv[1] + "/out/checkpoint-2" if len(sys.argv) > 2 else None)
told = [
    {"problem": f.selection.problem.tolist(), "utility": f.utility.tolist(), "success": f.stats.success.tolist()}
    for f in feedbacks(made)
]
weight = sum(float(v.double().abs().sum()) for v in made.accelerator.unwrap_model(made.model).parameters())
result = {"prompts": prompts, "rewards": rewards, "told": told, "weight": weight}
json.dump(result, open(f"{sys.argv[1]}/{made.accelerator.process_index}.json", "w"))
"""


@pytest.mark.slow
def test_two_processes_share_one_curator_and_resume(tmp_path):
    def launch(*resume):
        (tmp_path / "main.py").write_text(PROCESS)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "ACCELERATE_USE_CPU": "true"}
        subprocess.run([*command, str(tmp_path / "main.py"), str(tmp_path), *resume], check=True, env=env)
        return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    main, other = launch()
    assert other["told"] == [], "only the main process has a curator that learns"
    assert main["weight"] == other["weight"]
    for batch, told in enumerate(main["told"]):
        assert main["prompts"][batch] + other["prompts"][batch] == [PROMPTS[i] for i in np.repeat(told["problem"], 4)]
        reward = np.array(main["rewards"][batch] + other["rewards"][batch]).reshape(4, 4)
        assert told["success"] == reward.sum(1).tolist()
    assert len(main["told"]) == 3
    assert np.any(np.array([told["utility"] for told in main["told"]]))
    again, _ = launch("resume")
    assert again["told"] == main["told"][2:]
    assert again["weight"] == main["weight"]
