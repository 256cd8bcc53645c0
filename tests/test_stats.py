import numpy as np
import pytest
from scipy import stats as scipy_stats

from curbench.stats import (
    aggregate_iqm,
    improvement_probability,
    interquartile_mean,
    log_slope,
    mean_interval,
    paired_difference,
    performance_profile,
    upper_limit,
)


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


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11, 40])
def test_the_interquartile_mean_is_a_trimmed_mean(n):
    score = np.random.default_rng(n).normal(size=(3, n))
    np.testing.assert_allclose(interquartile_mean(score), scipy_stats.trim_mean(score, 0.25, axis=-1))


def test_one_wild_task_does_not_move_the_interquartile_mean_as_it_moves_the_mean():
    calm = [np.full(4, 0.5)] * 4
    wild = [*calm[:3], np.full(4, 1e6)]
    generator = np.random.default_rng(0)
    assert aggregate_iqm(wild, generator=generator, draws=50)[:3] == (0.5, 0.5, 0.5)


def test_the_bootstrap_draws_within_tasks_only():
    """Tasks without spread have no interval, however far apart they are; pooled resampling would have one."""
    spread = aggregate_iqm([np.zeros(20), np.ones(20)], generator=np.random.default_rng(0), draws=200)
    assert spread[:3] == (0.5, 0.5, 0.5)


def test_the_bootstrap_interval_is_that_of_theory_for_a_mean_of_normals():
    """The standard error of a 25 % trimmed mean of n normals is sqrt(1.195 / n) standard deviations."""
    score = [np.random.default_rng(task).normal(size=100) for task in range(4)]
    found = aggregate_iqm(score, generator=np.random.default_rng(1))
    assert (found.hi - found.lo) / 2 == pytest.approx(1.96 * 1.195**0.5 / 20, rel=0.2)
    assert found.n == 400


def test_equal_seeds_give_equal_bootstraps_and_others_do_not():
    score = [np.random.default_rng(0).normal(size=30)]
    one, two, other = (aggregate_iqm(score, generator=np.random.default_rng(s), draws=100) for s in (0, 0, 1))
    assert one == two != other


@pytest.mark.parametrize("kind", [float, int])
def test_the_probability_of_improvement_is_mann_and_whitneys(kind):
    rng = np.random.default_rng(0)
    x, y = ([(5 * rng.uniform(size=12)).astype(kind) for _ in range(3)] for _ in range(2))
    expected = [scipy_stats.mannwhitneyu(a, b).statistic / 144 for a, b in zip(x, y, strict=True)]
    found = improvement_probability(x, y)
    assert found.mean == pytest.approx(np.mean(expected))
    assert improvement_probability(y, x).mean == pytest.approx(1 - found.mean)
    assert improvement_probability(x, x).mean == 0.5


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_interval_of_an_improvement_covers_the_truth_nineteen_times_in_twenty(correlation):
    """Normals one deviation apart: P = Phi(1 / sqrt 2), for independent draws of both, however the pairs are drawn."""
    rng = np.random.default_rng(0)
    truth, covered, width = scipy_stats.norm.cdf(0.5**0.5), 0, 0.0
    for _ in range(400):
        luck = rng.normal(size=(2, 50))
        own = rng.normal(size=(2, 2, 50)) * (1 - correlation**2) ** 0.5
        x, y = (list(correlation * luck + one) for one in own)
        found = improvement_probability([task + 1 for task in x], y)
        covered += found.lo <= truth <= found.hi
        width += (found.hi - found.lo) / 400
    assert covered / 400 == pytest.approx(0.95, abs=0.035)
    assert width < (0.12 if correlation else 0.18)  # common luck narrows it


def test_a_single_seed_has_no_interval_and_unpaired_runs_are_refused():
    assert improvement_probability([np.ones(1)], [np.zeros(1)]) == (1.0, -np.inf, np.inf, 1)
    assert aggregate_iqm([np.ones(1), np.ones(5)], generator=np.random.default_rng(0)) == (1.0, -np.inf, np.inf, 6)
    with pytest.raises(ValueError, match="need the same tasks and seeds"):
        improvement_probability([np.ones(3)], [np.ones(2)])


def test_a_profile_falls_from_one_to_nothing_and_its_area_is_the_mean():
    score = [np.random.default_rng(task).uniform(size=25) for task in range(3)]
    threshold = np.linspace(-0.1, 1.0, 1101)
    profile = performance_profile(score, threshold)
    assert (profile[0], profile[-1]) == (1.0, 0.0)
    assert (np.diff(profile) <= 0).all()
    assert np.trapezoid(profile, threshold) - 0.1 == pytest.approx(np.mean(score), abs=1e-3)
