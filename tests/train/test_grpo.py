"""The GRPO actor on a tiny random model: steps, normalisers, exact continuation, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import spearmanr

from curbench.suites import load
from curbench.train.grpo import GRPOActor, GRPOConfig
from curbench.train.length import triangle
from curbench.train.policy import load_policy
from curbench.train.snr import signal_and_noise
from curbench.types import PLAIN, Guidance, Selection, Target

TRAIN, TEST = load("countdown", "train"), load("countdown", "test")
B, G = 4, 3
ADVANTAGE = np.linspace(-1, 1, B * G)
ALL = np.ones(B, bool)


def make_actor(folder, seed=0, **config):
    setting = {"learning_rate": 1e-2, "max_new_tokens": 6, "evaluation_problems": 8, "threads": 1, **config}
    return GRPOActor(load_policy(folder), TRAIN, TEST, seed=seed, config=GRPOConfig(**setting))


def selection(problem=(5, 600, 5, 3000), group=G):
    b = len(problem)
    return Selection(0, 0, problem, np.full(b, 0.5), np.full(b, group), "systematic")


def weights(actor):
    return torch.cat([p.detach().flatten() for p in actor.policy.model.parameters()])


def test_rollouts_have_the_shape_of_the_selection(llama_folder):
    rollouts = make_actor(llama_folder).rollout(selection())
    assert rollouts.offset.tolist() == [0, 3, 6, 9, 12]
    assert rollouts.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert rollouts.completion.shape == rollouts.logprob.shape == (12, rollouts.length.max())
    assert rollouts.policy_step.tolist() == [0] * 12


def test_ragged_groups_are_allowed(llama_folder):
    chosen = Selection(0, 0, [1, 2], [0.5, 0.5], [2, 4], "systematic")
    rollouts = make_actor(llama_folder).rollout(chosen)
    assert rollouts.offset.tolist() == [0, 2, 6]


def test_the_same_problem_twice_gets_different_rollouts(llama_folder):
    rollouts = make_actor(llama_folder).rollout(selection())
    assert not torch.equal(rollouts.completion[0:3], rollouts.completion[6:9])


def test_a_group_of_one_is_refused(llama_folder):
    with pytest.raises(ValueError, match="a group needs at least 2; got 1"):
        make_actor(llama_folder).rollout(selection(group=1))


def test_successive_rollouts_differ_and_equal_seeds_agree(llama_folder):
    one, two, other = make_actor(llama_folder), make_actor(llama_folder), make_actor(llama_folder, seed=1)
    first = one.rollout(selection()).completion
    assert torch.equal(first, two.rollout(selection()).completion)
    assert not torch.equal(first, other.rollout(selection()).completion)
    second = one.rollout(selection()).completion
    assert first.shape != second.shape or not torch.equal(first, second)


def test_an_update_raises_the_likelihood_of_what_had_a_positive_advantage(llama_folder):
    actor = make_actor(llama_folder)
    rollouts = actor.rollout(selection())
    report = actor.update(rollouts, ADVANTAGE, ALL)
    change = (report.new_logprob() - rollouts.logprob).sum(1)
    assert report.policy_step == actor.policy_step == 1
    assert np.corrcoef(change, ADVANTAGE)[0, 1] > 0.5


def test_rounds_of_a_step_join_to_the_rollouts_of_one(llama_folder):
    actor = make_actor(llama_folder)
    chosen = selection((5, 600), 2), selection((7, 3000, 9), 3)
    first, second = (actor.rollout(one) for one in chosen)
    whole = first.join(second)
    assert whole.offset.tolist() == [0, 2, 4, 7, 10, 13]
    assert whole.selection.problem.tolist() == [5, 600, 7, 3000, 9]
    np.testing.assert_array_equal(whole.length, np.concatenate([first.length, second.length]))
    reward = actor.reward(first).join(actor.reward(second))
    np.testing.assert_array_equal(actor.reward(whole).reward, reward.reward)
    actor.policy_step += 1  # the same weights, asked again
    again = actor._new_logprob(whole, 1)
    for one, at in ((first, slice(0, 4)), (second, slice(4, 13))):
        width = one.logprob.shape[1]
        np.testing.assert_allclose(again[at, :width], one.logprob, atol=1e-5)
        np.testing.assert_array_equal(whole.logprob[at, :width], one.logprob)
        np.testing.assert_array_equal(whole.entropy[at, :width], one.entropy)
        assert not whole.logprob[at, width:].any()


def test_new_log_probabilities_have_the_shape_of_the_rollouts(llama_folder):
    actor = make_actor(llama_folder)
    rollouts = actor.rollout(selection())
    new = actor.update(rollouts, ADVANTAGE, ALL).new_logprob()
    assert new.dtype == np.float32
    assert new.shape == rollouts.logprob.shape
    beyond = np.arange(new.shape[1]) >= rollouts.length[:, None]
    assert not new[beyond].any()


def test_only_the_rollouts_that_are_asked_for_are_run(llama_folder):
    actor = make_actor(llama_folder)
    rollouts = actor.rollout(selection())
    report = actor.update(rollouts, ADVANTAGE, ALL)
    asked = np.arange(B * G) % 3 == 0
    part, whole = report.new_logprob(asked), report.new_logprob()
    np.testing.assert_allclose(part[asked], whole[asked], atol=1e-5)
    np.testing.assert_array_equal(part[~asked], rollouts.logprob[~asked])


def test_new_log_probabilities_must_be_asked_for_before_the_next_update(llama_folder):
    actor = make_actor(llama_folder)
    rollouts = actor.rollout(selection())
    report = actor.update(rollouts, ADVANTAGE, ALL)
    actor.update(rollouts, ADVANTAGE, ALL)
    with pytest.raises(RuntimeError, match="ask for them before the next update"):
        report.new_logprob()


@pytest.mark.parametrize("advantage", [np.zeros(B * G), ADVANTAGE])
def test_without_anything_to_learn_the_policy_stays(llama_folder, advantage):
    actor = make_actor(llama_folder)
    before = weights(actor)
    rollouts = actor.rollout(selection())
    admitted = ALL if not advantage.any() else ~ALL
    report = actor.update(rollouts, advantage, admitted)
    assert torch.equal(weights(actor), before)
    assert report.policy_step == 0
    np.testing.assert_array_equal(report.new_logprob(), rollouts.logprob)
    assert report.metrics["learning_rate"] == 0.0


def gradient(folder, advantage=ADVANTAGE, admitted=ALL, guidance=PLAIN, **config):
    """The gradient of one update, through a first moment that forgets nothing: exp_avg = (1 - beta1) gradient."""
    actor = make_actor(folder, grad_clip=1e9, **config)
    actor.update(actor.rollout(selection()), advantage, admitted, guidance)
    return np.concatenate([m.ravel() for m in actor.state()["exp_avg"].values()]) / 0.1


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_gradient_does_not_depend_on_the_micro_batches(llama_folder, aggregation, ratio):
    whole, split = (gradient(llama_folder, aggregation=aggregation, ratio=ratio, micro_batch=m) for m in (64, 5))
    np.testing.assert_allclose(whole, split, atol=2e-6 * np.abs(whole).max() + 1e-7)


def test_rollout_weights_multiply_their_terms(llama_folder):
    weight = np.repeat([2.0, 0.5, 1.0, 3.0], G)
    np.testing.assert_allclose(
        gradient(llama_folder, guidance=Guidance(weight), aggregation="sequence_mean"),
        gradient(llama_folder, advantage=ADVANTAGE * weight, aggregation="sequence_mean"),
        rtol=1e-4,
        atol=1e-7,
    )


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_a_weight_of_zero_is_as_good_as_a_rejection(llama_folder, aggregation):
    two = np.array([True, True, False, False])
    np.testing.assert_allclose(
        gradient(llama_folder, guidance=Guidance(1.0 * np.repeat(two, G)), aggregation=aggregation),
        gradient(llama_folder, admitted=two, aggregation=aggregation),
        rtol=1e-4,
        atol=1e-7,
    )


def test_token_weights_pick_the_tokens_of_the_loss(llama_folder):
    """One token of one rollout: the gradient is the advantage times that of its log-probability."""
    actor = make_actor(llama_folder)
    rollouts = actor.rollout(selection())
    weight = np.zeros(rollouts.logprob.shape)
    weight[7, 0] = 1.0
    logprob = actor._forward.logprob(rollouts, torch.tensor([7]))[0][0, 0]
    parameter = list(actor.policy.model.parameters())
    one = torch.autograd.grad(logprob, parameter, allow_unused=True)
    expected = [ADVANTAGE[7] * (torch.zeros_like(p) if g is None else g) for p, g in zip(parameter, one, strict=True)]
    found = gradient(llama_folder, guidance=Guidance(weight))
    np.testing.assert_allclose(found, -torch.cat([g.flatten() for g in expected]).numpy(), rtol=1e-4, atol=1e-6)


# --- Target gradient --------------------------------------------------------------------------------------------------


def group_gradients(actor, rollouts):
    """f32[B, P]: (1/G) sum_i A_i grad log pi(y_i), by autograd."""
    logprob = actor._forward.logprob(rollouts, torch.arange(B * G))[0]
    mask = torch.arange(logprob.shape[1]) < torch.tensor(rollouts.length)[:, None]
    value = (torch.from_numpy(ADVANTAGE).float()[:, None] * logprob * mask).sum(1).reshape(B, G).mean(1)
    parameter = list(actor.policy.model.parameters())
    one = [torch.autograd.grad(v, parameter, retain_graph=True) for v in value]
    return torch.stack([torch.cat([g.flatten() for g in gradient]) for gradient in one])


def test_alignment_is_the_product_with_the_weighted_gradient_of_the_batches_before(llama_folder):
    actor, weight = make_actor(llama_folder, learning_rate=1e-4), np.array([0.5, 0.0, 2.0, 1.0])
    rollouts = actor.rollout(selection())
    before = weights(actor)
    first = actor.update(rollouts, ADVANTAGE, ~ALL, Guidance(target=Target(weight, 0.3)))
    assert torch.equal(weights(actor), before)  # nothing was admitted, and the probe puts the weights back
    assert not first.alignment.any()
    gradient = group_gradients(actor, rollouts)
    v = 0.3 * torch.from_numpy(weight).float() @ gradient
    found = torch.cat([one.flatten() for one in actor._target.v.values()])
    torch.testing.assert_close(found, v, rtol=1e-4, atol=1e-6)
    second = actor.update(rollouts, ADVANTAGE, ALL, Guidance(target=Target(None, 0.3)))
    expected = (gradient @ v).numpy()
    np.testing.assert_allclose(second.alignment, expected, rtol=0.02, atol=0.01 * np.abs(expected).max())
    assert torch.equal(torch.cat([one.flatten() for one in actor._target.v.values()]), found)
    moment = torch.cat([actor._optimizer.state[p]["exp_avg_sq"].flatten() for p in actor.policy.model.parameters()])
    gradient = group_gradients(actor, rollouts)
    conditioned = v / ((moment / 0.001).sqrt() + 1e-8)
    third = actor.update(rollouts, ADVANTAGE, ~ALL, Guidance(target=Target(None)))
    old = actor._forward.logprob(rollouts, torch.arange(B * G))[0].detach().numpy()
    drift = np.abs(old - rollouts.logprob).max()
    assert drift > 0  # the policy has moved since these rollouts, which the product must not see
    again = actor.update(replace(rollouts, logprob=old), ADVANTAGE, ~ALL, Guidance(target=Target(None)))
    expected = (gradient @ conditioned).numpy()
    np.testing.assert_allclose(again.alignment, expected, rtol=0.05, atol=0.02 * np.abs(expected).max())
    assert not np.allclose(third.alignment, again.alignment)


def test_the_target_gradient_survives_a_restart(llama_folder):
    guidance = Guidance(target=Target(np.full(B, 0.25)))
    whole, resumed = make_actor(llama_folder), make_actor(llama_folder)
    whole.update(whole.rollout(selection()), ADVANTAGE, ALL, guidance)
    resumed.restore(whole.state())
    one, other = (actor.update(actor.rollout(selection()), ADVANTAGE, ALL, guidance) for actor in (whole, resumed))
    np.testing.assert_array_equal(one.alignment, other.alignment)


def test_views_are_means_and_angles_of_the_prompts_own_states(llama_folder):
    actor = make_actor(llama_folder)
    problem = np.array([3, 4000, 9])
    state = [one_state(actor, int(i)) for i in problem]
    np.testing.assert_allclose(actor.view.hidden(problem, 1.0), [s.mean(0) for s in state], rtol=1e-4, atol=1e-5)
    angle = []
    for s in state:
        unit = s / np.linalg.norm(s, axis=1, keepdims=True)
        cosine = unit @ unit.T
        angle.append((cosine.sum() - np.trace(cosine)) / (len(s) * (len(s) - 1)))
    np.testing.assert_allclose(actor.view.angle(problem), angle, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"depth is a share of the layers, in \(0, 1\]; got 0"):
        actor.view.hidden(problem, 0)


def one_state(actor, problem):
    """f32[P, D], last hidden states of one prompt, without padding."""
    ids = torch.tensor(actor.policy.tokenizer([TRAIN.prompt(problem)])["input_ids"])
    with torch.no_grad():
        return actor.policy.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].numpy()


@pytest.mark.parametrize("aggregation", ["sequence_mean", "constant"])
def test_the_normaliser_counts_admitted_rollouts_only_with_or_without_an_advantage(llama_folder, aggregation):
    half = np.where(np.arange(B * G) < 6, ADVANTAGE, 0.0)
    two = np.array([True, True, False, False])
    admitted = gradient(llama_folder, advantage=half, aggregation=aggregation)
    rejected = gradient(llama_folder, advantage=ADVANTAGE, admitted=two, aggregation=aggregation)
    np.testing.assert_allclose(rejected, 2 * admitted, rtol=1e-4, atol=1e-7)


def test_the_first_pass_is_on_policy_and_later_ones_are_not(llama_folder):
    one, many = (make_actor(llama_folder, epochs=e, minibatches=m) for e, m in ((1, 1), (3, 2)))
    first = one.update(one.rollout(selection()), ADVANTAGE, ALL).metrics
    later = many.update(many.rollout(selection()), ADVANTAGE, ALL).metrics
    assert first["ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert first["clip_fraction"] == 0.0
    assert later["clip_fraction"] > 0.0
    assert later["log_ratio_sq"] > 1e-3
    assert many.policy_step == 1
    assert many.state()["optimizer_step"] == 6


def test_the_gradient_does_not_depend_on_the_parts_that_tell_signal_from_noise(llama_folder):
    whole, parts = (gradient(llama_folder, snr=snr) for snr in (None, {"parts": 3}))
    np.testing.assert_allclose(whole, parts, atol=2e-6 * np.abs(whole).max() + 1e-7)


def test_signal_and_noise_are_those_of_the_parts(llama_folder):
    """Four groups dealt to two parts; each part's gradient, twice its share of the batch's, estimates the same."""
    first = gradient(llama_folder, ADVANTAGE * np.repeat([2.0, 0.0, 2.0, 0.0], G), aggregation="constant")
    second = gradient(llama_folder, ADVANTAGE * np.repeat([0.0, 2.0, 0.0, 2.0], G), aggregation="constant")
    both = [float(part @ part) for part in (first, second, (first + second) / 2)]
    signal, noise = signal_and_noise(np.array(both[:2]), both[2])
    actor = make_actor(llama_folder, aggregation="constant", snr={"parts": 2, "memory": 0.0, "floor": 1e-3})
    metrics = actor.update(actor.rollout(selection()), ADVANTAGE, ALL).metrics
    assert metrics["gradient_signal"] == pytest.approx(signal, rel=1e-3)
    assert metrics["gradient_noise"] == pytest.approx(noise, rel=1e-3)
    assert metrics["learning_rate"] == pytest.approx(1e-2 * max(1e-3, signal / (signal + noise)), rel=1e-3)


def test_a_schedule_sets_the_rate_of_the_step(llama_folder):
    late = make_actor(llama_folder, schedule={"name": "linear"})
    late.progress = 0.75
    slow = make_actor(llama_folder, learning_rate=2.5e-3)
    for actor in (late, slow):
        metrics = actor.update(actor.rollout(selection()), ADVANTAGE, ALL).metrics
        assert metrics["learning_rate"] == pytest.approx(2.5e-3)
    assert torch.equal(weights(late), weights(slow))


def test_averaged_weights_are_evaluated_and_put_away_again():
    shipped = {"learning_rate": 1e-3, "max_new_tokens": 12, "evaluation_problems": 48}
    actor = make_actor(None, averaging={"every": 1, "count": 2, "kind": "mean"}, **shipped)
    assert actor.evaluate().averaged is None
    seen = []
    for step in range(3):
        actor.update(actor.rollout(selection()), ADVANTAGE * (-1) ** step, ALL)
        seen.append(weights(actor))
    last = weights(actor)
    result = actor.evaluate()
    assert torch.equal(weights(actor), last)
    averaged = make_actor(None, **shipped)
    torch.nn.utils.vector_to_parameters((seen[1] + seen[2]) / 2, averaged.policy.model.parameters())
    assert result.averaged.tokens == averaged.evaluate().tokens != result.tokens
    assert result.averaged.averaged is None


def test_a_length_budget_shapes_the_reward_and_not_success(llama_folder):
    plain, shaped = (make_actor(llama_folder, length=b) for b in (None, {"start": 6, "end": 2, "drops": 0}))
    plain.progress = shaped.progress = 0.5
    rollouts = shaped.rollout(selection())
    verdict, reward = plain.reward(rollouts), shaped.reward(rollouts)
    np.testing.assert_array_equal(reward.success, verdict.success)
    expected = 0.6 * verdict.reward + 0.3 * triangle(rollouts.length, 6 * (1 / 3) ** 0.5)
    np.testing.assert_allclose(reward.reward, expected)


def test_an_instruction_reaches_training_and_evaluation(llama_folder):
    budget = {"start": 60, "end": 20, "instruction": "{budget} tokens! "}
    plain, told = (make_actor(llama_folder, length=b) for b in (None, budget))
    width = [actor.rollout(selection()).prompt.id.shape[1] for actor in (plain, told)]
    assert width[1] - width[0] == len("60 tokens! ")
    plain, told = (make_actor(None, length=b) for b in (None, budget))
    assert plain.evaluate().tokens != told.evaluate().tokens


def test_gradient_proxies_are_sums_over_tokens_of_the_logits_gradient(llama_folder):
    actor = make_actor(llama_folder)
    rollouts = actor.rollout(selection())
    found = []
    for row in range(B * G):
        one = rollouts.prompt.select(rollouts.group[row : row + 1])
        n = int(rollouts.length[row])
        full = torch.cat([one.id, rollouts.completion[row : row + 1, :n]], dim=1)
        mask = torch.cat([one.mask, torch.ones(1, n, dtype=torch.int64)], dim=1)
        logit = actor.policy.model(full, attention_mask=mask).logits[0, -n - 1 : -1].double().detach().requires_grad_()
        logprob = logit.log_softmax(1).gather(1, rollouts.completion[row, :n, None]).sum()
        found.append(float(torch.autograd.grad(logprob, logit)[0].square().sum()))
    np.testing.assert_allclose(rollouts.gradient_sq, found, rtol=1e-3)


def test_gradient_proxies_order_a_groups_rollouts_better_than_lengths():
    """Spearman's rank correlation with the exact squared gradient norms, averaged over groups, on the shipped model."""
    actor = make_actor(None, max_new_tokens=20)
    rollouts = actor.rollout(selection(problem=(3, 900, 1800, 2700, 3600, 4500), group=8))
    exact = []
    for row in range(48):
        actor.policy.model.zero_grad()
        actor._forward.logprob(rollouts, torch.tensor([row]))[0][0, : int(rollouts.length[row])].sum().backward()
        exact.append(sum(float(p.grad.square().sum()) for p in actor.policy.model.parameters()))

    def agreement(weight):
        group = zip(weight.reshape(6, 8), np.reshape(exact, (6, 8)), strict=True)
        return np.mean([spearmanr(w, e)[0] for w, e in group if np.ptp(w)])

    assert agreement(rollouts.gradient_sq) > 0.5 > agreement(rollouts.length)


