"""Grids of learners: what they expand to, what they refuse, what they keep; late feedback; every curator."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from curbench import cli
from curbench.curators import CURATORS
from curbench.loop import Budget
from curbench.sim.grid import read_grid
from curbench.sim.learner_grid import LearnerUnit, read, read_learner_unit
from curbench.sim.simulate_learner import check, simulate_learner
from curbench.sweep import run_sweep
from tests.curators.test_contract import QUICK

TINY = """
learners: [plain: {transfer: [0.0, 0.3]}, long_answers]
curators: [uniform, sec+nondegenerate: {temperature: 0.2}, greedy]
steps: 3
batch: 4
group: 4
delay: [0, "1:1:0.5"]
seeds: 2
"""


@pytest.fixture
def curbench(monkeypatch, capsys):
    """Calls the entry point in this process; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["curbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call


def units_of(**content):
    return read({"learners": "plain", "curators": "uniform", "steps": 2, "batch": 4, "seeds": 2} | content)


def test_a_grid_of_learners_is_the_product_of_what_it_lists(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    units = read_grid(tmp_path / "tiny.yaml")
    assert len(units) == (2 + 1) * 3 * 2
    assert all(isinstance(unit, LearnerUnit) for unit in units)
    assert {unit.curator for unit in units} == {"uniform", "sec+nondegenerate", "greedy"}
    assert [unit.parameter for unit in units[:6:3]] == [{"transfer": 0.0}, {"transfer": 0.3}]


def test_arms_and_learners_share_a_file(tmp_path):
    (tmp_path / "both.yaml").write_text(
        "- {arms: stationary, curators: uniform, horizon: 10, seeds: 1}\n"
        "- {learners: plain, curators: uniform, steps: 1, batch: 2, seeds: 1}\n"
    )
    units = read_grid(tmp_path / "both.yaml")
    rows = [unit.run(tmp_path, {}) for unit in units]
    assert [path.parent.name for path in sorted(tmp_path.glob("*/*.parquet"))] == ["learn", "sweep"]
    assert ["arms" in row for row in rows] == [True, False]


def test_every_question_changes_the_name_of_the_file():
    ways = {"steps": 3, "rollouts": 64, "tokens": 99, "batch": 5, "group": 4, "delay": 1, "estimator": "dr_grpo"}
    ways |= {"schedule": {"name": "linear"}, "averaging": {"every": 1}}
    ways |= {"signal": "mean_reward", "instance_seed": 1, "seeds": 3, "curators": "greedy", "learners": "forgetting"}
    path = {units_of(**{name: value})[0].path for name, value in ways.items()}
    path |= {units_of(learners={"plain": {"forgetting": 0.1}})[0].path, units_of()[0].path}
    assert len(path) == len(ways) + 2
    assert units_of(delay="2:0:0")[0].path == units_of(delay=2)[0].path


def test_schedules_and_averages_are_axes_of_learners(tmp_path):
    (tmp_path / "rates.yaml").write_text(
        "{learners: plain, curators: uniform, steps: 4, batch: 4, seeds: 2, averaging: {every: 1, count: 2},\n"
        " schedule: [name: constant, {name: wsd, decay: 0.5, warmup: 0.25}]}"
    )
    flat, decayed = (unit.run(tmp_path, {}) for unit in read_grid(tmp_path / "rates.yaml"))
    assert decayed["schedule"] == {"name": "wsd", "decay": 0.5, "warmup": 0.25}
    assert decayed["competence"]["mean"] < flat["competence"]["mean"] != flat["averaged"]["mean"]
    assert "wsd warmup=0.25 decay=0.5" in LearnerUnit.cells(decayed)


BAD = [
    ("schedule: {name: wds}", "schedule.0: unknown schedule 'wds'; choose from constant"),
    ("averaging: {every: 0}", "averaging.0.every: Input should be greater than or equal to 1; got 0"),
    ("learners: nope", "unknown learner 'nope'; choose from plain"),
    ("learners: [plain: {noise: 1}]", "Recipe has no setting 'noise'; its settings: problems"),
    ("curators: nope", "unknown curator 'nope'"),
    ("curators: uniform+half", "unknown admission rule 'half'"),
    ("curators: [greedy: {eta: 1}]", "greedy has no settings; got eta"),
    ("curators: [osmd: {eta: -1}]", "eta must be positive; got -1"),
    ("group: 1", "a group needs at least 2 rollouts"),
    ("estimator: nope", "unknown estimator 'nope'"),
    ("signal: joy", "unknown signal 'joy'"),
    ("delay: soon", "a delay is ROUNDS[:JITTER[:LOSS]]"),
    ("steps: 0", "steps.0: Input should be greater than or equal to 1; got 0"),
    ("arms: stationary", "there is no setting 'arms'"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text for text, _ in BAD])
def test_a_bad_grid_of_learners_is_one_sentence_before_anything_runs(curbench, tmp_path, text, message):
    base = [line for line in ("learners: plain", "curators: uniform") if line.split(":")[0] != text.split(":")[0]]
    (tmp_path / "bad.yaml").write_text("\n".join([*base, text]))
    code, out, err = curbench("sweep", tmp_path / "bad.yaml", "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_unit_keeps_row_curve_and_provenance_and_is_not_run_again(tmp_path):
    (unit,) = units_of(curators="sec", delay="1:1:0.2")
    row = unit.run(tmp_path, {"time": "now"})
    kept = read_learner_unit(tmp_path / unit.path)
    assert kept["row"] == json.loads(json.dumps(row, allow_nan=False)) == unit.read(tmp_path)
    assert (row["delay"], row["learner"], row["curator"]) == ("1:1:0.2", "plain", "sec")
    assert [len(kept[name]) for name in ("tokens", "mean", "lo", "hi")] == [3] * 4
    assert kept["mean"][-1] == row["competence"]["mean"]
    before = (tmp_path / unit.path).stat().st_mtime_ns
    assert run_sweep([unit], tmp_path, jobs=1) == [kept["row"]]
    assert (tmp_path / unit.path).stat().st_mtime_ns == before
    assert pq.read_table(tmp_path / "learn")["competence"].to_pylist() == [row["competence"]["mean"]]


def test_learn_keeps_its_results_and_shows_them_again(curbench, tmp_path):
    work = ("learn", "plain/uniform,greedy", "--seeds", 2, "--steps", 2, "--batch", 4, "--delay", 1, "--out", tmp_path)
    code, out, _ = curbench(*work, "--jobs", 1)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["learner", "plain", "plain"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "learn").iterdir()}
    assert curbench(*work)[1] == out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "learn").iterdir()} == kept
    assert len(kept) == 2


