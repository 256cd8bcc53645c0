"""Which theorem covers a curator where: conditions are checked on the test-bed, and the smallest bound is taken."""

import numpy as np
import pytest

from curbench.curators import curator_class
from curbench.regret import BOUNDS
from curbench.sim.arms import Arms, make_arms
from curbench.sim.coverage import Standard
from curbench.sim.simulate import simulate


def cover(arms, name, *, comparator=None, batch=1, **hyper):
    design = {} if name in ("comb_ucb1", "osmd_mset") else {"design": "iid"}
    curator = curator_class(name)(arms.bank(), seed=1, batch=batch, horizon=arms.horizon, **design, **hyper)
    return Standard(arms, comparator or arms.comparator, batch, np.array([10, arms.horizon])).cover(curator)[0]


LONG = make_arms("stationary", horizon=100_000, arms=2)
COVERED = [
    (LONG, "ucb1", {}, "ucb1_gap", "proved"),
    (LONG, "tsallis_inf", {"estimator": "rv"}, "tsallis_rv_gap", "proved"),
    (make_arms("stationary", horizon=1_000), "tsallis_inf", {"estimator": "rv"}, "tsallis_rv", "proved"),
    (make_arms("garivier_moulines", horizon=1_000), "sw_ucb", {}, "sw_ucb", "plotted"),
    (make_arms("garivier_moulines", horizon=1_000), "d_ucb", {}, "d_ucb", "plotted"),
    (LONG, "comb_ucb1", {"comparator": "top_m"}, "comb_ucb1", "plotted"),
]


@pytest.mark.parametrize(("arms", "name", "hyper", "bound", "status"), COVERED, ids=lambda case: str(case)[:40])
def test_the_smallest_bound_whose_conditions_hold_is_taken(arms, name, hyper, bound, status):
    found = cover(arms, name, **hyper)
    assert (found.bound.name, found.bound.status) == (bound, status)
    assert found.value == BOUNDS[bound].value(found.setting)


@pytest.mark.parametrize(
    ("bed", "name", "change"),
    [
        ("switching", "ucb1", {}),
        ("switching", "ucb1", {"comparator": "static"}),  # the fixed arm is best in some rounds only
        ("stationary", "ucb1", {"batch": 2}),
        ("stationary", "ucb1", {"comparator": "top_m"}),
        ("garivier_moulines", "sw_ucb", {"xi": 0.5}),
        ("garivier_moulines", "d_ucb", {"discount": 0.4}),
        ("garivier_moulines", "sw_ucb", {"comparator": "static"}),
        ("drifting", "comb_ucb1", {"comparator": "top_m"}),
        ("rested_rotting", "osmd", {}),
        ("stationary", "thompson", {}),
    ],
)
def test_a_condition_that_fails_leaves_no_theorem(bed, name, change):
    assert cover(make_arms(bed, horizon=1_000), name, **change) is None


def test_without_a_theorem_the_reason_is_given():
    def why(bed, name, **change):
        return simulate(make_arms(bed, horizon=50), name, seeds=1, **change).row()["bound"]["source"]

    assert why("rested_rotting", "osmd") == "the means depend on who is played"
    assert why("stationary", "uniform", delay=1) == "none known against this comparator"
    assert why("stationary", "osmd", delay=1) == "feedback is late"
    assert why("switching", "osmd", hyper={"floor": 0.0}) == "the conditions of tracking_clip do not hold here"
    assert why("stationary", "osmd", batch=9, hyper={"design": "systematic", "eta": 9.0}).startswith("a cap")


def test_one_arm_that_is_always_best_has_gaps_on_moving_means():
    arms = make_arms("stochastic_adversarial", horizon=1_000, arms=3)
    setting = cover(arms, "tsallis_inf", estimator="rv").setting
    assert setting.gap == pytest.approx((0.125, 0.125))
    assert setting.breaks > 0


def test_ucb1_keeps_its_proved_bound_where_it_says_something():
    result = simulate(make_arms("stationary", horizon=10_000, arms=2), "ucb1", seeds=20)
    assert result.holds is True
    assert result.row()["bound"]["vacuous"] is False


def test_a_bound_is_informative_from_where_it_stays_below_the_worst_arm():
    arms = make_arms("stationary", horizon=10_000, arms=2)
    grid = np.arange(100, 10_001, 100)
    found = Standard(arms, "static", 1, grid).cover(
        curator_class("exp3")(arms.bank(), seed=1, batch=1, horizon=10_000)
    )[0]
    first = found.informative_from
    assert 100 < first < 10_000
    below = found.curve < 0.1 * grid
    assert below[grid >= first].all()
    assert not below[grid < first][-1]
    assert cover(make_arms("stationary", horizon=50), "exp3").informative_from is None


@pytest.mark.parametrize(
    ("bed", "comparator", "name"),
    [
        ("stationary", None, "lower_static"),
        ("switching", None, "lower_switching"),
        ("drifting", None, "lower_variation"),
    ],
)
def test_lower_bounds_belong_to_the_comparator_and_stay_below_the_upper_ones(bed, comparator, name):
    arms = make_arms(bed, horizon=10_000)
    grid = np.array([10, 1_000, 10_000])
    standard = Standard(arms, comparator or arms.comparator, 1, grid)
    bound, curve = standard.lower
    assert bound.name == name
    upper = standard.cover(curator_class("osmd")(arms.bank(), seed=1, batch=1, horizon=10_000, design="iid"))[0].curve
    says = ~np.isnan(curve)
    assert says[-1]
    assert (curve[says] < upper[says]).all()
    assert (np.diff(curve[says]) > 0).all()


def test_no_lower_bound_is_claimed_for_sets_rested_arms_or_a_single_arm():
    grid = np.array([100])
    assert Standard(make_arms("stationary", horizon=100), "top_m", 4, grid).lower is None
    assert Standard(make_arms("rested_rotting", horizon=100), "dynamic", 1, grid).lower is None
    one = Arms("one", np.array([0]), np.array([[0.5]]), 100, "static", "test")
    assert np.isnan(Standard(one, "static", 1, grid).lower[1]).all()
