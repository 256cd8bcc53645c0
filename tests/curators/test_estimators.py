"""Estimators against slow restatements, and what they do with repeated and empty groups."""

import numpy as np
import pytest

from curbench.curators.estimators import BetaPosterior, LatestValue, Recent, moving_average_


def test_moving_average_moves_by_the_mean_of_an_arms_slots_and_holds_or_decays_the_rest():
    for decay, kept in ((False, 1.0), (True, 0.75)):
        q = np.array([0.4, 0.0, 0.6])
        moving_average_(q, np.array([0, 1, 1]), np.array([0.8, 0.2, 0.4]), 0.25, decay)
        np.testing.assert_allclose(q, [0.25 * 0.8 + 0.75 * 0.4, 0.25 * 0.3, kept * 0.6], rtol=1e-15)


def test_posterior_fades_to_its_prior_once_per_update_and_only_where_visited():
    part = BetaPosterior(3, prior=(1.0, 2.0), discount=0.5)
    part.update(np.array([0, 0]), np.array([3, 1]), np.array([4, 4]))
    np.testing.assert_array_equal(part.a, [1.0 + 4, 1.0, 1.0])
    np.testing.assert_array_equal(part.b, [2.0 + 4, 2.0, 2.0])
    part.update(np.array([0]), np.array([2]), np.array([2]))
    assert (part.a[0], part.b[0]) == (0.5 * 5 + 0.5 * 1 + 2, 0.5 * 6 + 0.5 * 2)
    assert part.mean(np.array([0]))[0] == 5.0 / 9.0


def test_latest_value_averages_the_slots_of_an_arm():
    part = LatestValue(3, rate=0.5)
    part.update(np.array([1, 1]), np.array([0.2, 0.6]), 5)
    np.testing.assert_allclose(part.value, [0.0, 0.4, 0.0])
    np.testing.assert_array_equal(part.last_visit, [-1, 5, -1])
    part.update(np.array([1]), np.array([1.0]), 3)  # late feedback does not turn the clock back
    assert (part.value[1], part.last_visit[1]) == (0.7, 5)


def test_recent_keeps_the_latest_groups_in_order():
    part = Recent(3)
    part.update(np.array([4, 5]), np.array([1, 0]), np.array([2, 2]))
    part.update(np.array([6, 8]), np.array([1, 2]), np.array([2, 2]))
    np.testing.assert_array_equal(part.arm, [5, 6, 8])
    np.testing.assert_array_equal(part.success, [0, 1, 2])


def test_states_are_snapshots_that_restore():
    rng = np.random.default_rng(0)
    arm, success, n = rng.integers(0, 5, 8), rng.integers(0, 3, 8), np.full(8, 3)
    for fresh, learn in (
        (lambda: BetaPosterior(5), lambda part: part.update(arm, success, n)),
        (lambda: LatestValue(5), lambda part: part.update(arm, success / n, 2)),
        (lambda: Recent(5), lambda part: part.update(arm, success, n)),
    ):
        part, other = fresh(), fresh()
        learn(part)
        state = part.state()
        learn(part)
        other.restore(state)
        learn(other)
        for name, value in part.state().items():
            np.testing.assert_array_equal(value, other.state()[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BetaPosterior(2, prior=(0.5, 1.0)), "at least 1"),
        (lambda: BetaPosterior(2, discount=1.5), r"discount must be in \[0, 1\]; got 1.5"),
        (lambda: LatestValue(2, rate=0.0), r"rate must be in \(0, 1\]; got 0.0"),
        (lambda: Recent(0), "at least 1 group; got 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