def test_what_was_drawn_from_elsewhere_is_weighed_by_truncated_importance_ratios(llama_folder):
    actor = make_actor(llama_folder, importance_cap=1.5, learning_rate=1e-3)
    rollouts = actor.rollout(selection())
    gap = np.linspace(-0.5, 1, rollouts.logprob.size, dtype=np.float32).reshape(rollouts.logprob.shape)
    elsewhere = replace(rollouts, sampler_logprob=rollouts.logprob - gap)
    assert actor.update(elsewhere, ADVANTAGE, ALL).metrics["sampler_gap"] > 0.1
    other = make_actor(llama_folder, learning_rate=1e-3)
    other.update(rollouts, ADVANTAGE, ALL, Guidance(weight=np.minimum(np.exp(gap), 1.5)))
    np.testing.assert_allclose(weights(actor), weights(other), atol=1e-6)
    plain = make_actor(llama_folder, learning_rate=1e-3)
    plain.update(elsewhere, ADVANTAGE, ALL)
    assert not torch.allclose(weights(actor), weights(plain), atol=1e-6)


@pytest.mark.parametrize(
    ("value", "expected"), [("</answer>", ("</answer>",)), ('["a", "b"]', ("a", "b")), ("[3, 4]", None)]
)
def test_stops_are_one_text_or_a_json_list(value, expected):
    if expected is None:
        assert GRPOConfig(stop_tokens=value).sampling.stop_token == (3, 4)
    else:
        assert GRPOConfig(stop=value).sampling.stop == expected


