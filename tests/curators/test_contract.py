"""One contract for every curator that is listed; a new one is tested by being listed."""

import json
from dataclasses import replace
from inspect import signature
from typing import get_args

import numpy as np
import pytest

from curbench.config import parse_hyper
from curbench.curators import CURATORS, curator_class, split_admission
from curbench.loop import Budget, run
from curbench.record import flatten, unflatten
from curbench.signals import SIGNALS
from curbench.types import ActorView, Bank, Evaluation, Feedback, GroupStats, Reward, Rollouts, UpdateReport

BATCH, GROUP, HORIZON, PROBLEMS = 8, 4, 50, 60
QUICK = {
    "actor_curator": {"dormant": 2, "warmup": 1, "candidates": 30},
    "osmd_candidates": {"candidates": 30, "mix": 0.2},
    "mopps": {"pool": 4},
    "plr": {"candidates": 30, "beta": 1.0},
    "cyclical": {"candidates": 30, "every": 1},
    "cures": {"shards": 3, "iteration": 5},
    "sfl": {"refresh": 5, "sample": 3, "keep": 2},
    "pcl": {"pool": 8},
    "bmc": {"leaf": 8, "branching": 3},
}
"""Settings under which a few steps show all of a method: fewer candidates than problems, no long warm-up."""


SAMPLED = {name: {"core/p", "core/score", "core/best"} for name in ("thompson", "d_thompson", "sw_thompson")}
"""State that is itself a random draw: it has the same law for a shuffled bank, not the same value."""


INDEX = {"recent/arm"}
"""State that holds places in the bank."""


def bank(n=PROBLEMS, order=None):
    rng = np.random.default_rng(0)
    feature, difficulty, length = rng.normal(size=(n, 5)), rng.uniform(size=n), rng.integers(5, 40, n)
    order = np.arange(n) if order is None else order
    return Bank(
        key=np.array([f"problem {i}" for i in range(n)])[order],
        stratum=(np.arange(n) % 3)[order],
        feature=feature[order],
        difficulty=difficulty[order],
        length=length[order],
    )


def make(name, *, seed=1, of=None, **change):
    common = {"batch": BATCH, "horizon": HORIZON, "group": GROUP} | QUICK.get(name, {}) | change
    return curator_class(name)(bank() if of is None else of, seed=seed, **common)


def feedback(selection, rng, rate=None):
    """Rewards by problem; ``rate`` f64[B] fixes the pass rates."""
    n = selection.rollouts.astype(np.int64)
    chance = 0.2 + 0.6 * (selection.problem % 3 == 1) if rate is None else rate
    return told(selection, n, rng.binomial(n, chance), rng.normal(0, 0.01, len(selection)))


def told(selection, n, success, noise=0.0):
    rate = success / np.maximum(n, 1)
    stats = GroupStats(
        n=n,
        success=success,
        mean=rate,
        var=rate * (1 - rate),
        abs_advantage=2 * rate * (1 - rate),
        degenerate=(success == 0) | (success == n),
        length=np.full(len(selection), 7.0),
    )
    b = len(selection)
    return Feedback(selection, stats, stats.abs_advantage + noise, np.ones(b, bool), np.zeros(b), n * 7)


def drive(curator, steps, rng):
    made = []
    for _ in range(steps):
        selection = curator.select(BATCH)
        made.append(selection)
        curator.update(feedback(selection, rng))
    return made


def designs(name):
    """The designs a curator can be asked for; None where it has its own."""
    return ["iid", "systematic"] if "design" in signature(curator_class(name)).parameters else [None]


def trained_on(selection):
    """Without the slots that are measured only, unless it is a round of nothing else."""
    mixed = selection.probe is not None and not selection.probe.all()
    return selection.take(~selection.probe) if mixed else selection


def arrays(curator):
    return {key: value.copy() for key, value in flatten(curator.state())[0].items()}


def same_selections(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.problem, b.problem)
        np.testing.assert_array_equal(a.propensity, b.propensity)
        np.testing.assert_array_equal(a.rollouts, b.rollouts)


each = pytest.mark.parametrize("name", CURATORS)
each_variant = pytest.mark.parametrize(
    ("name", "variant"), [(name, v) for name, one in CURATORS.items() for v in one.variants or (None,)]
)
each_design = pytest.mark.parametrize(("name", "design"), [(name, d) for name in CURATORS for d in designs(name)])


