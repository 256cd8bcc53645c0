"""The campaign for GPU machines keeps what it has, whatever its stages do; its stages run here on the CPU, on less."""

import importlib.util
import json
import sys
from itertools import count
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    loaded = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


campaign = module("gpu_campaign")
DEVICE = {"name": "NVIDIA H200", "memory_gib": 139.8, "multiprocessors": 132, "cuda": "13.0", "capability": [9, 0]}
ROW = {"op": "draw", "variant": "race", "shape": "9", "dtype": "float32", "us": 7.0, "peer": "numpy", "peer_us": 14.0}
ROW |= {"ratio": 2.0, "target_us": 8, "target_row": 14, "met": True, "fraction_of_ceiling": 0.5, "note": None}


def stage(name, code, limit_s=20.0, least_s=0.0, **about):
    return campaign.Stage(name, (sys.executable, "-c", code), limit_s, least_s, **about)


def emitting(*objects, then=""):
    return "\n".join([f"print({json.dumps(one)!r}, flush=True)" for one in objects] + [then])


def run(tmp_path, *plan, limit_s=60.0, **options):
    one = campaign.Campaign(tmp_path, limit_s, DEVICE, **options)
    passed = one.run(list(plan))
    found = json.loads((tmp_path / "campaign.json").read_text())
    return passed, found, {each["stage"]: each for each in found["stages"]}


def test_a_stage_that_fails_is_recorded_and_the_rest_goes_on(tmp_path):
    failing = emitting(ROW, then="import sys; sys.exit('the device is lost')")
    other = emitting({"copy, GB/s": 4300.0}, {"environment": {"machine": "here"}})
    absent = stage("memcheck", "", absent="compute-sanitizer was not found")
    passed, found, stages = run(tmp_path, stage("row 14", failing), absent, stage("ceilings", other))
    assert not passed
    assert stages["row 14"]["status"] == "failed"
    assert stages["row 14"]["why"] == "exit status 1: the device is lost"
    assert (stages["memcheck"]["status"], stages["memcheck"]["why"]) == ("absent", "compute-sanitizer was not found")
    assert stages["ceilings"]["status"] == "passed"
    assert (found["rows"], found["findings"]) == ([ROW], {"copy, GB/s": 4300.0})
    assert found["environment"] == {"machine": "here"}
    assert "the device is lost" in (tmp_path / "logs" / "row-14.txt").read_text()


def test_absent_stages_do_not_fail_a_campaign(tmp_path):
    assert run(tmp_path, stage("a", "pass"), stage("b", "", absent="no such tool"))[0]


def test_a_stage_beyond_its_limit_is_ended_with_its_children_and_its_rows_are_kept(tmp_path):
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    code = emitting(ROW, then=f"{child}; time.sleep(60)")
    passed, found, stages = run(tmp_path, stage("row 14", code, limit_s=1.5), stage("after", "pass"))
    assert not passed
    assert stages["row 14"]["status"] == "timed out"
    assert stages["row 14"]["seconds"] < 20
    assert found["rows"] == [ROW]
    assert stages["after"]["status"] == "passed"


def test_what_does_not_fit_into_the_time_limit_is_not_begun(tmp_path):
    clock = count(0, 10)  # every look at the clock takes ten seconds
    plan = (stage("first", "pass"), stage("long", "raise SystemExit(1)", least_s=1000.0))
    passed, _, stages = run(tmp_path, *plan, limit_s=200.0, clock=lambda: float(next(clock)))
    assert not passed
    assert (stages["first"]["status"], stages["long"]["status"]) == ("passed", "not run")
    assert stages["long"]["why"].endswith("it needs 1000 s")


def test_every_row_is_on_disk_before_its_stage_ends(tmp_path):
    path = tmp_path / "campaign.json"
    wait = f"import json, time, pathlib\nwhile json.loads(pathlib.Path({str(path)!r}).read_text())['rows'] == []:"
    plan = (stage("begin", "pass"), stage("row 14", emitting(ROW, then=f"{wait} time.sleep(0.05)")))
    assert run(tmp_path, *plan)[0]


def test_a_command_that_does_not_exist_is_a_failed_stage(tmp_path):
    _, _, stages = run(tmp_path, campaign.Stage("tool", ("no-such-command-here",), 5.0, 0.0))
    assert stages["tool"]["status"] == "failed"
    assert "no-such-command-here" in stages["tool"]["why"]


def test_lines_that_only_look_like_results_are_log_lines(tmp_path):
    passed, found, _ = run(tmp_path, stage("a", "print('{not JSON'); print('plain')"))
    assert passed
    assert (found["rows"], found["findings"]) == ([], {})


