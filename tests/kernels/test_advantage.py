import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curbench import kernels
from curbench.kernels import group_advantage, reference

ESTIMATORS = ("grpo", "dr_grpo", "rloo")


@st.composite
def ragged(draw):
    """(reward, offsets): up to 6 groups of up to 70 rollouts, from few values so that equal groups happen."""
    sizes = draw(st.lists(st.integers(1, 70), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = rng.standard_normal(draw(st.sampled_from([1, 2, 1000]))).astype(dtype)
    return rng.choice(values, sum(sizes)), np.cumsum([0, *sizes])


@given(ragged(), st.sampled_from(ESTIMATORS), st.sampled_from([0, 1]), st.booleans())
def test_cpu_equals_reference(case, estimator, ddof, with_success):
    reward, offset = case
    options = {"estimator": estimator, "ddof": ddof, "success": reward > 0 if with_success else None}
    ours = group_advantage(reward, offset, **options)
    expected = reference.group_advantage(reward, offset, **options)
    # float64 sums of 70 numbers in another order; the advantage is then rounded to the dtype of the reward. A group
    # with a tiny spread divides by it, so the error of a mean is seen against the largest reward.
    eps = np.finfo(reward.dtype).eps
    scale = 1e-13 * max(1.0, np.abs(reward).max()) / (reference_spread(reward, offset) + 1e-6)
    np.testing.assert_allclose(ours.advantage, expected.advantage, rtol=2 * eps, atol=scale)
    np.testing.assert_allclose(ours.mean, expected.mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(ours.var, expected.var, rtol=1e-12, atol=1e-28)
    np.testing.assert_allclose(ours.abs_advantage, expected.abs_advantage, rtol=1e-9)
    for field in ("n", "degenerate", "success"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(expected, field))
    assert ours.advantage.dtype == reward.dtype


def reference_spread(reward, offset):
    """Smallest positive standard deviation of a group, or 1."""
    spread = [np.std(reward[i:j].astype(float)) for i, j in itertools.pairwise(offset)]
    return min((s for s in spread if s > 0), default=1.0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 64, 100])
def test_fixed_size_equals_offsets(size):
    reward = np.random.default_rng(size).random(size * 5, dtype=np.float32)
    fixed, ragged = group_advantage(reward, size), group_advantage(reward, np.arange(0, 5 * size + 1, size))
    for a, b in zip(fixed, ragged, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_advantage_sums_to_zero_in_each_group(estimator):
    reward = np.random.default_rng(0).random(1000)
    advantage = group_advantage(reward, 10, estimator=estimator).advantage.reshape(-1, 10)
    np.testing.assert_allclose(advantage.sum(axis=1), 0.0, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("size", range(1, 65))
def test_equal_rewards_give_exactly_zero(estimator, size):
    # In float32, mean and std of thirty times 0.9 give advantages of 0.15.
    for value in (0.1, 0.9, -1.3):
        result = group_advantage(np.full(3 * size, value, np.float32), size, estimator=estimator)
        assert not result.advantage.any()
        assert not np.signbit(result.advantage).any()
        assert result.degenerate.all()
        np.testing.assert_array_equal(result.mean, np.float64(np.float32(value)))
        assert not result.var.any()


def test_rewards_that_differ_by_one_ulp_are_not_degenerate():
    reward = np.array([0.9, 0.9, np.nextafter(np.float32(0.9), np.float32(1))], np.float32)
    assert not group_advantage(reward, 3).degenerate[0]


def test_a_group_of_one_has_advantage_zero_or_is_refused():
    assert group_advantage([3.0], 1).advantage[0] == 0.0
    with pytest.raises(ValueError, match="group 1 has one"):
        group_advantage([1.0, 2.0, 3.0], [0, 2, 3], singleton="error")


def test_success_is_counted_apart_from_reward():
    result = group_advantage([0.1, 0.2, 0.3, 0.4], 2, success=np.array([True, False, True, True]))
    np.testing.assert_array_equal(result.success, [1, 2])
    assert group_advantage([0.1, 0.2], 2).success is None


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_thread_count_does_not_change_a_bit(threads):
    rng = np.random.default_rng(1)
    offset = np.cumsum([0, *rng.integers(1, 40, 999)])
    reward = rng.standard_normal(offset[-1])
    for a, b in zip(group_advantage(reward, offset), group_advantage(reward, offset, threads=threads), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("reward", "group", "options", "message"),
    [
        ([0.0, 1.0, 2.0], 2, {}, "group size must divide the 3 rollouts; got 2"),
        ([0.0, 1.0], 0, {}, "group size must divide"),
        ([0.0, np.nan, np.inf], 3, {}, "reward must be finite; slot 1 has nan"),
        ([0.0, 1.0, -np.inf], [0, 1, 3], {}, "slot 2 has -inf"),
        ([0.0, 1.0], [0, 1, 1, 2], {}, "without empty groups; see group 1"),
        ([0.0, 1.0], [1, 2], {}, "see group 0"),
        ([0.0, 1.0], [0, 1], {}, "see group 0"),
        ([0.0, 1.0], [0, 9, 2], {}, "see group 0"),
        ([0.0, 1.0], 2, {"estimator": "ppo"}, "estimator must be one of grpo, dr_grpo, rloo; got 'ppo'"),
        ([0.0, 1.0], 2, {"ddof": 2}, "ddof must be 0 or 1; got 2"),
        ([0.0, 1.0], 2, {"eps": -1.0}, "eps must be finite"),
        ([0.0, 1.0], 2, {"singleton": "drop"}, "singleton must be one of zero, error"),
    ],
)
def test_errors_name_the_rule_and_the_value(backend, reward, group, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantage(np.array(reward), group, backend=backend, **options)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": np.array([1, 2])}, "reward must be float32 or float64; got int64"),
        ({"reward": np.ones((2, 2))}, r"reward must have 1 axis or axes; got shape \(2, 2\)"),
        ({"success": np.array([1.0, 0.0])}, "success must have one of the dtypes uint8, bool; got float64"),
        ({"success": np.array([True])}, "success must have 2 entries; got 1"),
        ({"group": torch.tensor([0, 2])}, "group must live where the first argument does, numpy"),
        ({"group": np.array([0.0, 2.0])}, "group must have one of the dtypes int64"),
        ({"group": np.array([], np.int64)}, "group offsets must have"),
        ({"reward": torch.tensor([0, 1])}, "reward must be float32 or float64; got int64"),
        ({"reward": np.array([0.0, 1.0], np.float16)}, "reward must be float32 or float64; got float16"),
        ({"threads": 0}, "threads must be at least 1; got 0"),
    ],
)
def test_arguments_are_checked_at_the_door(backend, arguments, message):
    with pytest.raises(ValueError, match=message):
        group_advantage(**{"reward": np.array([0.0, 1.0]), "group": 2, "backend": backend} | arguments)


def test_a_place_to_run_is_checked_at_the_door():
    with pytest.raises(ValueError, match="backend must be one of auto, reference, cpu, cuda; got 'gpu'"):
        group_advantage([0.0, 1.0], 2, backend="gpu")
    with pytest.raises(ValueError, match=r"threads must be in \[1, 1024\]; got 50000"):
        group_advantage([0.0, 1.0], 2, threads=50_000)


def test_unchecked_rewards_pass_through():
    assert np.isnan(group_advantage([np.nan, 1.0], 2, check=False).advantage).all()


def test_no_rollouts_give_no_groups():
    assert group_advantage(np.empty(0), 4).n.shape == (0,)
    assert group_advantage(np.empty(0), np.array([0])).n.shape == (0,)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_tensors_give_tensors_with_the_same_numbers(backend):
    reward = np.random.default_rng(2).random(60, dtype=np.float32)
    offset, success = np.array([0, 10, 60]), reward > 0.5
    expected = group_advantage(reward, offset, success=success, backend=backend)
    result = group_advantage(
        torch.from_numpy(reward), torch.from_numpy(offset), success=torch.from_numpy(success), backend=backend
    )
    for a, b in zip(result, expected, strict=True):
        assert isinstance(a, torch.Tensor)
        np.testing.assert_array_equal(a.numpy(), b)


def test_strided_and_converted_vectors_are_accepted():
    reward = np.random.default_rng(3).random(40)
    np.testing.assert_array_equal(
        group_advantage(reward[::2], np.array([0, 20], np.int32)).advantage,
        group_advantage(reward[::2].copy(), 20).advantage,
    )
    tensor = torch.from_numpy(reward).requires_grad_()
    assert not group_advantage(tensor, 20).advantage.requires_grad


def test_fields_of_packed_records_are_read_as_they_are():
    record = np.zeros(6, [("flag", np.uint8), ("reward", np.float32)])
    record["reward"] = np.arange(6)
    np.testing.assert_array_equal(group_advantage(record["reward"], 3).mean, [1.0, 4.0])
    np.testing.assert_array_equal(group_advantage(record["reward"][:1], 1).mean, [0.0])


def test_an_absent_back_end_says_why():
    count, reason = kernels.cuda_status()
    if count:
        pytest.skip("a CUDA device is here")
    with pytest.raises(RuntimeError, match="backend 'cuda' is not available: ") as caught:
        group_advantage([0.0, 1.0], 2, backend="cuda")
    assert reason in str(caught.value)
