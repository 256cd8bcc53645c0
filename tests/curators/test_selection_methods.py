"""Every method of the map against a slow restatement of its formula, and what it does over a few steps."""

from dataclasses import replace
from itertools import product
from math import ceil, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit

from curbench.curators import curator_class
from curbench.curators.cures import largest_remainder
from curbench.curators.cyclical import cycle
from curbench.curators.dynamic import first, fresh
from curbench.curators.pudf import ability
from curbench.curators.tiers import parse_mixture, tiers_of
from curbench.curators.vcrl import relative_variance
from curbench.loop import step
from curbench.signals import SIGNALS
from curbench.types import Bank, Feedback, GroupStats, Reward, Rollouts, Selection, UpdateReport

N, BATCH, GROUP, HORIZON = 40, 6, 4, 50
RNG = np.random.default_rng(0)
BANK = Bank(
    key=[str(i) for i in range(N)],
    stratum=np.arange(N) % 3,
    difficulty=np.linspace(0, 1, N)[RNG.permutation(N)],
    length=RNG.permutation(N) + 5,
)


def make(name, **change):
    common = {"seed": 3, "batch": BATCH, "horizon": HORIZON, "group": GROUP} | change
    return curator_class(name)(BANK, **common)


def drawn(problem, group=GROUP, at=0):
    b = len(problem)
    return Selection(at, at, problem, np.full(b, 0.5), np.full(b, group), "systematic")


def told(selection, success, utility=None):
    n = selection.rollouts.astype(np.int64)
    k = np.asarray(success, np.int64)
    rate = k / n
    stats = GroupStats(n, k, rate, rate * (1 - rate), rate, (k == 0) | (k == n), np.ones(len(selection)))
    utility = stats.abs_advantage if utility is None else np.asarray(utility, float)
    return Feedback(selection, stats, utility, n > 0, 0 * n, n)


class Groups:
    """An actor that answers problem i right with probability ``rate[i]``, and remembers what it was trained on."""

    def __init__(self, rate, seed=0):
        self.rate, self.rng, self.trained, self.progress, self.view = rate, np.random.default_rng(seed), [], 0.0, None

    def rollout(self, selection):
        offset = np.concatenate([[0], np.cumsum(selection.rollouts)])
        return Rollouts(selection, offset, np.ones(offset[-1], np.int32), np.zeros(offset[-1], np.int64))

    def reward(self, rollouts):
        problem = np.repeat(rollouts.selection.problem, rollouts.selection.rollouts)
        success = self.rng.uniform(size=problem.size) < self.rate[problem]
        return Reward(success.astype(float), success)

    def update(self, rollouts, advantage, admitted, guidance):
        self.trained.append(rollouts.selection.take(admitted) if admitted.any() else None)
        return UpdateReport(0)


def one_step(curator, actor):
    return step(curator, actor, batch=BATCH, signal=SIGNALS["mean_abs_advantage"])


# --- Distributions: DUMP, ProCuRL -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "count_unit"), [(10, "rollout"), (8, "rollout"), (3, "prompt"), (300, "rollout")])
def test_dump_is_a_softmax_over_windowed_means_and_confidence_bounds(window, count_unit):
    curator = make("dump", window=window, count_unit=count_unit, temperature=0.3, bonus=0.7)
    rollout = {c: [] for c in range(3)}  # |advantage| of every rollout, one by one, the oldest first
    groups = dict.fromkeys(range(3), 0)
    rng = np.random.default_rng(1)
    for at in range(7):
        problem = rng.choice(N, BATCH, replace=False)
        utility = rng.uniform(size=BATCH)
        curator.update(told(drawn(problem, at=at), np.zeros(BATCH), utility))
        for i, u in zip(problem, utility, strict=True):
            rollout[i % 3] += [u] * GROUP
            groups[i % 3] += 1
    unit = GROUP if count_unit == "rollout" else 1
    n = {c: unit * groups[c] for c in groups}
    score = [np.mean(rollout[c][-window:]) + 0.7 * sqrt(2 * log(sum(n.values()) + 1) / (n[c] + 1)) for c in range(3)]
    expected = np.exp(np.array(score) / 0.3)
    np.testing.assert_allclose(curator.core.p, expected / expected.sum(), rtol=1e-12)


