"""The policy and the sampler on a model folder that could be anybody's: exact log-probabilities, keyed noise."""

import numpy as np
import pytest
import torch

from curbench import philox
from curbench.train.policy import completion_logprob, decode, encode, load_policy
from curbench.train.rollout import (
    BuiltinEngine,
    Drawn,
    Noise,
    Sampling,
    draw,
    nucleus,
    rescore,
    rollout_seed,
    sample,
    token_noise,
)

TEXT = ["Make 24 from 3 7 12:", "Make 9 from 4 5:", "Hi"]


@pytest.fixture(scope="module")
def policy(llama_folder):
    return load_policy(llama_folder)


def rollouts(policy, seed=0, group=(0, 0, 1, 1, 2, 2), width=12, temperature=1.0, row=None, **sampling):
    prompt, group = encode(policy, TEXT), torch.tensor(group)
    row = np.arange(len(group)) if row is None else np.array(row)
    noise = torch.from_numpy(token_noise(seed, philox.ROLLOUT, 0, row, width))
    return prompt, group, sample(policy, prompt, group, noise, Sampling(temperature, **sampling))


def reference_logprob(policy, prompt, completion, temperature=1.0):
    """One row without padding and without a cache: the definition."""
    full = torch.cat([prompt, completion])[None]
    with torch.no_grad():
        value = (policy.model(input_ids=full, use_cache=False).logits[0].double() / temperature).log_softmax(-1)
    return value[len(prompt) - 1 : -1].gather(1, completion[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_sampled_log_probabilities_equal_the_definition(policy, temperature):
    prompt, group, drawn = rollouts(policy, temperature=temperature)
    for i, slot in enumerate(group):
        text = prompt.id[slot][prompt.mask[slot] == 1]
        n = drawn.length[i]
        expected = reference_logprob(policy, text, drawn.completion[i, :n], temperature)
        np.testing.assert_allclose(drawn.logprob[i, :n], expected, atol=2e-5)  # float32 sums over 32-wide layers
        assert not drawn.logprob[i, n:].any()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_teacher_forced_log_probabilities_equal_those_of_the_sampler(policy, temperature):
    prompt, group, drawn = rollouts(policy, temperature=temperature)
    with torch.no_grad():
        value = completion_logprob(policy, prompt, group, drawn.completion, temperature)
    inside = torch.arange(value.shape[1]) < drawn.length[:, None]
    np.testing.assert_allclose(value[inside], drawn.logprob[inside], atol=2e-5)


def test_gradients_flow_through_the_shared_prompt(policy):
    prompt, group, drawn = rollouts(policy)
    parameter = policy.model.get_input_embeddings().weight
    shared = completion_logprob(policy, prompt, group, drawn.completion)[:, :3].sum()
    alone = torch.tensor(0.0)
    for i in range(len(group)):
        single = torch.zeros(1, dtype=torch.int64)
        value = completion_logprob(policy, prompt.select(group[i : i + 1]), single, drawn.completion[i : i + 1])
        alone = alone + value[:, :3].sum()
    one, other = (torch.autograd.grad(value, parameter)[0] for value in (shared, alone))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_equal_seeds_give_equal_rollouts_and_different_seeds_different_ones(policy):
    one, two, other = (rollouts(policy, seed=s)[2] for s in (1, 1, 2))
    assert torch.equal(one.completion, two.completion)
    assert torch.equal(one.logprob, two.logprob)
    assert not torch.equal(one.completion, other.completion)


def test_a_rollout_does_not_depend_on_the_others_in_the_batch(policy):
    _, _, whole = rollouts(policy)
    _, _, alone = rollouts(policy, group=(1,), row=(3,))
    n = int(alone.length[0])
    assert torch.equal(whole.completion[3, :n], alone.completion[0, :n])


def test_no_global_generator_is_touched(policy):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    rollouts(policy)
    assert torch.equal(before, torch.get_rng_state())


def test_a_completion_ends_with_the_end_of_text_or_at_the_limit(policy):
    _, _, drawn = rollouts(policy, group=(0,) * 400, width=6)
    assert drawn.length.min() >= 1
    assert drawn.length.max() == 6
    for token, n in zip(drawn.completion, drawn.length, strict=True):
        ended = torch.isin(token[:n], torch.tensor(policy.eos))
        assert not ended[:-1].any()
        assert ended[-1] or n == 6
    assert (drawn.length < 6).any()  # 257 tokens: about 2 % end early


def test_decoded_text_leaves_out_the_end_of_text(policy):
    _, _, drawn = rollouts(policy, group=(0,) * 400, width=6)
    text = decode(policy, drawn.completion, drawn.length.tolist())
    assert not any("<eos>" in one for one in text)


def test_draws_follow_the_distribution():
    logit = torch.log(torch.tensor([0.5, 0.0, 0.3, 0.2]))
    uniform = torch.from_numpy(token_noise(3, philox.ROLLOUT, 0, np.arange(40_000), 1))[:, 0]
    token, logprob, _, entropy, _ = draw(logit.expand(40_000, 4), uniform, 1.0)
    share = np.bincount(token, minlength=4) / 40_000
    np.testing.assert_allclose(share, [0.5, 0.0, 0.3, 0.2], atol=0.0125)  # 5 standard errors
    np.testing.assert_allclose(logprob, logit[token], atol=1e-6)
    np.testing.assert_allclose(entropy, -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)), rtol=1e-6)


