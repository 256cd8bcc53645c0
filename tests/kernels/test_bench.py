"""The benchmark sees results that are wrong in any field, and says so without stopping."""

import getpass
import json
import math
import platform
from dataclasses import replace
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch

from curbench import bench, kernels
from curbench.bench.bank import SCORE_BANK, make_bank
from curbench.bench.clock import alternate, ceiling_of
from curbench.bench.improvement import make_logprobs
from curbench.bench.measure import call_of, disagreement, expectation, rival, runners
from curbench.bench.mirror import step_work
from curbench.bench.subject import Case, Target, Work
from curbench.kernels import reference
from curbench.kernels.extension import load


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
    arrays = make_logprobs(16, 33, "sequence_mean")
    right = expectation("policy_improvement", arrays)
    wrong = right._replace(utility=1.001 * right.utility)
    assert "tolerances away" in disagreement("policy_improvement", "ours", lambda: wrong, right)
    assert disagreement("policy_improvement", "ours", lambda: right, right) is None


def short(monkeypatch, op, *cases, **change):
    monkeypatch.setitem(bench.SUBJECTS, op, replace(bench.SUBJECTS[op], cases=cases, **change))


PEERS = ("torch eager", "numpy")
ARMS = Case((100,), PEERS, {"numpy": Target(1e9, 17)}, fast=PEERS)


def test_an_op_off_its_reference_is_a_sentence_and_others_are_still_timed(monkeypatch):
    short(monkeypatch, "group_advantage", Case((8, 4), ("numpy",), fast=("numpy",)))
    short(monkeypatch, "mirror_step", ARMS)
    monkeypatch.setattr(kernels, "group_advantage", spoilt("group_advantage", var=np.ones(8)))
    timing = bench.run(["group_advantage", "mirror_step"], fast=True)
    assert {row["op"] for row in timing.rows} == {"mirror_step"}
    assert timing.failed[0].startswith("group_advantage 8x4 on cpu: ours is ")
    assert timing.skipped == []


def test_a_row_says_what_was_moved_how_fast_that_can_be_and_whether_the_target_is_met(monkeypatch):
    short(monkeypatch, "mirror_step", ARMS)
    eager, plain = bench.run(["mirror_step"], fast=True).rows
    assert (plain["target"], plain["target_row"], plain["met"]) == (1e9, 17, False)
    assert (eager["target"], eager["met"]) == (None, None)
    for row in (eager, plain):
        low, high = row["us_range"]
        assert 0 < low <= row["us"] <= high
        assert row["ratio"] == pytest.approx(row["peer_us"] / row["us"])
        assert row["ceiling"] == "read"
        assert 0 < row["fraction_of_ceiling"] < math.inf
        assert row["bytes"] >= 8 * 8 * 100


def unable(a):
    raise RuntimeError("number of categories cannot exceed 2^24\nand more")


def not_installed(a):
    raise ModuleNotFoundError("No module named 'faiss'", name="faiss")


@pytest.mark.parametrize(
    ("peer", "note"),
    [
        (lambda a: np.zeros(len(a["p"])), "tolerances away from the reference"),
        (unable, "unable to run: number of categories cannot exceed 2^24"),
        (not_installed, "unable to run: faiss is not installed"),
    ],
)
def test_a_peer_that_is_wrong_or_cannot_run_has_a_row_that_says_so(monkeypatch, peer, note):
    short(monkeypatch, "mirror_step", ARMS, peers={**bench.SUBJECTS["mirror_step"].peers, "numpy": peer})
    timing = bench.run(["mirror_step"], fast=True)
    eager, other = timing.rows
    assert (eager["note"], timing.failed) == (None, [])
    assert (other["peer_us"], other["ratio"], other["met"]) == (None, None, None)
    assert other["note"].endswith(note)
    assert f"mirror_step 100 on cpu: numpy is {other['note']}; it was not timed" in timing.skipped
    assert other["note"] in bench.describe(other)