def test_a_damaged_unit_is_named(tmp_path):
    (unit,) = units_of()
    (tmp_path / "learn").mkdir()
    (tmp_path / unit.path).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=f"{unit.path.name} is not a result of curbench sweep"):
        run_sweep([unit], tmp_path, jobs=1)


# --- Late feedback ----------------------------------------------------------------------------------------------------


def simulate(curator, delay, **change):
    options = {"seeds": 2, "batch": 16, "budget": Budget(steps=40)} | change
    return simulate_learner("unlearnable", curator, delay=delay, **options)


def test_no_delay_is_the_default_and_a_curator_that_learns_nothing_does_not_mind():
    assert simulate("sec", 0).row() == simulate("sec", "0:0:0").row()
    assert simulate("uniform", 0).competence == simulate("uniform", "5:5:0.5").competence
    assert simulate("sec", 0).competence != simulate("sec", 5).competence


def test_lost_feedback_leaves_a_curator_where_it_began():
    lost, ignorant = simulate("sec", "0:0:1"), simulate("sec", 1_000)
    assert lost.competence == ignorant.competence


def test_lateness_costs_competence():
    at_once, late = (simulate("sec", delay, seeds=4, hyper={"temperature": 0.1}) for delay in (0, 30))
    assert late.competence.mean < at_once.competence.mean


def test_parameters_change_the_recipe():
    plain, easy = (
        simulate_learner("plain", "uniform", seeds=1, budget=Budget(steps=2), parameter=parameter)
        for parameter in ({}, {"easiest": -3.0, "hardest": 0.0})
    )
    assert easy.start > plain.start
    assert easy.learner.recipe.hardest == 0.0


# --- Every curator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURATORS)
def test_every_curator_trains_a_learner_with_late_reordered_and_lost_feedback(name):
    question = {"batch": 8, "group": 4, "budget": Budget(steps=6), "delay": "1:2:0.2", "hyper": QUICK.get(name, {})}
    check("noisy_tv", name, estimator="grpo", signal=None, parameter=None, instance_seed=0, **question)
    result = simulate_learner("noisy_tv", name, seeds=1, **question)
    assert result.spent.steps == 6
    assert np.isfinite(result.curve[:, :2]).all()
    assert 0.0 <= result.wasted.mean <= 1.0
    assert result.regret.mean > 0.0
