"""What each method does, against plain restatements of its formulas."""

import numpy as np
import pytest

from curbench.curators.osmd import Osmd
from curbench.curators.sec import Sec
from curbench.curators.uniform import Uniform
from curbench.kernels import reference
from curbench.types import Bank, Feedback, GroupStats, Selection

STRATUM = np.repeat([0, 1, 2], [2, 6, 4])
BANK = Bank(key=[str(i) for i in range(12)], stratum=STRATUM)
COMMON = {"seed": 0, "batch": 4, "horizon": 100, "group": 4}


def feedback(selection, utility):
    one = np.ones(len(selection), np.int64)
    stats = GroupStats(4 * one, 2 * one, 0.5 * one, 0.3 * one, np.array(utility), one > 1, 5.0 * one)
    return Feedback(selection, stats, utility, one > 0, 0 * one, 20 * one)


def fixed_selection(problem, propensity, design="iid", **more):
    return Selection(0, 0, problem, propensity, np.full(len(problem), 4), design, **more)


def test_osmd_takes_the_mirror_step_of_its_formula():
    curator = Osmd(BANK, eta=0.3, floor=0.06, **COMMON)
    problem, utility = np.array([0, 3, 3, 11]), np.array([0.2, 0.9, 0.4, 1.0])
    p = curator.core.p.copy()
    propensity = p[STRATUM[problem]] / np.array([2, 6, 6, 4])
    curator.update(feedback(fixed_selection(problem, propensity), utility))
    arm = STRATUM[problem]
    expected = reference.mirror_step(p, arm, loss=(1 - utility) / (4 * p[arm]), eta=0.3, floor=0.06)
    np.testing.assert_allclose(curator.core.p, expected, rtol=1e-12)


def test_osmd_maps_and_clips_the_utility_range():
    low, high = Osmd(BANK, low=-1.0, high=1.0, **COMMON), Osmd(BANK, **COMMON)
    selection = low.select(4)
    low.update(feedback(selection, np.array([-3.0, 1.0, 0.0, 5.0])))
    high.update(feedback(selection, np.array([0.0, 1.0, 0.5, 1.0])))
    np.testing.assert_array_equal(low.core.p, high.core.p)


def test_osmd_restarts_at_uniform():
    curator = Osmd(BANK, method="restart", restart_every=2, **COMMON)
    for step in range(4):
        curator.update(feedback(curator.select(4), np.array([0.0, 0.3, 0.1, 0.9])))
        assert (curator.core.p == 1 / 3).all() == (step % 2 == 1)


def test_osmd_defaults_use_only_arms_batch_and_horizon():
    kappa = (3 + 4 - 1) / 4
    assert Osmd(BANK, **COMMON).core.eta == pytest.approx((2 * np.log(3) / (kappa * 100)) ** 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "jump"}, "method must be one of clip, share, mix, restart; got 'jump'"),
        ({"eta": 0.0}, "eta must be positive"),
        ({"floor": 1.5}, r"floor must be in \[0, 1\]; got 1.5"),
        ({"method": "restart", "restart_every": 0}, "restart_every must be at least 1"),
        ({"method": "share", "floor": 0.1}, "floor belongs to another method"),
        ({"segments": 0}, "segments must be at least 1"),
        ({"variation": 0.0}, "variation must be positive"),
        ({"low": 1.0, "high": 1.0}, "low < high"),
        ({"unit": "row"}, "unit must be stratum or problem"),
        ({"design": "race"}, "design must be auto, iid or systematic"),
    ],
)
def test_osmd_refuses_what_it_cannot_use(change, message):
    with pytest.raises(ValueError, match=message):
        Osmd(BANK, **(COMMON | change))


def test_sec_averages_the_drawn_categories_and_holds_or_decays_the_others():
    problem, utility = np.array([0, 3, 4, 5]), np.array([0.8, 0.2, 0.4, 0.6])
    for update_absent, kept in (("hold", 1.0), ("decay", 0.75)):
        curator = Sec(BANK, alpha=0.25, temperature=0.5, update_absent=update_absent, **COMMON)
        curator.core.q[:] = [0.4, 0.0, 0.6]
        curator.update(feedback(fixed_selection(problem, np.full(4, 0.1)), utility))
        q = np.array([0.25 * 0.8 + 0.75 * 0.4, 0.25 * 0.4, kept * 0.6])
        np.testing.assert_allclose(curator.core.q, q, rtol=1e-12)
        np.testing.assert_allclose(curator.core.p, np.exp(q / 0.5) / np.exp(q / 0.5).sum(), rtol=1e-12)


def test_sec_is_stable_for_huge_utilities():
    curator = Sec(BANK, temperature=1e-3, **COMMON)
    curator.update(feedback(curator.select(4), np.array([1e3, -1e3, 1e3, 0.0])))
    assert curator.core.p.sum() == pytest.approx(1.0)


def test_uniform_draws_every_problem_with_the_same_propensity():
    selection = Uniform(BANK, **COMMON).select(4)
    assert selection.design == "systematic"
    np.testing.assert_allclose(selection.propensity, 4 / 12, rtol=1e-15)


def test_auto_design_falls_back_to_iid_when_a_cap_binds():
    curator = Osmd(BANK, **COMMON)
    assert curator.select(4).design == "systematic"
    curator.core.p[:] = [0.8, 0.1, 0.1]  # 4 * 0.8 draws expected from two problems
    assert curator.select(4).design == "iid"


@pytest.mark.parametrize("unused", [{"method": "restart", "segments": 3}, {"segments": 3, "variation": 1.0}])
def test_osmd_refuses_pieces_that_would_tune_nothing(unused):
    with pytest.raises(ValueError, match="segments tune the step size"):
        Osmd(BANK, **COMMON, **unused)
