"""Certificates hold for right code, and every way of being wrong trips at least one of them."""

from dataclasses import replace

import numba as nb
import numpy as np
import pytest

from curbench.curators.exp3 import Exp3
from curbench.curators.osmd import Osmd, update_core
from curbench.curators.osmd_mset import OsmdMset
from curbench.mirror import exponentiated_step_, project_on_floor_, share_
from curbench.regret import BOUNDS, SLACK_TOLERANCE, Setting, clip_terms, exp3_terms, share_terms
from curbench.sim.arms import make_arms
from curbench.sim.certificates import budget, estimate_z, log_rounds, propensity_z
from curbench.sim.comparator import path
from curbench.sim.delay import NO_DELAY
from curbench.sim.driver import run_compiled, run_loop
from curbench.sim.simulate import describe, simulate
from curbench.stats import upper_limit
from curbench.sumtree import build_

HORIZON, SEEDS, Z_LIMIT = 150, 25, 4.5
ARMS = make_arms("switching", horizon=HORIZON, arms=5)


def logs(cls, *, batch=3, seeds=SEEDS, **hyper):
    made = [cls(ARMS.bank(), seed=s, batch=batch, horizon=HORIZON, **hyper) for s in range(seeds)]
    return made[0], [log_rounds(curator, ARMS, 1_000 + s) for s, curator in enumerate(made)]


def put(curator, p):
    """Makes a curator draw from p."""
    core = curator.core
    core.p[:] = core.weight[:] = p
    build_(core.tree, core.weight)


def min_slack(cls, *, batch=3, **hyper):
    curator = cls(ARMS.bank(), seed=1, batch=batch, horizon=HORIZON, **hyper)
    return run_loop(curator, ARMS, (1, 2), np.array([HORIZON])).min_slack


@pytest.mark.parametrize(
    ("hyper", "terms"),
    [
        ({"method": "clip", "floor": 0.1, "segments": 10}, clip_terms),
        ({"method": "share", "share": 0.05, "segments": 10}, share_terms),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 4])
def test_each_term_of_the_regret_stays_within_its_budget(hyper, terms, batch):
    curator, log = logs(Osmd, batch=batch, design="iid", **hyper)
    step, core = curator.mirror_step(), curator.core
    moving = ARMS.mean[np.searchsorted(ARMS.start, np.arange(HORIZON), side="right") - 1].argmax(axis=1)
    for comparator, segments in ((moving, ARMS.segments), (np.zeros(HORIZON, np.int64), 1)):
        spent = np.array([budget(one, step, comparator) for one in log])
        penalty, stability, floor, *_ = terms(
            Setting(5, batch, HORIZON, eta=core.eta, floor=step.floor, share=core.share, segments=segments)
        )
        assert spent[:, 0].max() <= penalty * (1 + 1e-12)
        assert upper_limit(spent[:, 1]) <= stability
        assert spent[:, 2].max() <= floor * (1 + 1e-12)
        assert (spent[:, 3] <= spent[:, 0] + spent[:, 1]).all()


@pytest.mark.parametrize("method", ["clip", "share", "restart"])
def test_both_drivers_keep_the_budget_of_the_log(method):
    def fresh():
        return Osmd(ARMS.bank(), seed=3, batch=2, horizon=HORIZON, design="iid", method=method)

    compared = path(ARMS, "switching", 0)
    expected = budget(log_rounds(fresh(), ARMS, 4), fresh().mirror_step(), compared)
    for drive in (run_compiled, run_loop):
        spent = drive(fresh(), ARMS, (3, 4), np.array([HORIZON]), NO_DELAY, compared).spent
        np.testing.assert_allclose(spent, expected, rtol=1e-9, atol=1e-9 * HORIZON)
    assert run_compiled(fresh(), ARMS, (3, 4), np.array([HORIZON])).spent is None


PARTS = [("switching", None, {"segments": 10}), ("drifting", None, {"method": "restart"}), ("switching", "static", {})]


@pytest.mark.parametrize(("bed", "comparator", "hyper"), PARTS, ids=str)
def test_the_parts_of_a_run_stay_within_those_of_its_bound_and_make_up_its_regret(bed, comparator, hyper):
    result = simulate(make_arms(bed, horizon=2_000), "osmd", seeds=30, hyper=hyper, comparator=comparator)
    spent = result.row()["budget"]
    assert spent["holds"] is True
    terms = ("penalty", "stability", "floor", "drift")
    assert sum(spent[name]["bound"] for name in terms) == pytest.approx(result.value)
    assert all(spent[name]["mean"] <= spent[name]["bound"] + 1e-6 for name in terms)
    assert result.regret.mean < sum(spent[name]["mean"] for name in terms) + 3 * (result.regret.hi - result.regret.lo)
    assert (spent["drift"]["mean"] > 0) == (bed == "drifting")


def test_a_budget_needs_a_step_on_p_and_feedback_in_time():
    arms = make_arms("stationary", horizon=100)
    assert simulate(arms, "osmd", seeds=2, hyper={"method": "mix"}).row()["budget"] is None
    assert simulate(arms, "exp3", seeds=2, delay=1).row()["budget"] is None
    assert simulate(arms, "exp3", seeds=2).row()["budget"]["seeds"] == 2