def test_the_summary_is_a_table_of_rows_and_stages():
    late = ROW | {"us": 9.0, "met": False, "peer": "torch | eager", "peer_us": None, "ratio": None, "note": "unable"}
    stages = [{"stage": "row 14", "status": "passed", "seconds": 3.0, "why": ""}]
    found = {"device": DEVICE, "stages": stages, "findings": {"copy, GB/s": 4300.0}, "rows": [ROW, late]}
    text = "\n".join(campaign.summary_lines(found))
    assert text.startswith("# NVIDIA H200\n")
    assert "copy, GB/s: 4,300." in text
    assert "| 14 | draw | 9 race | float32 | 7.0 | 8 | yes | 50 % | numpy | 14.0 | 2.00 |  |" in text
    assert "| 9.0 | 8 | no | 50 % |" in text
    assert "| row 14 | passed | 3.0 |  |" in text


def test_the_plan_builds_for_this_gpu_and_measures_every_row():
    plan = campaign.stages((9, 0), "/usr/bin/compute-sanitizer", True)
    assert plan[0].environment["CURBENCH_CUDA_ARCHS"] == "90"
    assert plan[0].environment["TORCH_CUDA_ARCH_LIST"] == "9.0"
    names = [one.name for one in plan]
    assert {f"row {n}" for n in (5, 6, 12, 13, 14, 15)} < set(names)
    assert {"parity tests", "memcheck", "racecheck", "ceilings", "grids"} < set(names)
    assert not [one for one in plan if one.absent]
    assert {one.name for one in campaign.stages((8, 0), None, False) if one.absent} == {
        "parity tests",
        "memcheck",
        "racecheck",
    }


def test_without_a_gpu_it_is_one_sentence_and_a_dry_run_prints_the_plan(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert campaign.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == ("gpu_campaign: torch sees no CUDA device here; run it on a machine with one\n")
    assert campaign.main(["--dry-run"]) == 0
    assert "row 12        at most  240 s  1e7 and 1e8 x 384" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_campaign_is_never_overwritten(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(campaign, "device", lambda: DEVICE)
    (tmp_path / "campaign.json").write_text("{}")
    assert campaign.main(["--out", str(tmp_path)]) == 2
    assert "never overwritten" in capsys.readouterr().err


@pytest.fixture(scope="module")
def stages():
    return module("gpu_stages")


@pytest.mark.parametrize(
    "name", ["ceilings", "row 5", "row 6", "row 12", "row 13", "row 14", "row 15", "grids", "small"]
)
def test_the_code_of_every_stage_runs_where_there_is_no_gpu(stages, monkeypatch, capsys, name):
    monkeypatch.setattr(stages, "TOKENS", 32)
    monkeypatch.setattr(stages, "DRAWS", 16)
    monkeypatch.setattr(stages, "alternate", lambda calls, budget_s, device: once(calls))
    with torch.compiler.set_stance("force_eager"):
        if name == "grids":
            with pytest.raises(SystemExit) as ended:
                stages.STAGES[name](stages.Place("cpu", 100_000))
            assert ended.value.code == 0
        else:
            stages.STAGES[name](stages.Place("cpu", 100_000))
    out = capsys.readouterr().out
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert name == "small" or found
    for row in found:
        if "op" in row:
            assert row["note"] is None or ("unable" not in row["note"] and "away from ours" not in row["note"])
            campaign_text = "\n".join(
                campaign.summary_lines({"device": DEVICE, "stages": [], "findings": {}, "rows": [row]})
            )
            assert f"| {row['target_row']} | {row['op']} |" in campaign_text


def once(calls):
    from curbench.bench.clock import Time

    for call in calls.values():
        call()
    return {name: Time(1e-3, 1e-3, 1e-3) for name in calls}


def test_a_wrong_result_of_ours_ends_the_stage_before_it_is_timed(stages, monkeypatch):
    right = stages.kernels.draw
    monkeypatch.setattr(stages, "DRAWS", 16)
    monkeypatch.setattr(
        stages.kernels, "draw", lambda score, **o: right(score, **o | ({"seed": 1} if "threads" not in o else {}))
    )
    with pytest.raises(SystemExit, match="draw differently from the same scores; it was not timed"):
        stages.row_14(stages.Place("cpu", 100_000))


def test_a_wrong_peer_keeps_a_row_that_says_so(stages, monkeypatch, capsys):
    monkeypatch.setattr(stages, "alternate", lambda calls, budget_s, device: once(calls))
    monkeypatch.setattr(stages, "trl_view", lambda a: a["reward"])
    with torch.compiler.set_stance("force_eager"):
        stages.row_6(stages.Place("cpu", 100_000))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (wrong,) = [row for row in rows if row["peer"] == "torch TRL"]
    assert wrong["peer_us"] is None
    assert "tolerances away from ours" in wrong["note"]
