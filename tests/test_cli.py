"""The command line as a user meets it: exit codes, one sentence for bad input, JSON for machines."""

import json
import sys

import pytest

from curbench import cli


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


def test_list_names_everything(curbench):
    code, out, _ = curbench("list", "--json")
    names = json.loads(out)
    assert code == 0
    assert set(names) == {"arms", "learners", "curators", "suites", "ops", "bounds"}
    assert {"stationary", "garivier_moulines", "switching", "drifting"} <= set(names["arms"])
    assert {"uniform", "osmd", "actor_curator", "sec"} <= set(names["curators"])
    assert {"group_advantage", "policy_improvement", "score_bank", "mirror_step"} <= set(names["ops"])
    assert "countdown" in names["suites"]


def test_sim_writes_one_object_per_curator(curbench):
    code, out, _ = curbench("sim", "switching/uniform,osmd", "--horizon", 200, "--seeds", 3, "--arms", 4, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["curator"] for row in rows] == ["uniform", "osmd"]
    assert rows[1]["bound"]["status"] == "proved"
    assert rows[0]["bound"]["status"] == "none"
    assert {"mean", "lo", "hi", "kind"} <= rows[0]["regret"].keys()
    assert rows[1]["certificate"]["min_slack"] > -1e-9


def test_oracles_have_no_regret_to_their_own_comparator(curbench):
    work = ("sim", "switching/oracle_dynamic,oracle_static", "--horizon", 200, "--seeds", 2, "--json")
    dynamic, static = (json.loads(line)["regret"]["mean"] for line in curbench(*work)[1].splitlines())
    assert dynamic == 0.0 < static
    dynamic, static = (
        json.loads(line)["regret"]["mean"] for line in curbench(*work, "--comparator", "static")[1].splitlines()
    )
    assert dynamic < 0.0
    assert static == pytest.approx(0.0, abs=1e-9)
    code, _, err = curbench("sim", "rested_rotting/oracle_dynamic")
    assert code == 2
    assert "its means depend on who is played" in err


def test_candidate_sets_are_simulated_against_the_sleeping_bound(curbench):
    work = ("sim", "stationary", "--candidates", 5, "--batch", 2, "--horizon", 300, "--seeds", 3, "--set", "eta=0.1")
    code, out, _ = curbench(*work, "--json")
    row = json.loads(out)
    assert code == 0
    assert (row["candidates"], row["eta"], row["regret"]["kind"]) == (5, 0.1, "sleeping")
    assert row["certificate"]["holds"] is True
    assert curbench("sim", "stationary", "--candidates", 0)[0] == 2


def test_learn_reports_competence(curbench):
    code, out, _ = curbench("learn", "plain/uniform,sec+nondegenerate,greedy", "--seeds", 2, "--steps", 3, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["curator"] for row in rows] == ["uniform", "sec+nondegenerate", "greedy"]
    assert all(row["competence"]["mean"] > row["start"] for row in rows)
    assert curbench("learn", "nobody/uniform")[0] == 2
    assert curbench("learn", "plain/nobody")[0] == 2


def test_sim_exits_1_when_a_bound_fails(curbench, monkeypatch):
    from curbench import regret

    broken = {name: regret.Bound(b.name, b.status, b.source, lambda s: 0.001) for name, b in regret.BOUNDS.items()}
    monkeypatch.setattr("curbench.sim.coverage.BOUNDS", broken)
    code, out, _ = curbench("sim", "stationary/osmd", "--horizon", 100, "--seeds", 20)
    assert code == 1
    assert "VIOLATED" in out


def test_sim_keeps_results_and_refuses_to_overwrite_them(curbench, tmp_path):
    work = ("sim", "stationary/uniform", "--horizon", 50, "--seeds", 2, "--out", tmp_path)
    assert curbench(*work)[0] == 0
    (kept,) = (tmp_path / "sim" / "stationary").iterdir()
    before = kept.read_bytes()
    code, _, err = curbench(*work)
    assert code == 2
    assert "pass --resume" in err
    code, out, _ = curbench(*work, "--resume")
    assert code == 0
    assert "stationary/uniform" in out
    assert kept.read_bytes() == before


