"""Off-policy replay: unbiased by enumeration, honest intervals, and a refusal wherever the log cannot say."""

import importlib.util
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curbench import cli
from curbench.curators import CURATORS, curator_class
from curbench.curators.base import Curator
from curbench.loop import Spent, StepResult, Stopwatch
from curbench.provenance import environment
from curbench.record import RunRecord
from curbench.replay import Log, read_log, replay, replay_run
from curbench.replay.estimators import StratumModel, Terms, drifting_mean, effective_sample_size, estimate
from curbench.report.collect import collect
from curbench.sim.learner import LearnerActor, make_learner
from curbench.sim.learner_grid import read
from curbench.types import Bank, Feedback, GroupStats, Selection, UpdateReport

BATCH, GROUP, STEPS, PROBLEMS = 6, 4, 5, 60


def bank(n=PROBLEMS):
    rng = np.random.default_rng(0)
    return Bank(
        key=[str(i) for i in range(n)],
        stratum=np.arange(n) % 3,
        feature=rng.normal(size=(n, 4)),
        difficulty=rng.uniform(size=n),
        length=rng.integers(5, 40, n),
    )


def told(selection, utility):
    n = selection.rollouts.astype(np.int64)
    success = (n * 0.5).astype(np.int64)
    one = np.ones(len(selection))
    stats = GroupStats(n, success, success / n, 0.25 * one, np.abs(utility), np.zeros(one.size, bool), 3 * one)
    return Feedback(selection, stats, utility, one > 0, np.zeros(one.size), n)


def log_of(name, steps=STEPS, of=None, **setting):
    """A log of a curator whose utilities are those of the problem's stratum, with noise."""
    of, rng = of or bank(), np.random.default_rng(5)
    curator = curator_class(name)(of, seed=3, batch=BATCH, horizon=steps, group=GROUP, **setting)
    made = []
    for _ in range(steps):
        selection = curator.select(BATCH)
        made.append(told(selection, of.stratum[selection.problem] + rng.normal(0, 0.1, len(selection))))
        curator.update(made[-1])
    return made


def maker(name, of=None, **setting):
    of = of or bank()
    return lambda seed: curator_class(name)(of, seed=seed, batch=BATCH, horizon=STEPS, group=GROUP, **setting)


CLOSED = [
    name
    for name in CURATORS
    if curator_class(name).expected_slots is not Curator.expected_slots and curator_class(name).refill is Curator.refill
]


@pytest.mark.parametrize("name", CLOSED)
def test_expected_slots_are_the_mean_of_selections(name):
    curator = maker(name)(1)
    for one in log_of("uniform", 2):
        curator.select(BATCH)
        curator.update(one)
    expected, state, draws = curator.expected_slots(BATCH), curator.state(), 400
    assert expected.sum() == pytest.approx(BATCH, abs=1e-9)
    mean = np.zeros(PROBLEMS)
    for other in range(draws):
        curator.restore(state)
        curator.seed = np.uint64(1000 + other)
        mean += np.bincount(curator.select(BATCH).problem, minlength=PROBLEMS) / draws
    # 5 standard deviations of a Poisson count, which has the largest spread of the designs here
    np.testing.assert_allclose(mean, expected, atol=5 * np.sqrt(expected.max() / draws) + 1e-9)


@pytest.mark.parametrize("name", CURATORS)
def test_every_curator_is_replayed_or_refused_in_one_sentence(name):
    logged = log_of("uniform")
    cls = curator_class(name)
    if cls.on_policy or cls.refill is not Curator.refill or name == "gain_rl":
        with pytest.raises(ValueError, match=r"own selections|further rounds|hidden states") as refusal:
            replay(logged, maker(name), seed=0, draws=3)
        assert "\n" not in str(refusal.value)
        return
    result = replay(logged, maker(name), seed=0, draws=3, keep=True)
    assert np.array(result.share).sum(axis=1) == pytest.approx(1.0)
    assert all(np.isfinite([one.mean, one.lo, one.hi]).all() for one in result.estimates().values())


