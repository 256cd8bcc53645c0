from math import ceil, e, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbench.mirror import exponentiated_step_, project_on_floor_
from curbench.regret import (
    BOUNDS,
    SLACK_TOLERANCE,
    Setting,
    dynamic_clip,
    dynamic_restart,
    mirror_slack,
    tracking_clip,
    tracking_share,
)


def test_tracking_bound_with_one_segment_and_no_floor_is_the_exp3_bound():
    s = Setting(arms=10, batch=1, horizon=10_000, eta=(2 * log(10) / (10 * 10_000)) ** 0.5)
    assert tracking_clip(s) == pytest.approx(BOUNDS["exp3_static"].value(s), rel=1e-12)
    assert tracking_share(s) == pytest.approx(tracking_clip(s), rel=1e-12)


def test_tracking_bound_known_answers():
    # Values of the derivation's own numerical check: K = 10, T = 10,000, gamma = 1/T, tuned step size.
    for batch, segments, expected in ((1, 1, 679.5), (8, 1, 313.7), (1, 10, 4603.3)):
        kappa = (10 + batch - 1) / batch
        eta = (2 * (log(10) + (segments - 1) * log(10 * 10_000)) / (kappa * 10_000)) ** 0.5
        s = Setting(10, batch, 10_000, eta, floor=1e-4, segments=segments)
        assert tracking_clip(s) == pytest.approx(expected, abs=0.06)


def test_moving_comparators_need_a_floor_or_a_share():
    s = Setting(arms=5, batch=1, horizon=100, eta=0.1, segments=2)
    assert tracking_clip(s) == np.inf
    assert tracking_share(s) == np.inf


@given(t=st.integers(1, 300), eta=st.floats(0.01, 1.0), floor=st.floats(0.001, 0.5), variation=st.floats(0.0, 20.0))
def test_dynamic_bound_is_the_minimum_over_every_block_length(t, eta, floor, variation):
    s = Setting(arms=4, batch=2, horizon=t, eta=eta, floor=floor, variation=variation)
    every = min(tracking_clip(s._replace(segments=ceil(t / length))) + length * variation for length in range(1, t + 1))
    assert dynamic_clip(s) == pytest.approx(every, rel=1e-12)


def test_restart_bound_formula():
    s = Setting(arms=4, batch=2, horizon=100, eta=0.2, restart_every=30, variation=3.0)
    assert dynamic_restart(s) == pytest.approx(4 * log(4) / 0.2 + 0.2 * 2.5 * 100 / 2 + 30 * 3.0)


def test_every_bound_is_proved_or_plotted_and_names_its_source():
    assert {b.status for b in BOUNDS.values()} == {"proved", "plotted"}
    assert all(b.source for b in BOUNDS.values())


@st.composite
def rounds(draw):
    k = draw(st.integers(1, 12))
    m = draw(st.integers(1, 5))
    weight = np.array(draw(st.lists(st.floats(1e-6, 1.0), min_size=k, max_size=k)))
    arm = np.array(draw(st.lists(st.integers(0, k - 1), min_size=m, max_size=m)))
    y = np.array(draw(st.lists(st.floats(0.0, 1.0), min_size=m, max_size=m)))
    return weight, arm, y, draw(st.floats(1e-3, 3.0)), draw(st.floats(0.0, 0.9))


@given(rounds())
def test_a_correct_step_always_has_a_certificate(case):
    weight, arm, y, eta, gamma = case
    p = weight.copy()
    project_on_floor_(p, gamma / p.size)
    expected = p[arm] * arm.size
    stepped = p.copy()
    for j, i in enumerate(arm):
        exponentiated_step_(stepped, i, (1 - y[j]) / expected[j], eta)
    project_on_floor_(stepped, gamma / p.size)
    slack, scale = mirror_slack(p, arm, expected, y, stepped, eta, gamma)
    assert slack >= -SLACK_TOLERANCE * scale


def test_a_step_in_the_wrong_direction_has_none():
    p = np.full(4, 0.25)
    stepped = p.copy()
    stepped[2] *= np.exp(0.1 / 0.25)
    project_on_floor_(stepped, 0.0)
    slack, scale = mirror_slack(p, np.array([2]), np.array([0.25]), np.array([0.0]), stepped, 0.1, 0.0)
    assert slack < -0.01 * scale


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_a_step_that_loses_an_arm_for_ever_has_none(gamma):
    p, stepped = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    assert mirror_slack(p, np.array([1]), np.array([0.5]), np.array([0.0]), stepped, 0.1, gamma)[0] == -np.inf


