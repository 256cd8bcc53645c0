"""Samplers draw from the law they state: every propensity against its own frequencies and a plain restatement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbench.curators import samplers
from curbench.types import Selection

WEIGHT = np.array([5.0, 1.0, 1.0, 0.2, 3.0, 1e-3])
A, B = np.array([1.0, 9.0, 2.0, 6.0, 1.0]), np.array([1.0, 3.0, 2.0, 2.0, 4.0])
DRAWS = {
    "race": lambda step: samplers.race(np.log(WEIGHT), 3, seed=7, step=step),
    "simple": lambda step: samplers.simple(6, 4, seed=7, step=step),
    "systematic": lambda step: samplers.systematic(WEIGHT / WEIGHT.sum(), 3, seed=7, step=step),
    "accepted": lambda step: samplers.first_accepted(np.array([1.0, 0.3, 0.05, 0.5, 0.2]), 2, seed=7, step=step),
    "thompson": lambda step: samplers.thompson_nearest(A, B, 2, target=0.5, seed=7, step=step),
    "thompson off centre": lambda step: samplers.thompson_nearest(A, B, 3, target=0.9, seed=7, step=step),
    "ties": lambda step: samplers.lowest(np.array([2.0, 1.0, 2.0, 2.0]), 3, seed=7, step=step),
}


@pytest.mark.parametrize("name", DRAWS)
def test_dividing_by_the_stated_propensity_is_unbiased(name):
    draws = 20_000
    total, square = np.zeros(6), np.zeros(6)
    for step in range(draws):
        place, propensity, _ = DRAWS[name](step)
        assert np.unique(place).size == place.size
        total[place] += 1 / propensity
        square[place] += 1 / propensity**2
    drawn = total > 50  # an arm that is hardly ever drawn has a weight too heavy-tailed to test by its mean
    mean = total / draws
    error = np.sqrt(np.maximum(square / draws - mean**2, 1e-9) / draws)
    assert drawn.sum() >= 3
    assert np.max(np.abs(mean - 1)[drawn] / error[drawn]) < 4.5


def test_a_race_is_successive_sampling_without_replacement():
    weight = np.array([0.5, 0.3, 0.2])
    pairs = np.zeros((3, 3))
    for step in range(20_000):
        first, second = samplers.race(np.log(weight), 2, seed=1, step=step).place
        pairs[first, second] += 1 / 20_000
    expected = weight[:, None] * weight[None, :] / (1 - weight)[:, None] * (1 - np.eye(3))
    np.testing.assert_allclose(pairs, expected, atol=4.5 * np.sqrt(0.25 / 20_000))


def test_nearest_posterior_samples_match_the_beta_distribution():
    hits = np.mean(
        [0 in samplers.thompson_nearest(A[:2], B[:2], 1, target=0.5, seed=3, step=s).place for s in range(8000)]
    )
    rng = np.random.default_rng(0)
    one, two = rng.beta(1, 1, 400_000), rng.beta(9, 3, 400_000)
    assert hits == pytest.approx(np.mean(np.abs(one - 0.5) < np.abs(two - 0.5)), abs=4.5 * np.sqrt(0.25 / 8000))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 5))
def test_the_lowest_scores_are_taken_and_ties_share_their_places(score, count, seed):
    score = np.array(score, float)
    if count > score.size:
        with pytest.raises(ValueError, match=f"{count} problems cannot be drawn"):
            samplers.lowest(score, count, seed=seed, step=0)
        return
    place, propensity, _ = samplers.lowest(score, count, seed=seed, step=0)
    np.testing.assert_array_equal(np.sort(score[place]), np.sort(score)[:count])
    for value, chance in zip(score[place], propensity, strict=True):
        room = min(max(count - np.sum(score < value), 0), np.sum(score == value))
        assert chance == room / np.sum(score == value)


@pytest.mark.parametrize("weight", [[1e-300, 1.0], [1e300, 1e-300], [np.finfo(float).tiny] * 2])
def test_extreme_weights_keep_propensities_legal(weight):
    for step in range(50):
        drawn = samplers.race(np.log(weight), 1, seed=0, step=step)
        Selection(0, 0, drawn.place, drawn.propensity, [1], drawn.design)


def test_softmax_is_finite_and_both_forms_agree():
    score, out = np.array([-1e9, 0.3, 1e9]), np.empty(3)
    samplers.softmax_(out, score, 1e-3)
    np.testing.assert_array_equal(out, samplers.softmax(score, 1e-3))
    np.testing.assert_array_equal(out, [0.0, 0.0, 1.0])


def test_equal_seeds_draw_equal_and_others_do_not():
    one, again, other = (samplers.race(np.zeros(100), 10, seed=s, step=0).place for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_the_entropy_of_a_selection_is_that_of_what_was_drawn_from():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    rng = np.random.default_rng(0)
    drawn = rng.choice(4, 20_000, p=p)
    entropy = Selection(0, 0, drawn, p[drawn], np.ones(20_000), "iid").entropy
    assert entropy == pytest.approx(-np.sum(p * np.log(p)), abs=0.02)
    assert Selection(0, 0, [1, 2], [1.0, 1.0], [1, 1], "fixed").entropy == pytest.approx(np.log(2))