def test_estimates_are_unbiased_over_all_logs_there_can_be():
    """Three steps of one draw each: all 4^3 logs, weighted by how likely they are, average to the truth."""
    p = np.array([0.1, 0.2, 0.3, 0.4])
    small = Bank(key=list("abcd"), stratum=[0, 0, 1, 1])
    utility = np.random.default_rng(1).normal(size=(3, 4))
    mean = dict.fromkeys(("ips", "dr", "truth"), 0.0)
    for drawn in itertools.product(range(4), repeat=3):
        logged = [
            told(Selection(t, t, [x], [p[x]], [2], "iid"), utility[t, [x]]) for t, x in enumerate(drawn)
        ]  # the curator learns from the log, so what it would select, and the truth, differ between logs

        def make(seed):
            return curator_class("sec")(small, seed=seed, batch=1, horizon=3, alpha=1.0, temperature=0.3)

        result = replay(logged, make, seed=0, keep=True)
        chance = np.prod(p[list(drawn)])
        found = result.estimates()
        mean["ips"] += chance * found["ips"].mean
        mean["dr"] += chance * found["dr"].mean
        mean["truth"] += chance * np.mean([m @ u for m, u in zip(result.share, utility, strict=True)])
    assert mean["ips"] == pytest.approx(mean["truth"], abs=1e-12)
    assert mean["dr"] == pytest.approx(mean["truth"], abs=1e-12)


def test_the_log_s_own_law_gives_weight_one():
    result = replay(log_of("uniform", 8), maker("uniform"), seed=0)
    np.testing.assert_allclose(result.weight, 1 / BATCH)
    assert result.effective == pytest.approx(result.weight.size)
    assert result.estimates()["ips"].mean == pytest.approx(result.logged.mean())


def test_probes_are_learnt_from_but_not_counted():
    logged = log_of("uniform", 4)
    probe = np.array([1, 2])
    probed = [told(one.selection.with_probes(probe, 0.5, GROUP), np.append(one.utility, [9.0, 9.0])) for one in logged]
    plain, extra = (replay(one, maker("uniform"), seed=0) for one in (logged, probed))
    np.testing.assert_array_equal(plain.terms.value, extra.terms.value)


def test_intervals_hold_the_mean_of_drifting_means():
    rng = np.random.default_rng(0)
    drift = np.linspace(0.0, 5.0, 60)
    held = []
    for _ in range(1000):
        found = drifting_mean(drift + rng.normal(size=60))
        held.append(found.lo <= drift.mean() <= found.hi)
    assert abs(np.mean(held) - 0.95) < 0.03  # 4 standard errors of 1,000 intervals


def test_estimators_on_numbers_worked_by_hand():
    terms = Terms(
        weight=np.array([1.0, 0.5, 1.5]),
        value=np.array([2.0, 1.0, 3.0]),
        model=np.array([0.0, 1.0, 2.0]),
        fitted=np.array([0.0, 0.5, 3.0]),
    )
    assert estimate(terms, "ips").mean == pytest.approx(2.0)
    assert estimate(terms, "snips").mean == pytest.approx(2.0)
    assert estimate(terms, "dr").mean == pytest.approx((2.0 + 1.5 + 2.0) / 3)
    assert effective_sample_size(np.array([1.0, 3.0])) == pytest.approx(1.6)
    with pytest.raises(ValueError, match="at least 3 logged steps"):
        drifting_mean(np.zeros(2))
    with pytest.raises(ValueError, match="never drew"):
        estimate(terms._replace(weight=np.zeros(3)), "snips")


