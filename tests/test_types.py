import numpy as np
import pytest

from curbench.types import Bank, Feedback, GroupStats, Reward, Rollouts, Selection


def selection(**change):
    fields = {"ticket": 0, "step": 0, "problem": [3, 5], "propensity": [0.5, 1.0], "rollouts": [2, 2], "design": "iid"}
    return Selection(**(fields | change))


def test_selection_arrays_are_typed_and_read_only():
    made = selection()
    assert made.problem.dtype == np.int64
    assert made.propensity.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        made.propensity[0] = 0.1


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.0000001, np.nan])
def test_a_propensity_outside_zero_one_is_refused_with_slot_and_value(wrong):
    with pytest.raises(ValueError, match=r"propensity must be in \(0, 1\]; slot 1 has .* \(problem 5\)"):
        selection(propensity=[0.5, wrong])


def test_a_selection_without_slots_or_rollouts_is_refused():
    with pytest.raises(ValueError, match="at least one slot"):
        selection(problem=[], propensity=[], rollouts=[])
    with pytest.raises(ValueError, match="at least one rollout"):
        selection(rollouts=[2, 0])


def test_the_caller_keeps_a_writable_array():
    mine = np.array([0.5, 0.5])
    selection(propensity=mine)
    mine[0] = 0.25
    assert mine[0] == 0.25


@pytest.mark.parametrize("given", [np.array([0.5, 0.5]), np.array([0.5, 0.5, 1.0])[:2]])
def test_a_record_does_not_change_with_the_array_of_its_caller(given):
    read_only = given.view()
    read_only.setflags(write=False)
    made = [selection(propensity=given), selection(propensity=read_only)]
    given[0] = 0.25
    assert all(one.propensity[0] == 0.5 for one in made)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_refused_with_its_entry(wrong):
    with pytest.raises(ValueError, match="Reward.reward must be finite; entry 1"):
        Reward([0.0, wrong], [False, False])


def test_huge_finite_rewards_pass_although_their_sum_overflows():
    assert Reward([1.7e308, 1.7e308], [False, False]).reward[0] == 1.7e308


def test_an_empty_bank_is_refused():
    with pytest.raises(ValueError, match="at least one problem"):
        Bank(key=[], stratum=[])


def test_repeated_keys_are_refused_by_name():
    with pytest.raises(ValueError, match="'a' appears 2 times"):
        Bank(key=["a", "b", "a"], stratum=[0, 0, 0])


def test_bank_features_must_be_finite_and_one_row_per_problem():
    with pytest.raises(ValueError, match="finite; entry 3"):
        Bank(key=["a", "b"], stratum=[0, 0], feature=[[0, 1], [2, np.nan]])
    with pytest.raises(ValueError, match=r"shape \(2, F\)"):
        Bank(key=["a", "b"], stratum=[0, 0], feature=[[0.0]])


def test_bank_lengths_must_not_be_negative():
    assert Bank(key=["a", "b"], stratum=[0, 0], length=[3, 0]).length.tolist() == [3, 0]
    with pytest.raises(ValueError, match="length must be >= 0; problem 1 has -2"):
        Bank(key=["a", "b"], stratum=[0, 0], length=[3, -2])


def test_feedback_refuses_a_nan_utility():
    one = np.ones(2)
    stats = GroupStats(one, one, one, one, one, one > 0, one)
    with pytest.raises(ValueError, match="Feedback.utility must be finite; entry 0"):
        Feedback(selection(), stats, [np.nan, 0.0], [True, True], [0, 0], [1, 1])


def test_rollouts_must_fit_their_offsets():
    with pytest.raises(ValueError, match=r"Rollouts.length must have shape \(4,\)"):
        Rollouts(selection(), [0, 2, 4], [1, 1, 1], [0, 0, 0, 0])