def test_procurl_is_a_softmax_over_the_variance_of_a_moving_success_rate():
    curator = make("procurl", alpha=0.25, temperature=0.2)
    curator.update(told(drawn([0, 3, 1]), np.zeros(3), [0.8, 0.4, 1.0]))
    q = np.array([0.75 * 0.5 + 0.25 * 0.6, 0.75 * 0.5 + 0.25 * 1.0, 0.5])
    expected = np.exp(q * (1 - q) / 0.2)
    np.testing.assert_allclose(curator.core.p, expected / expected.sum(), rtol=1e-12)
    assert curator.signal == "pass_rate"


def test_sec_variants_are_its_rules_for_absent_categories():
    for variant, kept in (("paper", 0.4), ("released", 0.2)):
        curator = make("sec", variant=variant)
        curator.core.q[:] = 0.4
        curator.update(told(drawn([0]), [2], [1.0]))
        np.testing.assert_allclose(curator.core.q, [0.7, kept, kept])


# --- Problems: MoPPS, PLR, AdaRFT, PUDF -------------------------------------------------------------------------------


def test_mopps_posteriors_fade_as_published():
    curator = make("mopps", discount=0.5, prior=1.0)
    for success in ([3, 1], [0, 4]):
        curator.update(told(drawn([7, 9]), success))
    a = {7: 0.5 * (0.5 * 1 + 0.5 + 3) + 0.5 + 0, 9: 0.5 * (0.5 + 0.5 + 1) + 0.5 + 4}
    b = {7: 0.5 * (0.5 + 0.5 + 1) + 0.5 + 4, 9: 0.5 * (0.5 + 0.5 + 3) + 0.5 + 0}
    for i in (7, 9):
        assert (curator.posterior.a[i], curator.posterior.b[i]) == (a[i], b[i])
    assert (np.delete(curator.posterior.a, [7, 9]) == 1.0).all()


def test_mopps_comes_back_to_problems_of_middling_rate():
    curator, rate = make("mopps", pool=100), np.where(np.arange(N) < 8, 0.5, 0.02)
    actor = Groups(rate)
    share = [np.mean(one_step(curator, actor).selection.problem < 8) for _ in range(60)]
    assert np.mean(share[30:]) > 3 * 8 / N


def test_plr_mixes_ranks_with_staleness_and_new_problems():
    curator = make("plr", beta=0.5, rho=0.25, candidates=N)
    problem, utility = np.array([4, 9, 2, 30, 11]), np.array([0.1, 0.9, 0.4, 0.7, 0.2])
    for at in range(5):
        curator.update(told(drawn(problem[[at]], at=at), [1], utility[[at]]))
    curator.step = 6
    rank = {9: 1, 30: 2, 2: 3, 11: 4, 4: 5}
    stale = {int(i): 6 - at for at, i in enumerate(problem)}
    seen = 5 / N
    expected = np.full(N, (1 - seen) / (N - 5))
    for i in rank:
        by_rank = rank[i] ** -2.0 / sum(r**-2.0 for r in rank.values())
        expected[i] = seen * (0.75 * by_rank + 0.25 * stale[i] / sum(stale.values()))
    np.testing.assert_allclose(np.exp(curator.log_weight(np.arange(N))), expected, rtol=1e-12)


def test_adarft_moves_its_target_and_takes_the_nearest_problems():
    curator = make("adarft", eta=50.0, alpha=2.0, beta=0.5, start=10.0)
    scaled = 100 * (BANK.difficulty - BANK.difficulty.min()) / np.ptp(BANK.difficulty)
    curator.update(told(drawn([1, 2]), [4, 3]))
    target = 10 + 50 * np.tanh(2 * (7 / 8 - 0.5))
    assert curator.target == pytest.approx(target)
    expected = np.sort(np.argsort(np.abs(scaled - target))[:BATCH])
    np.testing.assert_array_equal(np.sort(curator.select(BATCH).problem), expected)
    for _ in range(9):
        curator.update(told(drawn([1]), [4]))
    assert curator.target == 100.0
    for _ in range(9):
        curator.update(told(drawn([1]), [0]))
    assert curator.target == 0.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 8), st.integers(1, 8)), max_size=20))
def test_ability_is_the_mode_of_its_posterior(answers):
    b, k, n = (np.array(column, float) for column in zip(*answers, strict=True)) if answers else np.empty((3, 0))
    k = np.minimum(k, n)
    expected = brentq(lambda t: np.sum(k - n * expit(t - b)) - t, -200, 200, xtol=1e-12)
    assert ability(b, k, n) == pytest.approx(expected, abs=1e-8)