def test_torch_peers_are_compared_with_ours_on_tensors():
    arrays = make_logprobs(8, 5, "token_mean")
    calls = runners("policy_improvement", arrays, peers=("torch eager", "numpy"))
    assert list(calls) == ["ours", "ours on tensors", "torch eager", "numpy"]
    assert calls["ours on tensors"]().utility.tolist() == calls["ours"]().utility.tolist()
    assert [rival(peer, calls) for peer in ("numpy", "torch eager")] == ["ours", "ours on tensors"]


def test_bytes_of_a_mirror_step_count_every_round_of_its_search():
    assert step_work({"p": np.full(4, 0.25), "arm": [0], "loss": [0.0]}) == Work(4 * 8 * (8 + 2))


SMALL = {
    "group_advantage": [(16, 8), (16, 8, "uuids"), (16, 8, "shared uuids")],
    "policy_improvement": [
        (64, 16, ratio, *form)
        for ratio in ("sequence_mean", "token_mean")
        for form in ((), ("lengths",), ("bfloat16",))
    ],
    "score_bank": [
        (3000, 16, "iid"),
        (3000, 16, "race"),
        (3000, 16, "race", "bfloat16"),
        (3000, 16, "race", "int8"),
        (3000, 16, 24, "race"),
        (3000, 16, 24, "race", "bfloat16"),
    ],
    "draw": [(3000, kind) for kind in ("race", "iid", "systematic", "nucleus", "two levels")],
    "mirror_step": [(1000,)],
    "mirror_tree": [(1000,)],
}


def same_kind(a, b):
    """Whether two shapes differ in their sizes only."""
    return [x if isinstance(x, str) else 0 for x in a] == [x if isinstance(x, str) else 0 for x in b]


@pytest.mark.parametrize(("op", "shape"), [(op, shape) for op, shapes in SMALL.items() for shape in shapes], ids=str)
def test_ours_and_every_peer_agree_with_the_reference(op, shape):
    this = bench.SUBJECTS[op]
    cases = [case for case in this.cases if same_kind(case.shape, shape)]
    assert cases, "this kind is not timed"
    peers = tuple(dict.fromkeys(peer for case in cases for peer in case.peers))
    arrays = this.make(*shape)
    expected = expectation(op, arrays)
    with torch.compiler.set_stance("force_eager"):  # compiling takes seconds
        for name, call in runners(op, arrays, peers=peers).items():
            if name != "faiss top-k":
                assert disagreement(op, name, call, expected) is None, name


def test_the_shapes_above_are_of_every_kind_that_is_timed():
    for op, this in bench.SUBJECTS.items():
        for case in this.cases:
            assert any(same_kind(case.shape, shape) for shape in SMALL[op]), case
            assert set(case.fast) <= set(case.peers) <= set(this.peers)
            assert set(case.target) <= set(case.peers)


def test_every_row_of_the_targets_for_this_kind_of_machine_is_timed():
    targets = [target.row for this in bench.SUBJECTS.values() for case in this.cases for target in case.target.values()]
    assert set(targets) == {1, 2, 3, 4, 7, 8, 9, 10, 11, 16, 17}  # 18 is the case "two levels": right or wrong


def test_a_search_of_faiss_finds_the_largest_scores():
    pytest.importorskip("faiss")
    arrays = make_bank(3000, 16, "race")
    call = runners("score_bank", arrays, peers=("faiss top-k",))["faiss top-k"]
    expected = expectation("score_bank", arrays)
    assert disagreement("score_bank", "faiss top-k", call, expected) is None
    worse = expected._replace(score=np.asarray(expected.score) + np.float32(0.01))
    assert disagreement("score_bank", "faiss top-k", call, worse)


def test_a_target_beyond_the_ceiling_is_said_to_be():
    row = {"op": "draw", "variant": "", "shape": "9", "dtype": "float32", "backend": "cpu", "us": 1.0, "peer": "numpy"}
    row |= {"peer_us": 1.2, "ratio": 1.2, "ceiling": "read", "fraction_of_ceiling": 0.9, "target": 1.4, "met": False}
    assert bench.describe(row).endswith("target 1.4x missed, 1.3x at the ceiling")
    assert bench.describe(row | {"fraction_of_ceiling": 0.5}).endswith("target 1.4x missed")


