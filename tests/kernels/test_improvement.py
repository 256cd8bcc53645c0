import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.kernels import Grouping, group_by_id, policy_improvement
from curbench.kernels.extension import load

RATIOS = ("sequence_mean", "sequence", "token_mean")


def log_probabilities(rng, shape, spread=0.05):
    old = -rng.exponential(1.0, shape).astype(np.float32)
    return old + spread * rng.standard_normal(shape).astype(np.float32), old


@st.composite
def batches(draw):
    """Arguments of a call in any layout: rows inside a wider buffer, or packed; NaN where the mask or the length cuts;
    float32 or bfloat16."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    tokens = draw(st.integers(0, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = sum(sizes)
    layout = draw(st.sampled_from(["mask", "length", "packed", "packed mask"]))
    length = rng.integers(0, tokens + 1, rows)
    if "packed" in layout:
        shape = (int(length.sum()),)
        arguments = {"cu_seqlens": np.cumsum([0, *length])}
        new, old = log_probabilities(rng, shape)
    else:
        shape = (rows, tokens)
        arguments = {"length": length} if layout == "length" else {}
        new, old = log_probabilities(rng, (rows, tokens + draw(st.integers(0, 3))))
        new, old = new[:, :tokens], old[:, :tokens]
    valid = np.ones(shape, bool) if layout != "length" else np.arange(tokens) < length[:, None]
    if "mask" in layout:
        valid = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
        arguments["mask"] = valid.astype(draw(st.sampled_from([bool, np.uint8, np.int64]))) * draw(st.integers(1, 3))
        if arguments["mask"].dtype != np.int64:
            arguments["mask"] = valid.astype(draw(st.sampled_from([bool, np.uint8])))
    new[~valid] = np.nan
    old[~valid] = draw(st.sampled_from([np.nan, np.inf]))
    logprob = []
    for array in (new, old):
        tensor = torch.from_numpy(array)
        logprob.append(tensor.bfloat16() if draw(st.booleans()) else tensor)
    ids = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    group = draw(st.sampled_from([np.cumsum([0, *sizes]), group_by_id(ids)]))
    arguments = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arguments.items()}
    group = group if isinstance(group, Grouping) else torch.from_numpy(group)
    options = {
        "ratio": draw(st.sampled_from(RATIOS)),
        "ratio_clip": draw(st.sampled_from([None, 1.0, 10.0, (0.9, 1.1)])),
        "form": draw(st.sampled_from(["gain", "surrogate"])),
    }
    return logprob, torch.from_numpy(rng.standard_normal(rows)), group, arguments | options


@given(batches(), st.sampled_from(["portable", "avx2", "avx512"]))
@settings(max_examples=300)
def test_cpu_equals_reference(case, isa):
    (new, old), advantage, group, options = case
    before = load().isa()
    load().use_isa(isa)
    ours = policy_improvement(new, old, advantage, group, **options)
    load().use_isa(before)
    expected = policy_improvement(new, old, advantage, group, **options, backend="reference")
    # The kernel takes new - old in float32. That is exact when the two are within a factor of 2; if not, it is off by
    # at most half an ulp of the difference, and all of a row's errors add up in the exponent. rho_t - 1 is float32 too,
    # within 2 ulp, and about as large as the difference.
    difference = (new.double() - old.double()).abs().nan_to_num(0.0, 0.0, 0.0).numpy()
    rows = len(expected.ratio)
    if "cu_seqlens" in options:
        row = np.repeat(np.arange(rows), np.diff(options["cu_seqlens"]))
        total = np.bincount(row, difference, rows)
    else:
        total = difference.sum(axis=1)
    error = (2.0**-24 + 2.0**-22 * (options["ratio"] == "token_mean")) * total + 1e-14
    assert (np.abs(ours.ratio.numpy() / expected.ratio.numpy() - 1.0) <= 1.01 * error).all()
    np.testing.assert_array_equal(ours.tokens, expected.tokens)
    slack = (np.abs(advantage.numpy()) * error * expected.ratio.numpy()).max()
    assert ((ours.utility - expected.utility).abs() <= slack + 1e-14).all()


def test_hand_computed_ratios():
    new = np.log(np.array([[2.0, 0.5, 4.0]], np.float32))
    for ratio, value in {"sequence_mean": 4.0 ** (1 / 3), "sequence": 4.0, "token_mean": 6.5 / 3}.items():
        result = policy_improvement(new, np.zeros_like(new), [3.0], 1, length=[3], ratio=ratio)
        np.testing.assert_allclose(result.ratio, value, rtol=2e-7)  # log 2 is rounded to float32
        np.testing.assert_allclose(result.utility, 3.0 * (value - 1.0), rtol=4e-7)


def test_unchanged_policy_has_utility_exactly_zero():
    new, _ = log_probabilities(np.random.default_rng(0), (8, 33))
    result = policy_improvement(new, new.copy(), np.arange(8.0), 4, length=np.full(8, 33))
    assert not result.utility.any()


def test_a_row_without_tokens_has_ratio_one():
    nothing = np.full((2, 5), np.nan, np.float32)
    for ratio in RATIOS:
        result = policy_improvement(nothing, nothing, [1.0, 2.0], 2, length=[0, 0], ratio=ratio)
        np.testing.assert_array_equal(result.ratio, 1.0)
        np.testing.assert_array_equal(result.tokens, 0)


def test_rows_of_no_width_are_accepted():
    for nothing, advantage in ((np.zeros((2, 0), np.float32), np.ones(2)), (torch.zeros(2, 0), torch.ones(2))):
        result = policy_improvement(nothing, nothing, advantage, 2, mask=nothing != 0)
        assert result.tokens.tolist() == [0, 0]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_one_token_may_leave_float32(backend):
    new = np.zeros((2, 50), np.float32)
    new[0, 40], new[1, 3] = 300.0, -np.inf
    result = policy_improvement(
        new, 0 * new.clip(0), [1.0, 1.0], 1, length=[50, 50], ratio="token_mean", backend=backend
    )
    np.testing.assert_allclose(result.ratio, [(np.exp(300.0) + 49) / 50, 49 / 50], rtol=1e-12)


def test_a_ratio_is_clipped_from_both_sides():
    new = np.array([[3.0], [-3.0], [0.01]], np.float32)
    result = policy_improvement(new, 0 * new, [1.0] * 3, 1, length=[1] * 3, ratio_clip=(0.8, 1.28))
    np.testing.assert_allclose(result.ratio, [1.28, 0.8, np.exp(np.float64(np.float32(0.01)))])


def test_a_surrogate_keeps_what_a_gain_leaves_out():
    rng = np.random.default_rng(1)
    new, old = log_probabilities(rng, (6, 9))
    advantage, length = rng.standard_normal(6), np.full(6, 9)
    gain = policy_improvement(new, old, advantage, 3, length=length)
    surrogate = policy_improvement(new, old, advantage, 3, length=length, form="surrogate")
    mean = advantage.reshape(2, 3).mean(axis=1)
    np.testing.assert_allclose(surrogate.utility, gain.utility + mean, rtol=1e-12, atol=1e-14)


def test_packed_rows_equal_padded_ones():
    rng = np.random.default_rng(2)
    new, old = log_probabilities(rng, (7, 100))
    length = np.array([100, 0, 33, 32, 31, 1, 99])
    valid = np.arange(100) < length[:, None]
    padded = policy_improvement(new, old, np.arange(7.0), 7, length=length)
    packed = policy_improvement(new[valid], old[valid], np.arange(7.0), 7, cu_seqlens=np.cumsum([0, *length]))
    for a, b in zip(packed, padded, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_any_mask_gives_the_same_bits(dtype):
    rng = np.random.default_rng(3)
    new, old = log_probabilities(rng, (5, 70))
    mask = rng.random(new.shape) < 0.5
    for ratio in RATIOS:
        expected = policy_improvement(new, old, np.ones(5), 5, mask=mask, ratio=ratio)
        result = policy_improvement(new, old, np.ones(5), 5, mask=mask.astype(dtype), ratio=ratio)
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_bfloat16_is_read_exactly():
    rng = np.random.default_rng(4)
    new, old = (torch.from_numpy(x).bfloat16() for x in log_probabilities(rng, (5, 70)))
    advantage, length = torch.ones(5), torch.full((5,), 70)
    for ratio in RATIOS:
        half = policy_improvement(new, old, advantage, 5, length=length, ratio=ratio)
        for pair in ((new.float(), old.float()), (new, old.float()), (new.float(), old)):
            for a, b in zip(half, policy_improvement(*pair, advantage, 5, length=length, ratio=ratio), strict=True):
                assert torch.equal(a, b)


def test_a_ratio_is_clipped_from_above():
    new = np.array([[50.0], [-50.0]], np.float32)
    result = policy_improvement(new, 0 * new, [1.0, 1.0], 2, length=[1, 1], ratio="sequence", ratio_clip=10.0)
    np.testing.assert_allclose(result.ratio, [10.0, np.exp(-50.0)])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_token_mean_is_clipped_where_float32_overflows(backend):
    new = np.array([[88.5], [0.0]], np.float32)
    options = {"length": [1, 1], "ratio": "token_mean", "ratio_clip": 10.0, "backend": backend}
    np.testing.assert_array_equal(policy_improvement(new, 0 * new, [1.0, 1.0], 2, **options).ratio, [10.0, 1.0])


def test_a_utility_survives_ratios_within_1e_12_of_one():
    # mean(ratio * A) would lose 4 of its 5 digits to the 1s.
    new = np.array([[1e-12], [-1e-12]], np.float32)
    result = policy_improvement(new, 0 * new, [1.0, -1.0], 2, length=[1, 1])
    np.testing.assert_allclose(result.utility, 1e-12, rtol=3e-4)  # ratio - 1 has the resolution 2.2e-16


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("ratio", RATIOS)
def test_thread_count_does_not_change_a_bit(threads, ratio):
    rng = np.random.default_rng(3)
    new, old = log_probabilities(rng, (999, 77))
    arguments = {"advantage": rng.standard_normal(999), "group": 9, "mask": rng.random(new.shape) < 0.5}
    one = policy_improvement(new, old, **arguments, ratio=ratio)
    more = policy_improvement(new, old, **arguments, ratio=ratio, threads=threads)
    for a, b in zip(one, more, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_mask_of_leading_tokens_equals_lengths():
    new, old = log_probabilities(np.random.default_rng(4), (6, 50))
    length = np.array([50, 0, 1, 32, 33, 49])
    mask = (np.arange(50) < length[:, None]).astype(np.uint8)
    by_length = policy_improvement(new, old, np.ones(6), 3, length=length)
    by_mask = policy_improvement(new, old, np.ones(6), 3, mask=mask)
    for a, b in zip(by_length, by_mask, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensors_give_tensors_with_the_same_numbers():
    rng = np.random.default_rng(5)
    new, old = log_probabilities(rng, (6, 40))
    advantage, mask = rng.standard_normal(6), rng.random((6, 40)) < 0.5
    tensors = [torch.from_numpy(x) for x in (new, old, advantage)]
    tensors[0].requires_grad_()
    for backend in ("cpu", "reference"):
        result = policy_improvement(*tensors, 3, mask=torch.from_numpy(mask), backend=backend)
        expected = policy_improvement(new, old, advantage, 3, mask=mask, backend=backend)
        for a, b in zip(result, expected, strict=True):
            assert isinstance(a, torch.Tensor)
            np.testing.assert_array_equal(a.numpy(), b)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": [2, 4]}, r"length must be in \[0, L\]; row 1 has 4"),
        ({"length": [-1, 2]}, "row 0 has -1"),
        ({"length": None}, "exactly one of mask and length"),
        ({"mask": np.ones((2, 3), bool)}, "exactly one of mask and length"),
        ({"new_logprob": np.full((2, 3), np.nan, np.float32)}, "ratio must be finite; row 0 has nan"),
        ({"new_logprob": np.full((2, 3), 999, np.float32), "ratio": "sequence"}, "row 0 has inf: .*ratio_clip"),
        ({"advantage": [0.0, np.inf], "new_logprob": np.ones((2, 3), np.float32)}, "utility must be finite; group 0"),
        ({"group": [0, 1, 3]}, "see group 1"),
        ({"group": 3}, "group size must divide the 2 rollouts; got 3"),
        ({"ratio": "tokens"}, "ratio must be one of sequence_mean, sequence, token_mean; got 'tokens'"),
        ({"ratio_clip": 0.5}, "ratio_clip must be at least 1"),
        ({"ratio_clip": (0.9, 0.95)}, r"ratio_clip must be \(low, high\) with 0 <= low <= 1 <= high"),
        ({"form": "loss"}, "form must be one of gain, surrogate; got 'loss'"),
        ({"cu_seqlens": [0, 3]}, "cu_seqlens holds the lengths of packed rows already; drop length"),
    ],
)
def test_errors_name_the_rule_and_the_value(backend, change, message):
    rows = np.zeros((2, 3), np.float32)
    arguments = {"new_logprob": rows, "old_logprob": rows, "advantage": [1.0, 2.0], "group": 2, "length": [3, 3]}
    with pytest.raises(ValueError, match=message):
        policy_improvement(**arguments | change, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old_logprob": np.zeros((2, 4), np.float32)}, r"old_logprob must have shape \(2, 3\); got \(2, 4\)"),
        ({"old_logprob": np.zeros((2, 3))}, "old_logprob must be float32 or bfloat16; got float64"),
        ({"old_logprob": np.zeros((3, 2), np.float32).T}, "old_logprob must have contiguous rows"),
        ({"advantage": [1.0]}, "advantage must have 2 entries; got 1"),
        ({"length": [3]}, "length must have 2 entries; got 1"),
        ({"mask": np.ones((2, 3)), "length": None}, "mask must be bool, uint8 or int64; got float64"),
    ],
)
def test_arguments_are_checked_at_the_door(backend, change, message):
    rows = np.zeros((2, 3), np.float32)
    arguments = {"new_logprob": rows, "old_logprob": rows, "advantage": [1.0, 2.0], "group": 2, "length": [3, 3]}
    with pytest.raises(ValueError, match=message):
        policy_improvement(**arguments | change, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens": [0, 4, 3]}, "cu_seqlens must rise from 0 to T; see rollout 0"),
        ({"cu_seqlens": [0, 2, 4]}, "see rollout 1"),
        ({"cu_seqlens": [1, 2, 3]}, "see rollout 0"),
        ({"cu_seqlens": [0, -1, 3]}, "see rollout 0"),
        ({"cu_seqlens": [0, 3]}, "advantage must have 1 entries; got 2"),
        ({"cu_seqlens": []}, r"cu_seqlens must have R \+ 1 entries"),
        ({"cu_seqlens": [0]}, "cu_seqlens must end at the 3 tokens"),
        ({"old_logprob": np.zeros(2, np.float32)}, "old_logprob must have 3 entries; got 2"),
        ({"old_logprob": np.zeros(6, np.float32)[::2]}, "old_logprob must be contiguous"),
        ({"old_logprob": np.zeros((1, 3), np.float32)}, "old_logprob must have 1 axis"),
        ({"mask": np.zeros(3, np.float32)}, "mask must be bool, uint8 or int64; got float32"),
        ({"mask": np.ones(4, bool)}, "mask must have 3 entries; got 4"),
    ],
)
def test_packed_rows_are_checked(backend, change, message):
    tokens = np.zeros(3, np.float32)
    arguments = {"new_logprob": tokens, "old_logprob": tokens, "advantage": [1.0, 2.0], "group": 2}
    arguments["cu_seqlens"] = [0, 2, 3]
    assert policy_improvement(**arguments, backend=backend).tokens.tolist() == [2, 1]
    with pytest.raises(ValueError, match=message):
        policy_improvement(**arguments | change, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_rollouts_have_no_utility(backend):
    for tokens in (0, 3):
        nothing = np.zeros((0, tokens), np.float32)
        for tail in ({"mask": nothing != 0}, {"length": []}):
            result = policy_improvement(nothing, nothing, [], 4, **tail, backend=backend)
            assert [field.shape for field in result] == [(0,), (0,), (0,)]
