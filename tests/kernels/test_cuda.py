"""CUDA against the CPU, bit for bit, and against the reference. Run with ``pytest -m cuda`` where there is a GPU."""

import numpy as np
import pytest
import torch

from curbench.kernels import (
    draw,
    group_advantage,
    group_by_id,
    merge_shards,
    mirror_step,
    operators,
    policy_improvement,
    reference,
    score_bank,
    score_shard,
)
from curbench.kernels.extension import load

pytestmark = pytest.mark.cuda


def on_device(value):
    """The array as a tensor on the device. What ``padded`` made is sliced there, since moving a slice compacts it."""
    if isinstance(value, torch.Tensor):
        return value.cuda()
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim == 2 and value.base is not None:
        return torch.from_numpy(value.base).cuda()[:, : value.shape[1]]
    return torch.from_numpy(value).cuda()


def padded(matrix, extra):
    """The matrix as a slice of one that is ``extra`` columns of NaN, or True, wider."""
    wide = np.full((len(matrix), matrix.shape[1] + extra), np.nan, matrix.dtype)
    wide[:, : matrix.shape[1]] = matrix
    return wide[:, : matrix.shape[1]]


def assert_same_bits(op, *args, **options):
    """The result on CUDA, after comparing it with the CPU's."""
    expected = op(*args, **options)
    result = op(*map(on_device, args), **{name: on_device(value) for name, value in options.items()})
    pairs = zip(result, expected, strict=True) if isinstance(expected, tuple) else [(result, expected)]
    for a, b in pairs:
        if isinstance(b, np.ndarray | torch.Tensor):
            assert a.is_cuda
            np.testing.assert_array_equal(a.cpu().numpy(), np.asarray(b))
        else:
            assert a == b
    return result


def test_padded_rows_stay_padded_on_the_device():
    matrix = padded(np.ones((2, 3), np.float32), 5)
    assert on_device(matrix).stride() == (8, 1)
    assert torch.equal(on_device(matrix).cpu(), torch.ones(2, 3))


def rewards(dtype, sizes, seed=0):
    rng = np.random.default_rng(seed)
    offset = np.cumsum([0, *sizes])
    return rng.choice(rng.random(5), offset[-1]).astype(dtype), offset


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo"])
@pytest.mark.parametrize("sizes", [[1], [2, 1, 3], [8] * 9, [31, 32, 33], [64, 1000, 5], [7] * 4099])
def test_group_advantage(dtype, estimator, sizes):
    reward, offset = rewards(dtype, sizes)
    assert_same_bits(group_advantage, reward, offset, estimator=estimator, success=reward > 0.5)


def test_group_advantage_of_equal_rewards_is_exactly_zero():
    result = group_advantage(torch.full((90,), 0.9, device="cuda"), 30)
    assert not result.advantage.any()
    assert result.degenerate.all()


@pytest.mark.parametrize("ratio", ["sequence_mean", "sequence", "token_mean"])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 31), (8, 33), (40, 1000), (5, 0)])
def test_policy_improvement(ratio, rows, tokens):
    rng = np.random.default_rng(rows)
    old = -rng.exponential(1.0, (rows, tokens)).astype(np.float32)
    new = old + 0.05 * rng.standard_normal(old.shape).astype(np.float32)
    arguments = (padded(new, 5), padded(old, 3), rng.standard_normal(rows), np.array([0, rows]))
    lengths = {"length": rng.integers(0, tokens + 1, rows)}
    for tail in ({"mask": padded(rng.random((rows, tokens)) < 0.6, 7)}, lengths):
        assert_same_bits(policy_improvement, *arguments, ratio=ratio, ratio_clip=3.0, **tail)


