"""Index policies against plain restatements of their formulas, and what each of them is for."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import beta, kstest

from curbench.curators import curator_class
from curbench.curators.glr_klucb import kl_upper, likelihood_ratio
from curbench.curators.index import play_best_
from curbench.curators.posterior import beta_sample
from curbench.philox import POSTERIOR, uniform, uniform_pair
from curbench.types import Bank, Feedback, GroupStats

ARMS, BATCH, ROUNDS = 4, 3, 150
WINDOW, DISCOUNT = 37, 0.97


def bank(size):
    """Strata of the given sizes."""
    stratum = np.repeat(np.arange(len(size)), size)
    return Bank(key=[str(i) for i in range(stratum.size)], stratum=stratum)


def make(name, *, arms=ARMS, batch=BATCH, horizon=ROUNDS, seed=5, design="iid", **hyper):
    return curator_class(name)(bank([1] * arms), seed=seed, batch=batch, horizon=horizon, design=design, **hyper)


def give(curator, arm, y, step=0):
    """One compiled update."""
    arm, y = np.atleast_1d(np.asarray(arm)), np.atleast_1d(np.asarray(y, float))
    type(curator).update_core(curator.core, arm, np.ones(arm.size), y, step)


def histories(seed):
    """(round, arms i64[m], rewards f64[m]) of random plays; the last arm joins late and the first one stops."""
    rng = np.random.default_rng(seed)
    for t in range(ROUNDS):
        arm = rng.integers(0 if t < 60 else 1, ARMS - (t < 20), BATCH)
        yield t, arm, np.where(rng.uniform(size=BATCH) < 0.5, rng.uniform(size=BATCH), rng.integers(0, 2, BATCH))


def mean_of(y):
    return np.mean(y) if len(y) else np.inf


def by_arm(arm, y):
    return [y[arm == i] for i in range(ARMS)]


def ucb1(arm, y):
    return [mean_of(x) + np.sqrt(2 * np.log(y.size) / max(x.size, 1)) for x in by_arm(arm, y)]


def comb_ucb1(arm, y):
    return [mean_of(x) + np.sqrt(1.5 * np.log(y.size / BATCH) / max(x.size, 1)) for x in by_arm(arm, y)]


def sw_ucb(arm, y):
    n = min(y.size, WINDOW)
    return [mean_of(x) + np.sqrt(0.6 * np.log(n) / max(x.size, 1)) for x in by_arm(arm[-WINDOW:], y[-WINDOW:])]


def d_ucb(arm, y):
    weight = DISCOUNT ** np.arange(y.size)[::-1]
    score = []
    for i in range(ARMS):
        w = weight[arm == i].sum()
        padding = 2 * np.sqrt(0.6 * np.log(weight.sum()) / w) if w else np.inf
        score.append((weight * y)[arm == i].sum() / w + padding if w else np.inf)
    return score


def raw_ucb(arm, y):
    score = []
    for x in by_arm(arm, y):
        window, lowest = 1, np.inf
        while window <= x.size:
            end = x.size - x.size % max(1, window // 2)
            padding = 0.5 * np.sqrt(2 * 1.4 * np.log(y.size) / window)
            lowest = min(lowest, x[end - window : end].mean() + padding)
            window *= 2
        score.append(lowest)
    return score


def r_ed_ucb(arm, y):
    t, score = y.size + 1, []
    for x in by_arm(arm, y):
        n, h = x.size, int(0.25 * x.size)
        if h == 0:
            score.append(np.inf)
            continue
        place = np.arange(n - h + 1, n + 1)
        trend = x[place - 1] + (t - place) * (x[place - 1] - x[place - h - 1]) / h
        score.append(trend.mean() + 0.5 * (t - n + h - 1) * np.sqrt(10 * 2.01 * np.log(t) / h**3))
    return score


FORMULAS = {
    "ucb1": (ucb1, {}),
    "comb_ucb1": (comb_ucb1, {}),
    "sw_ucb": (sw_ucb, {"window": WINDOW}),
    "d_ucb": (d_ucb, {"discount": DISCOUNT}),
    "raw_ucb": (raw_ucb, {}),
    "r_ed_ucb": (r_ed_ucb, {}),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_indices_are_those_of_the_formula(name):
    formula, hyper = FORMULAS[name]
    curator = make(name, **hyper)
    arms, rewards = np.empty(0, int), np.empty(0)
    for t, arm, y in histories(1):
        give(curator, arm, y, t)
        arms, rewards = np.append(arms, arm), np.append(rewards, y)
        expected = np.array(formula(arms, rewards))
        np.testing.assert_allclose(curator.core.score, expected, rtol=1e-9)
        assert curator.core.p.argmax() == curator.core.score.argmax()


# --- Change detection: restated from the draws since the last restart -------------------------------------------------


def cusum_alarm(x, samples, drift, threshold):
    rise = fall = 0.0
    for y in x[samples:]:
        rise = max(0.0, rise + y - np.mean(x[:samples]) - drift)
        fall = max(0.0, fall + np.mean(x[:samples]) - y - drift)
    return max(rise, fall) >= threshold


def test_cusum_ucb_is_its_restatement():
    hyper = {"samples": 8, "drift": 0.05, "threshold": 2.0, "exploration": 0.2}
    curator = make("cusum_ucb", **hyper)
    kept, restarts = [[] for _ in range(ARMS)], 0
    for t, arm, y in histories(2):
        give(curator, arm, y, t)
        for i, reward in zip(arm, y, strict=True):
            kept[i].append(reward)
            if cusum_alarm(kept[i], 8, 0.05, 2.0):
                kept[i], restarts = [], restarts + 1
        clock = max(1, sum(map(len, kept)))
        score = [mean_of(x) + np.sqrt(np.log(clock) / max(len(x), 1)) for x in kept]
        np.testing.assert_allclose(curator.core.score, score, rtol=1e-9)
        p = np.full(ARMS, 0.05)
        p[np.argmax(score)] += 0.8
        np.testing.assert_allclose(curator.core.p, p, rtol=1e-12)
    assert curator.core.restarts[0] == restarts > 3


def test_m_ucb_is_its_restatement():
    curator = make("m_ucb", window=12, threshold=1.9, exploration=0.5)
    kept, age, restarts = [[] for _ in range(ARMS)], 0, 0
    for t, arm, y in histories(3):
        give(curator, arm, y, t)
        age += 1
        for i, reward in zip(arm, y, strict=True):
            kept[i].append(reward)
            if len(kept[i]) >= 12 and abs(sum(kept[i][-6:]) - sum(kept[i][-12:-6])) > 1.9:
                kept, age, restarts = [[] for _ in range(ARMS)], 0, restarts + 1
        clock = max(1, sum(map(len, kept)))
        score = [mean_of(x) + np.sqrt(2 * np.log(clock) / max(len(x), 1)) for x in kept]
        if age % 8 < ARMS:
            score[age % 8] = np.inf
        np.testing.assert_allclose(curator.core.score, score, rtol=1e-9)
    assert curator.core.restarts[0] == restarts > 3


def kl(a, b):
    terms = [x * np.log(x / y) for x, y in ((a, b), (1 - a, 1 - b)) if x > 0]
    return sum(terms)


def brute_ratio(x, stride):
    n, mean = len(x), np.mean(x)
    split = range(stride, n, stride)
    return max((s * kl(np.mean(x[:s]), mean) + (n - s) * kl(np.mean(x[s:]), mean) for s in split), default=0.0)


@pytest.mark.parametrize("restart", ["local", "global"])
def test_glr_klucb_is_its_restatement(restart):
    confidence, alpha = 20.0, 0.3  # a lax test, so that noise trips it
    curator = make("glr_klucb", every=4, stride=3, confidence=confidence, exploration=alpha, restart=restart)
    kept, origin = [[] for _ in range(ARMS)], [0] * ARMS
    clock, age, restarts = 0, 0, 0
    for t, arm, y in histories(4):
        give(curator, arm, y, t)
        age += 1
        for i, reward in zip(arm, y, strict=True):
            clock += 1
            kept[i].append(reward)
            n = len(kept[i])
            if n % 4 == 0 and brute_ratio(kept[i], 3) >= np.log(3 * n**1.5 / confidence):
                for other in range(ARMS) if restart == "global" else [i]:
                    kept[other], origin[other] = [], clock
                age, restarts = 0, restarts + 1
        score = []
        for x, start in zip(kept, origin, strict=True):
            log_age = np.log(max(clock - start, 1))
            budget = log_age + 3 * np.log(max(log_age, 1))
            score.append(kl_upper(np.mean(x), budget / len(x)) if x else np.inf)
        turn = age % int(ARMS / min(1, alpha * np.sqrt(1 + restarts)))
        if turn < ARMS:
            score[turn] = np.inf
        np.testing.assert_allclose(curator.core.score, score, rtol=1e-9)
    assert curator.core.restarts[0] == restarts > 3


def test_glr_sums_become_coarser_instead_of_growing():
    curator = make("glr_klucb", splits=8, stride=2, every=10_000)
    x = np.random.default_rng(0).uniform(size=150)
    for y in x:
        give(curator, 1, y)
    core = curator.core
    stride, kept = core.stride[1], core.kept[1]
    assert (stride, kept) == (32, 4)
    np.testing.assert_allclose(core.prefix[1, :kept], np.cumsum(x)[stride - 1 :: stride], rtol=1e-12)
    ratio = likelihood_ratio(core.prefix[1], kept, stride, core.total[1], 150)
    assert ratio == pytest.approx(brute_ratio(x, 32), rel=1e-9)


def test_kl_upper_solves_its_equation():
    for mean in (0.0, 1e-4, 0.3, 0.5, 0.999):
        for budget in (1e-6, 0.01, 0.5, 3.0, 20.0):
            q = kl_upper(mean, budget)
            assert mean <= q <= 1
            if q < 1 - 1e-9:
                assert q == pytest.approx(brentq(lambda v, a=mean, b=budget: kl(a, v) - b, mean, 1 - 1e-15), abs=1e-9)
    assert kl_upper(1.0, 0.1) == 1.0
    assert kl_upper(0.4, 0.0) == 0.4


DETECTORS = {
    "cusum_ucb": {"samples": 100, "drift": 0.15, "threshold": 15.0},
    "m_ucb": {"window": 100},
    "glr_klucb": {},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_trip_on_a_change_and_seldom_without_one(name):
    rng = np.random.default_rng(0)
    alarms = {0.5: [], 0.95: []}
    for after, count in alarms.items():
        for _ in range(30):
            curator = make(name, arms=2, batch=1, horizon=1_000, **DETECTORS[name])
            for t in range(600):
                give(curator, 0, rng.uniform() < (0.05 if after == 0.95 and t < 300 else after), t)
            count.append(curator.core.restarts[0])
    assert sum(alarms[0.5]) <= 2
    assert min(alarms[0.95]) == 1
    assert sum(alarms[0.95]) <= 32


@pytest.mark.parametrize("name", ["m_ucb", "glr_klucb"])
def test_forced_rounds_visit_every_arm_in_turn(name):
    curator = make(name, batch=1, exploration=0.25)
    played = []
    for t in range(48):
        played.append(int(curator.core.p.argmax()))
        give(curator, played[-1], float(played[-1] == 2), t)
    for start in (0, 16, 32):
        assert played[start : start + ARMS] == list(range(ARMS))
    assert played.count(2) > 20


# --- Posterior sampling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 4.5), (2.5, 1.0), (30.0, 70.25), (4000.0, 2.0)])
def test_beta_samples_follow_the_beta_distribution(a, b):
    sample = [beta_sample(a, b, np.uint64(3), step, arm) for step in range(500) for arm in range(4)]
    assert kstest(sample, beta(a, b).cdf).pvalue > 1e-3
    assert len(set(sample)) == len(sample)


def test_a_pair_of_uniforms_is_one_block():
    for i in range(20):
        first, second = uniform_pair(np.uint64(9), POSTERIOR, 4, i)
        assert first == uniform(np.uint64(9), POSTERIOR, 4, i) != second
        assert 0 <= second < 1


def weights(name, n):
    if name == "d_thompson":
        return DISCOUNT ** np.arange(n)[::-1]
    return (np.arange(n)[::-1] < WINDOW) * 1.0 if name == "sw_thompson" else np.ones(n)


@pytest.mark.parametrize("name", ["thompson", "d_thompson", "sw_thompson"])
def test_posteriors_add_up_what_is_remembered(name):
    hyper = {"thompson": {}, "d_thompson": {"discount": DISCOUNT}, "sw_thompson": {"window": WINDOW}}[name]
    curator = make(name, **hyper)
    arms, rewards = np.empty(0, int), np.empty(0)
    for t, arm, y in histories(6):
        give(curator, arm, y, t)
        arms, rewards = np.append(arms, arm), np.append(rewards, y)
        w = weights(name, arms.size)
        core = curator.core
        np.testing.assert_allclose(core.success, np.bincount(arms, w * rewards, ARMS), atol=1e-12)
        np.testing.assert_allclose(core.failure, np.bincount(arms, w * (1 - rewards), ARMS), atol=1e-12)
        sample = [beta_sample(1 + core.success[i], 1 + core.failure[i], curator.seed, t + 1, i) for i in range(ARMS)]
        np.testing.assert_array_equal(core.score, sample)


@pytest.mark.parametrize("name", ["thompson", "d_thompson", "sw_thompson"])
def test_posterior_samples_depend_on_the_seed_and_on_the_round(name):
    scores = []
    for seed, step in ((5, 0), (5, 0), (6, 0), (5, 1)):
        curator = make(name, seed=seed)
        first = curator.core.score.copy()
        give(curator, [0, 1, 2], [0.5, 1.0, 0.0], step)
        scores.append((first, curator.core.score))
    for part in (0, 1):
        np.testing.assert_array_equal(scores[0][part], scores[1][part])
        assert (scores[0][part] != scores[2][part]).all()
    assert (scores[0][1] != scores[3][1]).all()


# --- What is played ---------------------------------------------------------------------------------------------------


def test_the_best_arms_are_played_as_far_as_they_go_lowest_first_among_equals():
    p, best = np.empty(5), np.empty(3, np.int64)
    play_best_(p, best, np.array([2, 1, 1, 3, 2]), 4, np.array([0.1, np.inf, 0.7, np.inf, 0.7]))
    np.testing.assert_array_equal(best, [1, 3, 2])
    np.testing.assert_array_equal(p, [0, 0.25, 0, 0.75, 0])


def test_ranking_agrees_with_a_stable_sort():
    rng = np.random.default_rng(0)
    for k in (1, 2, 5, 8, 33):
        for n in {1, min(2, k), k}:
            score = rng.integers(0, 6, k) / 4
            p, best = np.empty(k), np.empty(n, np.int64)
            play_best_(p, best, np.ones(k, np.int64), n, score)
            np.testing.assert_array_equal(best, np.argsort(-score, kind="stable")[:n])
            np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)


def test_iid_draws_all_go_to_the_best_arm_with_certainty():
    curator = make("ucb1")
    for arm in range(ARMS):
        selection = curator.select(BATCH)
        np.testing.assert_array_equal(selection.problem, arm)
        np.testing.assert_array_equal(selection.propensity, 1.0)
        give(curator, selection.problem, np.full(BATCH, arm == 1))
    assert (curator.select(BATCH).problem == 1).all()


def test_a_systematic_draw_takes_the_m_best_arms():
    curator = make("comb_ucb1", design="systematic")
    for _ in range(30):
        selection = curator.select(BATCH)
        np.testing.assert_allclose(selection.propensity, 1.0, rtol=1e-12)
        give(curator, selection.problem, selection.problem != 2)
    assert selection.design == "systematic"
    assert sorted(curator.core.best) == [0, 1, 3]
    np.testing.assert_allclose(np.sort(curator.core.p), [0, 1 / 3, 1 / 3, 1 / 3])


def test_comb_ucb1_is_systematic_unless_told_otherwise():
    assert curator_class("comb_ucb1")(bank([1, 1, 1]), seed=0, batch=2, horizon=9).design == "systematic"


def test_strata_are_filled_from_the_best_one_down():
    curator = curator_class("ucb1")(bank([2, 5, 3]), seed=1, batch=4, horizon=50)
    give(curator, [0, 1, 2], [0.9, 0.1, 0.5])
    selection = curator.select(4)
    np.testing.assert_array_equal(np.sort(selection.problem)[:2], [0, 1])
    assert (selection.problem >= 7).sum() == 2
    np.testing.assert_allclose(np.sort(selection.propensity), [2 / 3, 2 / 3, 1, 1])


def test_problems_inside_a_stratum_depend_on_the_seed():
    one, other = (curator_class("ucb1")(bank([30, 30]), seed=s, batch=4, horizon=9).select(4) for s in (1, 2))
    assert set(one.problem) != set(other.problem)


def test_more_slots_than_problems_are_drawn_with_replacement():
    curator = curator_class("ucb1")(bank([1, 1]), seed=1, batch=5, horizon=9)
    selection = curator.select(5)
    assert selection.design == "iid"
    np.testing.assert_array_equal(selection.problem, 0)


@pytest.mark.parametrize("name", ["ucb1", "m_ucb", "thompson", "r_ed_ucb"])
def test_utilities_are_mapped_to_the_unit_interval_and_clipped(name):
    wide, unit = make(name, low=-1.0, high=3.0), make(name)
    give(wide, [0, 1, 2], [-5.0, 1.0, 7.0])
    give(unit, [0, 1, 2], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(wide.core.score, unit.core.score)


def test_feedback_updates_through_the_shell():
    curator = curator_class("ucb1")(bank([2, 5, 3]), seed=1, batch=4, horizon=50)
    selection, one = curator.select(4), np.ones(4, int)
    y = np.array([0.2, 0.4, 1.0, 0.0])
    stats = GroupStats(4 * one, 2 * one, 0.5 * one, 0.3 * one, y, one > 1, 5.0 * one)
    curator.update(Feedback(selection, stats, y, one > 0, 0 * one, 20 * one))
    np.testing.assert_array_equal(curator.core.plays, np.bincount(curator.arms.of[selection.problem], minlength=3))
    assert curator.metrics()["effective_arms"] >= 1


# --- What each policy is for ------------------------------------------------------------------------------------------


def regret(curator, mean, seed):
    """Conditional regret against the best arm of every round, with Bernoulli rewards; mean f64[T, K]."""
    rng, total = np.random.default_rng(seed), 0.0
    for t, mu in enumerate(mean):
        p = curator.core.p
        total += mu.max() - p @ mu
        i = min(np.searchsorted(np.cumsum(p), rng.uniform(), side="right"), mu.size - 1)
        give(curator, i, rng.uniform() < mu[i], t)
    return total


def average_regret(name, mean, seeds=4, **hyper):
    horizon, arms = mean.shape
    made = (make(name, arms=arms, batch=1, horizon=horizon, seed=s, **hyper) for s in range(seeds))
    return np.mean([regret(curator, mean, seed) for seed, curator in enumerate(made)])


STATIONARY = np.tile([0.3, 0.5, 0.7, 0.4], (3_000, 1))
SWITCHING = np.repeat(np.where(np.eye(4)[[2, 0, 3, 1]] > 0, 0.85, 0.15), 1_000, axis=0)


def uniform_regret(mean):
    return (mean.max(axis=1) - mean.mean(axis=1)).sum()


@pytest.mark.parametrize("name", ["ucb1", "comb_ucb1", "glr_klucb", "thompson", "cusum_ucb", "raw_ucb"])
def test_fixed_means_are_learnt(name):
    assert average_regret(name, STATIONARY) < 0.35 * uniform_regret(STATIONARY)


FORGETFUL = {
    "sw_ucb": {"segments": 4},
    "d_ucb": {"segments": 4},
    "cusum_ucb": {"segments": 4},
    "m_ucb": {"window": 100, "segments": 4, "exploration": 0.1},
    "glr_klucb": {},
    "d_thompson": {"segments": 4},
    "sw_thompson": {"segments": 4},
}


@pytest.mark.parametrize("name", FORGETFUL)
def test_changes_are_followed(name):
    assert average_regret(name, SWITCHING, **FORGETFUL[name]) < 0.45 * uniform_regret(SWITCHING)


def test_forgetting_pays_when_means_change():
    remembers = average_regret("thompson", SWITCHING, seeds=2)
    for name in ("d_thompson", "sw_thompson"):
        assert average_regret(name, SWITCHING, **FORGETFUL[name]) < 0.6 * remembers


def reward_of_rested_arms(name, curve, horizon, seed):
    """Total mean reward when the mean of arm i at its n-th play is curve(i, n)."""
    curator = make(name, arms=3, batch=1, horizon=horizon, seed=seed)
    rng, plays, total = np.random.default_rng(seed), np.zeros(3, int), 0.0
    for t in range(horizon):
        i = rng.integers(3) if name == "uniform" else curator.core.p.argmax()
        mu = curve(i, plays[i])
        plays[i] += 1
        total += mu
        give(curator, i, rng.uniform() < mu, t)
    return total


def rotting(i, n):
    """The arm that starts best falls to the bottom after 300 plays; another one keeps its middling mean."""
    return (0.9 if n < 300 else 0.05, 0.5, 0.2)[i]


def rising(i, n):
    """The arm that starts lowest becomes the best."""
    return (0.4, 0.3, 0.9 * (1 - np.exp(-n / 150)))[i]


def test_raw_ucb_leaves_an_arm_that_rots():
    value = {name: reward_of_rested_arms(name, rotting, 3_000, 1) for name in ("raw_ucb", "ucb1", "uniform")}
    assert value["raw_ucb"] > value["ucb1"] + 50 > value["uniform"]


def test_r_ed_ucb_waits_for_an_arm_that_rises():
    value = {name: reward_of_rested_arms(name, rising, 4_000, 1) for name in ("r_ed_ucb", "uniform")}
    assert value["r_ed_ucb"] > value["uniform"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ucb1", {"low": 1.0}, r"low < high; got \[1.0, 1.0\]"),
        ("sw_ucb", {"window": 0}, "window must be positive; got 0"),
        ("sw_ucb", {"segments": 0}, "segments must be positive; got 0"),
        ("d_ucb", {"discount": 1.5}, r"discount must be in \(0, 1\]; got 1.5"),
        ("d_ucb", {"xi": -1.0}, "xi must be positive"),
        ("cusum_ucb", {"exploration": 1.5}, r"exploration must be in \[0, 1\]; got 1.5"),
        ("cusum_ucb", {"samples": 0}, "samples must be positive"),
        ("m_ucb", {"window": 7}, "window must be even; got 7"),
        ("m_ucb", {"exploration": 0.0}, r"exploration must be in \(0, 1\]; got 0.0"),
        ("glr_klucb", {"splits": 5}, "splits must be even; got 5"),
        ("glr_klucb", {"restart": "all"}, "restart must be local or global; got 'all'"),
        ("d_thompson", {"discount": 0.0}, r"discount must be in \(0, 1\]; got 0.0"),
        ("sw_thompson", {"window": -1}, "window must be positive; got -1"),
        ("raw_ucb", {"alpha": 0.0}, "alpha must be positive"),
        ("r_ed_ucb", {"fraction": 0.5}, r"fraction must be in \(0, 1/2\); got 0.5"),
    ],
)
def test_index_policies_refuse_what_they_cannot_use(name, change, message):
    with pytest.raises(ValueError, match=message):
        make(name, **change)
