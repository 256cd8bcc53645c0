import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench import kernels
from curbench.kernels import Grouping, group_advantage, group_by_id, reference
from curbench.kernels.extension import load

ESTIMATORS = ("grpo", "dr_grpo", "rloo", "grpo_batch", "rloo_std")


@st.composite
def calls(draw):
    """(reward, group, options): up to 20 groups of up to 70 rollouts in any layout, from few values so that equal
    groups happen, with every option."""
    sizes = draw(st.lists(st.integers(1, draw(st.sampled_from([3, 70]))), min_size=1, max_size=20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = rng.standard_normal(draw(st.sampled_from([1, 2, 1000]))).astype(dtype)
    reward, offset = rng.choice(values, sum(sizes)), np.cumsum([0, *sizes])
    group = offset
    if draw(st.booleans()):
        group = group_by_id(rng.permutation(np.repeat(rng.permutation(len(sizes)), sizes)))
    options = {
        "estimator": draw(st.sampled_from(ESTIMATORS)),
        "ddof": draw(st.sampled_from([0, 1])),
        "eps": draw(st.sampled_from([1e-6, 1e-2])),
        "eps_mode": draw(st.sampled_from(["add", "floor_variance", "unless_zero"])),
        "singleton": draw(st.sampled_from(["zero", "raw"])),
    }
    if draw(st.booleans()):
        options["nan"] = "skip"
        reward[rng.random(len(reward)) < draw(st.sampled_from([0.0, 0.2, 0.9]))] = np.nan
    if options["estimator"] in ("grpo", "grpo_batch", "rloo_std") and draw(st.booleans()):
        options["std_reward"] = rng.choice(values, len(reward))
    if draw(st.booleans()):
        options["success"] = reward > 0
    return reward, group, options


@given(calls(), st.sampled_from(["portable", "avx2", "avx512"]))
@settings(max_examples=300)
def test_cpu_equals_reference(case, isa):
    reward, group, options = case
    before = load().isa()
    load().use_isa(isa)
    ours = group_advantage(reward, group, **options)
    load().use_isa(before)
    expected = reference.group_advantage(reward, group, **options)
    # float64 sums of 70 numbers in another order; the advantage is then rounded to the dtype of the reward. A tiny
    # spread is divided by, so the error of a mean is seen against the largest reward over the smallest divisor.
    eps = np.finfo(reward.dtype).eps
    error = 1e-13 * max(1.0, np.nanmax(np.abs(reward), initial=0.0))
    largest = np.abs(expected.advantage).max()
    np.testing.assert_allclose(ours.advantage, expected.advantage, rtol=2 * eps, atol=error * max(1.0, largest) * 1e4)
    np.testing.assert_allclose(ours.mean, expected.mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(ours.var, expected.var, rtol=1e-12, atol=1e-28)
    np.testing.assert_allclose(ours.abs_advantage, expected.abs_advantage, rtol=1e-8, atol=error)
    for field in ("n", "degenerate", "success"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(expected, field))
    assert ours.advantage.dtype == reward.dtype


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 64, 100])
def test_fixed_size_equals_offsets(size):
    reward = np.random.default_rng(size).random(size * 5, dtype=np.float32)
    fixed, ragged = group_advantage(reward, size), group_advantage(reward, np.arange(0, 5 * size + 1, size))
    for a, b in zip(fixed, ragged, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("estimator", ESTIMATORS[:4])  # with rloo_std, every rollout has a divisor of its own
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


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_order_of_rollouts_does_not_matter(estimator):
    rng = np.random.default_rng(6)
    id = np.repeat(np.arange(7), rng.integers(1, 30, 7))
    reward, shuffle = rng.random(len(id)), rng.permutation(len(id))
    sorted_, shuffled = (
        group_advantage(r, group_by_id(i), estimator=estimator)
        for r, i in ((reward, id), (reward[shuffle], id[shuffle]))
    )
    np.testing.assert_allclose(shuffled.advantage, sorted_.advantage[shuffle], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(np.sort(shuffled.n), np.sort(sorted_.n))


def test_the_only_outlier_has_others_without_spread():
    # squares - n / (n - 1) d^2 leaves rounding there, and 1e-8 instead of 0 would change the advantage tenfold.
    reward = np.array([0.1] * 6 + [0.7])
    result = group_advantage(reward, 7, estimator="rloo_std", eps=1e-9)
    np.testing.assert_allclose(result.advantage[6], 0.6, rtol=1e-12)
    np.testing.assert_allclose(result.advantage[:6], -0.1 / np.sqrt(0.06), rtol=1e-7)


def test_a_batch_of_one_spread_is_standardised_as_one():
    reward = np.random.default_rng(7).random(2048 * 3)
    result = group_advantage(reward, 3, estimator="grpo_batch", eps=0.0)
    centred = reward.reshape(-1, 3) - reward.reshape(-1, 3).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(result.advantage, (centred / reward.std(ddof=1)).ravel(), rtol=1e-11, atol=1e-13)


def test_a_nan_reward_is_refused_or_skipped():
    reward = np.array([0.0, np.nan, 1.0, np.nan, np.nan, np.nan])
    result = group_advantage(reward, 3, estimator="dr_grpo", nan="skip")
    np.testing.assert_array_equal(result.advantage, [-0.5, 0.0, 0.5, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(result.n, [2, 0])
    np.testing.assert_array_equal(result.mean, [0.5, np.nan])
    np.testing.assert_array_equal(result.degenerate, [False, True])


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
        (
            [0.0, 1.0],
            2,
            {"estimator": "ppo"},
            "estimator must be one of grpo, dr_grpo, rloo, grpo_batch, rloo_std; got 'ppo'",
        ),
        ([0.0, 1.0], 2, {"ddof": 2}, "ddof must be 0 or 1; got 2"),
        ([0.0, 1.0], 2, {"eps": -1.0}, "eps must be finite"),
        ([0.0, 1.0], 2, {"ddof": 2, "convention": "trl"}, "ddof must be 0 or 1; got 2"),
        ([0.0, 1.0], 2, {"eps_mode": "max"}, "eps_mode must be one of add, floor_variance, unless_zero; got 'max'"),
        ([0.0, 1.0], 2, {"nan": "zero"}, "nan must be one of error, skip; got 'zero'"),
        ([0.0, 1.0], 2, {"convention": "ppo"}, "convention must be one of curbench, verl, .*; got 'ppo'"),
        (
            [0.0, 1.0],
            2,
            {"convention": "trl", "estimator": "rloo"},
            "'trl' has the estimators grpo, dr_grpo, grpo_batch",
        ),
        ([0.0, np.inf], 2, {"nan": "skip"}, "reward must be finite; slot 1 has inf: score it, or drop its rollout"),
        ([0.0, np.nan], 2, {}, "slot 1 has nan: .* or pass nan='skip'"),
        ([0.0, 1.0], 2, {"std_reward": np.array([0.0, np.inf])}, "std_reward must be finite; slot 1 has inf"),
        ([0.0, 1.0], 2, {"std_reward": np.zeros(3)}, "std_reward must have 2 entries; got 3"),
        (
            [0.0, 1.0],
            2,
            {"std_reward": np.zeros(2, np.float32)},
            "std_reward must be float64, as reward is; got float32",
        ),
        ([0.0, 1.0], 2, {"std_reward": np.zeros(2), "estimator": "rloo"}, "std_reward has no use in rloo"),
        ([0.0, 1.0], 2, {"std_reward": np.zeros(2), "eps": 0.0}, "with std_reward, eps must be positive or"),
        ([0.0, 1.0], Grouping(np.array([0, 2]), np.array([0, 2]), None), {}, r"in \[0, R\); that of group 0"),
        ([0.0, 1.0], Grouping(np.array([0, 2]), np.array([0, -1]), None), {}, "that of group 0 does not"),
        ([0.0, 1.0], Grouping(np.array([0, 2]), np.array([0]), None), {}, "order of a Grouping must have 2 entries"),
        ([0.0, 1.0, np.nan], group_by_id([5, 7, 5]), {}, "slot 2 has nan"),
        ([0.0, 1.0], 2, {"singleton": "drop"}, "singleton must be one of zero, raw, error; got 'drop'"),
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
