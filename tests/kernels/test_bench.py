"""The benchmark sees results that are wrong in any field, and says so without stopping."""

from dataclasses import replace

import numpy as np
import pytest

from curbench import bench, kernels
from curbench.kernels import reference


def spoilt(op, **wrong):
    """The op, with fields of its result replaced."""
    right = getattr(kernels, op)
    return lambda **arguments: right(**arguments)._replace(**wrong)


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        ("score_bank", {"problem": np.zeros(9, np.int64)}),
        ("score_bank", {"propensity": np.full(9, 7.0)}),
        ("score_bank", {"log_normaliser": 0.0}),
        ("group_advantage", {"mean": None}),
        ("group_advantage", {"success": np.zeros(3, np.int64)}),
        ("policy_improvement", {"ratio": np.ones(8)}),
        ("policy_improvement", {"tokens": np.zeros(8)}),
    ],
)
def test_the_self_check_sees_every_field(monkeypatch, op, wrong):
    monkeypatch.setattr(kernels, op, spoilt(op, **wrong))
    assert any(sentence.startswith(f"{op} ") for sentence in bench.self_check())


@pytest.mark.parametrize(
    ("op", "option", "value"),
    [
        ("group_advantage", "estimator", "rloo"),
        ("group_advantage", "estimator", "dr_grpo"),
        ("group_advantage", "ddof", 0),
        ("policy_improvement", "ratio", "sequence"),
        ("policy_improvement", "ratio_clip", 1.0),
        ("score_bank", "floor", 0.1),
        ("score_bank", "temperature", 0.7),
        ("mirror_step", "share", 0.0),
    ],
)
def test_the_self_check_runs_every_option(monkeypatch, op, option, value):
    right = getattr(kernels, op)

    def wrong(**arguments):
        if arguments.get(option) == value:
            del arguments[option]
            return right(**{"share": 0.5, **arguments} if op == "mirror_step" else arguments)
        return right(**arguments)

    monkeypatch.setattr(kernels, op, wrong)
    failed = bench.self_check()
    assert failed
    assert all(f"{option}={value}" in sentence for sentence in failed)


def test_a_utility_that_is_off_by_a_thousandth_is_seen():
    arrays = bench.make_logprobs(16, 33, "sequence_mean")
    right = reference.policy_improvement(**bench.SUBJECTS["policy_improvement"].arguments(arrays))
    calls = {"ours": lambda: right._replace(utility=1.001 * right.utility)}
    assert list(bench.disagreements("policy_improvement", arrays, calls)) == ["ours"]


def test_an_op_off_its_reference_is_a_sentence_and_others_are_still_timed(monkeypatch):
    small = {"group_advantage": (8, 4), "mirror_step": (100,)}
    for op, shape in small.items():
        monkeypatch.setitem(bench.SUBJECTS, op, replace(bench.SUBJECTS[op], shapes=(shape,)))
    monkeypatch.setattr(kernels, "group_advantage", spoilt("group_advantage", var=np.ones(8)))
    timing = bench.run(list(small), fast=True)
    assert {row["op"] for row in timing.rows} == {"mirror_step"}
    assert timing.failed[0].startswith("group_advantage 8x4 on cpu: ours is ")
    assert timing.skipped == []


def test_the_command_ends_with_1_and_a_sentence_when_an_op_is_off_its_reference(monkeypatch, capsys):
    from curbench import cli  # here, because the tests of the kernels must be collected without typer

    monkeypatch.setitem(bench.SUBJECTS, "mirror_step", replace(bench.SUBJECTS["mirror_step"], shapes=((100,),)))
    monkeypatch.setattr(kernels, "mirror_step", lambda **arguments: arguments["probability"])
    monkeypatch.setattr("sys.argv", ["curbench", "bench", "mirror_step", "--fast"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "curbench: mirror_step 100 on cpu: ours is " in capsys.readouterr().err


def test_a_peer_off_the_reference_is_skipped_by_name(monkeypatch):
    subject = bench.SUBJECTS["mirror_step"]
    peers = {**subject.peers, "numpy": lambda a: np.zeros(len(a["p"]))}
    monkeypatch.setitem(bench.SUBJECTS, "mirror_step", replace(subject, peers=peers, shapes=((100,),)))
    timing = bench.run(["mirror_step"], fast=True)
    assert {row["peer"] for row in timing.rows} == {"torch eager"}
    assert timing.failed == []
    assert "mirror_step 100 on cpu: numpy is " in timing.skipped[0]


def test_torch_peers_are_compared_with_ours_on_tensors():
    arrays = bench.make_logprobs(8, 5, "token_mean")
    calls = bench.runners("policy_improvement", arrays)
    assert list(calls) == ["ours", "ours on tensors", "torch eager", "torch eager, float mask", "numpy"]
    assert calls["ours on tensors"]().utility.tolist() == calls["ours"]().utility.tolist()
    us = {"ours": 1.0, "ours on tensors": 2.0}
    assert [bench.rival(peer, us) for peer in ("numpy", "torch eager")] == ["ours", "ours on tensors"]


def test_bytes_of_a_mirror_step_count_every_round_of_its_search():
    assert bench.mirror_bytes({"p": np.full(4, 0.25), "arm": [0], "loss": [0.0]}) == 4 * 8 * (8 + 2)
