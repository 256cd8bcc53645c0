"""Rollouts by a real vLLM engine on a tiny model; needs vLLM, see docs/scale.md for an environment on CPUs."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from curbench import philox
from curbench.train.policy import completion_logprob, decode, encode, load_policy
from curbench.train.rollout import Noise, Sampling, rollout_seed
from curbench.train.run import TrainSpec, run_directory, train
from curbench.train.vllm_engine import VLLMEngine, VLLMSetting
from tests.train.test_run import content

pytest.importorskip("vllm")

LONG = "All that the engine keeps of a prompt it keeps in blocks of tokens, and a short prompt fills none of them. " * 3
TEXT = ["Make 24 from 3 7 12:", LONG, "Hi"]
SETTING = VLLMSetting(max_model_len=448)
TOLERANCE = 2e-5
"""Of log-probabilities: float32 sums over 64-wide layers, in another order."""


@pytest.fixture
def policy(wide_llama_folder):
    return load_policy(wide_llama_folder)


def make_engine(policy, folder, **sampling):
    return VLLMEngine(policy, Sampling(**{"limit": 12} | sampling), folder, SETTING)


def noise(row, seed=0, stream=philox.ROLLOUT, step=0):
    return Noise(seed, stream, step, np.asarray(row))


def forced(policy, prompt, group, drawn, temperature=1.0):
    """The policy's log-probabilities, 0 beyond the end."""
    with torch.no_grad():
        value = completion_logprob(policy, prompt, group, drawn.completion, temperature)
    return torch.where(torch.arange(value.shape[1]) < drawn.length[:, None], value, 0.0)


def nudge(policy, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probabilities_are_the_policys_before_and_after_a_weight_push(policy, wide_llama_folder, temperature):
    engine = make_engine(policy, wide_llama_folder, temperature=temperature)
    prompt, group = encode(policy, TEXT), torch.arange(3).repeat_interleave(4)
    for step in range(3):
        drawn = engine.draw(prompt, group, noise(range(12), step=step))
        np.testing.assert_allclose(drawn.logprob, forced(policy, prompt, group, drawn, temperature), atol=TOLERANCE)
        before = drawn
        nudge(policy, step)
        assert (forced(policy, prompt, group, before, temperature) - before.logprob).abs().max() > 0.01
        engine.changed()


def test_a_sample_holds_what_the_policy_says_and_what_the_engine_says(policy, wide_llama_folder):
    engine = make_engine(policy, wide_llama_folder)
    prompt, group = encode(policy, TEXT), torch.arange(3).repeat_interleave(4)
    drawn, said = engine.draw(prompt, group, noise(range(12))), engine.sample(prompt, group, noise(range(12)))
    assert torch.equal(drawn.completion, said.completion)
    np.testing.assert_allclose(said.logprob, forced(policy, prompt, group, drawn), atol=TOLERANCE)
    np.testing.assert_allclose(said.logprob, said.sampler_logprob, atol=TOLERANCE)
    assert not torch.equal(said.logprob, said.sampler_logprob)  # two computations
    inside = torch.arange(said.entropy.shape[1]) < said.length[:, None]
    assert (said.entropy[inside] > 4).all()  # a random model is close to uniform over 257 tokens: log 257 = 5.5
    assert (said.gradient_sq > 0.9 * said.length).all()


def test_a_push_that_leaves_the_prefix_cache_would_mix_old_keys_with_new_weights(policy, wide_llama_folder):
    engine = make_engine(policy, wide_llama_folder)
    prompt, group = encode(policy, [LONG]), torch.zeros(4, dtype=torch.int64)
    engine.draw(prompt, group, noise(range(4)))
    nudge(policy, 0)
    weight = list(policy.model.named_parameters(remove_duplicate=False))
    engine._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weight)})
    stale = engine.draw(prompt, group, noise(range(4)))
    assert (stale.logprob - forced(policy, prompt, group, stale)).abs().max() > 1e-3
    engine.push()
    fresh = engine.draw(prompt, group, noise(range(4)))
    np.testing.assert_allclose(fresh.logprob, forced(policy, prompt, group, fresh), atol=TOLERANCE)


def test_the_seed_the_stream_the_step_and_the_row_reach_the_draws_and_the_batch_does_not(policy, wide_llama_folder):
    engine = make_engine(policy, wide_llama_folder)
    prompt, group = encode(policy, TEXT), torch.zeros(6, dtype=torch.int64)
    row = np.arange(6)
    first = engine.draw(prompt, group, noise(row)).completion
    assert torch.equal(first, engine.draw(prompt, group, noise(row)).completion)
    assert len({tuple(one) for one in first.tolist()}) == 6  # a group of one prompt, six completions
    for other in (noise(row, seed=1), noise(row, stream=philox.EVALUATION), noise(row, step=1), noise(row + 6)):
        again = engine.draw(prompt, group, other).completion
        assert not any(tuple(one[:4]) in {tuple(a[:4]) for a in first.tolist()} for one in again.tolist())
    alone = engine.draw(prompt, group[:1], noise([3]))
    assert alone.completion[0].tolist() == first[3, : int(alone.length[0])].tolist()


