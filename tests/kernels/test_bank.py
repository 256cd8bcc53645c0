import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curbench import philox
from curbench.kernels import reference, score_bank
from curbench.kernels.contract import DESIGNS
from curbench.kernels.extension import load


@pytest.fixture
def instructions():
    """Chooses an instruction set, and is false where this processor does not have it."""
    before = load().isa()
    yield load().use_isa
    load().use_isa(before)


def bank_of_scores(score):
    """(feature, weight) whose scores are ``score``, up to float32."""
    return np.asarray(score, np.float32)[:, None], [1.0]


@st.composite
def options(draw, rows, designs=DESIGNS):
    """Arguments of a draw from ``rows`` problems; the candidates are some of them, shuffled."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    arguments = {
        "bias": draw(st.sampled_from([0.0, -2.5])),
        "temperature": draw(st.sampled_from([1.0, 0.7])),
        "floor": draw(st.sampled_from([0.0, 0.05, 1.0])),
        "nucleus": draw(st.sampled_from([1.0, 1.0, 0.9, 1e-300])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "step": draw(st.integers(0, 2**32 - 1)),
    }
    if draw(st.booleans()):
        arguments["prior"] = rng.standard_normal(rows).astype(np.float32)
    if draw(st.booleans()):
        arguments["candidate"] = rng.permutation(rows)[: draw(st.integers(1, rows))]
        rows = len(arguments["candidate"])
    arguments["design"] = draw(st.sampled_from(designs))
    arguments["count"] = draw(st.one_of(st.integers(1, min(rows, 60)), st.just(rows)))
    return arguments


def bank_of(dtype, rows, features, rng):
    """A bank of a dtype, as a slice of a wider buffer."""
    wide = rng.standard_normal((rows, features + 3), np.float32)
    if dtype == "int8":
        return np.clip(np.round(wide * 50), -128, 127).astype(np.int8)[:, :features]
    if dtype == "bfloat16":
        return torch.from_numpy(wide).bfloat16()[:, :features]
    return wide[:, :features]


def widened(feature):
    return np.asarray(feature.float() if isinstance(feature, torch.Tensor) else feature, np.float64)


def like(feature, array):
    return torch.from_numpy(np.asarray(array)) if isinstance(feature, torch.Tensor) else array


@st.composite
def draws_of_scores(draw):
    rows = draw(st.sampled_from([1, 2, 7, 63, 64, 65, 1023, 1024, 1025, 3000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 0.3, 3.0, 300.0]))
    few = draw(st.booleans())  # then scores repeat, and the nucleus ends among equal ones
    score = rng.integers(-2, 3, rows) if few else rng.standard_normal(rows)
    arguments = draw(options(rows))
    if arguments["design"] == "systematic":
        spread = min(spread, 30.0)  # exp(-708) and less counts as 0 there: csrc/exponential.h
    return (spread * score).astype(np.float32)[:, None], arguments


@given(draws_of_scores())
def test_draws_equal_those_of_the_reference(case):
    feature, arguments = case  # of one feature and weight 1, so that no sum is rounded: scores are the same everywhere
    try:
        expected = reference.score_bank(feature, [1.0], **arguments)
    except ValueError as error:  # fewer candidates of positive probability than the draw needs
        with pytest.raises(ValueError, match=re.escape(str(error))):
            score_bank(feature, [1.0], **arguments)
        return
    ours = score_bank(feature, [1.0], **arguments)
    np.testing.assert_array_equal(ours.score, expected.score)
    np.testing.assert_allclose(ours.log_normaliser, expected.log_normaliser, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(ours.mass, expected.mass, rtol=1e-12)
    np.testing.assert_allclose(ours.log_time, expected.log_time, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(ours.problem, expected.problem)
    np.testing.assert_allclose(ours.probability, expected.probability, rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(ours.propensity, expected.propensity, rtol=1e-10, atol=1e-300)
    if arguments["design"] != "iid":
        assert len(set(ours.problem)) == arguments["count"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("features", [1, 2, 15, 31, 32, 63, 64, 65, 97, 384, 5000])
def test_scores_are_within_their_rounding(dtype, features):
    rng = np.random.default_rng(features)
    rows = 40 if features > 1000 else 1100
    feature, weight = bank_of(dtype, rows, features, rng), rng.standard_normal(features) / 8
    prior = rng.standard_normal(rows).astype(np.float32)
    arguments = {"bias": 0.5, "temperature": 0.7, "prior": like(feature, prior), "count": 1, "seed": 0}
    exact, unit = widened(feature), 2.0**-24
    if dtype == "int8":
        column, row = (rng.random(n).astype(np.float32) / 50 for n in (features, rows))
        arguments |= {"feature_scale": column, "row_scale": row}
        exact, unit = exact * column * row[:, None], 0.0
    ours = np.asarray(score_bank(feature, like(feature, weight), **arguments).score, np.float64)
    dot = exact @ weight
    # Each of 32 lanes (64 for pairs) adds its products one by one; five more levels join the lanes. The weight itself
    # is rounded, once. An int8 head is rounded to 2^-29 of its largest entry.
    terms = np.abs(exact) @ np.abs(weight)
    error = (features / 32 + 8) * unit * terms
    if dtype == "int8":
        error = 2.0**-29 * np.abs(weight * column).max() * (128.0 * features * row)
    expected = (dot + 0.5) / 0.7 + prior
    assert (np.abs(ours - expected) <= error / 0.7 + 2.0**-24 * np.abs(expected) + 1e-12).all()


def mlp(features, hidden, rng):
    """Arguments of an MLP head."""
    layer = rng.standard_normal((hidden, features)) / np.sqrt(features)
    return {"layer": layer, "layer_bias": rng.standard_normal(hidden), "weight": rng.standard_normal(hidden)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize(("features", "hidden"), [(1, 1), (37, 5), (64, 64), (385, 100)])
def test_scores_of_an_mlp_head_are_within_their_rounding(dtype, activation, features, hidden):
    rng = np.random.default_rng(features)
    feature, head = bank_of(dtype, 1100, features, rng), mlp(features, hidden, rng)
    exact = widened(feature)
    layer = head["layer"].astype(np.float32)
    arguments = {"bias": 0.5, "activation": activation, "count": 1, "seed": 0}
    if dtype == "int8":
        column, row = (rng.random(n).astype(np.float32) / 8 for n in (features, len(exact)))
        arguments |= {"feature_scale": column, "row_scale": row}
        exact = exact * column * row[:, None]
    if dtype == "bfloat16":
        layer = torch.from_numpy(layer).bfloat16().float().numpy()
    head = {name: like(feature, value) for name, value in head.items()}
    ours = np.asarray(score_bank(feature, **head, **arguments).score, np.float64)
    bias, weight = np.asarray(head["layer_bias"]), np.asarray(head["weight"])
    inner = exact @ layer.T.astype(np.float64) + bias
    unit = reference.activate(activation, inner)
    # A hidden unit adds its products one by one, after up to three roundings of their factors. GELU and its
    # approximation are steep by less than 1.13, and within 3e-7 or 16 units of rounding of their argument.
    inner_error = (features + 4) * 2.0**-24 * (np.abs(exact) @ np.abs(layer.T) + np.abs(bias))
    unit_error = 1.13 * inner_error + 3e-7 + 2.0**-20 * np.abs(inner)
    error = unit_error @ np.abs(weight) + (hidden / 32 + 8) * 2.0**-24 * (np.abs(unit) @ np.abs(weight))
    expected = unit @ weight + 0.5
    assert (np.abs(ours - expected) <= error + 2.0**-23 * np.abs(expected)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("features", "hidden"), [(1, 0), (30, 0), (64, 0), (129, 0), (4500, 0), (33, 7), (64, 80)])
def test_every_instruction_set_and_thread_count_gives_the_same_bits(instructions, dtype, features, hidden):
    rng = np.random.default_rng(features)
    feature = bank_of(dtype, 2100 if features < 200 else 90, features, rng)
    candidate = rng.permutation(len(feature))[:80]
    head = mlp(features, hidden, rng) if hidden else {"weight": rng.standard_normal(features)}
    if dtype == "int8":
        head["feature_scale"] = np.full(features, 0.02)
    head = {name: like(feature, value) for name, value in head.items()}
    for change in ({}, {"candidate": like(feature, candidate)}, {"nucleus": 0.7}):
        arguments = {**head, "count": 20, "design": "race", "floor": 0.1, "seed": 3, **change}
        instructions("portable")
        expected = score_bank(feature, **arguments)
        for name in filter(instructions, ("portable", "avx2", "avx512")):
            for threads in (1, 3):
                result = score_bank(feature, threads=threads, **arguments)
                if dtype == "bfloat16" and hidden and name == "avx512":  # which may multiply pairs of bfloat16
                    np.testing.assert_allclose(result.score, expected.score, rtol=1e-5, atol=1e-5)
                    if threads == 1:
                        expected = result
                for a, b in zip(result, expected, strict=True):
                    np.testing.assert_array_equal(a, b, err_msg=name)


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


def races(score, runs, **options):
    """One draw per step."""
    feature, weight = bank_of_scores(score)
    return [score_bank(feature, weight, design="race", seed=5, step=step, **options) for step in range(runs)]


@pytest.mark.parametrize("floor", [0.0, 0.4, 1.0])
def test_the_winner_of_a_race_is_drawn_with_q_and_the_next_from_the_rest(floor):
    from scipy import stats  # here, because the tests of the kernels must be collected without scipy

    score = np.log([1.0, 2.0, 3.0, 4.0, 0.01, 6.0])
    p = np.exp(score) / np.exp(score).sum()
    q = (1 - floor) * p + floor / 6
    drawn = np.array([draw.problem for draw in races(score, 20_000, count=2, floor=floor)])
    pair = q[:, None] * q / (1 - q)[:, None]  # Plackett-Luce: the second is drawn from what the first left
    np.fill_diagonal(pair, 0.0)
    expected = len(drawn) * pair[pair > 0]
    seen = np.bincount(6 * drawn[:, 0] + drawn[:, 1], minlength=36).reshape(6, 6)[pair > 0]
    large = expected > 5
    chi_square = ((seen - expected) ** 2 / expected)[large].sum()
    assert chi_square < stats.chi2.ppf(0.9999, large.sum() - 1)


@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("nucleus", [1.0, 0.9])
def test_the_propensities_of_a_race_weight_sums_without_bias(floor, nucleus):
    rng = np.random.default_rng(3)
    score, value = rng.standard_normal(40), rng.standard_normal(40) + 3
    draws = races(score, 4000, count=6, floor=floor, nucleus=nucleus)
    reachable = np.ones(40, bool) if floor else reference.kept_by_nucleus(np.exp(score) / np.exp(score).sum(), nucleus)
    totals = np.array([(value[draw.problem] / draw.propensity).sum() for draw in draws])
    assert abs(totals.mean() - value[reachable].sum()) < 4 * totals.std() / np.sqrt(len(totals))
    sizes = np.array([(1 / draw.propensity).sum() for draw in draws])
    assert abs(sizes.mean() - reachable.sum()) < 4 * sizes.std() / np.sqrt(len(sizes))


def test_a_race_of_all_takes_all_for_certain():
    [draw] = races([0.0, 800.0, -800.0], 1, count=3)  # no weight underflows to "never"
    np.testing.assert_array_equal(draw.problem, [1, 0, 2])
    np.testing.assert_array_equal(draw.propensity, 1.0)
    assert draw.log_time == np.inf


def test_a_race_runs_each_problem_with_its_own_number_whatever_the_candidates():
    score = np.random.default_rng(1).standard_normal(3000)
    feature, weight = bank_of_scores(score)
    arguments = {"count": 40, "design": "race", "floor": 0.0, "seed": 8}
    whole = score_bank(feature, weight, **arguments)
    candidate = np.random.default_rng(2).permutation(np.union1d(whole.problem, np.arange(0, 3000, 2)))
    some = score_bank(feature, weight, candidate=candidate, **arguments)
    np.testing.assert_array_equal(some.problem, whole.problem)


def test_the_best_of_a_hundred_million_are_not_tied():
    # In float32 the uniforms nearest to 1 lie on a grid of 2^-24: thousands of keys would be equal here.
    rows, count = 10**8, 4096
    feature = np.broadcast_to(np.zeros((1, 1), np.float32), (rows, 1))
    draw = score_bank(feature, [1.0], count=count, design="race", floor=1.0, seed=1)
    key = reference.exponentials(1, philox.FLOOR_RACE, 0, draw.problem)
    assert (np.diff(key) > 0).all()
    assert abs(np.exp(key[-1]) * rows - count) < 5 * np.sqrt(count)
    np.testing.assert_array_equal(np.argsort(key), np.arange(count))


@pytest.mark.parametrize("design", DESIGNS)
def test_a_nucleus_holds_the_mass_it_was_asked_for_and_no_more(design):
    score = np.random.default_rng(4).standard_normal(5000) * 2
    p = np.exp(score - np.log(np.exp(score).sum()))
    draw = score_bank(*bank_of_scores(score), count=100, design=design, nucleus=0.6, seed=0)
    smallest = p[reference.kept_by_nucleus(p, 0.6)].min()
    assert 0.6 <= draw.mass < 0.6 + smallest + 1e-12
    assert p[draw.problem].min() >= smallest * (1 - 1e-6)
    np.testing.assert_allclose(draw.probability, p[draw.problem] / draw.mass, rtol=1e-6)


def test_of_equal_scores_a_nucleus_takes_the_first():
    draw = score_bank(*bank_of_scores(np.zeros(3000)), count=1500, design="race", nucleus=0.5, seed=0)
    np.testing.assert_array_equal(np.sort(draw.problem), np.arange(1500))


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


@pytest.mark.parametrize("design", DESIGNS)
def test_equal_seeds_are_equal_and_different_seeds_or_steps_differ(design):
    feature, weight = bank_of_scores(np.random.default_rng(0).standard_normal(2000))
    options = {"count": 50, "design": design, "floor": 0.1}
    first = score_bank(feature, weight, **options, seed=3, step=4)
    np.testing.assert_array_equal(first.problem, score_bank(feature, weight, **options, seed=3, step=4).problem)
    for other in ({"seed": 4, "step": 4}, {"seed": 3 + 2**32, "step": 4}, {"seed": 3, "step": 5}):
        assert (first.problem != score_bank(feature, weight, **options, **other).problem).any()


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("design", DESIGNS)
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
        ({"design": "poisson"}, "design must be one of iid, systematic, race; got 'poisson'"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\); got -1"),
        ({"step": 2**32}, r"step must be in \[0, 2\^32\); got 4294967296"),
        ({"weight": [9999.0], "design": "systematic"}, "systematic draw of 2 needs .* probability; 1 have one"),
        ({"nucleus": 0.0}, r"nucleus must be in \(0, 1\]; got 0.0"),
        ({"nucleus": np.nan}, r"nucleus must be in \(0, 1\]; got nan"),
        ({"nucleus": 1e-9, "design": "race"}, "race draw of 2 needs .* probability; 1 have one"),
        ({"prior": np.full(4, np.inf, np.float32)}, "score must be finite; that of problem 0"),
        ({"prior": np.zeros(3, np.float32)}, "prior must have 4 entries; got 3"),
        ({"row_scale": np.ones(4)}, "feature_scale and row_scale are for banks of int8"),
        ({"layer": np.ones((3, 1))}, "weight must have 3 entries; got 1"),
        ({"layer": np.ones((1, 2))}, "layer must have 1 columns; got 2"),
        ({"layer": np.ones((0, 1)), "weight": []}, "a layer needs at least one hidden unit"),
        ({"layer": np.ones((1, 1)), "activation": "relu"}, "activation must be one of gelu, gelu_tanh; got 'relu'"),
        ({"layer_bias": [0.0]}, "layer_bias is for a head with a layer"),
        ({"layer": [[np.nan]]}, "score must be finite; that of problem 0"),
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
    with pytest.raises(ValueError, match="feature must be float32, bfloat16 or int8; got float64"):
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
