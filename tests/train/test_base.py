"""The base model that ships: what its recipe says is true, and a new one can be made."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from curbench import loop, signals
from curbench.curators import curator_class
from curbench.suites import load
from curbench.train import base
from curbench.train import policy as policy_module
from curbench.train.base import answer_loss, examples, make_base, tiny_policy, word_tokenizer
from curbench.train.grpo import GRPOActor, GRPOConfig
from curbench.train.policy import completion_logprob, encode, load_policy, shipped_base

TRAIN, TEST = load("countdown", "train"), load("countdown", "test")


def actor(seed=0, **config):
    return GRPOActor(load_policy(None, "countdown"), TRAIN, TEST, seed=seed, config=GRPOConfig(**config))


def uniform(batch=8, group=4):
    return curator_class("uniform")(TRAIN.bank, seed=0, batch=batch, horizon=10, group=group)


def recipe():
    return json.loads((shipped_base("countdown") / "recipe.json").read_text())


def test_the_pass_rate_of_each_stratum_is_that_of_the_recipe():
    found = actor(evaluation_samples=2, evaluation_seed=7).evaluate()
    for stratum, stated in enumerate(recipe()["pass_rate"].values()):
        inside = found.stratum == stratum
        test = binomtest(int(found.success[inside].sum()), int(found.n[inside].sum()), stated["rate"])
        assert test.pvalue > 1e-4


def test_base_pass_rates_leave_room_and_are_spread_over_the_strata():
    rate = [stated["rate"] for stated in recipe()["pass_rate"].values()]
    assert rate == sorted(rate, reverse=True)
    assert 0.3 < rate[0] < 0.8
    assert 0.01 < rate[-1] < 0.2


def test_the_shipped_files_are_small_and_safe():
    folder = shipped_base("countdown")
    assert sum(f.stat().st_size for f in folder.iterdir()) < 4_000_000
    assert {f.suffix for f in folder.iterdir()} == {".json", ".safetensors"}


def test_weights_that_differ_from_the_checksum_are_refused(tmp_path, monkeypatch):
    shutil.copytree(shipped_base("countdown"), tmp_path / "countdown")
    weights = tmp_path / "countdown" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr(policy_module, "BASE", tmp_path)
    with pytest.raises(ValueError, match=r"its recipe says .*: install the package again"):
        load_policy(None, "countdown")


def test_a_suite_without_a_base_model_says_what_to_give():
    with pytest.raises(ValueError, match="suite 'chess' ships no base model; give a local Hugging Face folder"):
        load_policy(None, "chess")


def test_the_tokenizer_on_disk_splits_as_the_one_that_was_trained():
    trained = word_tokenizer(TRAIN.prompt(i) + TRAIN.solution(i) for i in range(len(TRAIN.bank)))
    loaded = load_policy(None, "countdown").tokenizer
    text = [*(TEST.prompt(i) for i in range(0, 512, 64)), "(7+3)*12/4-19"]
    assert loaded(text)["input_ids"] == trained(text)["input_ids"]
    assert loaded.decode(loaded(text[-1])["input_ids"]) == text[-1]


def test_the_answer_loss_is_the_mean_negative_log_probability_of_the_answer():
    policy = load_policy(None, "countdown")
    prompt, answer = [TRAIN.prompt(0), TRAIN.prompt(4000)], [TRAIN.solution(0), TRAIN.solution(4000)]
    token = [[*one, policy.eos[0]] for one in policy.tokenizer(answer)["input_ids"]]
    total = torch.tensor(0.0)
    for text, one in zip(prompt, token, strict=True):
        total -= completion_logprob(policy, encode(policy, [text]), torch.tensor([0]), torch.tensor([one])).sum()
    expected = total / sum(map(len, token))
    torch.testing.assert_close(answer_loss(policy, prompt, answer), expected, rtol=1e-5, atol=1e-5)


def test_the_share_of_wrong_examples_is_the_corruption():
    generator = np.random.default_rng(0)
    right = [d.right for d in (TRAIN.demonstration(np.random.default_rng(i)) for i in range(3))]
    assert all(right)
    prompt, answer = examples(TRAIN, generator, 0.25, 800)
    again, clean = examples(TRAIN, np.random.default_rng(0), 0.0, 800)
    assert prompt == again
    wrong = sum(a != c for a, c in zip(answer, clean, strict=True))
    assert binomtest(wrong, 800, 0.25).pvalue > 1e-4


def test_equal_seeds_make_equal_bases_and_the_recipe_is_complete(tmp_path):
    setting = {"steps": 3, "batch": 8, "hidden": 16, "layers": 1, "heads": 2}
    losses = []
    one = make_base("countdown", tmp_path / "a", progress=lambda step, loss: losses.append(loss), **setting)
    two = make_base("countdown", tmp_path / "b", **setting)
    other = make_base("countdown", tmp_path / "c", seed=1, **setting)
    assert one["sha256"] == two["sha256"] != other["sha256"]
    assert len(losses) == 3
    assert json.loads((tmp_path / "a" / "recipe.json").read_text()) == one
    assert set(one) >= set(recipe())
    load_policy(tmp_path / "a")


def test_the_warm_up_ends_when_all_pass_rates_leave_room(tmp_path, monkeypatch):
    setting = {"steps": 5, "batch": 4, "hidden": 16, "layers": 1, "heads": 2, "check_every": 2}
    monkeypatch.setattr(base, "pass_rate", lambda *arguments, **option: {"all": {"rate": 0.5, "n": 1}})
    done = make_base("countdown", tmp_path / "a", **setting)
    assert (done["steps_taken"], done["spread"]) == (2, True)
    monkeypatch.setattr(base, "pass_rate", lambda *arguments, **option: {"all": {"rate": 0.0, "n": 1}})
    done = make_base("countdown", tmp_path / "b", **setting)
    assert (done["steps_taken"], done["spread"]) == (5, False)


@pytest.mark.parametrize(("size", "millions"), [("tiny", (0.3, 1)), ("small", (8, 12)), ("medium", (90, 110))])
def test_sizes_have_the_parameters_that_they_are_called_by(size, millions):
    from transformers import LlamaForCausalLM

    tokenizer = load_policy(None, "countdown").tokenizer
    with torch.device("meta"):
        model = LlamaForCausalLM(base.decoder_config(tokenizer, *base.SIZES[size]))
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions[0] < count < millions[1]
    assert model.config.hidden_size % model.config.num_attention_heads == 0


@pytest.mark.parametrize("suite", ["arc_1d", "knights_knaves"])
def test_other_bases_are_small_and_leave_room_in_several_strata(suite):
    folder = shipped_base(suite)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 1_100_000
    rate = [one["rate"] for one in json.loads((folder / "recipe.json").read_text())["pass_rate"].values()]
    assert sum(0.05 <= one <= 0.9 for one in rate) >= 5
    train, test = load(suite, "train"), load(suite, "test")
    config = GRPOConfig(evaluation_problems=120, threads=1)
    found = GRPOActor(load_policy(None, suite), train, test, seed=0, config=config).evaluate()
    assert binomtest(int(found.success.sum()), 120, float(np.mean(rate))).pvalue > 1e-4


def test_a_base_is_never_written_over_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds a model; choose another folder or delete it"):
        make_base("countdown", tmp_path)
    with pytest.raises(ValueError, match=r"corruption is a share of the examples, in \[0, 1\]; got 1.5"):
        make_base("countdown", tmp_path / "new", corruption=1.5)


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    tokenizer = load_policy(None, "countdown").tokenizer
    shape = {"hidden": 16, "layers": 1, "heads": 2}
    before = torch.get_rng_state()
    one, two, other = (tiny_policy(tokenizer, seed=s, **shape).model.lm_head.weight for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


# --- Through the loop -------------------------------------------------------------------------------------------------


class Memory:
    """A recorder that keeps everything."""

    def __init__(self):
        self.steps, self.evaluations, self.states = [], [], []

    def step(self, result, spent, metrics):
        self.steps.append(result)

    def evaluation(self, evaluation, spent):
        self.evaluations.append(evaluation)

    def checkpoint(self, state, spent):
        self.states.append(state)


def test_one_step_of_the_loop_moves_the_actor_and_reports_a_utility():
    one = actor(learning_rate=1e-3)
    result = loop.step(uniform(), one, batch=8, signal=signals.SIGNALS["policy_improvement"])
    assert result.report.policy_step == 1
    assert np.isfinite(result.feedback.utility).all()
    degenerate = result.feedback.stats.degenerate
    assert not result.feedback.utility[degenerate].any()
    assert result.feedback.utility[~degenerate].mean() > 0  # an update raises the reward of its own rollouts


def test_a_budget_of_tokens_is_kept_and_evaluations_are_paired():
    record, one = Memory(), actor(evaluation_problems=32)
    spent = loop.run(
        uniform(), one, batch=8, budget=loop.Budget(tokens=500), signal=signals.SIGNALS["mean_reward"], record=record
    )
    assert spent.tokens >= 500 > spent.tokens - int(record.steps[-1].feedback.tokens.sum())
    first, last = record.evaluations
    assert first.success.shape == last.success.shape == (32,)
    assert first.stratum.tolist() == last.stratum.tolist()


def test_a_restored_run_continues_to_the_bit():
    def steps(curator, one, count):
        for _ in range(count):
            result = loop.step(curator, one, batch=8, signal=signals.SIGNALS["mean_abs_advantage"])
        return result

    whole_curator, whole = uniform(), actor(learning_rate=1e-3)
    steps(whole_curator, whole, 1)
    state = {"curator": whole_curator.state(), "actor": whole.state()}
    expected = steps(whole_curator, whole, 2)
    curator, resumed = uniform(), actor(learning_rate=1e-3)
    curator.restore(state["curator"])
    resumed.restore(state["actor"])
    found = steps(curator, resumed, 2)
    assert torch.equal(found.rollouts.completion, expected.rollouts.completion)
    np.testing.assert_array_equal(found.rollouts.logprob, expected.rollouts.logprob)
    for name, value in whole.state()["parameter"].items():
        np.testing.assert_array_equal(value, resumed.state()["parameter"][name])