def test_metrics_are_finite_and_always_the_same(llama_folder):
    actor = make_actor(llama_folder)
    rollouts = actor.rollout(selection())
    idle = actor.update(rollouts, ADVANTAGE, ~ALL).metrics
    busy = actor.update(rollouts, ADVANTAGE, ALL).metrics
    names = {
        "loss",
        "grad_norm",
        "grad_norm_l1",
        "ratio_mean",
        "clip_fraction",
        "log_ratio_sq",
        "approx_kl",
        "entropy",
        "learning_rate",
        "sampler_gap",
    }
    assert set(idle) == set(busy) == names
    assert np.isfinite([*idle.values(), *busy.values()]).all()
    assert busy["entropy"] > 4  # a random model is close to uniform over 257 tokens: log 257 = 5.5


def test_evaluations_are_paired_across_seeds_and_repeat_exactly(llama_folder):
    one, other = make_actor(llama_folder, seed=0), make_actor(llama_folder, seed=1)
    first, again, paired = one.evaluate(), one.evaluate(), other.evaluate()
    assert first.tokens == again.tokens == paired.tokens
    assert first.n.tolist() == [1] * 8
    assert np.bincount(first.stratum).tolist() == [2, 2, 2, 2]


def test_evaluation_does_not_depend_on_its_batch(llama_folder):
    whole, split = (make_actor(llama_folder, evaluation_samples=3, evaluation_batch=n).evaluate() for n in (512, 5))
    assert whole.tokens == split.tokens
    assert whole.n.tolist() == [3] * 8