def test_pudf_draws_what_is_not_harder_than_the_ability():
    curator = make("pudf", memory=12)
    easy = np.argsort(BANK.difficulty)
    for at in range(4):
        curator.update(told(drawn(easy[:BATCH], at=at), [3] * BATCH))
    assert curator.recent.arm.size == 12
    theta = ability(curator.difficulty[curator.recent.arm], curator.recent.success, curator.recent.n)
    fits = np.flatnonzero(curator.difficulty <= theta)
    chosen = [curator.select(BATCH) for _ in range(40)]
    assert set(np.concatenate([one.problem for one in chosen])) == set(fits)
    assert chosen[0].propensity[0] == BATCH / fits.size
    band = make("pudf", mode="band", width=0.4)
    assert (np.abs(band.difficulty[band.select(BATCH).problem]) <= 0.4).all()


# --- Schedules --------------------------------------------------------------------------------------------------------


def test_length_sorted_walks_from_short_to_long_and_round_again():
    curator = make("length_sorted")
    walk = np.concatenate([curator.select(BATCH).problem for _ in range(8)])
    np.testing.assert_array_equal(BANK.length[walk[:N]], np.sort(BANK.length))
    np.testing.assert_array_equal(walk[N:], walk[: walk.size - N])
    down = make("length_sorted", order="descending", pace="horizon")
    selections = [down.select(BATCH) for _ in range(HORIZON + 2)]
    assert set(BANK.length[selections[0].problem]) == set(range(N + 4, N + 4 - BATCH, -1))
    assert set(BANK.length[selections[HORIZON - 1].problem]) == set(range(5, 5 + BATCH))
    assert set(BANK.length[selections[-1].problem]) == set(range(5, 5 + BATCH))


def test_tiers_are_quantiles_of_difficulty_or_strata_by_their_mean():
    tier = tiers_of(BANK, 4, "difficulty")
    assert np.bincount(tier).tolist() == [10, 10, 10, 10]
    assert max(BANK.difficulty[tier == 0]) < min(BANK.difficulty[tier == 1])
    bank = Bank(key=list("abcd"), stratum=[2, 2, 0, 1], difficulty=[0.0, 0.1, 0.9, 0.5])
    np.testing.assert_array_equal(tiers_of(bank, 9, "stratum"), [0, 0, 2, 1])
    same = Bank(key=list("abc"), stratum=[0, 0, 0], difficulty=[1.0, 1.0, 1.0])
    assert np.unique(tiers_of(same, 3, "difficulty")).size == 1


@pytest.mark.parametrize("z", [0.0, 0.3, 0.77, 1.0])
def test_easy_to_hard_follows_its_schedules(z):
    floor = 2 / (4 * 5)
    bell = np.exp(-((np.arange(4) - 3 * z**0.5) ** 2) / (2 * 0.25))
    np.testing.assert_allclose(make("easy_to_hard").mixture(z), floor + (1 - 4 * floor) * bell / bell.sum())
    a = 0.5 * (1 + np.cos(np.pi * z))
    line = np.maximum(a * np.array([0.4, 0.3, 0.2, 0.1]) + (1 - a) * np.array([0.1, 0.2, 0.3, 0.4]), 0.1)
    np.testing.assert_allclose(make("easy_to_hard", schedule="cosine").mixture(z), line / line.sum())
    stage = make("easy_to_hard", schedule="stages").mixture(z)
    np.testing.assert_array_equal(stage, np.eye(4)[min(int(4 * z), 3)])
    fixed = make("easy_to_hard", schedule="fixed", mixture="1,1,2,0")
    np.testing.assert_array_equal(fixed.mixture(z), [0.25, 0.25, 0.5, 0.0])


def test_rmt_goes_in_a_straight_line_between_two_mixtures():
    curator = make("rmt", start="1,0,0", end="0,0,1")
    np.testing.assert_array_equal(curator.mixture(0.2), [1, 0, 0])
    np.testing.assert_allclose(curator.mixture(0.4), [0.75, 0, 0.25])
    np.testing.assert_array_equal(curator.mixture(0.7), [0, 0, 1])
    np.testing.assert_allclose(make("rmt").mixture(0.0), [3 / 6, 2 / 6, 1 / 6])
    tier = tiers_of(BANK, 3, "difficulty")
    assert (tier[curator.select(BATCH).problem] == 0).all()
    curator.step = HORIZON
    assert (tier[curator.select(BATCH).problem] == 2).all()


