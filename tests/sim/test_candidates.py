"""Sleeping regret stays below its bound, every step in a candidate set is a mirror step, and wrong code is caught."""

import json

import numpy as np
import pytest

from curbench.curators.osmd_candidates import OsmdCandidates
from curbench.sim.arms import make_arms
from curbench.sim.candidates import describe, simulate_candidates, sleeping_bound
from curbench.types import Bank, Feedback, GroupStats

BATCH, BANK, CANDIDATES = 3, 40, 12


def curator(**change):
    bank = Bank(key=[str(i) for i in range(BANK)], stratum=np.zeros(BANK))
    common = {"seed": 1, "batch": BATCH, "horizon": 100, "candidates": CANDIDATES}
    return OsmdCandidates(bank, **(common | change))


def feedback(selection, utility):
    b = len(selection)
    stats = GroupStats(*(np.ones(b, np.int64) for _ in range(7)))
    return Feedback(selection, stats, np.broadcast_to(utility, b), np.ones(b, bool), np.zeros(b), np.ones(b))


@pytest.mark.parametrize("design", ["iid", "systematic"])
@pytest.mark.parametrize("eta", [0.01, 5.0, 1e4])
def test_an_update_moves_only_the_candidates_and_keeps_their_mass(design, eta):
    made = curator(design=design, eta=eta)
    rng = np.random.default_rng(0)
    for _ in range(50):
        before, selection = made.log_q.copy(), made.select(BATCH)
        made.update(feedback(selection, rng.uniform(size=BATCH)))
        asleep = np.delete(np.arange(BANK), selection.candidate)
        np.testing.assert_array_equal(made.log_q[asleep], before[asleep])
        mass = [np.exp(q[selection.candidate]).sum() for q in (before, made.log_q)]
        assert mass[0] == pytest.approx(mass[1], rel=1e-9)
        assert np.isfinite(made.log_q).all()


def test_one_step_is_the_formula():
    made = curator(eta=0.5, mix=0.1, design="iid", batch=1)
    selection = made.select(1)
    made.update(feedback(selection, 0.25))
    p = 1 / CANDIDATES  # q is uniform, and so is its mixture
    assert selection.propensity == pytest.approx(p)
    moved = np.full(CANDIDATES, p)
    moved[selection.candidate == selection.problem] *= np.exp(-0.5 * 0.75 / p)
    np.testing.assert_allclose(made.restricted(selection.candidate), moved / moved.sum(), rtol=1e-12)


def test_the_whole_bank_as_candidates_is_plain_exponential_weights():
    made = curator(candidates=10**6, eta=0.3, design="iid")
    loss = np.zeros(BANK)
    for t in range(20):
        selection = made.select(BATCH)
        np.add.at(loss, selection.problem, (1 - t % 2) / (BATCH * selection.propensity))
        made.update(feedback(selection, t % 2))
    weight = np.exp(-0.3 * loss)
    np.testing.assert_allclose(np.exp(made.log_q), weight / weight.sum(), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stationary", {"candidates": 5, "batch": 2}),
        ("switching", {"candidates": 4, "batch": 4, "hyper": {"mix": 0.1}}),
        ("stationary", {"candidates": 8, "batch": 1, "hyper": {"eta": 0.2}}),
    ],
    ids=str,
)
def test_bound_and_certificate_hold(name, options):
    result = simulate_candidates(make_arms(name, horizon=300), seeds=20, **options)
    assert result.holds is True
    assert result.certificate_holds
    assert not result.failed
    assert 0 < result.regret.mean(axis=0).max() < result.bound


def test_the_bound_is_not_empty_words_on_a_long_horizon():
    result = simulate_candidates(make_arms("stationary", horizon=2_000), candidates=5, batch=4, seeds=2)
    assert not result.vacuous
    assert result.bound < 0.15 * result.awake


def test_a_language_model_scale_bank_is_called_vacuous():
    """K = 30,000 problems, 2,048 candidates, 500 steps: a problem is awake in 34 rounds, and the bound exceeds that."""
    awake = 500 * 2048 / 30_000
    kappa = (2048 + 255) / 256
    eta = np.sqrt(2 * np.log(30_000) / (kappa * awake))
    bound = sleeping_bound(30_000, 2048, 256, awake, eta)
    assert bound == pytest.approx(np.sqrt(2 * np.log(30_000) * kappa * awake), rel=1e-12)
    assert bound == pytest.approx(80, abs=1)
    assert bound > awake
    assert simulate_candidates(make_arms("stationary", horizon=50, arms=30), candidates=5, seeds=1).row()["bound"][
        "vacuous"
    ]


class ForgetsTheDesign(OsmdCandidates):
    """Divides by the probability of a single draw although ``batch`` draws were made."""

    def update(self, feedback):
        object.__setattr__(feedback.selection, "design", "systematic")
        super().update(feedback)


class SwapsTheSign(OsmdCandidates):
    """Ascends the loss."""

    def update(self, feedback):
        self.eta = -self.eta
        super().update(feedback)
        self.eta = -self.eta


class LeaksMass(OsmdCandidates):
    """Normalises over the bank instead of keeping the mass of the candidates."""

    def update(self, feedback):
        super().update(feedback)
        self.log_q[feedback.selection.problem] -= 1e-3
        self.log_q -= np.log(np.exp(self.log_q).sum())


@pytest.mark.parametrize("wrong", [ForgetsTheDesign, SwapsTheSign, LeaksMass])
def test_wrong_updates_fail_the_certificate(wrong):
    result = simulate_candidates(make_arms("switching", horizon=200), candidates=5, batch=3, seeds=2, curator=wrong)
    assert result.min_slack < -1e-5
    assert result.failed


def test_a_capped_systematic_draw_proves_nothing():
    options = {"candidates": 4, "batch": 3, "seeds": 2, "hyper": {"design": "systematic", "eta": 1.0}}
    result = simulate_candidates(make_arms("stationary", horizon=200), **options)
    assert result.capped_rounds > 0
    assert result.holds is None
    assert result.row()["bound"]["status"] == "none"


def test_rows_are_json_and_seeds_reach_the_draws():
    rows = [
        simulate_candidates(make_arms("stationary", horizon=60), candidates=5, seeds=2, first_seed=s).row()
        for s in (0, 0, 2)
    ]
    assert json.loads(json.dumps(rows[0], allow_nan=False)) == rows[0]
    assert rows[0] == rows[1] != rows[2]
    assert "5 of 10 arms awake" in describe(rows[0])
    assert "open" in describe(rows[0])  # two seeds do not settle it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1; got 0"),
        ({"eta": 0.0}, "eta must be positive; got 0.0"),
        ({"mix": 0.0}, r"mix must be in \(0, 1\]; got 0.0"),
        ({"low": 1.0}, r"needs low < high; got \[1.0, 1.0\]"),
        ({"design": "some"}, "design must be auto, iid or systematic; got 'some'"),
        ({"design": "systematic", "batch": 13}, "13 problems cannot be drawn from 12 candidates"),
    ],
)
def test_bad_parameters_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        curator(**change)