def test_the_extreme_uniforms_draw_tokens_of_positive_probability():
    logit = torch.log(torch.tensor([[0.0, 0.4, 0.6, 0.0]])).expand(2, 4)
    token, *_ = draw(logit, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), 1.0)
    assert token.tolist() == [2, 1]


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_the_nucleus_is_the_smallest_set_of_the_likeliest_tokens_that_reaches_top_p(top_p):
    rng = np.random.default_rng(0)
    for probability in rng.dirichlet(np.full(30, 0.3), 20):
        kept = nucleus(torch.from_numpy(probability)[None], top_p)[0].numpy()
        assert probability[kept].sum() >= top_p
        assert probability[kept].sum() - probability[kept].min() < top_p
        assert kept.all() or probability[kept].min() >= probability[~kept].max()


def test_draws_from_a_nucleus_follow_the_renormalised_distribution():
    logit = torch.log(torch.tensor([0.15, 0.0, 0.5, 0.05, 0.3]))
    uniform = torch.from_numpy(token_noise(3, philox.ROLLOUT, 0, np.arange(40_000), 1))[:, 0]
    drawn = draw(logit.expand(40_000, 5), uniform, 1.0, 0.75)
    share = np.bincount(drawn.token, minlength=5) / 40_000
    np.testing.assert_allclose(share, [0.0, 0.0, 0.625, 0.0, 0.375], atol=0.0121)  # 5 standard errors
    np.testing.assert_allclose(drawn.logprob, logit[drawn.token], atol=1e-6)
    np.testing.assert_allclose(drawn.sampler_logprob, logit[drawn.token] - np.log(0.8), atol=1e-6)
    policy_entropy = -sum(p * np.log(p) for p in (0.15, 0.5, 0.05, 0.3))
    np.testing.assert_allclose(drawn.entropy, policy_entropy, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_with_top_p_both_log_probabilities_equal_their_definitions(policy, temperature):
    prompt, group, drawn = rollouts(policy, temperature=temperature, top_p=0.6)
    for i, slot in enumerate(group):
        text, n = prompt.id[slot][prompt.mask[slot] == 1], drawn.length[i]
        full = torch.cat([text, drawn.completion[i, :n]])[None]
        with torch.no_grad():
            logit = policy.model(input_ids=full, use_cache=False).logits[0].double() / temperature
        probability = logit.softmax(-1)[len(text) - 1 : -1]
        order = probability.sort(dim=1, descending=True)[0]
        mass = torch.stack([p[: 1 + int((p.cumsum(0) < 0.6).sum())].sum() for p in order])
        of_token = probability.gather(1, drawn.completion[i, :n, None])[:, 0]
        # float32 sums over 32-wide layers; the mass moves by as much
        np.testing.assert_allclose(drawn.logprob[i, :n], of_token.log(), atol=2e-5)
        np.testing.assert_allclose(drawn.sampler_logprob[i, :n], (of_token / mass).log(), atol=4e-5)
        assert not drawn.sampler_logprob[i, n:].any()


def test_a_stop_text_ends_a_completion_with_the_token_that_makes_it(policy):
    _, _, free = rollouts(policy, group=(0,) * 60, width=12)
    text = [decode(policy, free.completion[i : i + 1], [int(free.length[i])])[0] for i in range(60)]
    stop = (text[7][2:4], text[9][5])
    _, _, drawn = rollouts(policy, group=(0,) * 60, width=12, stop=stop)
    shorter = 0
    for i in range(60):
        held = (decode(policy, free.completion[i : i + 1], [n])[0] for n in range(1, int(free.length[i]) + 1))
        expected = next((n for n, one in enumerate(held, 1) if any(s in one for s in stop)), int(free.length[i]))
        assert drawn.length[i] == expected
        assert torch.equal(drawn.completion[i, :expected], free.completion[i, :expected])
        shorter += expected < free.length[i]
    assert shorter >= 2


def test_a_stop_token_ends_a_completion_and_stays_in_it(policy):
    _, _, free = rollouts(policy, group=(0,) * 30, width=8)
    end = int(free.completion[4, 3])
    _, _, drawn = rollouts(policy, group=(0,) * 30, width=8, stop_token=(end,))
    at = (free.completion == end).float()
    expected = torch.where(at.any(1), at.argmax(1) + 1, free.length).minimum(free.length)
    assert torch.equal(drawn.length, expected)
    assert (drawn.length < free.length).any()


def test_rows_at_a_time_bound_the_batch_and_not_the_result(policy):
    prompt, group = encode(policy, TEXT), torch.tensor([0, 0, 1, 1, 2, 2, 0])
    noise = Noise(5, philox.ROLLOUT, 3, np.arange(7))
    whole, parts = (BuiltinEngine(policy, Sampling(), rows=n).sample(prompt, group, noise) for n in (None, 3))
    assert torch.equal(whole.completion, parts.completion)
    assert torch.equal(whole.length, parts.length)
    np.testing.assert_allclose(whole.logprob, parts.logprob, atol=2e-5)
    np.testing.assert_allclose(whole.gradient_sq, parts.gradient_sq, atol=1e-4)
    drawn = BuiltinEngine(policy, Sampling()).draw(prompt, group, noise)
    assert torch.equal(drawn.logprob, whole.sampler_logprob)


@pytest.mark.parametrize("rows", [None, 4])
def test_what_the_policy_says_of_completions_drawn_elsewhere_is_what_its_sampler_says(policy, rows):
    prompt, group, drawn = rollouts(policy, temperature=0.8)
    elsewhere = Drawn(drawn.completion, torch.full_like(drawn.logprob, -1.5), drawn.length)
    again = rescore(policy, prompt, group, elsewhere, 0.8, rows=rows)
    for name in ("logprob", "entropy", "gradient_sq"):
        np.testing.assert_allclose(getattr(again, name), getattr(drawn, name), atol=5e-5)
    assert (again.sampler_logprob == -1.5).all()


def test_seeds_of_rollouts_are_keyed_by_seed_stream_step_and_row():
    row = np.arange(100)
    key = [(1, philox.ROLLOUT, 0), (2, philox.ROLLOUT, 0), (1, philox.EVALUATION, 0), (1, philox.ROLLOUT, 1)]
    seed = np.stack([rollout_seed(Noise(*one, row)) for one in key])
    assert np.unique(seed).size == seed.size
    assert seed.min() >= 0
    np.testing.assert_array_equal(rollout_seed(Noise(*key[0], row[50:])), seed[0, 50:])


def test_noise_is_keyed_by_seed_stream_step_row_and_position():
    base = token_noise(1, philox.ROLLOUT, 0, np.arange(3), 4)
    np.testing.assert_array_equal(base[1:], token_noise(1, philox.ROLLOUT, 0, np.arange(1, 3), 4))
    np.testing.assert_array_equal(base[:, :2], token_noise(1, philox.ROLLOUT, 0, np.arange(3), 2))
    other = [
        token_noise(2, philox.ROLLOUT, 0, np.arange(3), 4),
        token_noise(1, philox.EVALUATION, 0, np.arange(3), 4),
        token_noise(1, philox.ROLLOUT, 1, np.arange(3), 4),
    ]
    assert np.unique(np.stack([base, *other])).size == 4 * base.size


def test_a_folder_that_is_no_model_is_refused(tmp_path, llama_folder):
    with pytest.raises(ValueError, match=r"nowhere is not a model folder: it has no config\.json"):
        load_policy(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        load_policy(tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((llama_folder / name).read_text())
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        load_policy(tmp_path)


def test_an_empty_prompt_is_refused(policy):
    with pytest.raises(ValueError, match="at least one token"):
        encode(policy, ["Hi", ""])
