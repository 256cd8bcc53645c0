"""The compiled driver is the Python loop; bounds and certificates hold for right code and fail for wrong code."""

import json
from dataclasses import replace

import numba as nb
import numpy as np
import pytest

from curbench.curators import CURATORS, curator_class
from curbench.curators.osmd import Osmd, update_core
from curbench.curators.tabular import TabularCurator
from curbench.regret import SLACK_TOLERANCE
from curbench.sim import simulate as simulate_module
from curbench.sim.arms import make_arms
from curbench.sim.delay import parse_delay
from curbench.sim.driver import run_compiled, run_loop
from curbench.sim.simulate import describe, simulate

GRID = np.array([1, 10, 200])
TABULAR = [
    ("uniform", {}),
    ("osmd", {"method": "clip"}),
    ("osmd", {"method": "share"}),
    ("osmd", {"method": "restart"}),
    ("sec", {}),
    ("sec", {"update_absent": "decay"}),
]


@pytest.mark.parametrize(("name", "hyper"), TABULAR, ids=str)
@pytest.mark.parametrize(("batch", "design"), [(1, "iid"), (4, "iid"), (3, "systematic")])
def test_compiled_driver_and_python_loop_give_identical_trajectories(name, hyper, batch, design):
    arms = make_arms("switching", horizon=200, arms=6)
    twins = [
        curator_class(name)(arms.bank(), seed=5, batch=batch, horizon=200, design=design, **hyper) for _ in range(2)
    ]
    compiled, python = run_compiled(twins[0], arms, (5, 6), GRID), run_loop(twins[1], arms, (5, 6), GRID)
    for field, value in twins[0].core._asdict().items():
        np.testing.assert_array_equal(value, getattr(twins[1].core, field), err_msg=field)
    np.testing.assert_array_equal(compiled.p_form, python.p_form)
    np.testing.assert_array_equal(compiled.sampled, python.sampled)
    assert compiled.capped == python.capped
    assert compiled.min_slack == python.min_slack or (np.isnan(compiled.min_slack) and np.isnan(python.min_slack))


@pytest.mark.parametrize("name", [name for name in CURATORS if issubclass(curator_class(name), TabularCurator)])
@pytest.mark.parametrize("design", ["iid", "systematic"])
def test_every_tabular_curator_is_the_same_in_both_drivers(name, design):
    """In both worlds, with draws of its own or from the table, on arms that move, with feedback that comes late."""
    arms = make_arms("besson_1", horizon=200)
    twins = [curator_class(name)(arms.bank(), seed=5, batch=2, horizon=200, design=design) for _ in range(2)]
    late = parse_delay("1:2")
    compiled = run_compiled(twins[0], arms, (5, 6), GRID, late)
    python = run_loop(twins[1], arms, (5, 6), GRID, late)
    for field, value in twins[0].core._asdict().items():
        np.testing.assert_array_equal(value, getattr(twins[1].core, field), err_msg=field)
    np.testing.assert_array_equal(compiled.sampled, python.sampled)
    np.testing.assert_array_equal(compiled.min_slack, python.min_slack)


@pytest.mark.parametrize("name", ["stationary", "switching", "garivier_moulines", "drifting"])
@pytest.mark.parametrize("hyper", [{"method": "clip"}, {"method": "share"}, {"method": "restart"}], ids=str)
def test_certificates_hold_in_every_round(name, hyper):
    result = simulate(make_arms(name, horizon=2_000), "osmd", seeds=40, batch=2, hyper=hyper)
    assert result.certificate_holds is True
    assert not result.failed


TIGHT = [  # where a curator that learns nothing would be above the bound
    ("stationary", 1, {}),
    ("switching", 8, {"segments": 10}),
    ("switching", 8, {"segments": 10, "method": "share"}),
    ("drifting", 8, {"method": "restart", "variation": 10.0}),
]


@pytest.mark.parametrize(("name", "batch", "hyper"), TIGHT, ids=str)
def test_proved_bounds_hold(name, batch, hyper):
    result = simulate(make_arms(name, horizon=10_000), "osmd", seeds=20, batch=batch, hyper=hyper)
    assert result.bound.status == "proved"
    assert result.holds is True
    assert result.row()["bound"]["vacuous"] is False


