import errno
import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from curbench.curators import curator_class
from curbench.loop import Budget, Spent, run
from curbench.record import RunRecord, flatten, load_checkpoint, unflatten, write_atomic
from curbench.signals import SIGNALS
from curbench.sim.actor import BanditActor
from curbench.sim.arms import make_arms

SPEC = {"suite": "arms", "seed": 1}


class Killed(BaseException):
    """Ends a run as SIGKILL would: nothing of ours handles it."""


def go(directory, steps, *, resume=False, kill=None, spec=SPEC):
    """A run of ``steps`` steps; ``kill=(what, when)`` stops it inside the record, after so many calls."""
    arms = make_arms("switching", horizon=100, arms=4)
    curator = curator_class("osmd")(arms.bank(), seed=1, batch=2, horizon=100, group=3, design="iid")
    actor = BanditActor(arms, 7)
    record = RunRecord(directory, spec, resume=resume, track=())
    if record.state is not None:
        curator.restore(record.state["curator"])
        actor.restore(record.state["actor"])
    if kill:
        original, calls = getattr(record, kill[0]), []

        def dying(*args):
            calls.append(args)
            if len(calls) == kill[1]:
                raise Killed
            return original(*args)

        setattr(record, kill[0], dying)
    if not record.complete:
        signal = SIGNALS["mean_reward"]
        every = {"evaluate_every": 3, "checkpoint_every": 4}
        budget = Budget(steps=steps)
        run(curator, actor, batch=2, budget=budget, signal=signal, record=record, spent=record.spent, **every)
        record.close(complete=True)


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


KILLS = [(what, when) for what, most in (("step", 11), ("evaluation", 5), ("checkpoint", 4)) for when in range(1, most)]


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{kill[0]}-{kill[1]}")
def test_a_run_killed_anywhere_resumes_to_the_same_bytes(tmp_path, kill):
    go(tmp_path / "whole", 10)
    with pytest.raises(Killed):
        go(tmp_path / "killed", 10, kill=kill)
    go(tmp_path / "killed", 10, resume=True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    go(tmp_path / "whole", 10)
    with pytest.raises(Killed):
        go(tmp_path / "killed", 10, kill=("step", 6))
    with (tmp_path / "killed" / "steps.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')
    go(tmp_path / "killed", 10, resume=True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize("full_at", range(1, 18))  # every write that is synced
def test_a_full_disk_is_said_and_leaves_what_can_be_resumed(tmp_path, monkeypatch, full_at):
    go(tmp_path / "whole", 10)
    calls, fsync = [], os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) >= full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr("curbench.record.os.fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            go(tmp_path / "full", 10)
    assert not list((tmp_path / "full").rglob("*.part"))
    resume = (tmp_path / "full" / "run.json").exists()
    go(tmp_path / "full", 10, resume=resume)
    assert content(tmp_path / "full") == content(tmp_path / "whole")


def test_an_existing_run_is_refused_without_resume_and_untouched(tmp_path):
    go(tmp_path, 5)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="a run exists in .*; pass --resume to continue it, or another --out"):
        go(tmp_path, 5)
    assert content(tmp_path) == before


def test_resuming_a_complete_run_changes_nothing(tmp_path):
    go(tmp_path, 5)
    before = content(tmp_path)
    go(tmp_path, 5, resume=True)
    assert content(tmp_path) == before


def test_a_kill_before_the_run_is_recorded_leaves_a_directory_that_can_be_used(tmp_path):
    (tmp_path / "run.json.part").write_bytes(b'{"spec"')
    go(tmp_path, 5)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "complete"


def test_a_directory_with_other_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "steps.jsonl").write_text('{"step": 1}\n')
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds files but no run.json"):
            go(tmp_path, 5, resume=resume)
    assert content(tmp_path) == {"steps.jsonl": [{"step": 1}]}


def test_nothing_is_written_when_tensorboard_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError):
        RunRecord(tmp_path / "run", SPEC)
    assert list(tmp_path.rglob("*.json*")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"run.json lacks environment, spec, status"),
        ('{"spec": {"suite"', r"run.json is not JSON: .* line 1"),
        ("[]", r"run.json is not a JSON object"),
        ('{"spec": 1, "environment": [], "status": "running"}', r"run.json: spec is not a JSON object"),
    ],
)
def test_a_damaged_run_json_is_named_on_resume(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        go(tmp_path, 5, resume=True)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b.replace(b"spent", b"spend")])
def test_a_damaged_checkpoint_is_named_and_the_run_left_as_it_is(tmp_path, damage):
    with pytest.raises(Killed):
        go(tmp_path, 10, kill=("step", 6))
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    before = content(tmp_path), (tmp_path / "run.json").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is damaged .*; choose another --out"):
        go(tmp_path, 10, resume=True)
    assert (content(tmp_path), (tmp_path / "run.json").read_bytes()) == before


def test_resuming_with_other_settings_names_them(tmp_path):
    go(tmp_path, 5)
    with pytest.raises(ValueError, match=r"other settings \(lr, seed\)"):
        go(tmp_path, 5, resume=True, spec={"suite": "arms", "seed": 2, "lr": 1})


def test_selections_keep_what_off_policy_evaluation_needs(tmp_path):
    go(tmp_path, 10)
    parts = sorted((tmp_path / "selections").glob("*.parquet"))
    assert [part.stem for part in parts] == ["00000004", "00000008", "00000010"]
    table = pq.read_table(parts[0]).to_pydict()
    assert table["step"] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {
        "problem",
        "propensity",
        "candidate_propensity",
        "utility",
        "success",
        "rollouts",
        "admitted",
    } <= table.keys()


def test_run_json_says_where_the_numbers_come_from(tmp_path):
    go(tmp_path, 3)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["spec"] == SPEC
    assert run["status"] == "complete"
    assert {"commit", "versions", "python", "machine", "command", "time"} <= run["environment"][0].keys()


def test_every_process_notes_the_first_step_it_took(tmp_path):
    with pytest.raises(Killed):
        go(tmp_path, 10, kill=("step", 7))
    go(tmp_path, 10, resume=True)
    run = json.loads((tmp_path / "run.json").read_text())
    assert [one["first_step"] for one in run["environment"]] == [1, 5]


def test_states_survive_the_round_trip_through_a_checkpoint(tmp_path):
    state = {"a": {"b": np.arange(3), "c": 2, "d": {}}, "e": np.zeros((0, 4)), "f": "x", "g": np.uint64([2**64 - 1])}
    record = RunRecord(tmp_path, SPEC, track=())
    record.checkpoint(state, Spent(1, 2, 3))
    spent, back = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert spent == Spent(1, 2, 3)
    assert back["a"]["c"] == 2
    assert back["a"]["d"] == {}
    for mine, theirs in ((state["a"]["b"], back["a"]["b"]), (state["e"], back["e"]), (state["g"], back["g"])):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype


@pytest.mark.parametrize(
    ("state", "message"), [({"a/b": 1}, "must not contain '/'"), ({"a": object()}, "an array or JSON")]
)
def test_states_that_cannot_be_stored_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        flatten(state)


def test_unflatten_undoes_flatten():
    state = {"a": {"b": 1, "c": {"d": "x"}}, "e": None}
    array, scalar = flatten(state)
    assert array == {}
    assert unflatten(scalar) == state


def test_an_atomic_write_leaves_no_part_behind(tmp_path):
    write_atomic(tmp_path / "x", b"1")
    write_atomic(tmp_path / "x", b"2")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"2")]
