import numpy as np
import pytest
from scipy import stats as scipy_stats

from curbench.stats import log_slope, mean_interval, paired_difference, upper_limit


def test_interval_is_students_t():
    value = np.array([1.0, 2.0, 4.0])
    lo, hi = scipy_stats.t.interval(0.95, 2, value.mean(), value.std(ddof=1) / 3**0.5)
    assert mean_interval(value)[:3] == pytest.approx((value.mean(), lo, hi), rel=1e-12)


def test_upper_limit_is_one_sided():
    value = np.array([1.0, 2.0, 4.0])
    expected = value.mean() + scipy_stats.t.ppf(0.999, 2) * value.std(ddof=1) / 3**0.5
    assert upper_limit(value, 0.999) == pytest.approx(expected, rel=1e-9)


def test_one_value_has_an_infinite_interval_and_none_is_refused():
    assert mean_interval(np.array([3.0])) == (3.0, -np.inf, np.inf, 1)
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval(np.array([]))


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = [lo <= 0 <= hi for _, lo, hi, _ in (mean_interval(rng.normal(size=8)) for _ in range(2_000))]
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 2_000) ** 0.5)


def test_paired_difference_averages_seeds_before_problems():
    after = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    before = np.array([0.0, 0.5, 0.5])
    expected = mean_interval(np.array([1.0, 0.0, 0.0]))
    assert paired_difference(after, before) == expected


def test_a_power_law_has_its_exponent_and_no_width():
    x = np.array([1.0, 2.0, 4.0, 16.0])
    assert log_slope(x, 3 * x**-0.7)[:3] == pytest.approx((-0.7, -0.7, -0.7))
    assert log_slope(x, 3 * x**-0.7).n == 4


def test_a_slope_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    x = np.array([1.0, 3.0, 5.0, 9.0, 20.0])
    y = x**0.5 * np.exp(0.1 * rng.normal(size=5))
    line = scipy_stats.linregress(np.log(x), np.log(y))
    half = scipy_stats.t.ppf(0.975, 3) * line.stderr
    assert log_slope(x, y)[:3] == pytest.approx((line.slope, line.slope - half, line.slope + half))


def test_two_points_have_a_slope_but_no_interval():
    assert log_slope(np.array([1.0, 4.0]), np.array([1.0, 2.0])) == (0.5, -np.inf, np.inf, 2)


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0]), ([2.0, 2.0], [1.0, 3.0]), ([1.0, 2.0], [0.0, 1.0])])
def test_slopes_that_do_not_exist_are_refused(x, y):
    with pytest.raises(ValueError, match="a slope"):
        log_slope(np.array(x), np.array(y))


def test_intervals_of_slopes_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    x = np.array([1.0, 2.0, 4.0, 8.0])
    found = [log_slope(x, x**0.5 * np.exp(0.2 * rng.normal(size=4))) for _ in range(2_000)]
    covered = np.mean([one.lo <= 0.5 <= one.hi for one in found])
    assert covered == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 2_000) ** 0.5)