def test_sim_refuses_before_the_first_curator_runs(curbench, tmp_path):
    assert curbench("sim", "stationary/osmd", "--horizon", 50, "--seeds", 2, "--out", tmp_path)[0] == 0
    code, out, err = curbench("sim", "stationary/uniform,osmd", "--horizon", 50, "--seeds", 2, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert "pass --resume" in err
    assert len(list(tmp_path.rglob("*.json"))) == 1


BAD = [
    (("sim", "stationary/nope"), "unknown curator 'nope'; choose from uniform"),
    (("sim", "nope/osmd"), "unknown arms 'nope'; choose from stationary"),
    (("sim", "stationary"), "expected ARMS/CURATOR"),
    (("sim",), "sim takes either ARMS/CURATOR[,CURATOR...] or --suite NAME"),
    (("sim", "stationary/osmd", "--suite", "certified"), "sim takes either"),
    (("sim", "--suite", "everything"), "or one of: certified, large, learners, small, standard"),
    (("sim", "stationary/osmd", "--arms", 0), "arms must be at least 1; got 0"),
    (("sim", "stationary/osmd", "--horizon", 0), "horizon must be at least 1; got 0"),
    (("sim", "stationary/osmd", "--seeds", 0), "seeds must be at least 1; got 0"),
    (("sim", "stationary/osmd", "--batch", 0), "batch must be at least 1; got 0"),
    (("sim", "garivier_moulines/osmd", "--arms", 3), "leave --arms out"),
    (("sim", "stationary/osmd", "--delay", "soon"), "a delay is ROUNDS[:JITTER[:LOSS]]"),
    (("sim", "stationary/osmd", "--noise", "loud"), "noise is KIND[:SCALE[:shared]]"),
    (("sim", "stationary/osmd", "--noise", "beta:-1"), "scale of noise must be positive"),
    (("sim", "stationary/osmd", "--comparator", "best"), "unknown comparator 'best'"),
    (("sim", "stationary/uniform,osmd", "--set", "osmd.low=0"), "leave low and high out"),
    (("sim", "stationary/osmd", "--set", "etta=1"), "no setting 'etta'"),
    (("sim", "stationary/osmd", "--set", "eta"), "--set takes name=value"),
    (("sim", "stationary/osmd", "--set", "eta=nan"), "eta"),
    (("sim", "stationary/osmd", "--set", "sec.alpha=1"), "'sec' is not among osmd"),
    (("sim", "stationary/uniform,osmd", "--horizon", 50, "--seeds", 2, "--set", "osmd.eta=-1"), "eta must be positive"),
    (("bench", "nope"), "op must be one of group_advantage"),
    (("train", "nope/uniform", "--budget-rollouts", 8), "unknown suite 'nope'; choose from countdown"),
    (("train", "countdown/nope", "--budget-rollouts", 8), "unknown curator 'nope'"),
    (("train", "countdown/sec+half", "--budget-rollouts", 8), "unknown admission rule 'half'"),
    (("train", "countdown/uniform"), "a run needs a budget"),
    (("train", "countdown/uniform", "--budget-rollouts", 0), "budget_rollouts"),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--seeds", "a"), "seeds are a number like 7"),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "group=1"), "group"),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "speed=1"), "no setting 'speed'"),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "grpo.lr=1"), "no setting 'grpo.lr'"),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "signal=joy"), "unknown signal 'joy'"),
    (
        ("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "uniform.eta=1"),
        "has no setting 'eta'",
    ),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--model", "/no/such/model"), "/no/such/model"),
    (("train", "countdown/sec", "--budget-rollouts", 8, "--set", "sec.temperature=0"), "temperature must be positive"),
    (("train", "countdown/uniform,osmd", "--budget-rollouts", 8, "--set", "osmd.eta=-1"), "eta must be positive"),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "seed=5"), "give it in --seeds"),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "curator=sec"), "give it in SUITE/CURATOR"),
    (("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "suite=x"), "give it in SUITE/CURATOR"),
    (
        ("train", "countdown/sec", "--budget-rollouts", 8, "--set", "curator_set.alpha=1"),
        "give it in CURATOR.NAME=VALUE",
    ),
    (("train", "countdown/sec", "--budget-rollouts", 8, "--set", "budget_rollouts=9"), "given twice"),
    (("report", "/no/such/folder"), "/no/such/folder does not exist"),
    (("sim", "stationary/osmd", "--batch", 11, "--set", "design=systematic"), "a systematic draw of 11 problems needs"),
    (("sim", "stationary/osmd", "--batch", 11, "--comparator", "top_m"), "there are no 11 best arms among 10"),
    (("sim", "range.csv/osmd"), "range.csv, line 2, column 2: a mean must be in [0, 1]; got 1.4"),
    (("sim", "gap.csv/osmd"), "gap.csv, line 2, column 2: a cell is empty"),
    (("sim", "ragged.csv/osmd"), "ragged.csv, line 3: 2 cells where 3 are expected"),
    (("sweep", "unknown.yaml", "--out", "o"), "unknown.yaml: stationary has no setting 'gapp'; its settings: none"),
    (("learn", "plain/nobody"), "unknown curator 'nobody'"),
    (("learn", "plain/greedy", "--batch", 9999), "greedy selects 9999 different problems; the bank has 800"),
    (("learn", "plain/sec", "--delay", "soon"), "a delay is ROUNDS[:JITTER[:LOSS]]"),
    (("learn", "plain/sec", "--set", "temperature=0", "--out", "o"), "temperature must be positive"),
]
FILES = {
    "range.csv": "a,b\n0.1,1.4\n",
    "gap.csv": "a,b\n0.1,\n",
    "ragged.csv": "start,a,b\n0,0.1,0.2\n7,0.3\n",
    "unknown.yaml": "arms: {stationary: {gapp: 1}}\ncurators: uniform\n",
}


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(map(str, work)) for work, _ in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(curbench, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    code, out, err = curbench(*arguments)
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("curbench: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == FILES.keys()  # nothing was begun


def test_an_unknown_setting_is_answered_with_those_that_can_be_set(curbench):
    _, _, err = curbench("train", "countdown/uniform", "--budget-rollouts", 8, "--set", "speed=1")
    offered = err.partition("choose from ")[2].strip().split(", ")
    assert {"batch", "group", "grpo"} <= set(offered)
    assert not {"suite", "curator", "seed", "curator_set"} & set(offered)


def test_unknown_options_and_verbs_exit_2(curbench):
    assert curbench("sim", "stationary/osmd", "--sedes", 3)[0] == 2
    assert curbench("simulate")[0] == 2


def test_bench_never_overwrites_results(curbench, tmp_path):
    (tmp_path / "bench.json").write_text("mine")
    code, _, err = curbench("bench", "--fast", "--out", tmp_path / "bench.json")
    assert code == 2
    assert "never overwritten" in err
    assert (tmp_path / "bench.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", "{}"), ("run.json", '{"spec"'), ("checkpoint.safetensors", "x"), ("evals.jsonl", "")],
)
def test_a_damaged_run_is_one_sentence_with_its_file(curbench, tmp_path, name, content):
    work = ("train", "countdown/uniform", "--set", "budget_steps=1", "--set", "batch=2", "--set", "group=2")
    work = (*work, "--set", "grpo.evaluation_problems=2", "--out", tmp_path)
    assert curbench(*work)[0] == 0
    directory = tmp_path / "countdown" / "uniform" / "0"
    run = directory / "run.json"
    if name != "evals.jsonl":  # which a run that is not complete would write again
        run.write_text(run.read_text().replace("complete", "running"))
    (directory / name).write_text(content)
    code, out, err = curbench(*work, "--resume")
    assert (code, out) == (2, "")
    assert f"{directory / name} " in err


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no evaluation"), ('{"step"\n', "line 1 is not JSON"), ("{}\n", "line 1 lacks n")],
)
def test_a_complete_run_whose_evaluations_are_gone_is_one_sentence(tmp_path, content, message):
    from curbench.record import read_evaluations

    (tmp_path / "evals.jsonl").write_text(content)
    with pytest.raises(ValueError, match=f"evals.jsonl {message}"):
        read_evaluations(tmp_path)


def test_report_replaces_nothing_but_reports(curbench, tmp_path):
    assert curbench("sim", "stationary/uniform", "--horizon", 50, "--seeds", 2, "--out", tmp_path)[0] == 0
    (kept,) = tmp_path.rglob("*.json")
    before = kept.read_bytes()
    code, _, err = curbench("report", tmp_path, "--out", kept)
    assert code == 2
    assert "not a report of ours" in err
    assert kept.read_bytes() == before


def test_doctor_says_what_is_here(curbench):
    code, out, _ = curbench("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["cuda"].startswith("not available (") or "device" in found["cuda"]
    assert {"curbench", "python", "kernels", "torch", "vllm", "reasoning_gym"} <= found.keys()


def test_a_missing_extra_is_named(curbench, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = curbench("train", "countdown/uniform", "--budget-rollouts", 8, "--out", tmp_path)
    assert code == 2
    assert 'transformers is not installed; run: pip install -e ".[train]"' in err