def test_the_outcome_model_knows_the_past_only():
    model = StratumModel(np.array([0, 0, 1]))
    np.testing.assert_array_equal(model.predict(), [0.0, 0.0])
    model.update(np.array([0, 1]), np.array([1.0, 3.0]))
    np.testing.assert_array_equal(model.predict(), [2.0, 2.0])  # a stratum not seen has the mean of all
    model.update(np.array([2]), np.array([4.0]))
    np.testing.assert_array_equal(model.predict(), [2.0, 4.0])


def test_missing_support_is_found_by_the_weights():
    small = bank()
    half = [
        told(Selection(t, t, 3 * np.arange(t, t + 4), np.full(4, 0.2), np.full(4, GROUP), "systematic"), np.ones(4))
        for t in range(10)
    ]  # stratum 0 only
    result = replay(half, maker("uniform", small), seed=0)
    with pytest.raises(ValueError, match="support is missing: importance weights add up to 0.333"):
        result.require_support()


def learnt(log=True):
    asked = {"learners": "plain", "curators": "uniform", "seeds": 1, "steps": 12, "batch": 8, "group": 4, "log": log}
    return read(asked)[0]


def command(*arguments):
    """The exit code of the entry point in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["curbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def logged_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("logged")
    learnt().run(out, environment())
    return learnt().log_directory(out, seed=0)


def rows_of(path):
    return json.loads(path.read_text())["replay"]


def test_learn_logs_and_replay_reads(logged_run, tmp_path, capsys):
    assert command("replay", logged_run, "--curator", "sec,mopps", "--set", "sec.alpha=0.9", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["curator"] for row in rows] == ["sec", "mopps"]
    assert rows[0]["hyper"] == {"alpha": 0.9}
    assert set(rows[0]["estimates"]) == {"ips", "snips", "dr"}
    assert rows[0]["slots"] == 96
    assert "not the trajectory" in rows[0]["says"]
    out, page = tmp_path / "replay.json", tmp_path / "report.html"
    assert command("replay", logged_run, "--curator", "sec", "--out", out) == 0
    assert "not the trajectory" in capsys.readouterr().out
    assert command("report", out, "--out", page) == 0
    estimate = rows_of(out)[0]["estimates"]["dr"]
    assert f"<td>{estimate['mean']:.3f} [{estimate['lo']:.3f}, {estimate['hi']:.3f}]</td>" in page.read_text()
    assert command("replay", logged_run, "--curator", "sec", "--out", out) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_logging_changes_no_result(logged_run, tmp_path, capsys):
    out = logged_run.parents[2]
    without = learnt(log=False).run(tmp_path, environment())
    assert learnt().read(out) == without
    assert (len(collect([out]).learner), collect([out]).training) == (1, [])
    with pytest.raises(ValueError, match="kept without its steps"):
        learnt().read(tmp_path)
    assert command("learn", "plain/uniform", "--log") == 2
    assert "give --out" in capsys.readouterr().err


def test_a_log_that_was_cut_short_begins_anew(tmp_path):
    unit = learnt()
    first = unit._open_record(tmp_path, 0)
    first.close(complete=False)
    unit.run(tmp_path, environment())
    assert len(read_log(unit.log_directory(tmp_path, 0)).feedback) == 12
    assert unit._open_record(tmp_path, 0) is None


def test_the_log_holds_the_run_exactly(logged_run):
    """The logger, given back its own log with its own seed, makes the same selections."""
    from curbench.philox import spawn_seeds

    log = read_log(logged_run)
    curator = curator_class("uniform")(log.bank, seed=spawn_seeds(0, 2)[0], **log.common)
    for one in log.feedback:
        selection = curator.select(8)
        for name in ("problem", "propensity", "rollouts", "ticket", "step", "design"):
            np.testing.assert_array_equal(getattr(selection, name), getattr(one.selection, name))
    assert log.feedback[3].stats.abs_advantage == pytest.approx(log.feedback[3].utility)


def test_another_signal_is_taken_from_the_statistics(logged_run):
    log = read_log(logged_run, signal="pass_rate")
    stats = log.feedback[0].stats
    np.testing.assert_array_equal(log.feedback[0].utility, stats.success / stats.n)
    with pytest.raises(ValueError, match="not policy_improvement"):
        read_log(logged_run, signal="policy_improvement")


def test_a_log_that_cannot_say_is_refused(tmp_path, capsys, logged_run):
    of, common = bank(), {"batch": BATCH, "horizon": STEPS, "group": GROUP}
    for curator, sentence in (
        ("ucb1", "leaves problems out"),
        ("dapo", "further rounds"),
        ("thompson", "leaves problems out"),
        ("length_sorted", "deterministically"),
    ):
        log = Log(tmp_path, of, common, 0, curator, "mean_abs_advantage", log_of(curator))
        with pytest.raises(ValueError, match=sentence):
            replay_run(log, "sec")
    assert command("replay", tmp_path, "--curator", "sec") == 2
    assert "holds no run.json" in capsys.readouterr().err
    part = next(logged_run.glob("selections/*.parquet"))
    table = pq.read_table(part)
    old = tmp_path / "old"
    (old / "selections").mkdir(parents=True)
    (old / "run.json").write_text((logged_run / "run.json").read_text())
    pq.write_table(table.drop(["design"]), old / "selections" / part.name)
    assert command("replay", old, "--curator", "sec") == 2
    assert "lacks design: it was logged by an earlier version" in capsys.readouterr().err


def test_training_runs_are_read_too(tmp_path):
    from curbench import suites
    from curbench.train.run import TrainSpec

    spec = TrainSpec(suite="countdown", curator="uniform", budget_steps=4, batch=BATCH, group=GROUP)
    directory = tmp_path / "countdown" / "uniform" / "0"
    record = RunRecord(directory, spec.model_dump(), track=())
    for t, one in enumerate(log_of("uniform", 4, suites.load("countdown").bank), start=1):
        seconds = Stopwatch().seconds
        record.step(StepResult(one.selection, None, one, UpdateReport(t), seconds), Spent(t, t, t), {})
    record.checkpoint({}, Spent(4, 4, 4))
    record.close(complete=True)
    log = read_log(directory)
    assert log.common == {"batch": BATCH, "horizon": 4, "group": GROUP}
    assert replay_run(log, "sec")["steps"] == 4


def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "replay_coverage.py"
    spec = importlib.util.spec_from_file_location("replay_coverage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_truth_of_the_coverage_study_is_that_of_the_branched_learner():
    """From one state, many independent groups of the same problems: their mean utility is the expected one."""
    script, learner = benchmark(), make_learner("noisy_tv")
    states = script.make_log(learner, learner.bank(), "uniform", 10, seed=1)
    problem = np.arange(0, 800, 40)
    branch = LearnerActor(learner, seed=9)
    branch.restore(states.actor.state())
    found = np.zeros((400, problem.size))
    chosen = Selection(0, 0, problem, np.full(problem.size, 0.1), np.full(problem.size, script.GROUP), "systematic")
    from curbench.advantage import group_advantage

    for row in found:
        rollouts = branch.rollout(chosen)
        row[:] = group_advantage(rollouts, branch.reward(rollouts))[1].abs_advantage
    expected = script.expected_utility(learner, states.actor.skill)[problem]
    error = found.std(axis=0, ddof=1) / 20 + 1e-5  # the standardised advantage divides by std + 1e-6
    assert np.abs((found.mean(axis=0) - expected) / error).max() < 4.5


def test_intervals_cover_the_truth_on_the_simulated_learner(monkeypatch):
    """The committed study has 2,000 logs; 25 short ones show a broken interval, not a slightly wrong one."""
    script = benchmark()
    monkeypatch.setattr(script, "REPLAYED", {"sec": {}, "osmd": {}})
    for row in script.coverage("plain", "sec", logs=25, steps=40):
        assert row["covered"] >= 0.8, row
        assert abs(row["bias"]) < 5 * row["bias_standard_error"], row