def run_steps(actor, count):
    for step in range(count):
        rollouts = actor.rollout(selection(problem=(step, 700 + step, 2500 + step, 4000)))
        actor.update(rollouts, ADVANTAGE, np.arange(B) != step)


EVERYTHING = {"snr": {"parts": 2}, "averaging": {"every": 2, "count": 2}, "length": {"start": 6, "end": 3}}


@pytest.mark.parametrize("config", [{}, EVERYTHING])
def test_continuing_from_a_state_is_exact_to_the_bit(llama_folder, config):
    whole, begun, resumed = (make_actor(llama_folder, **config) for _ in range(3))
    run_steps(whole, 2)
    run_steps(begun, 2)
    state = begun.state()
    run_steps(begun, 3)  # must not reach into the state that was handed out
    resumed.restore(state)
    run_steps(whole, 3)
    run_steps(resumed, 3)
    assert torch.equal(weights(whole), weights(resumed))
    np.testing.assert_array_equal(whole.rollout(selection()).logprob, resumed.rollout(selection()).logprob)
    one, other = whole.state(), resumed.state()
    for kind in one.keys() & {"snr", "average"}:
        np.testing.assert_equal(one[kind], other[kind])


def test_a_state_is_nested_dicts_of_arrays_and_integers(llama_folder):
    def leaves(value):
        return [leaf for v in value.values() for leaf in leaves(v)] if isinstance(value, dict) else [value]

    actor = make_actor(llama_folder)
    run_steps(actor, 1)
    state = actor.state()
    assert all(type(leaf) is int or (type(leaf) is np.ndarray and leaf.flags.owndata) for leaf in leaves(state))
    assert state["policy_step"] == state["rollout_step"] == state["optimizer_step"] == 1


def test_a_state_of_another_model_is_refused(llama_folder):
    actor = make_actor(llama_folder)
    state = actor.state()
    state["parameter"]["extra"] = np.zeros(1)
    with pytest.raises(ValueError, match="the state is of another model: 1 parameters differ, extra first"):
        actor.restore(state)


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0}, {"clip_low": 1.0}, {"ratio": "word"}, {"epochs": 0}, {"momentum": 0.9}]
)
def test_a_setting_out_of_range_or_unknown_is_refused(wrong):
    with pytest.raises(ValidationError):
        GRPOConfig(**wrong)
