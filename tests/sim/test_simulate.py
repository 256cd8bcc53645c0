"""The compiled driver is the Python loop; bounds and certificates hold for right code and fail for wrong code."""

import json

import numba as nb
import numpy as np
import pytest

from curbench.curators import CURATORS, curator_class
from curbench.curators.osmd import Osmd, update_core
from curbench.sim import simulate as simulate_module
from curbench.sim.arms import make_arms
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


@pytest.mark.parametrize("name", ["stationary", "switching", "garivier_moulines", "drifting"])
@pytest.mark.parametrize("hyper", [{"method": "clip"}, {"method": "share"}, {"method": "restart"}], ids=str)
def test_proved_bounds_and_certificates_hold(name, hyper):
    result = simulate(make_arms(name, horizon=2_000), "osmd", seeds=40, batch=2, hyper=hyper)
    assert result.bound.status == "proved"
    assert result.holds is True
    assert result.certificate_holds is True
    assert not result.failed


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


def test_every_curator_is_simulated():
    for name in CURATORS:
        hyper = {"dormant": 0, "warmup": 0} if name == "actor_curator" else {}
        assert simulate(make_arms("stationary", horizon=5, arms=3), name, seeds=1, hyper=hyper).regret.mean >= 0