def test_cyclical_alternates_easy_subsets_with_everything():
    assert cycle(0.2, 1.0, 0.5) == [0.2, 0.4, 0.8, 1.0, 0.5, 0.25]
    assert cycle(1.0, 1.0, 0.5) == [1.0]
    curator = make("cyclical", every=2)
    sizes = [curator.size(t) for t in range(10)]
    assert sizes == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    mean = {size: [] for size in (0.25, 0.5, 1.0)}
    for t in range(400):
        mean[curator.size(t)].append(BANK.difficulty[curator.select(BATCH).problem].mean())
    assert np.mean(mean[0.25]) < np.mean(mean[0.5]) < np.mean(mean[1.0])


def test_cyclical_wraps_another_curator_which_learns_from_its_own_steps_only():
    curator, alone = make("cyclical", inner="sec", every=1), make("sec")
    rng = np.random.default_rng(0)
    for t in range(12):
        selection = curator.select(BATCH)
        news = told(selection, rng.integers(0, GROUP + 1, BATCH))
        before = curator.inner.core.q.copy()
        curator.update(news)
        if curator.size(t) < 1.0:
            alone.step = t
            np.testing.assert_array_equal(alone.select(BATCH).problem, selection.problem)
            alone.update(news)
        else:
            np.testing.assert_array_equal(selection.propensity, BATCH / N)
            np.testing.assert_array_equal(curator.inner.core.q, before)
    np.testing.assert_array_equal(curator.inner.core.p, alone.core.p)


# --- Rounds: DAPO, GRESO, VCRL, SFL, CurES ----------------------------------------------------------------------------


@given(st.sets(st.integers(0, 9), max_size=10), st.integers(1, 10), st.integers(0, 3))
def test_fresh_problems_are_those_not_drawn_yet(known, count, number):
    known = np.array(sorted(known), np.int64)
    place, propensity, _ = fresh(known, 10, count, seed=1, step=2, round=number)
    left = np.setdiff1d(np.arange(10), known)
    assert place.size == min(count, left.size)
    assert np.isin(place, left).all()
    assert np.unique(place).size == place.size
    if left.size:
        assert (propensity == min(count, left.size) / left.size).all()


def test_the_first_good_groups_are_admitted():
    assert first(np.array([True, False, True, True]), 2).tolist() == [True, False, True, False]


@pytest.mark.parametrize(("variant", "round_size"), [("paper", BATCH), ("released", 3 * BATCH)])
def test_dapo_rolls_out_until_the_batch_is_full_and_pays_for_everything(variant, round_size):
    actor, curator = Groups(np.where(np.arange(N) % 2 == 0, 0.5, 0.0)), make("dapo", variant=variant)
    for _ in range(12):
        result = one_step(curator, actor)
        selection, stats = result.selection, result.feedback.stats
        trained = actor.trained[-1]
        assert len(trained) == BATCH
        assert (trained.problem % 2 == 0).all()
        assert np.unique(selection.problem).size == len(selection)
        assert len(selection) % round_size == 0 or len(selection) == N
        useful = np.cumsum(~stats.degenerate)
        assert useful[len(selection) - min(round_size, len(selection)) - 1] < BATCH or len(selection) == round_size
        assert result.feedback.tokens.sum() == selection.rollouts.sum() == GROUP * len(selection)
        assert result.feedback.admitted.sum() == BATCH


def test_dapo_trains_on_what_it_found_when_it_gives_up():
    actor = Groups(np.where(np.arange(N) == 7, 0.5, 1.0))
    result = one_step(make("dapo", rounds=3), actor)
    assert len(result.selection) == 3 * BATCH
    trained = actor.trained[-1]
    assert trained is None or trained.problem.tolist() == [7]


def test_greso_counts_streaks_and_holds_its_targets():
    curator = make("greso", start=0.5, change=0.01, target=0.3)
    streak = np.zeros((N, 2), int)
    p = np.array([0.5, 0.5])
    rng = np.random.default_rng(2)
    for at in range(15):
        problem = rng.choice(N, BATCH, replace=False)
        success = rng.choice([0, 0, 2, 4], BATCH)
        curator.update(told(drawn(problem, at=at), success))
        for i, k in zip(problem, success, strict=True):
            streak[i] = (streak[i] + 1) * [k == GROUP, k == 0]
        for kind, often in ((0, np.mean(success == GROUP) >= 0.1), (1, np.mean(success == 0) >= 0.2)):
            p[kind] = np.clip(p[kind] + (-0.01 if often else 0.01), 0.05, 0.95)
    np.testing.assert_array_equal(curator.streak, streak)
    np.testing.assert_allclose(curator.p, p, rtol=1e-12)