@pytest.mark.parametrize("design", ["iid", "systematic"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize(("rows", "features", "count"), [(1, 1, 1), (33, 1, 5), (1025, 70, 64), (1_100_003, 3, 999)])
def test_score_bank(design, floor, rows, features, count):
    rng = np.random.default_rng(rows)
    feature, weight = padded(rng.standard_normal((rows, features), np.float32), 2), rng.standard_normal(features)
    options = {"count": count, "design": design, "floor": floor, "seed": 2**63 + 5, "step": 7}
    assert_same_bits(score_bank, feature, weight, **options)
    if rows > 100:
        assert_same_bits(score_bank, feature, weight, candidate=rng.permutation(rows)[:100], **options | {"count": 9})


def bank_of(dtype, rows, features, rng):
    wide = torch.from_numpy(rng.standard_normal((rows, features), np.float32))
    if dtype == "int8":
        return (50 * wide).clamp(-128, 127).to(torch.int8)
    return wide.to(getattr(torch, dtype))


@pytest.fixture
def plain_cpu():
    """The CPU's results without the one shortcut that changes bits: multiplying pairs of bfloat16."""
    before = load().isa()
    load().use_isa("portable")
    yield
    load().use_isa(before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("features", "hidden"), [(1, 0), (63, 0), (64, 0), (385, 0), (4100, 0), (33, 5), (64, 100)])
@pytest.mark.parametrize("design", ["iid", "systematic", "race"])
def test_score_bank_of_every_format_and_head(plain_cpu, dtype, features, hidden, design):
    rng = np.random.default_rng(features)
    rows = 300 if features > 1000 else 5000
    feature = bank_of(dtype, rows, features, rng)
    weight = torch.from_numpy(rng.standard_normal(hidden or features) / 8)
    options = {"prior": torch.from_numpy(rng.standard_normal(rows)), "temperature": 0.7, "bias": 0.5, "seed": 4}
    if hidden:
        layer = torch.from_numpy(rng.standard_normal((hidden, features)) / 8)
        options |= {
            "layer": layer,
            "layer_bias": torch.ones(hidden),
            "activation": "gelu_tanh" if hidden > 50 else "gelu",
        }
    if dtype == "int8":
        options |= {"feature_scale": torch.full((features,), 0.02), "row_scale": torch.rand(rows)}
    for change in ({}, {"nucleus": 0.9}, {"candidate": torch.from_numpy(rng.permutation(rows)[:200])}):
        assert_same_bits(score_bank, feature, weight, **options, count=50, design=design, floor=0.1, **change)


@pytest.mark.parametrize("rows", [1, 64, 1025, 3_000_001])
@pytest.mark.parametrize("nucleus", [1.0, 0.6])
@pytest.mark.parametrize("floor", [0.0, 0.2, 1.0])
def test_races_and_draws_from_scores(rows, nucleus, floor):
    score = np.random.default_rng(rows).standard_normal(rows).astype(np.float32)
    if floor > 0.0:
        score[rows // 2 :] = -np.inf
        score[0] = 0.0
    count = 1 if nucleus < 1.0 and floor == 0.0 and rows < 2000 else min(rows, 300)
    for design in ("iid", "systematic", "race"):
        assert_same_bits(draw, score, count=count, design=design, nucleus=nucleus, floor=floor, seed=9, step=2)


def test_a_race_whose_scores_rise_from_block_to_block():
    assert_same_bits(draw, np.arange(200_000, dtype=np.float32) / 100, count=100, design="race", seed=1)


def test_shards_merge_on_the_device():
    rng = np.random.default_rng(5)
    feature, weight = bank_of("bfloat16", 3000, 65, rng), torch.from_numpy(rng.standard_normal(65))
    options = {"count": 40, "design": "race", "seed": 6}
    expected = score_bank(feature, weight, **options)
    shards = [score_shard(feature[i:j].cuda(), weight.cuda(), first=i) for i, j in ((1500, 3000), (0, 1500))]
    merged = merge_shards(shards, **options)
    assert torch.equal(merged.problem.cpu(), expected.problem)
    assert torch.equal(merged.propensity.cpu(), expected.propensity)


@pytest.mark.parametrize("ratio", ["sequence_mean", "sequence", "token_mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["gain", "surrogate"])
def test_policy_improvement_of_packed_rows(ratio, dtype, form):
    rng = np.random.default_rng(7)
    length = np.array([0, 1, 31, 32, 33, 1000, 4097, 5])
    total, bound = int(length.sum()), torch.from_numpy(np.cumsum([0, *length]))
    old = torch.from_numpy(-rng.exponential(1.0, total).astype(np.float32))
    new = (old + 0.05 * torch.from_numpy(rng.standard_normal(total).astype(np.float32))).to(dtype)
    group = group_by_id(torch.tensor([3, 1, 3, 1, 7, 7, 3, 1]))
    options = {"cu_seqlens": bound, "ratio": ratio, "form": form, "ratio_clip": (0.9, 1.1)}
    advantage = torch.from_numpy(rng.standard_normal(8))
    for mask in (None, torch.from_numpy(rng.random(total) < 0.5), torch.from_numpy(rng.integers(0, 3, total))):
        expected = policy_improvement(new, old, advantage, group, mask=mask, **options)
        device = {name: on_device(value) for name, value in options.items()}
        placed = group._replace(offset=on_device(group.offset), order=on_device(group.order))
        ours = policy_improvement(*map(on_device, (new, old, advantage)), placed, mask=on_device(mask), **device)
        for a, b in zip(ours, expected, strict=True):
            assert torch.equal(a.cpu(), b)


def test_gradients_are_those_of_the_cpu():
    new, old, advantage = torch.rand(6, 9), torch.rand(6, 9), torch.rand(6)
    mask = torch.rand(6, 9) < 0.7

    def gradients(move):
        leaves = [move(x).detach().requires_grad_() for x in (new, old, advantage)]
        utility = operators.policy_improvement(*leaves, 3, mask=move(mask), ratio="token_mean").utility
        return torch.autograd.grad(utility.sum(), leaves)

    for a, b in zip(gradients(torch.Tensor.cuda), gradients(torch.Tensor.cpu), strict=True):
        torch.testing.assert_close(a.cpu(), b)


@pytest.fixture
def grid():
    yield load().set_grid_limit
    load().set_grid_limit(0)


def test_the_size_of_the_grid_does_not_change_a_bit(grid):
    rng = np.random.default_rng(8)
    feature, weight = bank_of("bfloat16", 100_000, 33, rng).cuda(), torch.from_numpy(rng.standard_normal(33)).cuda()
    rows = torch.from_numpy(rng.standard_normal((512, 100)).astype(np.float32) / 50).cuda()
    length = torch.from_numpy(rng.integers(0, 101, 512)).cuda()

    def everything():
        for design in ("iid", "systematic", "race"):
            yield from score_bank(feature, weight, count=200, design=design, floor=0.1, nucleus=0.9, seed=1)
        yield from group_advantage(rows[:, 0], 8)[:6]
        yield from policy_improvement(rows, rows.flip(1), rows[:, 0], 8, length=length)

    results = []
    for blocks in (0, 7):
        grid(blocks)
        results.append(list(everything()))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("arms", [1, 5, 1025, 300_001])
@pytest.mark.parametrize("slots", [0, 1, 33, 500])
def test_mirror_step(arms, slots):
    rng = np.random.default_rng(arms + slots)
    p = rng.dirichlet(np.full(arms, 0.5))
    arm, loss = rng.integers(0, min(arms, 40), slots), 10 * rng.standard_normal(slots)
    for floor, share in ((0.0, 0.0), (0.3, 0.01)):
        assert_same_bits(mirror_step, p, arm, loss=loss, eta=0.3, floor=floor, share=share)


def test_mirror_step_of_dead_blocks_under_a_huge_loss():
    p = np.zeros(2000)
    p[0] = 1.0
    result = assert_same_bits(mirror_step, p, np.array([0]), loss=np.array([1000.0]), eta=1.0)
    np.testing.assert_array_equal(result.cpu(), p)


@pytest.mark.parametrize(
    ("p", "loss", "eta"),
    [
        ([0.5, 0.25, 0.25], [1e308, 1e308], 0.0),
        ([0.5, 0.25, 0.25], [-1e308, -1e308], 1.0),
        ([5e-324, 5e-324, 0.0], [0.0, 0.0], 1.0),
        ([1e308, 1e308, 0.0], [0.0, 0.0], 1.0),
    ],
)
def test_mirror_step_refuses_what_overflows(p, loss, eta):
    arm = on_device(np.array([0, 0]))
    with pytest.raises(ValueError, match="may overflow"):
        mirror_step(on_device(np.array(p)), arm, loss=on_device(np.array(loss)), eta=eta)


def test_cuda_agrees_with_the_reference():
    rng = np.random.default_rng(0)
    feature, weight = rng.standard_normal((5000, 40), np.float32), rng.standard_normal(40) / 10
    ours = score_bank(on_device(feature), on_device(weight), count=100, seed=0)
    expected = reference.score_bank(feature, weight, count=100, seed=0)
    np.testing.assert_array_equal(ours.problem.cpu(), expected.problem)
    np.testing.assert_allclose(ours.propensity.cpu(), expected.propensity, rtol=1e-6)  # scores are float32


def test_work_goes_to_the_current_stream():
    # The input is written late on a side stream: a kernel on any other stream would read zeros.
    side = torch.cuda.Stream()
    reward = torch.zeros(3 * 64, device="cuda")
    later = torch.rand(3 * 64, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        reward.copy_(later)
        result = group_advantage(reward, 64, check=False)
    side.synchronize()
    expected = group_advantage(later.cpu(), 64)
    np.testing.assert_array_equal(result.advantage.cpu(), expected.advantage)


def test_unchecked_calls_do_not_wait_for_the_device():
    reward = torch.rand(64, device="cuda")
    rows = torch.rand(64, 10, device="cuda")
    mask = torch.ones(64, 10, dtype=torch.bool, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        group_advantage(reward, 8, check=False)
        policy_improvement(rows, rows, reward, 8, mask=mask, check=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_faults_are_reported_from_the_device():
    with pytest.raises(ValueError, match="reward must be finite; slot 5 has nan"):
        group_advantage(torch.tensor([0.0] * 5 + [float("nan")], device="cuda"), 3)
    with pytest.raises(ValueError, match="see group 1"):
        group_advantage(torch.zeros(4, device="cuda"), torch.tensor([0, 2, 2, 4], device="cuda"))
    rows = torch.zeros(2, 3, device="cuda")
    with pytest.raises(ValueError, match="row 1 has 4"):
        policy_improvement(rows, rows, rows[:, 0], 2, length=torch.tensor([3, 4], device="cuda"))
    feature, candidate = torch.zeros(4, 1, device="cuda"), torch.tensor([0, 4], device="cuda")
    with pytest.raises(ValueError, match="slot 1 has 4"):
        score_bank(feature, torch.ones(1, device="cuda"), candidate=candidate, count=1, seed=0)
    with pytest.raises(ValueError, match="slot 0 has -1"):
        mirror_step(torch.ones(2).cuda(), torch.tensor([-1]).cuda(), loss=torch.zeros(1).cuda(), eta=1.0)


def test_back_ends_do_not_take_arrays_from_elsewhere():
    with pytest.raises(ValueError, match="backend 'cuda' does not take numpy on the CPU"):
        group_advantage(np.zeros(2), 2, backend="cuda")
    with pytest.raises(ValueError, match="backend 'cpu' does not take torch on cuda:0"):
        group_advantage(torch.zeros(2, device="cuda:0"), 2, backend="cpu")
    with pytest.raises(ValueError, match="group must live where the first argument does, torch on cuda:0"):
        group_advantage(torch.zeros(2, device="cuda:0"), np.array([0, 2]))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_the_device_of_the_input_is_used_and_the_current_one_restored():
    result = group_advantage(torch.rand(64, device="cuda:1"), 8)
    assert result.advantage.device.index == 1
    assert torch.cuda.current_device() == 0
