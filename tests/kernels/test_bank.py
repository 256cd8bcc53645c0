import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curbench.kernels import reference, score_bank


def bank_of_scores(score):
    """(feature, weight) whose scores are ``score``, up to float32."""
    return np.asarray(score, np.float32)[:, None], [1.0]


@st.composite
def banks(draw):
    """Arguments of a call; the bank is a slice of a wider buffer, and the candidates some of its rows, shuffled."""
    rows, features = draw(st.sampled_from([1, 2, 7, 1023, 1024, 1025, 3000])), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    feature = rng.standard_normal((rows, features + 2), np.float32)[:, :features]
    weight = (draw(st.sampled_from([0.0, 0.3, 3.0])) * rng.standard_normal(features)).astype(np.float32)
    arguments = {
        "bias": draw(st.sampled_from([0.0, -2.5])),
        "temperature": draw(st.sampled_from([1.0, 0.7])),
        "floor": draw(st.sampled_from([0.0, 0.05, 1.0])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "step": draw(st.integers(0, 2**32 - 1)),
    }
    if draw(st.booleans()):
        arguments["candidate"] = rng.permutation(rows)[: draw(st.integers(1, rows))]
        rows = len(arguments["candidate"])
    arguments["design"] = draw(st.sampled_from(["iid", "systematic"]))
    arguments["count"] = draw(st.integers(1, min(rows, 60)))
    return feature, weight, arguments


@given(banks())
def test_cpu_equals_reference(case):
    feature, weight, arguments = case
    try:
        expected = reference.score_bank(feature, weight, **arguments)
    except ValueError as error:  # fewer candidates of positive probability than the draw needs
        with pytest.raises(ValueError, match=str(error)[:40]):
            score_bank(feature, weight, **arguments)
        return
    ours = score_bank(feature, weight, **arguments)
    # Sums are float64 in another order: a score can round to the other float32 neighbour, seldom. Every probability
    # then follows the score, so the draws are compared where the scores agree, which is nearly always.
    np.testing.assert_allclose(ours.score, expected.score, rtol=2.0**-23, atol=1e-12)
    np.testing.assert_allclose(ours.log_normaliser, expected.log_normaliser, rtol=1e-6)
    if (ours.score == expected.score).all():
        np.testing.assert_allclose(ours.log_normaliser, expected.log_normaliser, rtol=1e-13, atol=1e-13)
        np.testing.assert_array_equal(ours.problem, expected.problem)
        np.testing.assert_allclose(ours.probability, expected.probability, rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(ours.propensity, expected.propensity, rtol=1e-10)
    p = np.exp(ours.score.astype(float) - ours.log_normaliser)
    assert abs(p.sum() - 1.0) < 1e-12
    if arguments["design"] == "systematic":
        assert len(set(ours.problem)) == arguments["count"]


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_iid_draws_have_their_propensity_as_frequency(floor):
    feature, weight = bank_of_scores(np.log([1.0, 2.0, 3.0, 4.0, 0.01, 6.0]))
    draw = score_bank(feature, weight, count=200_000, floor=floor, seed=1)
    p = np.exp(draw.score.astype(float) - draw.log_normaliser)
    q = (1 - floor) * p + floor / 6
    np.testing.assert_allclose(draw.propensity, q[draw.problem], rtol=1e-14)
    np.testing.assert_allclose(draw.probability, p[draw.problem], rtol=1e-14)
    expected = 200_000 * q
    chi_square = ((np.bincount(draw.problem, minlength=6) - expected) ** 2 / expected).sum()
    assert chi_square < 20.5  # the 0.999 quantile with 5 degrees of freedom


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_systematic_draws_have_their_propensity_as_inclusion_frequency(floor):
    rng = np.random.default_rng(7)
    feature, weight = bank_of_scores(rng.standard_normal(40) * 2)
    runs, count = 4000, 12
    seen, propensity = np.zeros(40), np.zeros(40)
    for step in range(runs):
        draw = score_bank(feature, weight, count=count, design="systematic", floor=floor, seed=11, step=step)
        seen[draw.problem] += 1
        propensity[draw.problem] = draw.propensity
    assert (propensity[seen > 0] > 0).all()
    np.testing.assert_allclose(propensity.sum(), count, rtol=1e-3)  # problems never seen are missing from the sum
    certain = propensity == 1.0
    assert (seen[certain] == runs).all()
    error = np.sqrt(runs * propensity * (1 - propensity))[~certain]
    z = (seen[~certain] - runs * propensity[~certain]) / np.maximum(error, 1.0)
    assert np.abs(z).max() < 4.0


def test_inclusion_probabilities_sum_to_the_count():
    for count in (1, 3, 17, 29, 30):
        scores = np.random.default_rng(count).standard_normal(30) * 3
        pi, _ = reference.inclusion(np.exp(scores) / np.exp(scores).sum(), count)
        assert abs(pi.sum() - count) < 1e-12
        draw = score_bank(*bank_of_scores(scores), count=count, design="systematic", seed=0)
        np.testing.assert_allclose(draw.propensity, pi[draw.problem], rtol=1e-6)  # scores are rounded to float32


def test_a_full_systematic_draw_takes_everything_for_certain():
    draw = score_bank(*bank_of_scores(np.arange(40.0)), count=40, design="systematic", seed=0)
    np.testing.assert_array_equal(draw.problem, np.arange(40))
    np.testing.assert_array_equal(draw.propensity, 1.0)


def test_a_large_systematic_draw_has_no_duplicates():
    scores = np.random.default_rng(9).standard_normal(50_000)
    draw = score_bank(*bank_of_scores(scores), count=20_000, design="systematic", seed=5)
    assert len(np.unique(draw.problem)) == 20_000
    assert (draw.propensity == 1.0).any()
    assert (draw.propensity < 1.0).any()


def test_candidates_draw_from_their_rows_only():
    feature, weight = bank_of_scores(np.random.default_rng(0).standard_normal(5000))
    candidate = np.random.default_rng(1).permutation(5000)[:1500]
    draw = score_bank(feature, weight, candidate=candidate, count=300, seed=2)
    same = score_bank(feature[candidate], weight, count=300, seed=2)
    np.testing.assert_array_equal(draw.problem, candidate[same.problem])
    np.testing.assert_array_equal(draw.propensity, same.propensity)


@pytest.mark.parametrize("design", ["iid", "systematic"])
def test_equal_seeds_are_equal_and_different_seeds_or_steps_differ(design):
    feature, weight = bank_of_scores(np.random.default_rng(0).standard_normal(2000))
    options = {"count": 50, "design": design, "floor": 0.1}
    first = score_bank(feature, weight, **options, seed=3, step=4)
    np.testing.assert_array_equal(first.problem, score_bank(feature, weight, **options, seed=3, step=4).problem)
    for other in ({"seed": 4, "step": 4}, {"seed": 3 + 2**32, "step": 4}, {"seed": 3, "step": 5}):
        assert (first.problem != score_bank(feature, weight, **options, **other).problem).any()


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("design", ["iid", "systematic"])
def test_thread_count_does_not_change_a_bit(threads, design):
    rng = np.random.default_rng(3)
    feature, weight = rng.standard_normal((20_001, 33), np.float32), rng.standard_normal(33)
    options = {"count": 500, "design": design, "floor": 0.01, "seed": 1}
    one = score_bank(feature, weight, **options)
    more = score_bank(feature, weight, **options, threads=threads)
    for a, b in zip(one, more, strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_than_2_to_the_24_problems_are_all_drawn():
    # torch.multinomial refuses this size, and at 2^24 its float32 running sum stops growing: it then never draws from
    # the second half, whose share is a third.
    rows = 2**24 + 1000
    feature = np.zeros((rows, 1), np.float32)
    feature[: rows // 2] = np.log(2.0)
    draw = score_bank(feature, [1.0], count=20_000, seed=0)
    share = (draw.problem >= rows // 2).mean()
    assert abs(share - 1 / 3) < 4 * np.sqrt(1 / 3 * 2 / 3 / 20_000)
    np.testing.assert_allclose(np.unique(draw.propensity), [2 / 3 / rows, 4 / 3 / rows], rtol=1e-7)
    assert len(np.unique(draw.problem)) > 19_950  # the float64 prefix sums resolve every problem


@pytest.mark.parametrize("features", [32, 96, 384])
def test_whole_rounds_of_lanes_score_with_the_bits_of_the_general_loop(features):
    # A column of zeros changes no sum, but turns off the loop that the CPU has for multiples of 32.
    rng = np.random.default_rng(features)
    feature, weight = rng.standard_normal((2000, features), np.float32), rng.standard_normal(features)
    padded = np.hstack([feature, np.zeros((2000, 1), np.float32)])
    one = score_bank(feature, weight, count=5, seed=0)
    two = score_bank(padded, [*weight, 0.0], count=5, seed=0)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_that_would_overflow_exp_are_drawn():
    draw = score_bank(*bank_of_scores([5000.0, 5001.0, -5000.0]), count=1000, seed=0)
    assert set(draw.problem) == {0, 1}
    assert abs(draw.log_normaliser - (5001.0 + np.log1p(np.exp(-1.0)))) < 1e-9


def test_tensors_give_tensors_with_the_same_numbers():
    rng = np.random.default_rng(6)
    feature, weight = rng.standard_normal((100, 5), np.float32), rng.standard_normal(5)
    for backend in ("cpu", "reference"):
        expected = score_bank(feature, weight, count=9, seed=0, backend=backend)
        result = score_bank(torch.from_numpy(feature), torch.from_numpy(weight), count=9, seed=0, backend=backend)
        assert isinstance(result.log_normaliser, float)
        for a, b in zip(result[:4], expected[:4], strict=True):
            assert isinstance(a, torch.Tensor)
            np.testing.assert_array_equal(a.numpy(), b)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 5, "design": "systematic"}, "count must be at most the 4 candidates; got 5"),
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"candidate": np.array([], np.int64)}, "at least one candidate"),
        ({"candidate": np.array([0, 4])}, r"candidate must be in \[0, 4\), a row of the bank; slot 1 has 4"),
        ({"candidate": np.array([-1])}, "slot 0 has -1"),
        ({"weight": [np.nan]}, "score must be finite; that of problem 0"),
        ({"feature": np.array([[0], [0], [np.inf], [0]], np.float32)}, "score must be finite; that of problem 2"),
        ({"weight": [3e38], "bias": 3e38}, "score must be finite; that of problem 1"),
        ({"temperature": 0.0}, "temperature must be finite and positive; got 0.0"),
        ({"floor": 1.5}, r"floor must be in \[0, 1\]; got 1.5"),
        ({"bias": np.inf}, "bias must be finite"),
        ({"design": "poisson"}, "design must be one of iid, systematic; got 'poisson'"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\); got -1"),
        ({"step": 2**32}, r"step must be in \[0, 2\^32\); got 4294967296"),
        ({"weight": [9999.0], "design": "systematic"}, "draw of 2 needs .* positive probability; 1 have one"),
    ],
)
def test_errors_name_the_rule_and_the_value(backend, change, message):
    arguments = {"feature": np.array([[0], [1], [0], [0]], np.float32), "weight": [1.0], "count": 2, "seed": 0}
    with pytest.raises(ValueError, match=message):
        score_bank(**arguments | change, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_feature_matrix_is_never_copied_silently(backend):
    feature, options = np.zeros((4, 6), np.float32), {"count": 1, "seed": 0, "backend": backend}
    with pytest.raises(ValueError, match="feature must have contiguous rows; got strides"):
        score_bank(feature[:, ::2], [1.0, 1.0, 1.0], **options)
    with pytest.raises(ValueError, match="feature must be float32; got float64"):
        score_bank(feature.astype(float), np.ones(6), **options)
    with pytest.raises(ValueError, match="weight must have 6 entries; got 1"):
        score_bank(feature, [1.0], **options)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_field_of_packed_records_is_not_a_feature_matrix(backend):
    for head in (np.uint8, np.uint16):
        record = np.zeros(4, [("head", head), ("feature", np.float32, 2)])
        with pytest.raises(ValueError, match="feature must have aligned rows, not packed records: copy it once"):
            score_bank(record["feature"], [1.0, 1.0], count=1, seed=0, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_bank_without_problems_has_nothing_to_draw(backend):
    with pytest.raises(ValueError, match="a bank needs at least one candidate to draw from"):
        score_bank(np.zeros((0, 3), np.float32), np.ones(3), count=1, seed=0, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_weight_in_half_precision_is_widened(backend):
    feature, weight = torch.randn(9, 4), torch.randn(4).bfloat16()
    expected = score_bank(feature, weight.double(), count=5, seed=0, backend=backend)
    draw = score_bank(feature, weight, count=5, seed=0, backend=backend)
    assert torch.equal(draw.problem, expected.problem)