@each
def test_the_listing_says_what_the_class_offers(name):
    listing, argument = CURATORS[name], signature(curator_class(name)).parameters
    assert listing.source
    offered = curator_class(name).__init__.__annotations__.get("variant")
    assert ("variant" in argument) == bool(listing.variants)
    if listing.variants:
        assert argument["variant"].default == listing.variants[0] == "paper"
        hint = get_args(parse_annotation(curator_class(name), offered))
        assert set(hint) == set(listing.variants)


def parse_annotation(cls, text):
    import sys

    return eval(text, vars(sys.modules[cls.__module__])) if isinstance(text, str) else text


@each_variant
def test_selections_state_who_was_drawn_and_how_likely(name, variant):
    curator = make(name, **({} if variant is None else {"variant": variant}))
    for t, selection in enumerate(drive(curator, 12, np.random.default_rng(0))):
        assert len(selection) >= 1
        assert len(selection) == BATCH or curator.oversamples
        assert selection.step == selection.ticket == t
        assert (selection.rollouts == GROUP).all() or curator.allocates
        assert ((selection.problem >= 0) & (selection.problem < PROBLEMS)).all()
        trained = trained_on(selection)
        if selection.design != "iid":
            assert np.unique(trained.problem).size == len(trained)
        if selection.candidate is not None:
            assert np.isin(trained.problem, selection.candidate).all()
            assert selection.candidate_propensity == selection.candidate.size / PROBLEMS


@each_design
def test_stated_propensities_are_the_frequencies_of_the_draw(name, design):
    """Horvitz-Thompson: the weighted count of each problem averages to one, whatever the curator has learnt.

    A method that never chooses some problems is held to it on the others.
    """
    rng = np.random.default_rng(1)
    curator = make(name, seed=3, **({} if design is None else {"design": design}))
    for _ in range(8):
        curator.update(feedback(curator.select(BATCH), rng))
    if curator.conditional:
        assert (curator.select(BATCH).propensity == 1).all()
        return
    clock, draws = curator.step, 2_000
    total, square, seen = np.zeros(PROBLEMS), np.zeros(PROBLEMS), np.zeros(PROBLEMS)
    for draw in range(draws):
        curator.step = clock + (draw if curator.stationary else 0)  # a schedule is looked at where it stands
        curator.seed = np.uint64(3 if curator.stationary else 1000 + draw)
        selection = trained_on(curator.select(BATCH))
        weight = selection.propensity * selection.candidate_propensity
        weight = weight * (len(selection) if selection.design == "iid" else 1)
        one = np.bincount(selection.problem, 1 / weight, PROBLEMS)
        total += one
        square += one**2
        seen += one > 0
    mean = total / draws
    tested = seen > (0 if curator.explores else 30)
    assert tested.any()
    assert tested.all() or not curator.explores
    error = np.sqrt(np.maximum(square / draws - mean**2, 0) / draws)[tested]
    assert np.max(np.abs(mean[tested] - 1) / np.maximum(error, 1e-9)) < 4.5


@each_variant
def test_restoring_a_state_continues_exactly(name, variant):
    change = {} if variant is None else {"variant": variant}
    whole, first = make(name, **change), make(name, **change)
    rng_a, rng_b = np.random.default_rng(2), np.random.default_rng(2)
    expected = drive(whole, 9, rng_a)
    drive(first, 4, rng_b)
    pending = first.select(BATCH)  # a selection whose feedback arrives after the restart
    array, scalar = flatten(first.state())
    second = make(name, **change)
    second.restore(unflatten(array | json.loads(json.dumps(scalar))))
    second.update(feedback(pending, rng_b))
    same_selections(expected[5:], drive(second, 4, rng_b))


@each
def test_a_state_is_a_snapshot(name):
    curator = make(name)
    drive(curator, 4, np.random.default_rng(2))
    array, _ = flatten(curator.state())
    before = {key: value.copy() for key, value in array.items()}
    drive(curator, 4, np.random.default_rng(3))
    for key, value in array.items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


@each
def test_equal_seeds_select_equal_and_others_do_not(name):
    """Where nothing is random but ties, another seed only breaks those differently, so it may select the same."""
    one, again, other = (drive(make(name, seed=s), 5, np.random.default_rng(0)) for s in (1, 1, 2))
    same_selections(one, again)
    if any(selection.design != "fixed" for selection in one):
        assert any(
            a.problem.size != b.problem.size or (a.problem != b.problem).any() for a, b in zip(one, other, strict=True)
        )


