"""Advantages with weighted baselines against a slow re-statement and against theory."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.advantage import group_advantage, weighted_baseline
from curbench.types import Reward, Rollouts, Selection


def rollouts(size, length=None, gradient_sq=None):
    b, r = len(size), sum(size)
    chosen = Selection(0, 0, range(b), np.ones(b), size, "fixed")
    length = np.ones(r) if length is None else length
    offset = np.concatenate([[0], np.cumsum(size)])
    return Rollouts(chosen, offset, length, np.zeros(r), gradient_sq=gradient_sq)


def slow(reward, weight, offset, leave_one_out):
    out = []
    for a, b in pairwise(offset):
        for i in range(a, b):
            of = [j for j in range(a, b) if not (leave_one_out and j == i)]
            mass = sum(weight[j] for j in of)
            plain = sum(reward[j] for j in of) / max(len(of), 1)
            out.append(sum(weight[j] * reward[j] for j in of) / mass if mass > 0 else plain)
    return out


@given(data=st.data(), size=st.lists(st.integers(1, 6), min_size=1, max_size=5), leave_one_out=st.booleans())
@settings(max_examples=60)
def test_the_weighted_baseline_equals_its_slow_restatement(data, size, leave_one_out):
    r = sum(size)
    weight = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=r, max_size=r)))
    reward = np.array(data.draw(st.lists(st.floats(-2, 2), min_size=r, max_size=r)))
    offset = np.concatenate([[0], np.cumsum(size)])
    result = weighted_baseline(reward, weight, offset, leave_one_out=leave_one_out)
    np.testing.assert_allclose(result, slow(reward, weight, offset, leave_one_out), atol=1e-9)


def test_equal_weights_give_leave_one_out_and_the_group_mean():
    reward = Reward([1.0, 0.0, 0.5, 1.0, 1.0, 0.0], [1, 0, 0, 1, 1, 0])
    drawn = rollouts([3, 3], gradient_sq=np.full(6, 2.5))
    for weighted, plain in (("oblr", "rloo"), ("opo", "dr_grpo")):
        advantage, stats = group_advantage(drawn, reward, estimator=weighted)
        expected, same = group_advantage(drawn, reward, estimator=plain)
        np.testing.assert_allclose(advantage, expected)
        np.testing.assert_allclose(stats.abs_advantage, same.abs_advantage)


@pytest.mark.parametrize("estimator", ["opo", "oblr"])
def test_equal_rewards_have_advantage_exactly_zero(estimator):
    third = np.full(7, 1 / 3)
    advantage, stats = group_advantage(
        rollouts([7], range(1, 8), np.linspace(0.1, 3.7, 7)), Reward(third, third > 1), estimator=estimator
    )
    assert not advantage.any()
    assert stats.degenerate.all()


def test_the_best_baseline_of_a_two_action_policy_is_the_chance_of_failure():
    """p w(right) / (p w(right) + (1 - p) w(wrong)) with w = (1 - p)^2 and p^2 is 1 - p, whatever the features."""
    p, n = 0.2, 40_000
    right = np.random.default_rng(0).uniform(size=n) < p
    weight = (right - p) ** 2
    baseline = weighted_baseline(right.astype(float), weight, np.array([0, n]), leave_one_out=True)
    assert baseline == pytest.approx(1 - p, abs=0.02)


def variance(estimator, p=0.1, group=8, seeds=4000):
    """Variance and mean of the gradient (1/G) sum_i A_i (y_i - p), one number per group."""
    right = np.random.default_rng(1).uniform(size=(seeds, group)) < p
    drawn = rollouts([group] * seeds, gradient_sq=((right - p) ** 2).ravel())
    advantage, _ = group_advantage(drawn, Reward(right.ravel().astype(float), right.ravel()), estimator=estimator)
    gradient = (advantage.reshape(seeds, group) * (right - p)).mean(axis=1)
    return gradient.var(), gradient.mean(), gradient.std() / seeds**0.5


def test_gradient_weights_leave_the_gradient_unbiased_where_groups_are_large():
    """The mean gradient is p (1 - p); leaving a rollout out makes its baseline independent of it."""
    _, mean, error = variance("oblr", group=64)
    assert mean == pytest.approx(0.09, abs=4 * error)


def test_gradient_weights_lower_the_variance_where_groups_are_large():
    assert variance("oblr", group=64)[0] < 0.8 * variance("rloo", group=64)[0]


def test_gradient_weights_must_be_there():
    with pytest.raises(ValueError, match="oblr weights by gradient norms, which these rollouts do not carry; take opo"):
        group_advantage(rollouts([2]), Reward([0.0, 1.0], [0, 1]), estimator="oblr")


def test_an_unknown_estimator_names_the_choices():
    with pytest.raises(
        ValueError, match="unknown estimator 'ppo'; choose from grpo, dr_grpo, rloo, grpo_batch, rloo_std, opo, oblr"
    ):
        group_advantage(rollouts([2]), Reward([0.0, 1.0], [0, 1]), estimator="ppo")