def test_draws_that_do_not_follow_from_the_scores_are_seen():
    arrays = make_bank(3000, 16, "race")
    right = call_of("score_bank", kernels, arrays)()
    other = reference.draw(right.score, count=256, design="race", seed=1)
    expected = expectation("score_bank", arrays)
    assert SCORE_BANK.own_distance(right, expected) <= 1.0
    assert SCORE_BANK.own_distance(other, expected) == math.inf


def test_a_call_slower_than_the_budget_runs_once_and_the_others_at_least_three_times():
    ran = {"slow": 0, "quick": 0}

    def slow():
        ran["slow"] += 1
        sleep(0.02)

    def quick():
        ran["quick"] += 1

    time = alternate({"slow": slow, "quick": quick}, 0.01)
    assert ran["slow"] == 1
    assert ran["quick"] >= 4
    assert time["slow"].low == time["slow"].high >= 0.02
    assert time["quick"].low <= time["quick"].median <= time["quick"].high


def test_ceilings_count_what_they_do():
    assert load().read_words(np.arange(64, dtype=np.uint64), 64) == 64 * 63 // 2
    before = load().isa()
    try:
        for isa, lanes in (("portable", 1), ("avx2", 8), ("avx512", 16)):
            if load().use_isa(isa):
                assert load().read_words(np.arange(64, dtype=np.uint64), 64) == 64 * 63 // 2
                assert load().multiply_add(False, 10) == 10 * 12 * lanes * 2
    finally:
        load().use_isa(before)
    read = ceiling_of(Work(1 << 20), "cpu")
    assert (read.kind, read.amount, read.needed) == ("read", 1 << 20, 1 << 20)
    assert read.fraction(ours_s=2.0, ceiling_s=1.0) == 0.5
    assert ceiling_of(Work(1 << 20, 1000), "cpu").kind == "multiply-add"


# Files, and comparing them.


def document(*rows, machine="mine"):
    return {"environment": {"machine": machine}, "rows": list(rows)}


def timed(us, ratio, spread=1.0, **change):
    row = {"op": "draw", "variant": "race", "shape": "9", "dtype": "float32", "threads": 1, "backend": "cpu"}
    row |= {"peer": "numpy", "us": us, "us_range": [us / spread, us * spread], "ratio": ratio}
    return row | {"peer_us": us * ratio, "peer_us_range": [us * ratio / spread, us * ratio * spread]} | change


@pytest.mark.parametrize(
    ("new", "slower", "faster"),
    [
        (timed(10, 4), 0, 0),
        (timed(20, 2), 1, 0),
        (timed(5, 8), 0, 1),
        (timed(20, 4), 0, 0),  # the machine is slow: so is the peer
        (timed(10, 2), 0, 0),  # the peer became faster
        (timed(11, 3.7), 0, 0),  # within the slack
        (timed(20, 2, spread=2), 0, 0),  # within the spread of the samples
        (timed(100, 0.4, spread=2), 1, 0),
    ],
)
def test_a_row_is_slower_when_its_ratio_and_its_time_are_beyond_noise(new, slower, faster):
    result = bench.compare(document(timed(10, 4)), document(new))
    assert (len(result.slower), len(result.faster), result.other) == (slower, faster, [])


def test_on_another_machine_only_ratios_decide_and_it_is_said():
    new = document(timed(1, 2), machine="yours")
    result = bench.compare(document(timed(10, 4)), new)
    assert len(result.slower) == 1
    assert result.other == ["another machine: mine before, yours now; only ratios are compared"]
    assert bench.compare(document(timed(10, 4)), document(timed(99, 4), machine="yours")).slower == []