@each
def test_feedback_may_arrive_late_out_of_order_rejected_or_never(name):
    curator = make(name)
    rng = np.random.default_rng(0)
    selections = [curator.select(BATCH) for _ in range(5)]
    for selection in selections[3:0:-1]:  # the first and the last never come back
        news = feedback(selection, rng)
        rejected = np.arange(len(selection)) % 2 == 0
        curator.update(replace(news, admitted=~rejected, staleness=np.full(len(selection), 4)))
    assert len(curator.select(BATCH)) >= 1
    assert all(np.isfinite(value) for value in curator.metrics().values())


@each
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_batches_that_all_fail_or_all_pass_leave_a_working_curator(name, rate):
    curator = make(name)
    for _ in range(6):
        selection = curator.select(BATCH)
        curator.update(feedback(selection, np.random.default_rng(0), rate=np.full(len(selection), rate)))
    for value in arrays(curator).values():
        assert not np.isnan(value.astype(float)).any()
    assert np.isfinite(curator.select(BATCH).propensity).all()


def test_empty_groups_and_nan_are_refused_at_the_door():
    """So that no curator has to define what they mean."""
    selection = make("uniform").select(2)
    with pytest.raises(ValueError, match="without a rollout teaches nothing; leave slot 1 out"):
        told(selection, np.array([4, 0]), np.array([1, 0]))
    with pytest.raises(ValueError, match="utility must be finite"):
        told(selection, np.array([4, 4]), np.array([1, 0]), noise=np.nan)
    with pytest.raises(ValueError, match="reward must be finite"):
        Reward([np.nan], [False])


@each
def test_groups_of_one_and_of_unequal_size_are_fine(name):
    curator = make(name, group=1)
    rng = np.random.default_rng(0)
    for _ in range(4):
        selection = curator.select(BATCH)
        curator.update(feedback(selection, rng))
    curator = make(name)
    for step in range(4):
        selection = curator.select(BATCH)
        curator.update(feedback(replace(selection, rollouts=1 + (np.arange(len(selection)) + step) % 5), rng))
    assert len(curator.select(BATCH)) >= 1


@each
def test_a_bank_of_one_problem_is_drawn_for_sure(name):
    one = Bank(key=["only"], stratum=[0], feature=[[1.0, 2.0]], difficulty=[0.3], length=[9])
    curator = make(name, of=one, batch=1)
    for _ in range(4):
        selection = curator.select(1)
        trained = trained_on(selection)
        np.testing.assert_array_equal(trained.problem, [0])
        np.testing.assert_allclose(trained.propensity * trained.candidate_propensity, 1.0, rtol=1e-9)
        curator.update(feedback(selection, np.random.default_rng(0)))


