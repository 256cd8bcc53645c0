"""Trackers get the numbers of every step; a resumed run goes on in them."""

import pytest

from curbench.track import TRACKERS, trackers


def test_unknown_and_missing_trackers_are_named(monkeypatch):
    with pytest.raises(ValueError, match="unknown tracker 'paper'; choose from tensorboard, wandb, or none"):
        trackers(("paper",))
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match="wandb"):
        trackers(("wandb",))


def test_tensorboard_holds_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, steps in ((None, (1, 2, 3)), (3, (3, 4))):  # put down in step 3, and resumed after step 2
        board = TRACKERS["tensorboard"](tmp_path, {}, first)
        for step in steps:
            board.numbers({"train/reward": step / 8, "eval/pass_rate": 0.5}, step)
        board.flush()
        board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("train/reward")] == [(s, s / 8) for s in (1, 2, 3, 4)]


def test_wandb_is_offline_by_default(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = TRACKERS["wandb"](tmp_path, {"suite": "countdown"}, None)
    run.numbers({"train/reward": 0.5}, 1)
    run.flush()
    run.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
