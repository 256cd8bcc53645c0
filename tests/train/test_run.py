"""Runs from spec to directory: they really train, resume to the same bits after SIGKILL, and refuse what cannot be."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from curbench.cli import app
from curbench.config import validate
from curbench.suites import load
from curbench.sweep import run_grid
from curbench.train.run import TrainSpec, run_directory, train
from curbench.train.snr import SignalToNoise, SNRStep

SMALL = {
    "suite": "countdown",
    "curator": "actor_curator",
    "budget_steps": 6,
    "batch": 4,
    "group": 4,
    "evaluate_every": 4,
    "checkpoint_every": 2,
    "grpo": {"evaluation_problems": 12, "threads": 1}
    | {"schedule": {"name": "cosine", "warmup": 0.3}, "snr": {"parts": 2}, "averaging": {"every": 2, "count": 2}}
    | {"length": {"start": 12, "end": 6}},
    "curator_set": {"dormant": "1", "warmup": "1", "candidates": "64"},
}


def spec(**change):
    return validate(TrainSpec, SMALL | change)


def content(directory):
    """Everything a run leaves behind, timing and provenance aside."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in row.items() if k not in ("seconds", "cost")} for row in rows]
        elif path.suffix == ".parquet":
            found[name] = pq.read_table(path).to_pydict()
        elif path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif path.name == "run.json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "environment"}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return train(spec(), out), content(run_directory(out, spec()))


def test_a_run_reports_what_it_spent_and_how_the_pass_rate_changed(whole):
    row, _ = whole
    assert (row["steps"], row["rollouts"]) == (6, 6 * 4 * 4)
    assert row["tokens"] > row["rollouts"]
    assert row["change"]["problems"] == 12
    assert row["change"]["mean"] == pytest.approx(row["pass_rate"] - row["pass_rate_before"])


COMMAND = [
    *(sys.executable, "-m", "curbench", "train", "countdown/actor_curator"),
    *("--set", "budget_steps=6", "--set", "batch=4", "--set", "group=4"),
    *("--set", "evaluate_every=4", "--set", "checkpoint_every=2"),
    *("--set", "grpo.evaluation_problems=12", "--set", "grpo.threads=1"),
    *("--set", "grpo.schedule.name=cosine", "--set", "grpo.schedule.warmup=0.3", "--set", "grpo.snr.parts=2"),
    *("--set", "grpo.averaging.every=2", "--set", "grpo.averaging.count=2"),
    *("--set", "grpo.length.start=12", "--set", "grpo.length.end=6"),
    *("--set", "actor_curator.dormant=1", "--set", "actor_curator.warmup=1", "--set", "actor_curator.candidates=64"),
]