def test_rows_that_came_or_went_are_named():
    gone = timed(10, 4) | {"peer_us": None, "peer_us_range": None, "ratio": None}
    result = bench.compare(document(timed(10, 4), timed(10, 4, shape="8")), document(gone, timed(10, 4, shape="7")))
    assert result.other == [
        "draw 9 race float32 on cpu: numpy ran before and does not now",
        "draw 7 race float32 on cpu: numpy is new",
        "draw 8 race float32 on cpu: numpy is missing",
    ]
    assert bench.compare(document(timed(10, 4)), document(), part=True).other == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("rows", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"rows": []}', "lacks environment"),
        ('{"rows": 3, "environment": {"machine": ""}}', "rows is not a list"),
        ('{"rows": [{"op": "draw"}], "environment": {"machine": ""}}', "a row lacks "),
        (json.dumps(document(timed(10, 4) | {"us": "fast"})), "are not positive numbers"),
        (json.dumps(document(timed(10, 4) | {"us_range": 3})), "are not positive numbers"),
    ],
)
def test_a_file_that_is_no_benchmark_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}.*{sentence}"):
        bench.read_document(path)
    with pytest.raises(ValueError, match="does not exist"):
        bench.read_document(tmp_path / "absent.json")


def test_a_document_tells_the_machine_and_names_nobody(monkeypatch):
    monkeypatch.setattr("sys.argv", ["curbench", "bench", "--out", "/home/somebody/private/one"])
    kept = bench.document(bench.Timing([], [], []))
    place = kept["environment"]
    assert place["command"] == "curbench bench --out one"
    assert {"machine", "memory_gib", "system", "versions", "commit", "time", "load_average"} <= set(place)
    text = json.dumps(kept)
    private = (platform.node(), str(Path.home()), str(Path(__file__).parents[2]), "somebody")
    assert not [name for name in private if len(name) > 4 and name in text]
    assert getpass.getuser() in ("root", "user") or getpass.getuser() not in text


# The command.


@pytest.fixture
def command(monkeypatch, capsys):
    from curbench import cli  # here, because the tests of the kernels must be collected without typer

    short(monkeypatch, "mirror_step", ARMS)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["curbench", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command_ends_with_1_and_a_sentence_when_an_op_is_off_its_reference(monkeypatch, command):
    monkeypatch.setattr(kernels, "mirror_step", lambda **arguments: arguments["probability"])
    code, _, err = command("mirror_step", "--fast")
    assert code == 1
    assert "curbench: mirror_step 100 on cpu: ours is " in err


def test_the_command_keeps_rows_and_a_page_and_compares_them(command, tmp_path):
    code, out, _ = command("mirror_step", "--fast", "--out", tmp_path / "one", "--json")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    kept = json.loads((tmp_path / "one" / "bench.json").read_text())
    assert kept["rows"] == rows
    assert "<svg" in (tmp_path / "one" / "bench.html").read_text()

    faster_before = kept | {"rows": [row | _faster(row) for row in rows]}
    (tmp_path / "old.json").write_text(json.dumps(faster_before))
    data = ("--data", tmp_path / "one" / "bench.json", "--compare")
    assert command(*data, tmp_path / "one" / "bench.json")[0] == 0
    code, out, _ = command(*data, tmp_path / "old.json")
    assert code == 1
    assert "old.json: 2 slower, 0 faster" in out
    *_, verdict = (json.loads(line) for line in command(*data, tmp_path / "old.json", "--json")[1].splitlines())
    assert (verdict["compared_with"], len(verdict["slower"])) == ("old.json", 2)


def _faster(row):
    ends = [end / 100 for end in row["us_range"]]
    return {"us": row["us"] / 100, "us_range": ends, "ratio": row["ratio"] * 100}


def test_the_command_refuses_before_it_times_anything(command, tmp_path):
    (tmp_path / "bench.json").write_text("{}")
    assert command("--out", tmp_path)[0] == 2
    code, _, err = command("--compare", tmp_path / "bench.json")
    assert (code, err.count("\n")) == (2, 1)
    assert "lacks environment, rows" in err
    assert command("draw", "--data", tmp_path / "bench.json")[0] == 2