def test_greso_skips_in_proportion_to_the_streak():
    curator = make("greso", oversample=1.0)
    curator.streak[:20, 0] = 2
    curator.streak[0, 0] = 99
    count = np.zeros(N)
    for _ in range(4000):
        count[curator.select(BATCH).problem] += 1
    assert count[1:20].mean() / count[20:].mean() == pytest.approx(0.25, rel=0.15)
    assert 0 < count[0] / count[20:].mean() < 0.05


def test_greso_asks_for_as_many_more_as_the_last_rounds_leave_missing():
    curator = make("greso")
    selection = curator.select(BATCH)
    assert len(selection) == 9
    stats = told(selection, [2] * 4 + [0] * 5).stats
    more = curator.refill(selection, stats)
    assert len(more) == ceil(1.25 * 2 / (4 / 9))
    assert not np.isin(more.problem, selection.problem).any()
    curator.select(BATCH)
    assert curator.refill(selection, told(selection, [2] * 6 + [0] * 3).stats) is None
    np.testing.assert_array_equal(curator.admit(told(selection, [2] * 7 + [0] * 2).stats), [1] * 6 + [0] * 3)


def test_released_greso_goes_by_reward_and_waits_for_the_second_epoch():
    curator = make("greso", variant="released")
    low = told(drawn([5], group=10), [1])  # one success in ten: 0.1 is below the released threshold of 0.11
    curator.update(low)
    assert curator.streak[5].tolist() == [0, 1]
    assert curator.p.tolist() == [0.5, 0.5]
    curator.update(replace(low, selection=drawn([5], group=10, at=ceil(N / BATCH))))
    assert curator.p.tolist() == [0.51, 0.49]
    paper = make("greso")
    paper.update(low)
    assert paper.streak[5].tolist() == [0, 0]


def test_relative_variance_is_that_of_the_formula():
    for n, k in product(range(2, 9), range(9)):
        if k <= n:
            value = np.var([1] * k + [0] * (n - k), ddof=1)
            largest = max(np.var([1] * j + [0] * (n - j), ddof=1) for j in range(n + 1))
            assert relative_variance(np.array([k]), np.array([n]))[0] == pytest.approx(value / largest)