def test_many_enormous_losses_on_every_arm_leave_a_distribution_with_a_certificate():
    p = np.array([0.5, 0.5])
    arm, expected, y = np.array([0, 1, 0, 1]), np.full(4, 2.0), np.zeros(4)
    stepped = p.copy()
    for i in arm:
        exponentiated_step_(stepped, i, 0.5, 1e4)
    project_on_floor_(stepped, 0.0)
    assert stepped.sum() == pytest.approx(1.0)
    assert (stepped > 0).all()
    slack, scale = mirror_slack(p, arm, expected, y, stepped, 1e4, 0.0)
    assert slack >= -SLACK_TOLERANCE * scale


USUAL = Setting(
    *(10, 1, 10_000),
    eta=0.01,
    floor=0.1,
    share=1e-4,
    restart_every=500,
    bias=0.01,
    window=600,
    discount=0.99,
    xi=0.6,
    gap=(0.1,) * 9,
    worst_gap=(0.2,) * 9,
)
NOT_PROVED_FOR_MORE_DRAWS = (
    "exp3_gain",
    "exp3_ix",
    "exp3_p",
    "exp3_s",
    "rexp3",
    "tsallis_iw",
    "tsallis_rv",
    "ucb1_gap",
    "sw_ucb",
    "d_ucb",
)
UPPER = [bound for bound in BOUNDS.values() if not bound.lower]


def test_every_upper_bound_is_above_every_lower_bound():
    s = USUAL._replace(eta=(2 * log(10) / (10 * 10_000)) ** 0.5)
    lower = max(bound.value(s) for bound in BOUNDS.values() if bound.lower)
    for bound in UPPER:
        if bound.name not in ("full_information", "ucb1_gap"):  # sees more; is for a given gap
            assert lower < bound.value(s) < np.inf, bound.name


@pytest.mark.parametrize("bound", UPPER, ids=lambda b: b.name)
def test_bounds_are_infinite_where_their_conditions_fail(bound):
    if bound.comparator == "static" and bound.name not in ("full_information", "ucb1_gap"):
        assert bound.value(USUAL._replace(segments=2, variation=0.1, floor=0.0)) == np.inf
    if bound.name in NOT_PROVED_FOR_MORE_DRAWS:
        assert bound.value(USUAL._replace(batch=2)) == np.inf
    if bound.comparator == "top_m":
        assert bound.value(USUAL._replace(batch=11)) == np.inf
    if bound.name in ("top_clip", "mset", "exp3_m"):
        assert bound.value(USUAL._replace(swaps=1, floor=0.0)) == np.inf
    if bound.name in ("ucb1_gap", "comb_ucb1"):
        assert bound.value(USUAL._replace(breaks=1)) == np.inf
    if bound.name in ("sw_ucb", "d_ucb"):
        assert bound.value(USUAL._replace(xi=0.5)) == bound.value(USUAL._replace(gap=())) == np.inf
        assert bound.value(USUAL) < bound.value(USUAL._replace(breaks=2)) < np.inf


def test_bounds_need_what_they_are_about():
    tsallis, ucb1 = BOUNDS["tsallis_rv_gap"].value, BOUNDS["ucb1_gap"].value
    assert tsallis(USUAL) < np.inf
    assert tsallis(USUAL._replace(gap=(0.1, 0.0))) == np.inf  # the best arm is not unique
    assert tsallis(USUAL._replace(breaks=3)) == tsallis(USUAL)  # one arm may be best on moving means
    assert ucb1(USUAL._replace(gap=())) == np.inf
    exp3_p = BOUNDS["exp3_p"].value
    assert exp3_p(USUAL._replace(eta=0.001)) < np.inf
    assert exp3_p(USUAL._replace(eta=0.02)) == np.inf  # an exponent above one


def test_tuned_bounds_have_their_published_constants():
    k, t = 10, 100_000
    unit = (k * t * log(k)) ** 0.5
    gain = Setting(k, 1, t, eta=0.1, floor=(k * log(k) / ((e - 1) * t)) ** 0.5)
    assert BOUNDS["exp3_gain"].value(gain) == pytest.approx(2 * (e - 1) ** 0.5 * unit)
    p = Setting(k, 1, t, eta=0.95 * unit / (k * t), floor=1.05 * unit / t, bias=unit / (k * t))
    assert BOUNDS["exp3_p"].value(p) <= 5.15 * unit + (k * t / log(k)) ** 0.5
    assert BOUNDS["tsallis_iw"].value(gain) == 4 * (k * t) ** 0.5 + 1
    m = 4
    distinct = Setting(k, m, t, eta=(2 * m * log(k / m) / (k * t)) ** 0.5, distinct=True)
    assert m * BOUNDS["mset"].value(distinct) == pytest.approx((2 * m * k * t * log(k / m)) ** 0.5)
    assert BOUNDS["mset"].value(distinct._replace(distinct=False)) > BOUNDS["mset"].value(distinct)


