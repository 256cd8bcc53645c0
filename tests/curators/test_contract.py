"""One contract for every curator that is listed; a new one is tested by being listed."""

import json

import numpy as np
import pytest

from curbench.config import parse_hyper
from curbench.curators import CURATORS, curator_class, split_admission
from curbench.record import flatten, unflatten
from curbench.types import Bank, Feedback, GroupStats

BATCH, GROUP, HORIZON = 8, 4, 50
QUICK = {
    "actor_curator": {"dormant": 2, "warmup": 1, "candidates": 30},
    "osmd_candidates": {"candidates": 30, "mix": 0.2},
}


def bank(n=60):
    rng = np.random.default_rng(0)
    return Bank(
        key=[f"problem {i}" for i in range(n)],
        stratum=np.arange(n) % 3,
        feature=rng.normal(size=(n, 5)),
        difficulty=rng.uniform(size=n),
    )


def make(name, *, seed=1, **change):
    common = {"batch": BATCH, "horizon": HORIZON, "group": GROUP} | change
    return curator_class(name)(bank(), seed=seed, **common, **QUICK.get(name, {}))


def feedback(selection, rng):
    b = len(selection)
    n = selection.rollouts.astype(np.int64)
    success = rng.binomial(n, 0.2 + 0.6 * (selection.problem % 3 == 1))
    rate = success / n
    stats = GroupStats(
        n=n,
        success=success,
        mean=rate,
        var=rate * (1 - rate),
        abs_advantage=2 * rate * (1 - rate),
        degenerate=(success == 0) | (success == n),
        length=np.full(b, 7.0),
    )
    utility = rng.normal(stats.abs_advantage, 0.01)
    return Feedback(selection, stats, utility, np.ones(b, bool), np.zeros(b), n * 7)


def run(curator, steps, rng):
    made = []
    for _ in range(steps):
        selection = curator.select(BATCH)
        made.append(selection)
        curator.update(feedback(selection, rng))
    return made


each = pytest.mark.parametrize("name", CURATORS)


@each
def test_selections_state_who_was_drawn_and_how_likely(name):
    curator = make(name)
    for t, selection in enumerate(run(curator, 10, np.random.default_rng(0))):
        assert len(selection) == BATCH
        assert selection.step == t
        assert (selection.rollouts == GROUP).all()
        assert ((selection.problem >= 0) & (selection.problem < 60)).all()
        if selection.design == "systematic":
            assert np.unique(selection.problem).size == BATCH
        if selection.candidate is not None:
            assert np.isin(selection.problem, selection.candidate).all()
            assert selection.candidate_propensity == selection.candidate.size / 60


@each
@pytest.mark.parametrize("design", ["iid", "systematic"])
def test_stated_propensities_are_the_frequencies_of_the_draw(name, design):
    """Horvitz-Thompson: the weighted count of each problem averages to one, whatever the curator has learnt.

    An index policy plays some arms only; for it this holds on the problems of those arms.
    """
    hyper = dict(QUICK.get(name, {})) | {"design": design}
    rng = np.random.default_rng(1)
    curator = curator_class(name)(bank(), seed=3, batch=BATCH, horizon=HORIZON, group=GROUP, **hyper)
    for _ in range(8):
        curator.update(feedback(curator.select(BATCH), rng))
    total, square, draws = np.zeros(60), np.zeros(60), 3_000
    for _ in range(draws):
        selection = curator.select(BATCH)
        weight = selection.propensity * selection.candidate_propensity * (BATCH if design == "iid" else 1)
        one = np.bincount(selection.problem, 1 / weight, 60)
        total += one
        square += one**2
    mean = total / draws
    played = np.ones(60, bool) if getattr(curator, "explores", True) else mean > 0
    error = np.sqrt((square / draws - mean**2) / draws)[played]
    assert np.max(np.abs(mean[played] - 1) / np.maximum(error, 1e-12)) < 4.5


@each
def test_restoring_a_state_continues_exactly(name):
    whole, first = make(name), make(name)
    rng_a, rng_b = np.random.default_rng(2), np.random.default_rng(2)
    expected = run(whole, 9, rng_a)
    run(first, 4, rng_b)
    pending = first.select(BATCH)  # a selection whose feedback arrives after the restart
    array, scalar = flatten(first.state())
    second = make(name)
    second.restore(unflatten(array | json.loads(json.dumps(scalar))))
    second.update(feedback(pending, rng_b))
    continued = run(second, 4, rng_b)
    for a, b in zip(expected[5:], continued, strict=True):
        np.testing.assert_array_equal(a.problem, b.problem)
        np.testing.assert_array_equal(a.propensity, b.propensity)


@each
def test_a_state_is_a_snapshot(name):
    curator = make(name)
    run(curator, 4, np.random.default_rng(2))
    array, _ = flatten(curator.state())
    before = {key: value.copy() for key, value in array.items()}
    run(curator, 4, np.random.default_rng(3))
    for key, value in array.items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


@each
def test_equal_seeds_select_equal_and_others_do_not(name):
    one, again, other = (run(make(name, seed=s), 5, np.random.default_rng(0)) for s in (1, 1, 2))
    assert all((a.problem == b.problem).all() for a, b in zip(one, again, strict=True))
    assert any((a.problem != b.problem).any() for a, b in zip(one, other, strict=True))


@each
def test_feedback_may_arrive_late_and_out_of_order(name):
    curator = make(name)
    rng = np.random.default_rng(0)
    selections = [curator.select(BATCH) for _ in range(4)]
    for selection in reversed(selections):
        curator.update(feedback(selection, rng))
    assert len(curator.select(BATCH)) == BATCH


@each
def test_metrics_are_finite_numbers(name):
    curator = make(name)
    run(curator, 5, np.random.default_rng(0))
    assert all(np.isfinite(value) for value in curator.metrics().values())


@each
def test_admission_drops_degenerate_groups_only_when_asked(name):
    everything, filtered = make(name), make(name, admission="nondegenerate")
    stats = feedback(everything.select(BATCH), np.random.default_rng(0)).stats
    assert everything.admit(stats).all()
    np.testing.assert_array_equal(filtered.admit(stats), ~stats.degenerate)


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
    with pytest.raises(ValueError, match=message):
        make(name, **change)


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
