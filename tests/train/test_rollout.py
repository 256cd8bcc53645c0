"""The policy and the sampler on a model folder that could be anybody's: exact log-probabilities, keyed noise."""

import numpy as np
import pytest
import torch

from curbench import philox
from curbench.train.policy import completion_logprob, decode, encode, load_policy
from curbench.train.rollout import Sampling, draw, sample, token_noise

TEXT = ["Make 24 from 3 7 12:", "Make 9 from 4 5:", "Hi"]


@pytest.fixture(scope="module")
def policy(llama_folder):
    return load_policy(llama_folder)


def rollouts(policy, seed=0, group=(0, 0, 1, 1, 2, 2), width=12, temperature=1.0, row=None):
    prompt, group = encode(policy, TEXT), torch.tensor(group)
    row = np.arange(len(group)) if row is None else np.array(row)
    noise = torch.from_numpy(token_noise(seed, philox.ROLLOUT, 0, row, width))
    return prompt, group, sample(policy, prompt, group, noise, Sampling(temperature))


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