def test_windows_and_discounts_pay_for_bad_plays_of_each_arm():
    """Both formulas by hand: 2 arms, one change, gaps 0.5."""
    s = Setting(2, 1, 1_000, window=100, discount=0.9, xi=1.0, breaks=1, gap=(0.5,), worst_gap=(0.5,))
    optimism = log(1 + 4 * 0.5**0.5)
    forced = 2 / log(100) * ceil(log(100) / optimism)
    plays = (4 / 0.25 * 10 / 10 + forced) * 10 * log(100) + 100 + log(100) ** 2
    assert BOUNDS["sw_ucb"].value(s) == pytest.approx(0.5 * plays)
    first = 32 * 2**0.5 / (0.9**10 * 0.25) + 4 / ((1 - 1 / e) * optimism)
    second = -0.1 / (log(0.1) * log(0.9)) * log(0.1 * log(1.9))
    assert BOUNDS["d_ucb"].value(s) == pytest.approx(0.5 * (first * 100 + second * 10) * log(10))


@pytest.mark.parametrize("bound", [bound for bound in BOUNDS.values() if bound.terms], ids=lambda b: b.name)
def test_a_bound_is_the_sum_of_its_parts(bound):
    s = USUAL._replace(variation=3.0, segments=2 if bound.comparator == "switching" else 1)
    terms = bound.terms(s)
    assert terms.total == sum(terms[:4]) == pytest.approx(bound.value(s))
    assert (terms.drift > 0) == (terms.block > 0) == (bound.comparator == "dynamic")


def test_what_sharpens_a_bound_is_of_its_kind():
    for bound in BOUNDS.values():
        if bound.sharpens:
            other = BOUNDS[bound.sharpens]
            assert (bound.status, bound.comparator) == (other.status, other.comparator)


def test_restarted_gains_pay_for_every_block_and_for_the_variation():
    s = USUAL._replace(horizon=1_100, variation=2.0)
    assert BOUNDS["rexp3"].value(s) == pytest.approx(3 * 10 * log(10) / 0.1 + (e - 1) * 0.1 * 1_100 + 500 * 2.0)


def test_against_one_arm_the_set_bounds_are_the_tracking_bounds():
    for name, other in (("top_clip", "tracking_clip"), ("top_share", "tracking_share"), ("mset", "tracking_clip")):
        assert BOUNDS[name].value(USUAL) == pytest.approx(BOUNDS[other].value(USUAL), rel=0.02)
        swapped = BOUNDS[name].value(USUAL._replace(swaps=3))
        assert swapped == pytest.approx(BOUNDS[other].value(USUAL._replace(segments=4)), rel=0.05)


def test_lower_bounds_by_concatenation():
    s = USUAL._replace(segments=4, variation=10.0)
    assert BOUNDS["lower_switching"].value(s) == pytest.approx((10 * 10_000 * 4) ** 0.5 / 20)
    assert BOUNDS["lower_variation"].value(s) == pytest.approx(0.063 * 100 ** (1 / 3) * 10_000 ** (2 / 3), rel=0.02)
    for variation in (0.0, 1e-3, 1e4):  # no variation, blocks longer than the horizon, blocks shorter than K
        assert BOUNDS["lower_variation"].value(s._replace(variation=variation)) == 0.0
    for name in ("lower_static", "lower_switching", "lower_variation"):
        value = BOUNDS[name].value
        assert value(s._replace(arms=1)) == 0.0
        # m draws a round are m T rounds of one draw, whose regret is shared by m
        single = value(s._replace(horizon=4 * s.horizon, variation=s.variation))
        assert value(s._replace(batch=4)) == pytest.approx(single / 4, rel=0.02)
    # K = 2 and the gap sqrt(K/T)/4 give about sqrt(KT)/16.
    assert BOUNDS["lower_hard"].value(Setting(2, 1, 10_000, eta=0.1)) == pytest.approx(200**0.5 * 10 / 16, rel=0.01)
