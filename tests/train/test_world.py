"""Two processes that train one policy, over gloo on the CPU, against one alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from curbench.record import load_checkpoint
from curbench.train.policy import load_policy
from curbench.train.run import run_directory, train
from curbench.train.world import World
from tests.train.test_run import content
from tests.train.together import CASE, CUT, FAILED, STEPS, spec

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """(folder of the runs, what was said on stderr) of two processes, the second of which fails in the end."""
    out = tmp_path_factory.mktemp("together")
    script = Path(__file__).with_name("together.py")
    done = subprocess.run([*TORCHRUN, str(script), str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    return out, done.stderr


@pytest.fixture(scope="module", params=CASE)
def pair(request, together, tmp_path_factory):
    """Directories of the run by one process and of that by two."""
    one = spec(request.param)
    out = tmp_path_factory.mktemp("alone")
    train(one, out)
    return run_directory(out, one), run_directory(together[0] / request.param, one)


def rows(directory, name):
    return [json.loads(line) for line in (directory / name).read_text().splitlines()]


def test_selections_rollouts_and_rewards_are_those_of_one_process(pair):
    alone, both = ([pq.read_table(part) for part in sorted((one / "selections").iterdir())] for one in pair)
    assert len(alone) == len(both) == 2
    for a, b in zip(alone, both, strict=True):
        for name in ("problem", "rollouts", "success", "tokens", "admitted"):
            assert a[name].equals(b[name]), name
    alone, both = (rows(one, "steps.jsonl") for one in pair)
    for a, b in zip(alone, both, strict=True):
        assert (a["reward"], a["length"], a["policy_step"]) == (b["reward"], b["length"], b["policy_step"])
        assert a["actor"]["entropy"] == pytest.approx(b["actor"]["entropy"], rel=100 * EPS)
    assert rows(pair[0], "evals.jsonl") == rows(pair[1], "evals.jsonl")


def test_losses_and_gradients_are_those_of_one_process(pair):
    """Sums of float32 in another order: some hundred roundings of the gradient, relative to its norm.

    The loss is a sum of advantages that nearly cancel, |A| <= 2 over tokens of weight 1 / N: absolute, not relative.
    """
    for a, b in zip(*(rows(one, "steps.jsonl") for one in pair), strict=True):
        for name in ("grad_norm", "grad_norm_l1", "ratio_mean"):
            assert a["actor"][name] == pytest.approx(b["actor"][name], rel=100 * EPS), name
        assert a["actor"]["loss"] == pytest.approx(b["actor"]["loss"], abs=100 * EPS)
        assert a["actor"]["grad_norm"] > 0
    (_, alone), (_, both) = (load_checkpoint(one / "checkpoint.safetensors") for one in pair)
    moved, apart = [], []
    for name, start in load_policy(None, "countdown").model.named_parameters():
        value = alone["actor"]["parameter"][name]
        moved.append(np.abs(value - start.detach().numpy()).ravel())
        apart.append(np.abs(value - both["actor"]["parameter"][name]).ravel())
    # AdamW divides by the gradient's size, so where that is rounding error the direction is, too: there, at most
    # two learning rates a step (2 minibatches); everywhere else the weights agree.
    assert np.concatenate(apart).max() <= 2 * 2 * STEPS * 1e-4
    assert np.quantile(np.concatenate(apart), 0.99) < 1e-2 * np.median(np.concatenate(moved))


def test_a_run_that_is_put_down_is_resumed_to_the_same_bits(together):
    whole, cut = (content(run_directory(together[0] / name, spec("fsdp2"))) for name in ("fsdp2", CUT))
    assert cut == whole


def test_a_failure_of_one_process_ends_all_with_its_message_and_leaves_a_checkpoint(together):
    out, said = together
    assert "there is no memory left on one of the processes" in said
    directory = run_directory(out / FAILED, spec("fsdp2"))
    assert json.loads((directory / "run.json").read_text())["status"] == "running"
    spent, state = load_checkpoint(directory / "checkpoint.safetensors")
    assert spent.steps == STEPS - 1
    assert state["actor"]["policy_step"] == STEPS - 1


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_the_command_killed_by_sigkill_resumes_to_the_same_bits_and_speaks_once(tmp_path, parallel):
    command = [*TORCHRUN, "-m", "curbench", "train", "countdown/sec", "--parallel", parallel]
    for setting in ("budget_steps=6", "batch=5", "group=4", "evaluate_every=2", "checkpoint_every=2"):
        command += ["--set", setting]
    command += ["--set", "grpo.evaluation_problems=15", "--set", "grpo.threads=1"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    where = Path("countdown", "sec", "0")
    log = tmp_path / "cut" / where / "steps.jsonl"
    cut = subprocess.Popen([*command, "--out", str(tmp_path / "cut")], stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < 3:
        assert cut.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    children = Path(f"/proc/{cut.pid}/task/{cut.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert cut.wait() == 1
    done = subprocess.run([*command, "--out", str(tmp_path / "cut"), "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pass rate") == 1
    assert done.stderr.count("sec seed 0: 100 %") == 1
    assert content(tmp_path / "cut" / where) == content(tmp_path / "whole" / where)


def test_one_process_alone_is_a_world():
    world = World()
    assert world.broadcast("a") == "a"
    assert world.gather(3) == [3]
    assert world.sum([1.0, 2.0]) == [1.0, 2.0]
    gradient = torch.tensor([1.0])
    world.sum_([gradient])
    assert gradient == 1


def test_shares_cover_everything_once():
    for size in (1, 2, 3, 7):
        for count in (0, 1, 5, 64):
            share = []
            for rank in range(size):
                world = World()
                world.rank, world.size = rank, size
                share += list(range(count))[world.share(count)]
            assert share == list(range(count))
