"""Rewards have the mean they are given, whatever the noise; shared noise really is shared."""

import numpy as np
import pytest
from scipy import stats

from curbench.sim.arms import Noise, make_arms
from curbench.sim.reward import KINDS, gamma, noisy, reward_
from curbench.sim.simulate import simulate

SEED = np.uint64(11)
SCALE = {"beta": 4.0, "gaussian": 0.2}


def drawn(kind, mean, count=4_000, seed=SEED):
    return np.array([noisy(mean, seed, 4, 0, i, KINDS.index(kind), SCALE.get(kind, 1.0)) for i in range(count)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean", [0.0, 0.07, 0.5, 0.9, 1.0])
def test_the_mean_is_exact_and_rewards_stay_in_the_unit_interval(kind, mean):
    y = drawn(kind, mean)
    assert (y >= 0).all()
    assert (y <= 1).all()
    assert abs(y.mean() - mean) <= 4.5 * y.std() / np.sqrt(y.size)
    assert (y.std() > 0) == (0 < mean < 1)


def test_distributions_are_the_named_ones():
    assert stats.kstest(drawn("beta", 0.3), stats.beta(4 * 0.3, 4 * 0.7).cdf).pvalue > 1e-4
    assert stats.kstest(drawn("power", 0.3), stats.beta(3 / 7, 1).cdf).pvalue > 1e-4
    cut = stats.truncnorm(-1.5, 1.5, loc=0.3, scale=0.2)
    assert stats.kstest(drawn("gaussian", 0.3), cut.cdf).pvalue > 1e-4
    for shape in (0.2, 1.0, 7.5):
        sample = [gamma(shape, SEED, 4, 1, i << 10) for i in range(3_000)]
        assert stats.kstest(sample, stats.gamma(shape).cdf).pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_rewards_and_others_do_not(kind):
    assert (drawn(kind, 0.4, 50) == drawn(kind, 0.4, 50)).all()
    assert (drawn(kind, 0.4, 50) != drawn(kind, 0.4, 50, np.uint64(12))).any()


def test_shared_noise_gives_equal_arms_equal_rewards_within_a_round():
    y, visit = np.empty(6), np.zeros(3, np.int64)
    mean, problem = np.full(3, 0.4), np.array([0, 1, 2, 0, 1, 2])
    rounds = []
    for t in range(40):
        reward_(y, mean, problem, visit, np.empty(0), SEED, t, KINDS.index("beta"), 4.0, True)
        assert np.unique(y).size == 1
        rounds.append(y[0])
    assert np.unique(rounds).size == 40
    reward_(y, mean, problem, visit, np.empty(0), SEED, 0, KINDS.index("beta"), 4.0, False)
    assert np.unique(y).size == 6


@pytest.mark.parametrize("noise", [Noise("beta", 2.0), Noise("gaussian", 0.3), Noise("power"), Noise(shared=True)])
def test_bounds_and_certificates_hold_under_every_noise(noise):
    arms = make_arms("stationary", horizon=10_000, noise=noise)
    result = simulate(arms, "osmd", seeds=20, batch=8)
    assert result.holds is True
    assert result.certificate_holds is True
    assert result.row()["bound"]["vacuous"] is False
