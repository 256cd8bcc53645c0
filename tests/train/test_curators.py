"""Curators that look at a language model, or weight its loss, under the loop: they train it and continue exactly."""

import json

import numpy as np
import pytest

from curbench.curators import curator_class
from curbench.loop import Budget, run
from curbench.record import flatten, unflatten
from curbench.signals import SIGNALS
from curbench.suites import load
from curbench.train.grpo import GRPOActor, GRPOConfig
from curbench.train.policy import load_policy
from curbench.types import Bank, Feedback, GroupStats

TRAIN, TEST = load("countdown", "train"), load("countdown", "test")
SMALL = 40
SET = {
    "actor_curator": {"dormant": 0, "warmup": 1, "candidates": 20, "head": "mlp", "refresh": 2},
    "actor_curator model": {"dormant": 0, "warmup": 1, "candidates": 8, "head": "model"},
    "target_aligned": {},
    "target_aligned mlp": {"scorer": "mlp", "held_out": 2, "every": 2},
    "pcl": {"pool": 2},
    "pcl model": {"pool": 2, "head": "model"},
    "gain_rl": {},
    "d3s": {},
    "dots": {"reference": 2},
    "bmc": {"states": "actor", "leaf": 8},
}


class Memory:
    def __init__(self):
        self.steps, self.states = [], []

    def step(self, result, spent, metrics):
        self.steps.append((result, metrics))

    def evaluation(self, evaluation, spent): ...

    def checkpoint(self, state, spent):
        array, scalar = flatten(state)
        self.states.append((spent, {k: v.copy() for k, v in array.items()}, json.loads(json.dumps(scalar))))


class Part:
    """The first problems of the suite, with rewards that a random model meets half of the time."""

    name = "countdown"
    prompt = staticmethod(TRAIN.prompt)
    bank = Bank(
        **{
            field: getattr(TRAIN.bank, field)[np.linspace(0, len(TRAIN.bank) - 1, SMALL).astype(int)]
            for field in ("key", "stratum", "feature", "difficulty", "length")
        },
        prompt=TRAIN.prompt,
    )

    @staticmethod
    def verify(problem, completion):
        good = (len(completion) + problem) % 2 == 0
        return float(good), good

    @staticmethod
    def metrics():
        return {}


def parts(label, folder):
    name, config = label.split()[0], GRPOConfig(learning_rate=1e-2, max_new_tokens=4, evaluation_problems=2, threads=1)
    actor = GRPOActor(load_policy(folder), Part(), TEST, seed=3, config=config)
    common = {"seed": 5, "batch": 4, "horizon": 6, "group": 4}
    return curator_class(name)(Part.bank, **common, **SET[label]), actor


def go(curator, actor, **since):
    record, signal = Memory(), SIGNALS[curator.signal]
    run(curator, actor, batch=4, budget=Budget(steps=6), signal=signal, record=record, checkpoint_every=3, **since)
    return record


@pytest.mark.parametrize("label", SET)
def test_they_train_a_language_model_and_continue_to_the_bit(label, llama_folder):
    curator, actor = parts(label, llama_folder)
    whole = go(curator, actor)
    assert actor.policy_step >= 4
    assert all(np.isfinite(v) for _, metrics in whole.steps for v in metrics.values())
    spent, array, scalar = whole.states[1]
    state = unflatten(array | scalar)
    again, resumed = parts(label, llama_folder)
    again.restore(state["curator"])
    resumed.restore(state["actor"])
    rest = go(again, resumed, spent=spent)
    for (a, _), (b, _) in zip(whole.steps[3:], rest.steps, strict=True):
        np.testing.assert_array_equal(a.selection.problem, b.selection.problem)
        np.testing.assert_array_equal(a.feedback.utility, b.feedback.utility)
    for name, value in actor.state()["parameter"].items():
        np.testing.assert_array_equal(value, resumed.state()["parameter"][name])


def test_a_pretrained_folder_scores_prompts(llama_folder):
    curator = curator_class("pcl")(
        Part.bank, seed=0, batch=4, horizon=6, group=4, head="model", model=str(llama_folder), lr=1e-3, pool=2
    )
    assert curator.head.module.tokenizer is not None
    before = curator.value(np.arange(8))
    np.testing.assert_array_equal(before, 0.5)  # the scalar head starts at zero
    curator.head.fit(np.arange(8), lambda score: (score - 1.0).square().mean())
    assert (curator.value(np.arange(8)) != 0.5).all()
    with pytest.raises(ValueError, match="no config.json"):
        curator_class("pcl")(Part.bank, seed=0, batch=4, horizon=6, group=4, head="model", model="nowhere")


def test_the_value_model_of_pcl_learns_pass_rates_with_all_its_weights(llama_folder):
    """V(x) from the prompt alone, fitted by the squared error to the success rate, as PCL 2025 does."""
    settings = {"seed": 0, "batch": 8, "horizon": 9, "group": 4, "pool": 1, "head": "model", "epochs": 8, "lr": 1e-3}
    curator = curator_class("pcl")(Part.bank, model=str(llama_folder), **settings)
    before = {name: value.clone() for name, value in curator.head.module.backbone.named_parameters()}
    selection = curator.select(8)
    success = np.where(np.arange(8) < 4, 4, 0)
    n, one = np.full(8, 4), np.ones(8)
    stats = GroupStats(n, success, success / n, 0 * one, 0 * one, one > 0, one)
    for _ in range(6):
        curator.update(Feedback(selection, stats, 0 * one, one > 0, 0 * one, n))
    value = curator.value(selection.problem)
    assert value[:4].min() > 0.6
    assert value[4:].max() < 0.4
    moved = [not value.equal(before[name]) for name, value in curator.head.module.backbone.named_parameters()]
    assert np.mean(moved) > 0.9
    assert curator.metrics()["brier"] < 0.2


def test_d3s_lets_only_the_kept_tokens_train(llama_folder):
    curator, actor = parts("d3s", llama_folder)
    rollouts = actor.rollout(curator.select(4))
    advantage = np.linspace(-1, 1, 16)
    guidance = curator.guide(rollouts, advantage)
    assert guidance.weight.shape == rollouts.logprob.shape
    assert guidance.weight.any(axis=1).sum() <= 4  # a quarter of 16 rollouts at the start
    inside = np.arange(guidance.weight.shape[1]) < rollouts.length[:, None]
    assert not guidance.weight[~inside].any()
    actor.update(rollouts, advantage, np.ones(4, bool), guidance)
    kept = actor.state()
    other = parts("d3s", llama_folder)[1]
    other.update(other.rollout(rollouts.selection), advantage * guidance.weight.any(axis=1), np.ones(4, bool), guidance)
    for name, value in other.state()["parameter"].items():
        np.testing.assert_array_equal(value, kept["parameter"][name])