@pytest.mark.parametrize(("name", "batch", "hyper"), TIGHT, ids=str)
def test_proved_bounds_fail_for_a_curator_that_learns_nothing(monkeypatch, name, batch, hyper):
    class Stubborn(Osmd):
        update_core = staticmethod(learn_nothing)

        def mirror_step(self):
            return None

    monkeypatch.setattr(simulate_module, "curator_class", lambda name: Stubborn)
    result = simulate(make_arms(name, horizon=10_000), "stubborn", seeds=20, batch=batch, hyper=hyper)
    assert result.holds is False
    assert result.failed


@nb.njit
def learn_nothing(core, arm, expected, utility, step):
    """Leaves the core as it is."""


@nb.njit
def power(expected, k, m):
    return m * (expected / m) ** 0.5


@nb.njit
def uniform(expected, k, m):
    return m / k


@nb.njit
def double(expected, k, m):
    return 2 * expected


@nb.njit
def half(expected, k, m):
    return expected / 2


@pytest.mark.parametrize("wrong", [power, uniform, double, half], ids=lambda f: f.py_func.__name__)
@pytest.mark.parametrize(("arms_count", "batch"), [(10, 1), (100, 8)])
def test_a_curator_with_wrong_propensities_fails_its_certificate(monkeypatch, wrong, arms_count, batch):
    @nb.njit
    def update_wrongly(core, arm, expected, utility, step):
        stated = np.empty(expected.size)
        for j in range(expected.size):
            stated[j] = wrong(expected[j], core.p.size, expected.size)
        update_core(core, arm, stated, utility, step)

    class Wrong(Osmd):
        update_core = staticmethod(update_wrongly)

    monkeypatch.setattr(simulate_module, "curator_class", lambda name: Wrong)
    result = simulate(make_arms("stationary", horizon=500, arms=arms_count), "wrong", seeds=2, batch=batch)
    assert result.certificate_holds is False
    assert result.failed
    assert result.min_slack < -1e-4


def test_seeds_are_reproducible_and_differ():
    arms = make_arms("stationary", horizon=200)
    one, again = (simulate(arms, "osmd", seeds=3) for _ in range(2))
    assert one.regret == again.regret
    assert one.regret.lo < one.regret.mean < one.regret.hi
    assert simulate(arms, "osmd", seeds=3, first_seed=3).regret != one.regret


def test_threads_do_not_change_the_numbers():
    arms = make_arms("switching", horizon=300)
    alone, together = (simulate(arms, "osmd", seeds=6, threads=n) for n in (1, 3))
    np.testing.assert_array_equal(alone.curve, together.curve)


def test_uniform_regret_is_the_mean_gap_exactly():
    result = simulate(make_arms("stationary", horizon=1_000, arms=4), "uniform", seeds=2)
    assert result.regret.mean == pytest.approx(0.1 * 0.75 * 1_000, rel=1e-12)
    assert result.bound is None


def test_conditional_and_sampled_regret_agree():
    result = simulate(make_arms("switching", horizon=2_000), "osmd", seeds=60, hyper={"segments": 10})
    standard_error = (result.sampled.hi - result.sampled.lo) / 4
    assert abs(result.sampled.mean - result.regret.mean) < 4 * standard_error


def test_a_capped_systematic_draw_is_covered_by_no_theorem():
    arms = make_arms("stationary", horizon=400, arms=4)
    capped = simulate(arms, "osmd", seeds=2, batch=3, hyper={"design": "systematic"})
    assert capped.capped_rounds > 0
    assert capped.row()["bound"]["status"] == "none"


def test_few_seeds_leave_a_bound_open_instead_of_failing():
    result = simulate(make_arms("stationary", horizon=100), "osmd", seeds=1)
    assert result.holds is None
    assert not result.failed
    assert "open: too few seeds" in describe(result.row())


def test_a_row_is_json_and_says_when_a_bound_is_vacuous():
    row = simulate(make_arms("stationary", horizon=20, arms=30), "osmd", seeds=2).row()
    assert row["bound"]["vacuous"] is True
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert {"regret", "bound", "holds", "certificate", "us_per_round", "us_per_round_full", "driver"} <= row.keys()


def test_a_bound_whose_condition_fails_covers_nothing():
    result = simulate(make_arms("switching", horizon=200), "osmd", seeds=2, hyper={"floor": 0.0})
    bound = result.row()["bound"]
    assert (bound.pop("name"), bound.pop("status")) == ("none", "none")
    assert bound.pop("source") == "the conditions of tracking_clip do not hold here"
    assert set(bound.values()) == {None}
    assert result.holds is None


