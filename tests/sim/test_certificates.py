"""Certificates hold for right code, and every way of being wrong trips at least one of them."""

from dataclasses import replace

import numba as nb
import numpy as np
import pytest

from curbench.curators.exp3 import Exp3
from curbench.curators.osmd import Osmd, update_core
from curbench.curators.osmd_mset import OsmdMset
from curbench.mirror import copy_, exponentiated_step_, project_on_floor_
from curbench.regret import SLACK_TOLERANCE, Setting, clip_terms, share_terms
from curbench.sim.arms import make_arms
from curbench.sim.certificates import budget, estimate_z, log_rounds, propensity_z
from curbench.sim.driver import run_loop
from curbench.stats import upper_limit

HORIZON, SEEDS, Z_LIMIT = 150, 25, 4.5
ARMS = make_arms("switching", horizon=HORIZON, arms=5)


def logs(cls, *, batch=3, seeds=SEEDS, **hyper):
    made = [cls(ARMS.bank(), seed=s, batch=batch, horizon=HORIZON, **hyper) for s in range(seeds)]
    return made[0], [log_rounds(curator, ARMS, 1_000 + s) for s, curator in enumerate(made)]


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
        penalty, stability, floor = terms(
            Setting(5, batch, HORIZON, eta=core.eta, floor=step.floor, share=core.share, segments=segments)
        )
        assert spent[:, 0].max() <= penalty * (1 + 1e-12)
        assert upper_limit(spent[:, 1]) <= stability
        assert spent[:, 2].max() <= floor * (1 + 1e-12)
        assert (spent[:, 3] <= spent[:, 0] + spent[:, 1]).all()


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
        exponentiated_step_(core.p, arm[j], (1.0 - utility[j]) / expected[j], core.eta)
    project_on_floor_(core.p, 0.0)
    total = 0.0
    for i in range(core.p.size):
        core.p[i] = max(core.p[i], core.floor)
        total += core.p[i]
    for i in range(core.p.size):
        core.p[i] /= total
    copy_(core.stepped, core.p)


@nb.njit
def pull_to_uniform(core, arm, expected, utility, step):
    """Mixes with uniform instead of projecting: feasible, but not the projection."""
    before = core.floor
    update_core(core, arm, expected, utility, step)
    for i in range(core.p.size):
        core.p[i] = (1.0 - 5 * before) * core.p[i] + before


@nb.njit
def raise_losers(core, arm, expected, utility, step):
    """The sign of the step swapped."""
    for j in range(utility.size):
        core.p[arm[j]] *= np.exp(core.eta * (1.0 - utility[j]) / expected[j])
    total = 0.0
    for i in range(core.p.size):
        total += core.p[i]
    for i in range(core.p.size):
        core.p[i] /= total
    copy_(core.stepped, core.p)


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
    curator.core.p[:] = [0.4, 0.3, 0.1, 0.1, 0.1]
    assert np.abs(propensity_z(curator, 2_000)).max() > Z_LIMIT


def test_multinomial_draws_without_replacement_are_found_by_both_z_tests():
    """Their inclusion probability is not m p_i: the heavy arms are drawn less often than that."""
    hyper = {"design": "systematic", "eta": 0.2, "floor": 0.5}
    curator, log = logs(Multinomial, batch=2, **hyper)
    assert np.abs(estimate_z(log)).max() > Z_LIMIT
    curator.core.p[:] = [0.45, 0.25, 0.1, 0.1, 0.1]
    assert np.abs(propensity_z(curator, 2_000)).max() > Z_LIMIT