def test_vcrl_replaces_what_varies_little_by_the_best_of_its_memory():
    curator = make("vcrl", kappa=0.5, momentum=0.5)
    selection = curator.select(BATCH)
    assert curator.refill(selection, told(selection, [0, 2, 4, 1, 0, 0]).stats) is None  # nothing to replay yet
    rest = np.setdiff1d(np.arange(N), selection.problem)
    curator.update(told(drawn(rest[:4]), [2, 2, 1, 0]))
    curator.update(told(drawn(rest[[1]], at=1), [0]))
    priority = {0: 1.0, 1: 0.5, 2: 0.75, 3: 0.0}
    np.testing.assert_allclose(curator.priority.value[rest[:4]], list(priority.values()))
    stats = told(selection, [0, 2, 4, 1, 2, 2]).stats
    more = curator.refill(selection, stats)
    np.testing.assert_array_equal(more.problem, rest[[0, 2]])
    joined = selection.join(more)
    after = told(joined, [0, 2, 4, 1, 2, 2, 4, 1]).stats
    assert curator.refill(joined, after) is None
    np.testing.assert_array_equal(curator.admit(after), [0, 1, 0, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("variant", ["paper", "lilo"])
def test_sfl_probes_before_its_batch_and_never_trains_on_probes(variant):
    rate = np.where(np.arange(N) < 20, 0.5, 0.0)
    settings = {"refresh": 3, "sample": 4, "keep": 2} if variant == "paper" else {}
    actor, curator = Groups(rate), make("sfl", variant=variant, **settings)
    for t in range(6):
        result = one_step(curator, actor)
        selection = result.selection
        probes = 0 if selection.probe is None else int(selection.probe.sum())
        assert probes == (0 if t % curator.refresh else 4 * BATCH)
        assert len(actor.trained[-1]) == BATCH == len(selection) - probes
        if probes:
            looked = result.feedback.take(selection.probe)
            k, n = looked.stats.success, looked.stats.n
            value = dict(zip(looked.selection.problem, k * (n - k) / (n * (n - 1)), strict=True))
            best = np.sort(list(value.values()))[::-1][: curator.keep]
            np.testing.assert_allclose(np.sort([value[i] for i in curator.buffer])[::-1], best)
        if variant == "lilo":
            assert np.isin(actor.trained[-1].problem, curator.buffer).all()


def test_sfl_takes_its_share_from_the_buffer():
    curator = make("sfl", rho=0.5, refresh=10_000)
    curator.buffer = np.arange(12)
    curator.step = 1
    inside = [np.sum(curator.select(BATCH).problem < 12) for _ in range(3000)]
    assert np.mean(inside) / BATCH == pytest.approx(0.5 + 0.5 * 12 / N, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 4), st.data())
def test_rollouts_are_shared_out_as_proportionally_as_the_limits_allow(weight, low, room, data):
    weight, high = np.array(weight), low + room
    total = data.draw(st.integers(low * weight.size, high * weight.size))
    given_out = largest_remainder(weight, total, low, high)
    assert given_out.sum() == total
    assert given_out.min() >= low
    assert given_out.max() <= high
    w = weight if weight.max() > 0 else np.ones(weight.size)
    scale = [np.clip(c * w, low, high) for c in np.geomspace(1e-6, 1e9, 4001)]
    share = min(scale, key=lambda s: abs(s.sum() - total))
    if abs(share.sum() - total) < 0.05:  # the grid is fine enough there
        assert np.abs(given_out - share).max() <= 1.1


def test_cures_draws_by_the_root_of_the_variance_and_gives_rollouts_likewise():
    curator = make("cures", shards=2, iteration=4, temperature=0.2)
    actor = Groups(np.linspace(0, 1, N))
    result = one_step(curator, actor)
    shard, probe = curator.shard(0), result.selection.probe
    np.testing.assert_array_equal(result.selection.problem[probe], shard)
    assert (result.selection.rollouts[probe] == 4).all()
    k = dict(zip(shard, result.feedback.stats.success[probe], strict=True))
    p = np.array([(1 + k[i]) / 6 for i in shard])
    deviation = np.sqrt(p * (1 - p))
    rho = np.exp(deviation / 0.2)
    rho /= rho.sum()
    batch = actor.trained[0]
    place = np.searchsorted(shard, batch.problem)
    assert batch.rollouts.sum() == BATCH * GROUP
    np.testing.assert_array_equal(batch.rollouts, largest_remainder(deviation[place], BATCH * GROUP, 2, 8))
    assert BATCH * rho.max() < 1  # no cap binds, so inclusion is proportional
    np.testing.assert_allclose(batch.propensity, BATCH * rho[place], rtol=1e-9)
    for i, trained, rolled in zip(batch.problem, result.feedback.stats.success[~probe], batch.rollouts, strict=True):
        assert curator.posterior.a[i] == 1 + k[i] + trained
        assert curator.posterior.b[i] == 1 + 4 - k[i] + rolled - trained


def test_cures_takes_another_part_of_the_bank_every_iteration_and_forgets():
    curator, actor = make("cures", shards=2, iteration=3), Groups(np.full(N, 0.5))
    seen = [np.unique(one_step(curator, actor).selection.problem) for _ in range(6)]
    assert np.isin(seen[2], seen[0]).all()
    assert np.intersect1d(seen[0], seen[3]).size == 0
    np.testing.assert_array_equal(np.sort(np.concatenate([seen[0], seen[3]])), np.arange(N))
    assert (curator.posterior.a[seen[0]] == 1).all()


def test_each_half_of_cures_can_be_left_out():
    actor = Groups(np.linspace(0, 1, N))
    sampling, allocation = make("cures", allocation="equal", shards=2), make("cures", sampling="uniform", shards=2)
    one_step(sampling, actor)
    assert (actor.trained[-1].rollouts == GROUP).all()
    assert np.unique(actor.trained[-1].propensity).size > 1
    one_step(allocation, actor)
    assert np.unique(actor.trained[-1].rollouts).size > 1
    np.testing.assert_allclose(actor.trained[-1].propensity, BATCH / allocation.shard(0).size)


def test_released_cures_samples_uniformly_and_filters_hard():
    rate = np.where(np.arange(N) < 20, 0.5, 0.0)
    paper, released = (make("cures", variant=v, shards=2, temperature=0.05) for v in ("paper", "released"))
    for curator in (paper, released):
        actor = Groups(rate)
        one_step(curator, actor)
        one_step(curator, actor)
    spread = {c.variant: actor_share(c) for c in (paper, released)}
    assert spread["released"] > 0.999 > 0.95 > spread["paper"]
    quota = released._released_quota(released.shard(0), BATCH)
    np.testing.assert_array_equal(quota[released.shard(0) >= 20], 0)
    assert actor.trained[-1].problem.max() < 20
    sigma = np.sqrt(released.probed * (1 - released.probed))[released.shard(0)]
    np.testing.assert_array_equal(quota, np.rint(16 * BATCH * sigma / sigma.sum()))


def actor_share(curator):
    """Effective support of the distribution inside the shard, as a share of it."""
    p = curator.posterior.mean(curator.shard(0))
    heat = 0.05 if curator.variant == "paper" else 100 * curator.posterior.a[curator.shard(0)]
    q = np.exp(np.sqrt(p * (1 - p)) / heat)
    q /= q.sum()
    return np.exp(-np.sum(q * np.log(q))) / q.size


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dump", {"window": 0}, "window must be at least 1"),
        ("dump", {"temperature": 0.0}, "temperature must be positive"),
        ("dump", {"count_unit": "token"}, "count_unit must be rollout or prompt"),
        ("procurl", {"alpha": 0.0}, r"alpha must be in \(0, 1\]"),
        ("mopps", {"discount": 1.5}, r"discount must be in \[0, 1\]"),
        ("mopps", {"pool": 0}, "pool must be at least 1"),
        ("mopps", {"target": 1.0}, r"target must be in \(0, 1\)"),
        ("plr", {"beta": 0.0}, "beta must be positive"),
        ("adarft", {"start": 101.0}, r"start must be in \[0, 100\]"),
        ("pudf", {"mode": "above"}, "mode must be below or band"),
        ("length_sorted", {"order": "random"}, "order must be ascending or descending"),
        ("length_sorted", {"pace": "slow"}, "pace must be epoch or horizon"),
        ("easy_to_hard", {"schedule": "linear"}, "schedule must be gaussian, cosine, stages or fixed"),
        ("easy_to_hard", {"mixture": "1,2,3,4"}, "a mixture belongs to schedule=fixed, not gaussian"),
        ("easy_to_hard", {"floor": 0.5}, r"the floor of 4 tiers must be in \[0, 1 / 4\]"),
        ("rmt", {"begin": 0.8}, "0 <= begin <= finish <= 1"),
        ("rmt", {"start": "1,2"}, "a mixture needs 3 shares"),
        ("rmt", {"by": "length"}, "by must be difficulty or stratum"),
        ("cyclical", {"alpha": 1.0}, r"alpha must be in \(0, 1\)"),
        ("cyclical", {"inner": "nope"}, "unknown curator 'nope'"),
        ("dapo", {"rounds": 0}, "rounds must be at least 1"),
        ("greso", {"start": 0.0}, r"start must be in \(0, 1\)"),
        ("greso", {"oversample": 0.5}, "oversample must be at least 1"),
        ("vcrl", {"kappa": 1.5}, r"kappa must be in \[0, 1\]"),
        ("vcrl", {"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ("sfl", {"keep": 9, "sample": 2}, "got keep=9 > sample=2"),
        ("sfl", {"rho": 2.0}, r"rho must be in \[0, 1\]"),
        ("cures", {"least": 5}, "1 <= least <= group <= most; got 5, 4 and 8"),
        ("cures", {"temperature": -1.0}, "temperature must be positive"),
        ("cures", {"probes": -1}, "probes must not be negative"),
        ("sec", {"variant": "mine"}, "variant must be paper or released"),
        ("dapo", {"variant": "mine"}, "variant must be paper or released"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, change, message):
    with pytest.raises(ValueError, match=message):
        make(name, **change)


def test_mixtures_are_numbers_one_per_tier():
    np.testing.assert_array_equal(parse_mixture("1, 1,2", 3), [0.25, 0.25, 0.5])
    for text in ("a,b,c", "1,2", "0,0,0", "-1,1,1", "nan,1,1"):
        with pytest.raises(ValueError, match="mixture"):
            parse_mixture(text, 3)