def test_seeds_of_requests_are_those_that_vllm_takes(policy):
    seed = rollout_seed(noise(range(1000), seed=2**63 + 5))
    assert seed.dtype == np.int64
    assert seed.min() >= 0


def test_draws_follow_the_policys_distribution(policy, wide_llama_folder):
    engine = make_engine(policy, wide_llama_folder, limit=1, temperature=0.25)
    prompt, group = encode(policy, ["Hi"]), torch.zeros(4000, dtype=torch.int64)
    drawn = engine.draw(prompt, group, noise(range(4000)))
    one = torch.arange(257)[:, None]
    with torch.no_grad():
        probability = completion_logprob(policy, prompt, torch.zeros(257, dtype=torch.int64), one, 0.25).exp()[:, 0]
    share = np.bincount(drawn.completion[:, 0], minlength=257) / 4000
    probability = probability.numpy()
    assert (np.abs(share - probability) <= 5 * np.sqrt(probability * (1 - probability) / 4000) + 1e-3).all()


def test_with_top_p_the_engines_log_probability_is_renormalised_and_the_policys_is_not(policy, wide_llama_folder):
    engine = make_engine(policy, wide_llama_folder, top_p=0.5, temperature=0.25, limit=1)
    prompt, group = encode(policy, ["Hi"]), torch.zeros(200, dtype=torch.int64)
    said = engine.sample(prompt, group, noise(range(200)))
    one = torch.arange(257)[:, None]
    with torch.no_grad():
        value = completion_logprob(policy, prompt, torch.zeros(257, dtype=torch.int64), one, 0.25)[:, 0]
    order = value.exp().sort(descending=True)[0]
    mass = order[: 1 + int((order.cumsum(0) < 0.5).sum())].sum()
    np.testing.assert_allclose(said.logprob[:, 0], value[said.completion[:, 0]], atol=TOLERANCE)
    np.testing.assert_allclose(said.sampler_logprob, said.logprob - mass.log(), atol=2 * TOLERANCE)
    assert mass < 0.55


def test_completions_end_at_the_end_of_text_at_a_stop_token_at_a_stop_text_or_at_the_limit(policy, wide_llama_folder):
    prompt, group = encode(policy, ["Hi"]), torch.zeros(300, dtype=torch.int64)
    free = make_engine(policy, wide_llama_folder).draw(prompt, group, noise(range(300)))
    ended = torch.isin(free.completion, torch.tensor(policy.eos))
    expected = torch.where(ended.any(1), ended.float().argmax(1) + 1, 12)
    inside = torch.arange(free.completion.shape[1]) < free.length[:, None]
    assert torch.equal(free.length, expected)
    assert (ended & inside).any()
    end = int(free.completion[free.length == 12][0, 3])
    stopped = make_engine(policy, wide_llama_folder, stop_token=(end,)).draw(prompt, group, noise(range(300)))
    at = (free.completion == end) & inside
    assert torch.equal(stopped.length, torch.where(at.any(1), at.float().argmax(1) + 1, free.length))
    assert at.any()
    text = decode(policy, free.completion, free.length.tolist())
    pair = (a + b for one in text for a, b in pairwise(one))
    stop = next(one for one in pair if one.isascii() and one.isprintable())
    texts = make_engine(policy, wide_llama_folder, stop=(stop,)).draw(prompt, group, noise(range(300)))
    for i, whole in enumerate(text):
        cut = decode(policy, texts.completion[i : i + 1], [int(texts.length[i])])[0]
        assert (texts.length[i] < free.length[i]) <= (stop in cut)
        assert stop not in whole or cut.endswith(stop)
    assert (texts.length < free.length).any()


def test_a_prompt_that_does_not_fit_is_refused(policy, wide_llama_folder):
    engine = make_engine(policy, wide_llama_folder)
    with pytest.raises(ValueError, match="may take 452 tokens.*told to expect 448"):
        engine.draw(encode(policy, ["x" * 440]), torch.zeros(1, dtype=torch.int64), noise([0]))


class Interrupted(Exception):
    pass


def test_a_run_trains_and_resumes_to_the_same_bits(wide_llama_folder, tmp_path):
    spec = TrainSpec(
        suite="countdown",
        curator="sec",
        budget_steps=4,
        batch=4,
        group=4,
        evaluate_every=2,
        checkpoint_every=2,
        engine="vllm",
        model=str(wide_llama_folder),
        vllm=SETTING,
        # A random model solves nothing: the reward that differs is that of the length.
        grpo={"evaluation_problems": 8, "max_new_tokens": 12, "length": {"start": 12, "end": 4}},
    )

    def interrupt(spent):
        if spent.steps == 3:
            raise Interrupted

    row = train(spec, tmp_path / "whole")
    assert row["steps"] == 4
    with pytest.raises(Interrupted):
        train(spec, tmp_path / "cut", progress=interrupt)
    train(spec, tmp_path / "cut", resume=True)
    whole, cut = (content(run_directory(tmp_path / name, spec)) for name in ("whole", "cut"))
    assert whole == cut
    steps = whole["steps.jsonl"]
    assert steps[-1]["policy_step"] > 0
    assert all(0 < step["actor"]["sampler_gap"] < TOLERANCE for step in steps)
