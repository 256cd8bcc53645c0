import numpy as np
import pytest

from curbench.sim.arms import ARMS, FIXED_ARMS, Arms, make_arms


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("horizon", [100, 1_000])
def test_every_test_bed_fits_its_horizon_and_hides_its_means_from_the_bank(name, horizon):
    arms = make_arms(name, horizon=horizon, arms=None if name in FIXED_ARMS else 7)
    assert arms.start[-1] < horizon
    assert len(arms.bank()) == arms.count
    other = make_arms(name, horizon=horizon, arms=None if name in FIXED_ARMS else 7, instance_seed=1)
    np.testing.assert_array_equal(arms.bank().feature, other.bank().feature)


@pytest.mark.parametrize("name", ["stationary", "switching", "drifting"])
def test_the_instance_seed_reaches_the_means(name):
    one, again, other = (make_arms(name, horizon=500, arms=9, instance_seed=s) for s in (0, 0, 5))
    np.testing.assert_array_equal(one.mean, again.mean)
    assert (one.mean != other.mean).any()


def test_garivier_moulines_is_the_published_instance():
    arms = make_arms("garivier_moulines", horizon=10_000)
    assert arms.start.tolist() == [0, 3_000, 5_000]
    assert arms.mean.tolist() == [[0.5, 0.3, 0.4], [0.5, 0.3, 0.9], [0.5, 0.3, 0.4]]
    assert arms.segments == 3
    assert arms.variation == pytest.approx(1.0)


def test_the_horizon_rescales_segments():
    assert make_arms("garivier_moulines", horizon=100).start.tolist() == [0, 30, 50]
    assert make_arms("switching", horizon=50).start.tolist() == list(range(0, 50, 5))


def test_switching_changes_its_best_arm_at_every_segment():
    for seed in range(20):
        arms = make_arms("switching", horizon=1_000, arms=3, instance_seed=seed)
        assert arms.segments == 10


def test_drifting_has_exactly_its_variation_and_never_leaves_the_interval():
    arms = make_arms("drifting", horizon=2_000, arms=5)
    step = np.abs(np.diff(arms.mean, axis=0))
    np.testing.assert_allclose(step, 10 / 1_999, atol=1e-15)
    assert arms.variation == pytest.approx(10.0, rel=1e-12)
    assert arms.mean.min() >= 0
    assert arms.mean.max() <= 1


def test_ties_do_not_count_as_changes_of_the_comparator():
    mean = np.array([[0.5, 0.5], [0.2, 0.6], [0.6, 0.6], [0.6, 0.2]])
    arms = Arms("x", np.arange(4), mean, 4, "switching", "test")
    assert arms.comparator_pieces.tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "nope"}, "unknown arms 'nope'; choose from stationary"),
        ({"horizon": 0}, "horizon must be at least 1; got 0"),
        ({"arms": 0}, "arms must be at least 1; got 0"),
        ({"name": "garivier_moulines", "arms": 3}, "has 3 arms by definition; leave --arms out"),
        ({"name": "drifting", "horizon": 5}, "horizon of at least 21 rounds; got 5"),
        ({"name": "drifting", "horizon": 10**7, "arms": 100}, "exceeds 2 GiB"),
    ],
)
def test_bad_requests_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_arms(**({"name": "stationary", "horizon": 100} | change))


def test_means_outside_zero_one_are_refused():
    with pytest.raises(ValueError, match=r"means must be in \[0, 1\]"):
        Arms("x", np.zeros(1, np.int64), np.array([[1.5]]), 10, "static", "test")
