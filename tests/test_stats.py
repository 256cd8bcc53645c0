import numpy as np
import pytest
from scipy import stats as scipy_stats

from curbench.stats import mean_interval, paired_difference, upper_limit


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
