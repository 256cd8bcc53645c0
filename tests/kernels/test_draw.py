"""Draws from given scores are those of a bank with these scores; what a bank cannot have is -inf."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.kernels import draw, score_bank
from curbench.kernels.contract import DESIGNS


def fields(drawn):
    return [np.asarray(field) for field in drawn]


def scores(rows, seed=0):
    return np.random.default_rng(seed).standard_normal(rows).astype(np.float32)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("nucleus", [1.0, 0.7])
def test_draws_are_those_of_a_bank_with_these_scores(design, nucleus):
    score = scores(3000)
    options = {"count": 40, "design": design, "floor": 0.1, "nucleus": nucleus, "seed": 3, "step": 9}
    bank = score_bank(score[:, None], [1.0], **options)
    for a, b in zip(fields(draw(score, **options)), fields(bank), strict=True):
        np.testing.assert_array_equal(a, b)
    some = np.random.default_rng(1).permutation(3000)[:999]
    bank = score_bank(score[:, None], [1.0], candidate=some, **options)
    for a, b in zip(fields(draw(score[some], candidate=some, **options)), fields(bank), strict=True):
        np.testing.assert_array_equal(a, b)


@given(
    st.sampled_from([1, 2, 64, 1023, 1025, 2500]),
    st.integers(0, 2**32),
    st.sampled_from(DESIGNS),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 30),
)
@settings(max_examples=50)
def test_slots_of_minus_infinity_are_drawn_by_the_floor_alone(rows, seed, design, dead, floor, count):
    score = 3 * scores(rows, seed)
    score[np.random.default_rng(seed).random(rows) < dead] = -np.inf
    score[0] = 0.0
    alive = np.isfinite(score).sum()
    options = {"count": count, "design": design, "floor": floor, "seed": seed, "step": 1}
    if design != "iid" and count > (alive if floor == 0.0 else rows):
        for backend in ("cpu", "reference"):
            with pytest.raises(ValueError, match="needs as many|at most the"):
                draw(score, **options, backend=backend)
        return
    ours, expected = (draw(score, **options, backend=backend) for backend in ("cpu", "reference"))
    np.testing.assert_array_equal(ours.problem, expected.problem)
    np.testing.assert_allclose(ours.propensity, expected.propensity, rtol=1e-10)
    np.testing.assert_allclose(ours.probability, expected.probability, rtol=1e-10)
    assert floor > 0.0 or np.isfinite(score[ours.problem]).all()


@pytest.mark.parametrize("design", DESIGNS)
def test_frequencies_follow_the_propensities(design):
    score = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    rounds, value = 4000, np.array([1.0, 4.0, 9.0, 16.0])
    draws = [draw(score, count=2, design=design, floor=0.2, seed=4, step=i) for i in range(rounds)]
    scale = 2 if design == "iid" else 1  # an iid propensity is that of one draw
    estimate = np.array([(value[d.problem] / d.propensity).sum() / scale for d in draws])
    assert abs(estimate.mean() - value.sum()) < 4 * estimate.std() / np.sqrt(rounds)


def test_more_than_2_to_the_24_scores_are_drawn_right():
    score = np.zeros(2**24 + 7, np.float32)
    score[: len(score) // 2] = np.log(2.0)
    drawn = draw(score, count=20_000, seed=0).problem
    assert abs((drawn >= len(score) // 2).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / 20_000)  # torch.multinomial gives 0
    winners = draw(score, count=4096, design="race", seed=0).problem
    assert len(set(winners)) == 4096
    first = (winners >= len(score) // 2).mean()
    assert abs(first - 1 / 3) < 4 * np.sqrt(2 / 9 / 4096)


@pytest.mark.parametrize("design", DESIGNS)
def test_the_seed_reaches_every_draw(design):
    score = scores(1000)
    drawn = [draw(score, count=5, design=design, seed=s, step=t).problem.tolist() for s, t in ((0, 0), (1, 0), (0, 1))]
    assert drawn[0] == draw(score, count=5, design=design, seed=0).problem.tolist()
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


@pytest.mark.parametrize("design", DESIGNS)
def test_thread_count_does_not_change_a_bit(design):
    score = scores(200_003)
    one, three = (draw(score, count=50, design=design, nucleus=0.9, seed=1, threads=t) for t in (1, 3))
    for a, b in zip(fields(one), fields(three), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensors_give_tensors_and_float64_is_rounded():
    score = scores(50).astype(np.float64)
    expected = draw(score, count=5, seed=0)
    result = draw(torch.from_numpy(score).bfloat16().double(), count=5, seed=0)
    assert isinstance(result.propensity, torch.Tensor)
    assert expected.score.dtype == np.float32


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": [0.0, np.nan]}, "a score must be finite, or -inf for what is not to be drawn; slot 1 has nan"),
        ({"score": [np.inf, 0.0]}, "slot 0 has inf"),
        ({"score": [-np.inf, -np.inf]}, "some score must be finite; all are -inf"),
        ({"score": []}, "at least one candidate"),
        ({"score": [[0.0]]}, "score must have 1 axis"),
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"count": 3, "design": "race"}, "a race draw has no duplicates, so count must be at most the 2 candidates"),
        ({"design": "best"}, "design must be one of iid, systematic, race; got 'best'"),
        ({"floor": -0.1}, r"floor must be in \[0, 1\]; got -0.1"),
        ({"nucleus": 0.0}, r"nucleus must be in \(0, 1\]; got 0.0"),
        ({"candidate": [1]}, "candidate must have 2 entries; got 1"),
        ({"seed": 2**64}, r"seed must be in \[0, 2\^64\)"),
    ],
)
def test_errors_name_the_rule_and_the_value(backend, change, message):
    arguments = {"score": [0.0, 1.0], "count": 1, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        draw(arguments.pop("score"), **arguments, backend=backend)
