import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curbench.sampling import (
    candidate_set,
    capped_expectation,
    expected_count_,
    select_iid_,
    select_systematic_,
    systematic_fits,
)

P = np.array([0.05, 0.5, 0.2, 0.25])
SIZE = np.array([10, 4, 3, 8])
START = np.concatenate([[0], np.cumsum(SIZE)[:-1]])
MEMBER = np.arange(25)[::-1].copy()
OF = np.empty(25, np.int64)
OF[MEMBER] = np.repeat(np.arange(4), SIZE)


def draw(select, p, batch, *, seed=3, step=0, size=SIZE):
    problem, propensity = np.empty(batch, np.int64), np.empty(batch)
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    select(problem, propensity, p, MEMBER if size is SIZE else np.arange(size.sum()), start, size, seed, step)
    return problem, propensity


def inclusion(select, batch, steps=20_000):
    """Share of steps in which each problem appears, times how often, and the propensity that was stated."""
    count, stated = np.zeros(25), np.full(25, np.nan)
    for step in range(steps):
        problem, propensity = draw(select, P, batch, step=step)
        np.add.at(count, problem, 1)
        stated[problem] = propensity
    return count / steps, stated


def test_iid_draws_happen_with_the_stated_propensity():
    share, stated = inclusion(select_iid_, 3)
    error = np.sqrt(stated * 3 / 20_000)
    assert np.nanmax(np.abs(share - 3 * stated) / error) < 4.5
    np.testing.assert_allclose(stated, (P / SIZE)[OF], rtol=1e-15)


def test_systematic_inclusion_is_the_stated_propensity_also_where_a_cap_binds():
    share, stated = inclusion(select_systematic_, 9)  # 9 * 0.5 > 4: the cap of arm 1 binds
    error = np.sqrt(np.maximum(stated * (1 - stated), 1e-9) / 20_000)
    assert np.max(np.abs(share - stated) / error) < 4.5
    assert (stated[OF == 1] == 1.0).all()
    assert stated.sum() == pytest.approx(9, abs=1e-12)


def test_systematic_draws_never_repeat_a_problem():
    for step in range(500):
        problem, _ = draw(select_systematic_, P, 9, step=step)
        assert np.unique(problem).size == 9


def test_systematic_counts_per_arm_are_the_expectation_rounded_down_or_up():
    expected = capped_expectation(P, SIZE, 9)
    for step in range(200):
        problem, _ = draw(select_systematic_, P, 9, step=step)
        count = np.bincount(OF[problem], minlength=4)
        assert (np.abs(count - expected) < 1).all()


@pytest.mark.parametrize("select", [select_iid_, select_systematic_])
def test_equal_seeds_draw_equal_and_others_do_not(select):
    first, again = draw(select, P, 5, seed=1)[0], draw(select, P, 5, seed=1)[0]
    assert (first == again).all()
    assert any((first != draw(select, P, 5, seed=seed)[0]).any() for seed in (2, 3))
    assert any((first != draw(select, P, 5, seed=1, step=step)[0]).any() for step in (1, 2))


weights = arrays(float, st.integers(1, 12), elements=st.floats(1e-6, 1.0))


@given(weight=weights, data=st.data())
def test_capped_expectations_sum_to_the_batch_and_respect_caps(weight, data):
    p = weight / weight.sum()
    size = np.array(data.draw(st.lists(st.integers(1, 9), min_size=p.size, max_size=p.size)))
    batch = data.draw(st.integers(1, int(size.sum())))
    expected = capped_expectation(p, size, batch)
    assert expected.sum() == pytest.approx(batch, rel=1e-12)
    assert (expected <= size).all()
    free = expected < size
    if free.any():  # proportional to p below the cap
        ratio = expected[free] / p[free]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


def test_a_batch_beyond_the_bank_is_refused():
    with pytest.raises(ValueError, match="fewer problems can be drawn"):
        capped_expectation(np.array([1.0, 0.0]), np.array([2, 9]), 3)


def test_an_arm_of_probability_zero_is_never_drawn():
    p = np.array([0.5, 0.0, 0.5, 0.0])
    for step in range(2_000):
        problem, _ = draw(select_iid_, p, 1, step=step)
        assert OF[problem[0]] in (0, 2)


def test_uniform_over_the_whole_bank_counts_as_feasible():
    for n in (3, 7, 49, 1000):
        assert systematic_fits(np.full(n, 1 / n), np.ones(n, np.int64), n)


@pytest.mark.parametrize("iid", [True, False])
def test_importance_weighted_loss_is_unbiased_for_the_mean_of_each_arm(iid):
    loss = np.random.default_rng(0).uniform(size=25)
    truth = np.array([loss[c == OF].mean() for c in range(4)])
    total, square, steps = np.zeros(4), np.zeros(4), 20_000
    for step in range(steps):
        problem, propensity = draw(select_iid_ if iid else select_systematic_, P, 6, step=step)
        arm, expected, estimate = np.empty(6, np.int64), np.empty(6), np.zeros(4)
        expected_count_(arm, expected, problem, propensity, OF, SIZE, iid)
        np.add.at(estimate, arm, loss[problem] / expected)
        total += estimate
        square += estimate**2
    mean = total / steps
    error = np.sqrt((square / steps - mean**2) / steps)
    assert np.max(np.abs(mean - truth) / error) < 4.5


def test_candidate_sets_are_uniform_subsets():
    count = np.zeros(12)
    for step in range(6_000):
        chosen = candidate_set(5, 12, 9, step)
        assert np.unique(chosen).size == 5
        count[chosen] += 1
    expected = 6_000 * 5 / 12
    z = (count - expected) / np.sqrt(expected * 7 / 12)
    assert np.abs(z).max() < 4.5
    assert (candidate_set(5, 12, 9, 0) != candidate_set(5, 12, 10, 0)).any()