def test_schedules_follow_the_budget_and_averages_are_evaluated_beside_the_last_weights(whole):
    row, expected = whole
    actor = [step["actor"] for step in expected["steps.jsonl"]]
    assert [one["token_budget"] for one in actor] == pytest.approx([12 * 0.5 ** (x / 3) for x in (0, 0, 1, 2, 2, 3)])
    schedule, snr = spec().grpo.schedule, SignalToNoise(SNRStep(parts=2))
    for step, one in enumerate(actor):
        snr.signal, snr.noise = one["gradient_signal"], one["gradient_noise"]
        assert one["learning_rate"] == pytest.approx(3e-4 * schedule(step / 6) * snr.multiplier)
    averaged = ["averaged" in evaluation for evaluation in expected["evals.jsonl"]]
    assert averaged == [False, True, True]
    assert row["pass_rate_averaged"] == expected["evals.jsonl"][-1]["averaged"]["pass_rate"]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_run_killed_by_sigkill_resumes_to_the_same_bits(whole, tmp_path, steps):
    """Kills the process as soon as it has logged ``steps`` steps (0: as soon as the run exists)."""
    directory = run_directory(tmp_path, spec())
    process = subprocess.Popen([*COMMAND, "--out", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = directory / "steps.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < steps:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert json.loads((directory / "run.json").read_text())["status"] == "running"
    subprocess.run([*COMMAND, "--out", str(tmp_path), "--resume"], check=True, capture_output=True)
    _, expected = whole
    assert content(directory) == expected


def test_a_record_says_what_was_chosen_what_it_cost_and_what_was_answered(whole):
    _, found = whole
    strata = found["run.json"]["bank"]["strata"]
    assert sum(strata.values()) == found["run.json"]["bank"]["problems"]
    selected = [part for name, part in found.items() if name.endswith(".parquet")]
    for step in found["steps.jsonl"]:
        assert len(step["strata"]) == len(strata)
        assert sum(step["strata"]) == sum(part["step"].count(step["step"]) for part in selected)
    for evaluation in found["evals.jsonl"]:
        assert [one["problem"] for one in evaluation["shown"]] == [
            one["problem"] for one in found["evals.jsonl"][0]["shown"]
        ]
        assert len(evaluation["shown"]) == 8
        for one in evaluation["shown"]:
            assert load("countdown", "test").verify(one["problem"], one["text"])[1] == one["success"]


def test_runs_side_by_side_give_the_bits_of_runs_alone(whole, tmp_path):
    specs = [spec(), spec(seed=1)]
    seen = []
    rows = list(run_grid(specs, tmp_path, jobs=2, progress=lambda one, spent: seen.append((one.seed, spent.steps))))
    assert {row["seed"] for row in rows} == {0, 1}
    _, expected = whole
    assert content(run_directory(tmp_path, specs[0])) == expected
    assert content(run_directory(tmp_path, specs[1])) != expected
    assert {(0, 6), (1, 6)} <= set(seen)


def without_parts(found):
    """The same, selections in one piece: how they are cut into parts depends on when a run was put down."""
    parts = [found[name] for name in sorted(found) if name.endswith(".parquet")]
    joined = {column: [value for part in parts for value in part[column]] for column in parts[0]}
    return {name: one for name, one in found.items() if not name.endswith(".parquet")} | {"selections": joined}


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_in_turns_give_the_bits_of_runs_alone(whole, tmp_path, jobs):
    specs = [spec(seed=1), spec(), spec(curator="uniform", curator_set={})]
    rows = list(run_grid(specs, tmp_path, jobs=jobs, slices=3, progress=lambda *_: None))
    assert sorted((row["curator"], row["seed"]) for row in rows) == [
        ("actor_curator", 0),
        ("actor_curator", 1),
        ("uniform", 0),
    ]
    _, expected = whole
    assert without_parts(content(run_directory(tmp_path, specs[1]))) == without_parts(expected)


def test_a_stop_leaves_the_runs_of_a_seed_equally_far(tmp_path, monkeypatch):
    specs = [spec(curator="uniform", curator_set={}), spec()]
    turn = []

    def progress(one, spent):
        turn.append((one.curator, spent.steps))
        if len(turn) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_grid(specs, tmp_path, slices=3, progress=progress))
    assert turn == [("uniform", 1), ("uniform", 2), ("actor_curator", 1), ("actor_curator", 2), ("uniform", 3)]
    rows = list(run_grid(specs, tmp_path, slices=3, resume=True, progress=lambda *_: None))
    assert [row["steps"] for row in rows] == [6, 6]


def test_a_deadline_puts_runs_down_where_they_are(whole, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("curbench.sweep.time", SimpleNamespace(time=lambda: len(seen)))
    grid = partial(run_grid, [spec(), spec(seed=1)], tmp_path, progress=lambda one, spent: seen.append(spent.steps))
    assert list(grid(deadline=2)) == []  # it is late in the third step
    assert seen == [1, 2, 3]
    assert not run_directory(tmp_path, spec(seed=1)).exists()
    assert len(list(grid(resume=True))) == 2
    _, expected = whole
    assert without_parts(content(run_directory(tmp_path, spec()))) == without_parts(expected)


def test_an_existing_run_is_refused_before_anything_starts(tmp_path):
    directory = run_directory(tmp_path, spec(seed=1))
    directory.mkdir(parents=True)
    (directory / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="pass --resume"):
        list(run_grid([spec(), spec(seed=1)], tmp_path, progress=lambda one, spent: None))
    assert not run_directory(tmp_path, spec()).exists()


@pytest.mark.parametrize("curator", ["uniform", "uniform+nondegenerate", "sec", "osmd", "dapo", "cures"])
def test_every_curator_trains(tmp_path, curator):
    one = spec(curator=curator, curator_set={}, budget_steps=2)
    row = train(one, tmp_path)
    assert row["steps"] == 2
    steps = [json.loads(line) for line in (run_directory(tmp_path, one) / "steps.jsonl").read_text().splitlines()]
    assert all(0 < step["smallest_propensity"] <= 1 for step in steps)
    if "+" in curator:
        assert all(step["admitted"] == pytest.approx(1 - step["degenerate"]) for step in steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": 1}, "group: .*greater than or equal to 2; got 1"),
        ({"budget_steps": None}, "a run needs a budget"),
        ({"batch": 100_000}, "100000"),
        ({"model": "/no/such/folder"}, "/no/such/folder"),
        ({"signal": "joy"}, "unknown signal 'joy'; choose from mean_reward"),
        ({"estimator": "ppo"}, "unknown estimator 'ppo'; choose from grpo"),
        ({"curator_set": {"floor": "0"}}, r"floor must be in \(0, 1\]"),
    ],
)
def test_bad_specs_are_refused_and_nothing_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train(spec(**change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_plans_what_would_be_spent_and_writes_nothing(tmp_path, capsys):
    command = ["train", "countdown/uniform,sec", "--seeds", "0:3", "--set", "budget_steps=6", "--set", "batch=4"]
    command += ["--set", "group=4", "--set", "grpo.threads=1", "--out", str(tmp_path / "runs"), "--dry-run"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert (row["total"]["runs"], row["run"]["steps"], row["total"]["rollouts"]) == (6, 6, 6 * 6 * 16)
    assert row["total"]["seconds"] == pytest.approx(6 * row["run"]["run_s"])
    assert row["parameters"] == 453_984
    assert row["run"]["checkpoint_mb"] * 1e6 == 3 * 4 * 453_984
    assert not (tmp_path / "runs").exists()
    assert "6 runs on countdown: 2 curators (uniform, sec), seeds 0, 1, 2" in CliRunner().invoke(app, command).stdout


def test_time_that_is_up_is_said_and_is_no_error(tmp_path):
    command = [
        "train",
        "countdown/uniform",
        "--set",
        "budget_steps=6",
        "--minutes",
        "0",
        "--out",
        str(tmp_path / "runs"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert "time is up with 0 of 1 runs complete" in result.stderr


def test_horizon_is_the_planned_number_of_steps():
    assert spec().horizon == 6
    assert spec(budget_steps=None, budget_rollouts=33).horizon == 3
    assert spec(budget_steps=None, budget_tokens=1000, grpo={"max_new_tokens": 10}).horizon == 7
