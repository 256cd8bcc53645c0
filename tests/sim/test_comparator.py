"""Comparators against direct sums over rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbench.sim.arms import Arms, make_arms
from curbench.sim.comparator import advantage_over, gaps, path, price, swaps
from curbench.sim.coverage import Standard
from curbench.sim.simulate import simulate


@st.composite
def beds(draw):
    k, s, t = draw(st.integers(2, 5)), draw(st.integers(1, 4)), draw(st.integers(8, 20))
    start = sorted({0, *draw(st.lists(st.integers(1, t - 1), min_size=s - 1, max_size=s - 1))})
    mean = draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.5, 1.0]), min_size=k * len(start), max_size=k * len(start)))
    return Arms("drawn", np.array(start), np.reshape(mean, (len(start), k)), t, "switching", "test")


def by_round(arms):
    return arms.mean[np.searchsorted(arms.start, np.arange(arms.horizon), side="right") - 1]


@given(beds(), st.integers(1, 2))
def test_advantages_are_sums_over_rounds(arms, m):
    mu = by_round(arms)
    grid = np.arange(1, arms.horizon + 1)
    best = mu.max(axis=1)
    fixed = mu[:, np.argmax(mu.sum(axis=0))]
    top = np.sort(mu, axis=1)[:, -m:].mean(axis=1)
    assert np.abs(advantage_over(arms, "static", m, grid)[-1] - (best.sum() - mu.sum(axis=0).max())) < 1e-9
    np.testing.assert_allclose(advantage_over(arms, "top_m", m, grid), np.cumsum(best - top), atol=1e-9)
    assert not advantage_over(arms, "switching", m, grid).any()
    if np.unique(mu.sum(axis=0)).size == arms.count:
        np.testing.assert_allclose(advantage_over(arms, "static", m, grid), np.cumsum(best - fixed), atol=1e-9)


@given(beds())
def test_swaps_of_one_arm_are_the_switches_of_the_best_arm(arms):
    """Keeping a member among equals is greedy in both."""
    assert swaps(arms, 1)[-1] >= arms.segments - 1
    if all(np.unique(row).size == row.size for row in arms.mean):
        assert swaps(arms, 1)[-1] == arms.segments - 1


def test_swaps_known_answer():
    mean = np.array([[0.9, 0.8, 0.1, 0.1], [0.9, 0.1, 0.8, 0.1], [0.1, 0.1, 0.8, 0.9], [0.5, 0.5, 0.5, 0.5]])
    arms = Arms("four", np.array([0, 10, 20, 30]), mean, 40, "switching", "test")
    assert swaps(arms, 2).tolist() == [0, 1, 2, 2]
    assert set(price(arms, "top_m", 2)) == {"segments", "variation", "swaps", "breaks"}
    assert price(arms, "static", 2)["breaks"].tolist() == [0, 1, 2, 3]


@given(beds())
def test_gaps_are_distances_over_rounds(arms):
    mu = by_round(arms)
    best = mu.max(axis=1)
    away = [best - mu[:, i] for i in range(arms.count) if (mu[:, i] < best).any()]
    smallest, largest = gaps(arms, "switching")
    assert smallest == tuple(one[one > 0].min() for one in away)
    assert largest == tuple(one.max() for one in away)
    fixed = mu[:, np.argmax(np.diff(arms.start, append=arms.horizon) @ arms.mean)]
    away = np.delete(fixed[:, None] - mu, np.argmax(np.diff(arms.start, append=arms.horizon) @ arms.mean), axis=1)
    always = (away >= 0).all()
    assert gaps(arms, "static") == ((tuple(away.min(axis=0)), tuple(away.max(axis=0))) if always else ((), ()))


@given(beds(), st.integers(1, 7))
def test_paths_pay_what_the_theorems_charge(arms, block):
    mu, t = by_round(arms), np.arange(arms.horizon)
    moving = path(arms, "switching", 0)
    assert (mu[t, moving] == mu.max(axis=1)).all()
    assert 1 + np.count_nonzero(np.diff(moving)) <= arms.segments
    assert np.unique(path(arms, "static", block)).size == 1
    kept = path(arms, "dynamic", block)
    assert all(np.unique(kept[first : first + block]).size == 1 for first in range(0, arms.horizon, block))
    drift = np.sum(mu.max(axis=1) - mu[t, kept])
    assert drift <= block * arms.variation + 1e-9  # lemma 5


def test_static_regret_on_moving_arms_is_smaller_and_may_be_negative():
    arms = make_arms("switching", horizon=4_000)
    moving = simulate(arms, "osmd", seeds=4, hyper={"segments": 10})
    fixed = simulate(arms, "osmd", seeds=4, hyper={"segments": 10}, comparator="static")
    assert fixed.regret.mean < moving.regret.mean
    assert fixed.bound.name == moving.bound.name == "tracking_clip"
    assert fixed.value < moving.value
    assert fixed.holds is not False


def test_a_bound_is_vacuous_when_the_worst_arm_regrets_less_to_the_same_comparator():
    arms = Arms("two", np.array([0, 50]), np.array([[1.0, 0.0], [0.0, 1.0]]), 100, "switching", "test")
    grid = np.array([10, 50, 100])
    assert Standard(arms, "switching", 1, grid).worst.tolist() == [10.0, 50.0, 100.0]
    assert Standard(arms, "static", 1, grid).worst.tolist() == [10.0, 50.0, 50.0]


@pytest.mark.parametrize(
    ("bed", "change", "message"),
    [
        ("stationary", {"comparator": "best"}, "unknown comparator 'best'; choose from static, switching"),
        ("stationary", {"comparator": "top_m", "batch": 11}, "no 11 best arms among 10"),
        ("rested_rotting", {"comparator": "static"}, "only the dynamic comparator exists"),
    ],
)
def test_comparators_that_do_not_exist_are_refused(bed, change, message):
    with pytest.raises(ValueError, match=message):
        simulate(make_arms(bed, horizon=100), "uniform", seeds=1, **change)