@pytest.mark.parametrize("wrong", ["propensity", "estimate"])
def test_the_loop_recomputes_what_a_draw_was_expected_to_be(monkeypatch, wrong):
    class Wrong(Osmd):
        def select(self, batch):
            selection = super().select(batch)
            return replace(selection, propensity=selection.propensity / 2) if wrong == "propensity" else selection

        def expected_count(self, selection):
            arm, expected = super().expected_count(selection)
            return arm, expected**0.5 if wrong == "estimate" else expected

    monkeypatch.setattr(simulate_module, "curator_class", lambda name: Wrong)
    result = simulate(make_arms("stationary", horizon=200), "wrong", seeds=1, batch=2, hyper={"design": "auto"})
    assert result.driver == "python"
    assert result.certificate_holds is False


@pytest.mark.parametrize("delay", ["3", "2:3", "0:0:0.3", "1:2:0.2"])
def test_late_feedback_is_the_same_in_both_drivers_and_is_covered_by_no_theorem(delay):
    arms = make_arms("switching", horizon=200, arms=6)
    twins = [Osmd(arms.bank(), seed=5, batch=2, horizon=200, design="iid") for _ in range(2)]
    late = parse_delay(delay)
    compiled = run_compiled(twins[0], arms, (5, 6), GRID, late)
    python = run_loop(twins[1], arms, (5, 6), GRID, late)
    np.testing.assert_array_equal(twins[0].core.p, twins[1].core.p)
    np.testing.assert_array_equal(compiled.p_form, python.p_form)
    assert compiled.min_slack == python.min_slack > -SLACK_TOLERANCE
    assert simulate(arms, "osmd", seeds=2, delay=delay).bound is None


def test_delay_costs_regret():
    arms = make_arms("stationary", horizon=3_000)
    at_once, late = (simulate(arms, "osmd", seeds=40, delay=delay) for delay in (0, 500))
    assert at_once.regret.hi < late.regret.lo


def test_a_run_whose_feedback_is_lost_learns_nothing():
    arms = make_arms("stationary", horizon=300)
    assert simulate(arms, "osmd", seeds=2, delay="0:0:1").regret.mean == pytest.approx(0.1 * 0.9 * 300)


@pytest.mark.parametrize("wrong", ["-1", "1:2:3", "1:-2", "x", "1:1:0.5:2", "1.5"])
def test_a_malformed_delay_is_refused(wrong):
    with pytest.raises(ValueError, match=r"a delay is ROUNDS\[:JITTER\[:LOSS\]\]"):
        parse_delay(wrong)


def test_a_neural_curator_runs_under_the_python_loop():
    result = simulate(
        make_arms("stationary", horizon=30, arms=5),
        "actor_curator",
        seeds=2,
        batch=2,
        hyper={"dormant": 2, "warmup": 2},
    )
    assert result.driver == "python"
    assert result.kind == "sampled"
    assert 0 < result.regret.mean < 30 * 0.1


def test_learning_beats_uniform_on_a_stationary_instance():
    arms = make_arms("stationary", horizon=5_000)
    assert simulate(arms, "osmd", seeds=20).regret.hi < simulate(arms, "uniform", seeds=2).regret.mean


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1; got 0"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
        ({"curator": "nope"}, "unknown curator 'nope'; choose from uniform"),
        ({"hyper": {"eta": -1.0}}, "eta must be positive"),
        ({"hyper": {"high": 2.0}}, "leave low and high out"),
        ({"hyper": {"share": 0.1}}, "share belongs to another method"),
    ],
)
def test_bad_requests_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(make_arms("stationary", horizon=10), **({"curator": "osmd", "seeds": 1} | change))


def test_every_other_curator_is_simulated():
    """Those that are not tabular, which is tested above; arms have no difficulty and no prompt to go by."""
    settings = {
        "actor_curator": {"dormant": 0, "warmup": 0},
        "easy_to_hard": {"by": "stratum"},
        "rmt": {"by": "stratum"},
        "cyclical": {"inner": "sec"},
    }
    for name in CURATORS:
        if name == "gain_rl":  # orders problems by the actor's hidden states
            continue
        if not issubclass(curator_class(name), TabularCurator) and not curator_class(name).needs:
            hyper = settings.get(name, {})
            assert simulate(make_arms("stationary", horizon=5, arms=3), name, seeds=1, hyper=hyper).regret.mean >= 0
