"""PCL, GAIN-RL, D3S, DOTS, BMC and target alignment against plain restatements of their rules."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import norm, spearmanr

from curbench.curators import bmc
from curbench.curators.bmc import Bmc, make_tree, principal
from curbench.curators.d3s import D3s, most_telling, most_varied
from curbench.curators.dots import Dots
from curbench.curators.gain_rl import GainRl
from curbench.curators.neural import FeatureTable
from curbench.curators.pcl import Pcl, calibration
from curbench.curators.target_aligned import TargetAligned
from curbench.types import ActorView, Bank, Feedback, GroupStats, Rollouts, Selection

N = 12
RNG = np.random.default_rng(0)
BANK = Bank(
    key=[str(i) for i in range(N)],
    stratum=np.arange(N) % 3,
    feature=RNG.normal(size=(N, 4)),
    length=RNG.integers(3, 30, N),
)
COMMON = {"seed": 0, "batch": 4, "horizon": 100, "group": 4}


def feedback(selection, success, utility=None):
    n = selection.rollouts.astype(np.int64)
    rate = np.asarray(success) / n
    size = 2 * rate * (1 - rate)
    stats = GroupStats(n, np.asarray(success), rate, size, size, (rate == 0) | (rate == 1), 5.0 * n)
    value = size if utility is None else utility
    return Feedback(selection, stats, value, n > 0, 0 * n, 20 * n)


def fixed(problem, step=0, **more):
    b = len(problem)
    return Selection(step, step, problem, np.full(b, 0.5), np.full(b, 4), "systematic", **more)


# --- The table of features --------------------------------------------------------------------------------------------


def test_history_is_averaged_over_visits_and_over_the_slots_of_one():
    table = FeatureTable(BANK, memory=0.5)
    table.remember(feedback(fixed([3, 5, 3]), [4, 0, 2]))
    table.remember(feedback(fixed([3], step=4), [0]))
    row = table.rows(np.array([3, 5, 7]), 6)
    online = row[:, 4:]
    np.testing.assert_allclose(online[:, 0], np.log1p([3, 1, 0]), rtol=1e-6)
    np.testing.assert_allclose(online[:, 1], [0.5 * 0.75, 0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(online[:, 3], np.log1p([2, 6, 7]), rtol=1e-6)
    standard = (BANK.feature - BANK.feature.mean(0)) / BANK.feature.std(0)
    np.testing.assert_allclose(row[:, :4], standard[[3, 5, 7]], rtol=1e-5, atol=1e-6)


def test_hidden_states_are_looked_at_when_it_is_time_and_standardised():
    asked = []

    def hidden(problem, depth):
        asked.append(problem.size)
        return np.stack([problem, problem**2], 1).astype("f4")

    table = FeatureTable(BANK, history=False, refresh=3, width=5)
    for step in range(7):
        table.inspect(ActorView(hidden, None), step)
    assert asked == [N, N, N]
    assert table.width == 4 + 5
    np.testing.assert_allclose(table.hidden.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(table.hidden.std(0), 1, rtol=1e-4)


# --- PCL --------------------------------------------------------------------------------------------------------------


def test_pcl_takes_the_candidates_whose_value_is_nearest_to_the_target():
    curator = Pcl(BANK, pool=3, target=0.3, **COMMON)
    for p in curator.head.module.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    selection = curator.select(4)
    distance = np.abs(curator.value(np.arange(N)) - 0.3)
    assert set(selection.problem) == set(np.argsort(distance)[:4])
    assert selection.design == "fixed"
    assert (selection.propensity == 1).all()


def test_pcl_moves_its_value_along_the_gradient_of_the_squared_error():
    curator = Pcl(BANK, epochs=1, head="linear", **COMMON)
    selection, success = fixed([0, 3, 7, 7]), np.array([4, 1, 2, 3])
    x = curator.head.inputs(selection.problem, 0).astype(float)
    score = x @ np.zeros(x.shape[1])
    value = 1 / (1 + np.exp(-score))
    slope = 2 * (value - success / 4) * value * (1 - value) / 4
    curator.update(feedback(selection, success))
    weight, bias = curator.head.module[0].weight.grad[0], curator.head.module[0].bias.grad
    np.testing.assert_allclose(weight, slope @ x, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(bias, [slope.sum()], rtol=1e-5, atol=1e-7)
    assert curator.metrics()["brier"] == pytest.approx(np.mean((0.5 - success / 4) ** 2))


def test_pcl_band_and_exploration_widen_the_choice_with_exact_propensities():
    total = np.zeros(N)
    curator = Pcl(BANK, pool=3, band=0.02, explore=0.5, **COMMON)
    for p in curator.head.module.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(1))
    for _ in range(1500):
        selection = curator.select(4)
        assert np.unique(selection.problem).size == 4
        total += np.bincount(selection.problem, 1 / selection.propensity, N) / 1500
    near = np.sort(np.abs(curator.value(np.arange(N)) - 0.5))
    assert near[1] > 0.02  # no ties: two problems are taken for sure, the other two come from the other ten
    np.testing.assert_allclose(total, 1.0, atol=4.5 * np.sqrt(4 / 1500))


def test_calibration_is_spearmans_correlation():
    value, rate = RNG.uniform(size=9), np.round(RNG.uniform(size=9) * 4) / 4
    assert calibration(value, rate)["spearman"] == pytest.approx(spearmanr(value, rate).statistic)
    assert calibration(np.full(3, 0.5), np.arange(3.0))["spearman"] == 0.0


# --- GAIN-RL ----------------------------------------------------------------------------------------------------------

ANGLE = RNG.uniform(0, 1, N)
VIEW = ActorView(hidden=None, angle=lambda problem: ANGLE[problem])


def test_gain_rl_orders_by_angle_length_or_chance():
    angle, length, chance, other = (GainRl(BANK, order=o, **(COMMON | {"seed": s})) for o, s in ORDERS)
    for curator in (angle, length, chance, other):
        curator.inspect(VIEW)
    np.testing.assert_array_equal(np.argsort(angle.rank), np.argsort(-ANGLE))
    assert (np.diff(BANK.length[np.argsort(length.rank)]) >= 0).all()
    assert length.metrics()["rank_length_correlation"] == pytest.approx(1.0, abs=0.02)
    assert (chance.rank != other.rank).any()


ORDERS = (("angle", 0), ("length", 0), ("random", 0), ("random", 1))


def test_gain_rl_moves_its_window_by_success_and_angle():
    paper, released = (GainRl(BANK, variant=v, speed=0.25, **COMMON) for v in ("paper", "released"))
    for curator in (paper, released):
        curator.inspect(VIEW)
        selection = curator.select(4)
        curator.guide(Rollouts(selection, np.arange(0, 20, 4), np.ones(16), np.zeros(16)), np.zeros(16))
        curator.update(feedback(selection, [4, 3, 0, 2]))
        mean = ANGLE[selection.problem].mean()
        success = 9 / 16
        if curator is paper:
            expected = 3 * 0.5 * (np.tanh(2 * (success - 0.5)) + np.tanh(2 * mean))
        else:
            expected = 3 * (np.tanh(2 * (success / 2 - 0.5)) + np.tanh(2 * mean))
        assert curator.mu == pytest.approx(min(max(expected, 0), 11 if curator is paper else 6))
    for _ in range(40):
        for curator in (paper, released):
            selection = curator.select(4)
            curator.update(feedback(selection, [4, 4, 4, 4]))
    assert paper.mu == 11
    assert released.mu > 2 * N  # runs out of the bank


def test_gain_rl_draws_near_its_window():
    curator = GainRl(BANK, width=0.1, **COMMON)
    curator.inspect(VIEW)
    curator.mu = 6.0
    drawn = np.concatenate([curator.rank[curator.select(1).problem] for _ in range(3000)])
    weight = np.exp(-0.5 * ((np.arange(N) - 6.0) / (0.1 * N)) ** 2)
    share = np.bincount(drawn, minlength=N) / 3000
    np.testing.assert_allclose(share, weight / weight.sum(), atol=4.5 * np.sqrt(0.25 / 3000))


# --- D3S --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_the_most_varied_subset_beats_every_other(seed, count):
    value = np.round(np.random.default_rng(seed).normal(size=7), 1)
    chosen = most_varied(value, count, np.arange(7.0))
    best = max(np.var(value[list(subset)]) for subset in itertools.combinations(range(7), count))
    assert np.unique(chosen).size == count
    assert np.var(value[chosen]) == pytest.approx(best, abs=1e-12)


def test_the_most_telling_tokens_are_the_largest_products_among_those_that_exist():
    score, among = np.array([[5.0, 9.0, 1.0], [2.0, 3.0, 8.0]]), np.array([[1, 0, 1], [1, 1, 0]], bool)
    np.testing.assert_array_equal(most_telling(score, among, 0.5), [[1, 0, 0], [0, 1, 0]])
    assert most_telling(score, among, 1e-9).sum() == 1


class Tokens(Rollouts):
    entropy = RNG.uniform(0.1, 1, size=(16, 3)).astype("f4")


@pytest.mark.parametrize("level", ["both", "sample", "token"])
def test_d3s_keeps_varied_rollouts_and_telling_tokens_ever_more_of_them(level):
    curator = D3s(BANK, level=level, tokens_first=0.2, tokens_last=1.0, **COMMON)
    advantage, length = RNG.normal(size=16), RNG.integers(1, 4, 16)
    share = {}
    for step in (0, 50, 100, 200):
        rollouts = Tokens(fixed([0, 1, 2, 3], step=step), np.arange(0, 20, 4), length, np.zeros(16))
        weight = curator.guide(rollouts, advantage).weight
        if weight is None:
            share[step] = 1.0
            continue
        weight = weight.reshape(16, -1)
        kept = weight.any(axis=1) if level != "token" else np.ones(16, bool)
        share[step] = float(weight.mean() if level == "sample" else weight.sum() / length.sum())
        assert not weight[(np.arange(weight.shape[1]) >= length[:, None]) & (weight.shape[1] > 1)].any()
        if level == "both" and step == 0:
            chosen = most_varied(advantage, 4, np.arange(16.0))
            assert set(np.flatnonzero(kept)) <= set(chosen)
            telling = np.abs(advantage)[:, None] * Tokens.entropy
            inside = (np.arange(3) < length[:, None]) & np.isin(np.arange(16), chosen)[:, None]
            assert telling[weight > 0].min() >= np.sort(telling[inside])[-int(weight.sum())]
    assert share[0] < share[50] < share[100] == share[200] == 1.0


# --- DOTS -------------------------------------------------------------------------------------------------------------


def test_dots_predicts_by_attention_to_the_measured_references_and_draws_near_one_half():
    curator = Dots(BANK, reference=3, temperature=0.05, lr=0.0, **COMMON)
    first = curator.select(4)
    assert first.probe.tolist() == [False] * 4 + [True] * 3
    assert first.design == "systematic"  # nothing is known yet
    np.testing.assert_allclose(first.propensity[4:], 3 / N)
    success = np.array([4, 0, 2, 1, 4, 1, 0])
    curator.update(feedback(first, success))
    weight = curator.attention.project.weight.detach().numpy().astype(float)
    x = curator.table.rows(np.arange(N), 1).astype(float) @ weight.T
    z = x @ x[first.problem[4:]].T / np.sqrt(32)
    attention = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    predicted = attention @ (success[4:] / 4)
    np.testing.assert_allclose(
        curator.attention.predict(curator.table.rows(np.arange(N), 1), *curator.measured), predicted, rtol=1e-4
    )
    law = np.exp(-np.abs(predicted - 0.5) / 0.05)
    drawn = np.zeros(N)
    for _ in range(2000):
        drawn[curator.select(1).problem[0]] += 1 / 2000
    np.testing.assert_allclose(drawn, law / law.sum(), atol=4.5 * np.sqrt(0.25 / 2000))


def test_dots_adapts_its_features_to_what_predicts():
    """Only the first feature tells pass rates apart: attention has to learn to look at it."""
    rng = np.random.default_rng(1)
    bank = Bank(key=[str(i) for i in range(200)], stratum=np.zeros(200), feature=rng.normal(size=(200, 8)))
    curator = Dots(bank, seed=0, batch=16, horizon=100, group=4, reference=32, lr=0.02)
    error = []
    for _ in range(120):
        selection = curator.select(16)
        curator.update(feedback(selection, np.where(bank.feature[selection.problem, 0] > 0, 4, 0)))
        error.append(curator.metrics()["prediction_error"])
    assert np.mean(error[-20:]) < 0.6 * np.mean(error[1:21])


# --- BMC --------------------------------------------------------------------------------------------------------------


def test_a_belief_is_revised_by_its_formula():
    mean, variance, strength, logit, stale, widest = 0.3, 0.8, 2.0, -1.1, 0.4, 3.0
    surprise = (logit - mean) ** 2 / variance
    kept = np.clip(strength * np.exp(-surprise), 0.2, 10)
    total = np.clip(kept + 1, 0.2, 10)
    expected = (
        (kept * mean + logit) / total,
        np.clip(variance * kept / total + np.log(1 + surprise + stale) / total, 0.05, widest),
        total,
    )
    np.testing.assert_allclose(bmc.revise(mean, variance, strength, logit, stale, widest), expected, rtol=1e-12)


def test_the_tree_holds_every_problem_once_and_neighbours_together():
    centre = np.array([[0, 0], [20, 0], [0, 20], [20, 20]])
    position = np.repeat(centre, 10, axis=0) + RNG.normal(size=(40, 2))
    tree = make_tree(position, branching=4, leaf=12)
    assert sorted(tree.child[tree.child >= tree.inner] - tree.inner) == list(range(40))
    assert tree.inner == 5
    below = [tree.child[tree.start[v] : tree.start[v + 1]] - tree.inner for v in range(1, 5)]
    assert {tuple(sorted(one)) for one in below} == {tuple(range(10 * c, 10 * c + 10)) for c in range(4)}
    assert bmc.subtree_size(tree).tolist() == [40, 10, 10, 10, 10] + [1] * 40


def test_principal_components_are_those_of_the_correlation_matrix():
    feature = RNG.normal(size=(50, 5)) @ RNG.normal(size=(5, 5))
    found = principal(feature.astype("f4"), 3)
    z = (feature - feature.mean(0)) / feature.std(0)
    _, s, v = np.linalg.svd(z, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(z @ v[:3].T), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose((found**2).sum(axis=0), s[:3] ** 2, rtol=1e-4)


def test_beliefs_pool_upwards_and_only_the_ancestors_of_a_visit_move():
    bank = Bank(key=[str(i) for i in range(60)], stratum=np.zeros(60), feature=RNG.normal(size=(60, 4)))
    curator = Bmc(bank, branching=3, leaf=6, **COMMON)
    curator.update(feedback(fixed([3, 40, 41, 9]), [1, 2, 0, 4]))
    tree = curator.tree
    moved = curator.belief.copy()
    bmc.pool_(curator.belief, np.arange(tree.inner)[::-1], curator.mean, curator.variance, *tree[:2])
    np.testing.assert_array_equal(curator.belief, moved)
    deepest = int(tree.parent[tree.inner + 3])
    own = tree.child[tree.start[deepest] : tree.start[deepest + 1]] - tree.inner
    m, s = curator.mean[own], curator.variance[own]
    spread = max(m.var() - s.mean(), 0.0)
    weight = 1 / (s + spread)
    expected = [np.sum(weight * m) / weight.sum(), 1 / weight.sum(), spread]
    np.testing.assert_allclose(curator.belief[:, deepest], expected, rtol=1e-12)


def test_walks_avoid_what_is_taken_and_visit_every_node_in_turn_first():
    bank = Bank(key=[str(i) for i in range(30)], stratum=np.zeros(30), feature=RNG.normal(size=(30, 3)))
    curator = Bmc(bank, branching=3, leaf=4, **(COMMON | {"batch": 30}))
    assert sorted(curator.select(30).problem) == list(range(30))
    curator = Bmc(bank, branching=3, leaf=4, **COMMON)
    for _ in range(12):
        curator.select(4)
    tree, visits = curator.tree, curator.visits
    for v in range(tree.inner):
        node = [c for c in tree.child[tree.start[v] : tree.start[v + 1]] if c < tree.inner]
        if node and (v == 0 or visits[v] >= len(node)):
            assert visits[node].min() > 0


def test_the_chance_of_a_walk_is_unbiased_and_follows_the_posterior():
    """Two nodes of two problems with moderate beliefs: frequencies by quadrature, and Horvitz-Thompson weights."""
    bank = Bank(key=list("abcd"), stratum=np.zeros(4), feature=[[0.0], [0.1], [9.0], [9.1]])
    curator = Bmc(bank, branching=2, leaf=2, components=1, duplicates=True, **COMMON)
    curator.mean[:] = [0.2, -0.3, 0.4, 0.1]
    curator.variance[:] = [1.0, 0.5, 0.8, 1.2]
    bmc.pool_(curator.belief, np.arange(3)[::-1], curator.mean, curator.variance, *curator.tree[:2])
    curator.visits[:] = 1
    drawn, weight = np.zeros(4), np.zeros((4000, 4))
    for row in range(4000):
        selection = curator.select(4)
        drawn += np.bincount(selection.problem, minlength=4) / 16000
        weight[row] = np.bincount(selection.problem, 0.25 / selection.propensity, 4)

    def first_wins(m, v):
        return norm.cdf((m[0] - m[1]) / np.sqrt(v[0] + v[1]))

    belief, tree = curator.belief, curator.tree
    expected = np.zeros(4)
    top = tree.child[tree.start[0] : tree.start[1]]
    node = first_wins(belief[0, top], belief[1, top] + belief[2, 0])
    for v, p in zip(top, (node, 1 - node), strict=True):
        own = tree.child[tree.start[v] : tree.start[v + 1]] - 3
        inside = first_wins(curator.mean[own], curator.variance[own] + belief[2, v])
        expected[own] = p * np.array([inside, 1 - inside])
    np.testing.assert_allclose(drawn, expected, atol=4.5 * np.sqrt(0.25 / 16000))
    error = weight.std(axis=0) / np.sqrt(4000)
    assert (np.abs(weight.mean(axis=0) - 1) < 4.5 * error).all()


def test_bmc_can_place_problems_by_the_actors_own_states():
    states = np.repeat([[0.0, 1.0], [5.0, -3.0], [-4.0, 2.0]], 4, axis=0) + 0.01 * RNG.normal(size=(N, 2))
    asked = []

    def hidden(problem, depth):
        asked.append(depth)
        return states[problem].astype("f4")

    curator = Bmc(BANK, states="actor", branching=3, leaf=5, **COMMON)
    for _ in range(3):
        curator.inspect(ActorView(hidden, None))
    assert asked == [0.75]
    below = [curator.tree.child[curator.tree.start[v] : curator.tree.start[v + 1]] - 4 for v in range(1, 4)]
    assert {tuple(sorted(one)) for one in below} == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}


# --- Target alignment -------------------------------------------------------------------------------------------------


def test_target_weights_are_target_share_over_expected_count():
    curator = TargetAligned(BANK, trusted="0,2", weights="exact", **COMMON)
    inside = np.isin(BANK.stratum, [0, 2])
    half = {"candidate": np.arange(6), "candidate_propensity": 0.5}
    iid = Selection(0, 0, [0, 1, 2, 2], [0.1, 0.2, 0.3, 0.3], [4] * 4, "iid", **half)
    expected = inside[[0, 1, 2, 2]] / 8 / (np.array([0.1, 0.2, 0.3, 0.3]) * 0.5 * 4)
    np.testing.assert_allclose(curator.weight(iid), expected)
    curator.weights = "normalised"
    np.testing.assert_allclose(curator.weight(iid), expected / expected.sum())
    curator.weights = "none"
    np.testing.assert_allclose(curator.weight(iid), inside[[0, 1, 2, 2]] / 4)


def test_held_out_groups_come_from_the_target_and_alone_move_it():
    curator = TargetAligned(BANK, trusted="1", held_out=3, every=2, **COMMON)
    first, second = curator.select(4), curator.select(4)
    assert (BANK.stratum[first.problem[4:]] == 1).all()
    np.testing.assert_allclose(curator.weight(first), [0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    assert curator.weight(second) is None
    before = curator.inner.core.p.copy()
    curator.update(feedback(first, [1] * 7, utility=np.array([0, 0, 0, 0, 9.0, 9.0, 9.0])))
    np.testing.assert_array_equal(curator.inner.core.p, before)  # what is measured for v teaches no preference


def test_utilities_are_divided_by_their_running_size():
    curator = TargetAligned(BANK, scale_memory=0.5, eta=0.1, **COMMON)
    one, other = curator.select(4), curator.select(4)
    p = curator.inner.core.p.copy()
    curator.update(feedback(one, [1] * 4, utility=np.array([4.0, -2.0, 0.0, 2.0])))
    assert curator.scale == 2.0
    arm = BANK.stratum[one.problem]
    expected = one.propensity * 4  # a stratum of four: the expected count of its draws
    for j in range(4):
        p[arm[j]] *= np.exp(0.1 * np.array([2.0, -1.0, 0.0, 1.0])[j] / expected[j])
    np.testing.assert_allclose(curator.inner.core.p, p / p.sum(), rtol=1e-9)
    curator.update(feedback(other, [1] * 4, utility=np.full(4, 6.0)))
    assert curator.scale == 4.0


@pytest.mark.parametrize(
    ("cls", "change", "message"),
    [
        (Pcl, {"explore": 1.5}, r"explore must be in \[0, 1\]; got 1.5"),
        (Pcl, {"pool": 0}, "pool must be at least 1"),
        (GainRl, {"order": "size"}, "order must be angle, length or random; got 'size'"),
        (GainRl, {"width": 0.0}, "width must be positive"),
        (D3s, {"tokens_first": 0.0}, r"tokens_first must be in \(0, 1\]; got 0.0"),
        (D3s, {"level": "word"}, "level must be both, sample or token"),
        (Dots, {"temperature": 0.0}, "temperature must be positive"),
        (Dots, {"reference": 0}, "reference must be at least 1; got 0"),
        (Bmc, {"branching": 1}, "branching must be at least 2; got 1"),
        (Bmc, {"eps": 0.5}, r"eps must be in \(0, 0.5\)"),
        (TargetAligned, {"trusted": "0,7"}, "trusted must list strata of the bank .0, 1, 2.; got '7'"),
        (TargetAligned, {"held_out": 13}, "held_out must be between 0 and the 12"),
        (TargetAligned, {"scorer": "tree"}, "scorer must be stratum, problem, linear or mlp"),
        (TargetAligned, {"memory": 0.0}, r"memory must be in \(0, 1\]; got 0.0"),
    ],
)
def test_bad_settings_are_refused(cls, change, message):
    with pytest.raises(ValueError, match=message):
        cls(BANK, **COMMON, **change)