def test_a_part_above_its_own_fails_the_run(monkeypatch):
    halved = replace(BOUNDS["exp3_static"], terms=lambda s: exp3_terms(s)._replace(stability=s.eta * s.horizon))
    monkeypatch.setitem(BOUNDS, "exp3_static", halved)
    result = simulate(make_arms("stationary", horizon=500), "exp3", seeds=20)
    assert result.holds is True
    assert result.spending.holds is False
    assert result.failed
    assert describe(result.row()).count("budget VIOLATED") == 1


def test_the_budget_refuses_steps_that_move_something_else():
    curator, log = logs(OsmdMset, seeds=1)
    with pytest.raises(ValueError, match="mirror step on p"):
        budget(log[0], curator.mirror_step(), np.zeros(HORIZON, np.int64))


@pytest.mark.parametrize(
    ("cls", "hyper"),
    [
        (Osmd, {"design": "iid", "method": "mix", "mix": 0.1}),
        (Exp3, {"design": "iid"}),
        (OsmdMset, {"design": "systematic", "floor": 0.2}),
    ],
    ids=str,
)
def test_right_code_passes_every_check(cls, hyper):
    curator, log = logs(cls, **hyper)
    assert min_slack(cls, **hyper) >= -SLACK_TOLERANCE
    assert np.abs(estimate_z(log)).max() < Z_LIMIT
    np.testing.assert_allclose(log[0].stated, log[0].expected, rtol=1e-9)
    assert np.abs(propensity_z(curator, 2_000)).max() < Z_LIMIT


@nb.njit
def scale_then_cut(core, arm, expected, utility, step):
    """Cuts at the floor and scales: the arms on the floor end below it."""
    for j in range(utility.size):
        exponentiated_step_(core.weight, arm[j], (1.0 - utility[j]) / expected[j], core.eta)
    project_on_floor_(core.weight, 0.0)
    for i in range(core.p.size):
        core.weight[i] = max(core.weight[i], core.floor)
    build_(core.tree, core.weight)


@nb.njit
def pull_to_uniform(core, arm, expected, utility, step):
    """Mixes with uniform instead of projecting: feasible, but not the projection."""
    update_core(core, arm, expected, utility, step)
    share_(core.weight, 5 * core.floor)
    build_(core.tree, core.weight)


@nb.njit
def raise_losers(core, arm, expected, utility, step):
    """The sign of the step swapped."""
    for j in range(utility.size):
        core.weight[arm[j]] *= np.exp(core.eta * (1.0 - utility[j]) / expected[j])
    build_(core.tree, core.weight)


@pytest.mark.parametrize("wrong", [scale_then_cut, pull_to_uniform, raise_losers], ids=lambda f: f.py_func.__name__)
def test_a_wrong_step_fails_its_certificate(wrong):
    cls = type("Wrong", (Osmd,), {"update_core": staticmethod(wrong)})
    assert min_slack(cls, design="iid", floor=0.3) < -1e-4


@nb.njit
def forget_the_cap(core, arm, expected, utility, step):
    """Scales the inclusion probabilities to sum to m without a cap at 1."""
    for j in range(utility.size):
        exponentiated_step_(core.inclusion, arm[j], (1.0 - utility[j]) / expected[j], core.eta)
    total = core.inclusion.sum()
    for i in range(core.p.size):
        core.inclusion[i] *= core.batch / total
        core.p[i] = core.inclusion[i] / core.batch


def test_a_step_over_sets_without_the_cap_fails_its_certificate():
    cls = type("Wrong", (OsmdMset,), {"update_core": staticmethod(forget_the_cap)})
    assert min_slack(cls, batch=4, design="iid", eta=1.0) == -np.inf


class Stale(Osmd):
    """States the uniform propensities of a warm-up that has long passed."""

    def select(self, batch):
        selection = super().select(batch)
        return replace(selection, propensity=np.full(batch, 1 / self.arm_count))


class Multinomial(Osmd):
    """Draws without replacement one after the other, and states m p_i as the inclusion probability."""

    def select(self, batch):
        selection = super().select(batch)
        rng = np.random.default_rng((int(self.seed), self.step))
        problem = rng.choice(self.arm_count, batch, replace=False, p=self.core.p / self.core.p.sum())
        return replace(selection, problem=problem, propensity=np.minimum(batch * self.core.p[problem], 1.0))


def test_stale_propensities_are_found_by_every_check_of_them():
    hyper = {"design": "iid", "eta": 0.5, "floor": 0.2}
    curator, log = logs(Stale, **hyper)
    assert np.abs(estimate_z(log)).max() > Z_LIMIT
    assert np.abs(log[0].stated / log[0].expected - 1).max() > 0.1
    assert min_slack(Stale, **hyper) == -np.inf
    put(curator, [0.4, 0.3, 0.1, 0.1, 0.1])
    assert np.abs(propensity_z(curator, 2_000)).max() > Z_LIMIT


def test_multinomial_draws_without_replacement_are_found_by_both_z_tests():
    """Their inclusion probability is not m p_i: the heavy arms are drawn less often than that."""
    hyper = {"design": "systematic", "eta": 0.2, "floor": 0.5}
    curator, log = logs(Multinomial, batch=2, **hyper)
    assert np.abs(estimate_z(log)).max() > Z_LIMIT
    put(curator, [0.45, 0.25, 0.1, 0.1, 0.1])
    assert np.abs(propensity_z(curator, 2_000)).max() > Z_LIMIT