@each
def test_the_order_of_the_problems_does_not_matter(name):
    """What is learnt follows the problems when the bank is shuffled; draws have the same law.

    State with one row per problem moves with it; all other numbers stay, up to the order of summation.
    """
    order = np.random.default_rng(4).permutation(PROBLEMS)
    place = np.argsort(order)  # where a problem of the first bank is in the second
    plain = replace(make("uniform").select(BATCH), candidate=np.arange(PROBLEMS), propensity=np.full(BATCH, 0.1))
    rng = np.random.default_rng(5)
    problems = [rng.choice(PROBLEMS, BATCH, replace=False) for _ in range(5)]
    counts = np.zeros((2, PROBLEMS))
    shuffled, seeds = bank(order=order), 60
    for seed in range(seeds):
        pair = make(name, seed=seed), make(name, seed=seed, of=shuffled)
        for curator in pair:
            curator.step = 5
        for step, problem in enumerate(problems):
            for curator, where in zip(pair, (problem, place[problem]), strict=True):
                selection = replace(plain, problem=where, ticket=step, step=step)
                success = (problem * (step + 3)) % (GROUP + 1)
                curator.update(told(selection, selection.rollouts.astype(np.int64), success))
        if seed == 0:
            compare_states(name, *pair, order)
        for row, curator in enumerate(pair):
            drawn = curator.select(BATCH).problem
            np.add.at(counts[row], drawn if row == 0 else order[drawn], 1)
    for cells in (np.arange(PROBLEMS) % 3, np.arange(PROBLEMS) // 6):
        table = np.array([np.bincount(cells, row) for row in counts])
        total = table.sum(axis=0)
        spread = (table[0] - table[1]) / np.sqrt(np.maximum(total, 1))
        assert np.max(np.abs(spread)) < 4.5


def compare_states(name, one, other, order):
    """Arrays with a row per problem are permuted alike, others are equal; what is itself a draw is left out."""
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    for key in a.keys() - SAMPLED.get(name, set()):
        first = a[key]
        if key in INDEX:
            first = np.argsort(order)[first]
        elif first.ndim and first.shape[0] == PROBLEMS:
            first = first[order]
        np.testing.assert_allclose(b[key], first, rtol=1e-9, atol=1e-12, err_msg=key)


@each
def test_metrics_are_finite_and_hold_the_support_of_the_draw(name):
    curator = make(name)
    drive(curator, 5, np.random.default_rng(0))
    metrics = curator.metrics()
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["effective_support"] == pytest.approx(np.exp(metrics["entropy"]))
    assert 0 < metrics["effective_share"] <= 1
    selection = curator.select(BATCH)
    if selection.design == "fixed":
        assert curator.metrics()["effective_support"] == pytest.approx(len(selection))


@each
def test_admission_drops_degenerate_groups_only_when_asked(name):
    everything, filtered = make(name), make(name, admission="nondegenerate")
    stats = feedback(everything.select(BATCH), np.random.default_rng(0)).stats
    filtered.select(BATCH)
    if not everything.filters:
        assert everything.admit(stats).all()
        np.testing.assert_array_equal(filtered.admit(stats), ~stats.degenerate)
    assert not (filtered.admit(stats) & stats.degenerate).any()


class Examiner:
    """An actor whose groups depend on the problem alone, and whose evaluations are drawn from ``seed``."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.progress = 0.0

    def rollout(self, selection):
        offset = np.concatenate([[0], np.cumsum(selection.rollouts)])
        count = int(offset[-1])
        return Rollouts(selection, offset, np.ones(count, np.int32), np.zeros(count, np.int64))

    def reward(self, rollouts):
        problem = np.repeat(rollouts.selection.problem, rollouts.selection.rollouts)
        success = (problem + np.arange(problem.size)) % 3 == 0
        return Reward(success.astype(float), success)

    def update(self, rollouts, advantage, admitted, guidance):
        return UpdateReport(0)

    def evaluate(self):
        return Evaluation(self.rng.integers(0, 2, 5), np.ones(5, np.int64), 5, np.zeros(5, np.int32))

    @property
    def view(self):
        hidden = bank().feature
        return ActorView(lambda problem, depth=1.0: hidden[problem], lambda problem: np.tanh(hidden[problem, 0]))

    def state(self):
        return {}


class Memory:
    def __init__(self):
        self.selections = []

    def step(self, result, spent, metrics):
        self.selections.append(result.selection)

    def evaluation(self, evaluation, spent): ...
    def checkpoint(self, state, spent): ...


@each
def test_held_out_results_never_reach_a_curator(name):
    """Evaluating at every step, with other results, changes nothing that a curator selects."""
    made = []
    for seed, every in ((0, 0), (1, 1)):
        memory = Memory()
        signal = SIGNALS["mean_abs_advantage"]
        budget = Budget(steps=6)
        run(make(name), Examiner(seed), batch=BATCH, budget=budget, signal=signal, record=memory, evaluate_every=every)
        made.append(memory.selections)
    same_selections(*made)


@each
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch must be at least 1; got 0"),
        ({"horizon": 0}, "horizon must be at least 1; got 0"),
        ({"group": 0}, "group must be at least 1; got 0"),
        ({"admission": "some"}, "admission must be one of all, nondegenerate; got 'some'"),
        ({"batch": 61, "design": "systematic"}, "61"),
    ],
)
def test_bad_constructions_are_refused(name, change, message):
    if designs(name) == [None]:
        change = {key: value for key, value in change.items() if key != "design"}
    with pytest.raises(ValueError, match=message):
        make(name, **change)


@each
def test_a_bank_without_what_a_method_needs_is_refused(name):
    for field in curator_class(name).needs:
        with pytest.raises(ValueError, match=f"needs the {field} of every problem"):
            make(name, of=replace(bank(), **{field: None}))


def test_labels_carry_an_admission_rule():
    assert split_admission("sec+nondegenerate") == ("sec", "nondegenerate")
    with pytest.raises(ValueError, match="unknown admission rule 'half'"):
        split_admission("sec+half")


def test_hyper_parameters_are_converted_by_their_annotations():
    cls = curator_class("osmd")
    assert parse_hyper(cls, {"eta": "1e-2", "method": "share", "segments": "3"}) == {
        "eta": 0.01,
        "method": "share",
        "segments": 3,
    }
    with pytest.raises(ValueError, match="Osmd has no setting 'etta'; its settings: method, eta"):
        parse_hyper(cls, {"etta": "1"})
    with pytest.raises(ValueError, match=r"eta=big: .*number"):
        parse_hyper(cls, {"eta": "big"})
    with pytest.raises(ValueError, match="method=slow"):
        parse_hyper(cls, {"method": "slow"})
