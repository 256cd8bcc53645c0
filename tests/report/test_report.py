import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curbench.provenance import environment
from curbench.report import sim_figures, write_report
from curbench.report.collect import TrainingRun, collect
from curbench.report.compare import comparable
from curbench.report.training import cost, learning_curve, results, stratum_share
from curbench.report.training_sections import _result_row
from curbench.sim.arms import make_arms
from curbench.sim.simulate import keep, result_curves, simulate
from tests.report.browser import chromium, inspect

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # a layout that does not fit

STRATA = ("easy", "hard", "<b>")
SECONDS = {"select": 1.0, "rollout": 5.0, "reward": 1.0, "update": 2.0, "signal": 0.5, "curator_update": 0.5}


def evaluation(step, tokens, success):
    row = {"step": step, "rollouts": step * 8, "tokens": tokens, "success": success, "n": [1] * len(success)}
    return row | {"pass_rate": float(np.mean(success)), "stratum": [0] * len(success), "eval_tokens": 10}


def training_run(curator, seed, *evaluations, status="complete", suite="countdown", **setting):
    rows = [evaluation(*one) for one in evaluations]
    drawn = {"effective_share": 0.25 if curator == "uniform" else 0.99}
    row = {"degenerate": 0.5, "curator": drawn, "seconds": SECONDS, "strata": [2, 1, 1]}
    row |= {"cost": {"memory_mb": 100.0 + seed}}
    step = [{"step": i + 1, "tokens": 50 * (i + 1)} | row for i in range(rows[-1]["step"])]
    spec = {"suite": suite, "curator": curator, "seed": seed} | setting
    return TrainingRun(Path(suite, curator, str(seed)), spec, [environment()], status, step, rows, STRATA)


def write_run(out, run):
    directory = out / run.directory
    directory.mkdir(parents=True)
    content = {"spec": run.spec, "environment": run.environment, "status": run.status}
    content["bank"] = {"problems": 40, "strata": dict.fromkeys(STRATA, 10)}
    (directory / "run.json").write_text(json.dumps(content))
    for name, rows in (("steps", run.step), ("evals", run.evaluation)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


UNIFORM = [
    training_run("uniform", 0, (0, 0, [0, 0, 1, 1]), (1, 90, [1, 0, 1, 1]), (2, 200, [1, 0, 1, 1])),
    training_run("uniform", 1, (0, 0, [0, 0, 1, 1]), (1, 110, [0, 0, 1, 1]), (3, 260, [0, 1, 1, 1])),
]
SEC = [training_run("sec", 0, (0, 0, [0, 0, 1, 1]), (1, 100, [1, 1, 1, 1]), (2, 210, [1, 1, 1, 1]))]


def test_seeds_are_averaged_and_comparisons_paired():
    table = {row.curator: row for row in results(UNIFORM + SEC)}
    assert list(table) == ["uniform", "sec"]
    uniform, sec = table["uniform"], table["sec"]
    assert (uniform.seeds, uniform.before, uniform.after) == (2, 0.5, 0.75)
    assert uniform.change.mean == pytest.approx(0.25)
    assert uniform.versus_uniform is None
    assert sec.versus_uniform.mean == pytest.approx(np.mean([1 - 0.5, 1 - 0.5, 0, 0]))
    assert uniform.tokens == 230


def test_learning_curves_align_seeds_by_step_and_end_at_each_seeds_last_evaluation():
    curve = learning_curve(UNIFORM)
    assert curve.at.tolist() == [0, 100, 230]
    assert learning_curve(UNIFORM, "seconds").at.tolist() == [0, 10, 25]
    assert curve.mean.tolist() == [0.5, 0.625, 0.75]
    assert len(curve.seed) == 2


def test_runs_of_other_settings_are_no_seeds_of_one_another():
    ends = ((0, 0, [0, 0, 1, 1]), (1, 100, [1, 1, 1, 1]))
    slow = [training_run(name, 0, *ends, grpo={"learning_rate": 0.1, "beta1": 0.9}) for name in ("uniform", "sec")]
    fast = training_run("uniform", 0, *ends, grpo={"learning_rate": 0.2, "beta1": 0.9})
    table = {row.curator: row for row in results([*slow, fast])}
    assert list(table) == [
        "uniform (grpo.learning_rate=0.1)",
        "uniform (grpo.learning_rate=0.2)",
        "sec (grpo.learning_rate=0.1)",
    ]
    assert all(row.seeds == 1 for row in table.values())
    assert table["sec (grpo.learning_rate=0.1)"].versus_uniform.mean == 0.0
    alone = {row.curator: row for row in results([fast, slow[1]])}
    assert alone["sec (grpo.learning_rate=0.1)"].versus_uniform is None  # uniform was trained otherwise


def test_optional_settings_label_only_the_runs_that_have_them_and_averages_stand_beside_the_last_weights(tmp_path):
    ends = ((0, 0, [0, 0, 1, 1]), (1, 100, [1, 1, 1, 1]))
    plain = training_run("uniform", 0, *ends, grpo={"averaging": None})
    kept = training_run("uniform", 0, *ends, grpo={"averaging": {"every": 5}})
    kept.evaluation[-1]["averaged"] = {"pass_rate": 0.875}
    table = {row.curator: row.averaged for row in results([plain, kept])}
    assert table == {"uniform": None, "uniform (grpo.averaging.every=5)": 0.875}
    write_report([write_run(tmp_path, kept)], tmp_path / "report.html")
    assert "<td>1.000 (0.875 averaged)</td>" in (tmp_path / "report.html").read_text()


def test_a_curators_own_settings_label_its_runs_and_leave_the_comparison_with_uniform():
    ends = ((0, 0, [0, 0, 1, 1]), (1, 100, [1, 1, 1, 1]))
    runs = [training_run("sec", 0, *ends, curator_set=own) for own in ({}, {"alpha": "0.1"})]
    table = results([training_run("uniform", 0, *ends, curator_set={}), *runs])
    assert [row.curator for row in table] == ["uniform", "sec (alpha=0.1)", "sec (alpha=default)"]
    assert all(row.versus_uniform for row in table[1:])


def test_one_seed_twice_is_refused():
    with pytest.raises(ValueError, match="sec/0 and countdown/sec/0 hold the same run, sec seed 0; give one of them"):
        results(SEC + SEC)


def test_seeds_that_were_evaluated_on_other_problems_are_refused_by_name():
    short = training_run("uniform", 2, (0, 0, [0, 1]), (1, 100, [1, 1]))
    with pytest.raises(ValueError, match="uniform/1 and countdown/uniform/2 were evaluated on 4 and 2 problems"):
        results([*UNIFORM, short])


def test_curation_time_is_selecting_signal_and_learning():
    run = training_run("sec", 0, (0, 0, [0]), (2, 10, [1]))
    one = cost([run])
    assert (one.step_s, one.curator_share, one.curator_ms) == pytest.approx((10.0, 0.2, 2000.0))
    assert (one.tokens_per_s, one.memory_mb) == (5.0, 100.0)


def test_curation_time_leaves_out_the_first_step_of_each_process():
    run = training_run("sec", 0, (0, 0, [0]), (5, 10, [1]))
    run.environment[:] = [{"first_step": 1}, {"first_step": 4}]
    for i in (0, 3):
        run.step[i]["seconds"] = SECONDS | {"select": 1000.0}
    assert cost([run]).curator_share == pytest.approx(0.2)
    assert np.isnan(cost([training_run("sec", 0, (0, 0, [0]), (1, 10, [1]))]).curator_share)


def test_a_curator_that_draws_nearly_uniformly_is_pointed_out():
    table = {row.curator: row for row in results(UNIFORM + SEC)}
    assert (table["uniform"].support, table["sec"].support) == (0.25, pytest.approx(0.99))
    assert "99 %, nearly uniform" in _result_row(table["sec"])
    assert "25 %" in _result_row(table["uniform"])
    nameless = [replace(SEC[0], step=[{"step": 1, "degenerate": 0.5, "seconds": SECONDS}])]
    assert "" in _result_row(results(nameless)[0])


def test_stratum_shares_add_up_at_every_time():
    step, share = stratum_share(UNIFORM)
    assert (np.diff(step) > 0).all()
    np.testing.assert_allclose(share, np.tile([0.5, 0.25, 0.25], (len(step), 1)))


@pytest.fixture
def everything(tmp_path):
    out = tmp_path / "out"
    for run in UNIFORM + SEC:
        write_run(out, run)
    keep(out, simulate(make_arms("switching", horizon=100), "osmd", seeds=2), {"seeds": 2})
    row = {
        "op": "group_advantage",
        "variant": "",
        "shape": "8x8",
        "size": 64,
        "dtype": "float32",
        "threads": 1,
        "backend": "cpu",
        "peer": "<numpy>",
    }
    row |= {"us": 1.0, "peer_us": 5.0, "ratio": 5.0, "bytes": 512, "fraction_of_ceiling": None}
    (out / "bench.json").write_text(json.dumps({"environment": environment(), "rows": [row]}))
    return out


def test_the_page_shows_all_three_and_names_nothing_outside_itself(everything, tmp_path):
    summary = write_report([everything], tmp_path / "page" / "report.html")
    assert (summary["simulations"], summary["kernel_rows"], summary["training_runs"]) == (1, 1, 3)
    page = (tmp_path / "page" / "report.html").read_text()
    assert page.count("<svg") == 7
    assert "&lt;numpy&gt;" in page
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))


def test_a_folder_given_twice_counts_once(everything, tmp_path):
    once = write_report([everything], tmp_path / "report.html")
    assert write_report([everything, everything / "countdown", everything], tmp_path / "report.html") == once


def test_unfinished_runs_are_left_out_and_counted(everything, tmp_path):
    directory = write_run(everything, training_run("sec", 1, (0, 0, [0, 0, 1, 1]), status="running"))
    (directory / "evals.jsonl").write_text('{"step": 0, "rew')  # as a run that is being written can look
    summary = write_report([everything], tmp_path / "report.html")
    assert (summary["training_runs"], summary["unfinished_runs"]) == (3, 1)
    assert ": 1 unfinished run, to be continued" in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match="no results in .*; 1 unfinished run"):
        write_report([directory], tmp_path / "other.html")


def test_what_comes_from_files_is_escaped(everything, tmp_path):
    bad = 'a"><script>alert(1)</script>'
    (path,) = (everything / "sim").rglob("*.json")
    content = json.loads(path.read_text())
    row = content["row"] | {"arms": bad, "curator": bad, "driver": bad, "seeds": bad, "batch": bad, "horizon": bad}
    row["regret"] |= {"kind": bad, "comparator": bad}
    row["bound"] |= {"name": bad, "source": bad}
    path.write_text(json.dumps(content | {"row": row | {"arms_count": bad, "hyper": {bad: bad}}}))
    write_report([everything], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert 'a"><' not in page


def test_a_horizon_below_ten_is_drawn_from_left_to_right(monkeypatch):
    drawn = []
    monkeypatch.setattr(sim_figures, "svg", lambda figure, title: drawn.append(figure.axes[0].get_xlim()))
    for horizon in (1, 5, 10, 100):
        result = simulate(make_arms("stationary", horizon=horizon), "uniform", seeds=2)
        row = {"row": result.row()} | result_curves(result)
        sim_figures.regret_figure("stationary", [row])
    assert all(left < right for left, right in drawn)
    assert drawn[-1][0] == 10


def test_only_a_report_is_replaced(everything, tmp_path):
    out = tmp_path / "report.html"
    write_report([everything], out)
    write_report([everything], out)
    out.write_text("mine")
    with pytest.raises(ValueError, match="report.html is not a report of ours"):
        write_report([everything], out)
    assert out.read_text() == "mine"


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_a_browser_draws_every_plot_without_a_console_message(everything, tmp_path):
    write_report([everything], tmp_path / "report.html")
    seen = inspect(tmp_path / "report.html")
    assert seen.drawn == seen.pictures == 7
    assert seen.tables == 7
    assert seen.console == []


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_the_browser_check_notices_a_broken_page(tmp_path):
    (tmp_path / "bad.html").write_text("<title>x</title><svg width=300 height=300></svg><script>nope()</script>")
    seen = inspect(tmp_path / "bad.html")
    assert (seen.drawn, seen.pictures) == (0, 1)
    assert any("nope is not defined" in line for line in seen.console)


def test_a_pack_of_runs_gives_the_same_page(everything, tmp_path):
    pack = tmp_path / "all.runs.parquet"
    write_report([everything / "countdown"], tmp_path / "one.html", pack=pack)
    summary = write_report([pack], tmp_path / "two.html")
    assert summary["training_runs"] == 3
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()
    assert write_report([tmp_path], tmp_path / "three.html")["training_runs"] == 3  # runs and their pack
    with pytest.raises(ValueError, match=r"a pack of runs is named SOMETHING.runs.parquet; got all.parquet"):
        write_report([everything], tmp_path / "one.html", pack=tmp_path / "all.parquet")


def test_runs_that_have_not_ended_are_shown_as_far_as_all_have_come(tmp_path):
    ends = ((0, 0, [0, 0, 1, 1]), (1, 100, [0, 1, 1, 1]), (2, 200, [1, 1, 1, 1]))
    for run in (
        training_run("uniform", 0, *ends, status="running"),
        training_run("sec", 0, *ends[:2], status="running"),
    ):
        with (write_run(tmp_path, run) / "evals.jsonl").open("a") as file:
            file.write('{"step": 3, "rol')  # as a run that is being written can look
    runs = comparable(collect([tmp_path]).training)
    assert [[row["tokens"] for row in run.evaluation] for run in runs] == [[0, 100], [0, 100]]
    assert [len(run.step) for run in runs] == [1, 1]
    write_report([tmp_path], tmp_path / "report.html")
    assert "up to the tokens that every one of them has reached" in (tmp_path / "report.html").read_text()
    for name in ("uniform", "sec"):
        write_run(tmp_path, training_run(name, 1, *ends))
    assert {run.spec["seed"] for run in comparable(collect([tmp_path]).training)} == {1}


def test_completions_are_shown_escaped(tmp_path):
    run = training_run("sec", 0, (0, 0, [0, 1]), (1, 100, [1, 1]))
    for row in run.evaluation:
        row["shown"] = [{"problem": 1, "prompt": "<b>?", "text": "<script>\x00" + "x" * 5000, "success": False}]
    write_run(tmp_path, run)
    write_report([tmp_path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;\\x00xx" in page
    assert "x" * 1000 not in page


def test_nothing_found_is_said(tmp_path):
    with pytest.raises(ValueError, match="no results in"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(ValueError, match="does not exist"):
        write_report([tmp_path / "nope"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_malformed_files_are_named_with_their_line(tmp_path):
    directory = write_run(tmp_path, SEC[0])
    (directory / "evals.jsonl").write_text(json.dumps(evaluation(0, 0, [1])) + '\n{"step"\n')
    with pytest.raises(ValueError, match=r"evals.jsonl line 2 is not JSON"):
        collect([tmp_path])
    (directory / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run.json lacks environment, spec, status"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (["environment"], "lacks environment"),
        (["row", "hyper"], "row lacks hyper"),
        (["row", "regret", "kind"], "row.regret lacks kind"),
        (["row", "certificate", "holds"], "row.certificate lacks holds"),
        (["environment", "machine"], "environment lacks machine"),
    ],
)
def test_a_simulation_that_lacks_something_is_named(everything, place, message):
    (path,) = (everything / "sim").rglob("*.json")
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"osmd-\w+.json.* {message}"):
        collect([everything])


def test_files_that_are_not_text_or_not_parquet_are_named(tmp_path):
    directory = write_run(tmp_path, SEC[0])
    (tmp_path / "some.runs.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"some.runs.parquet is not a pack of training runs"):
        collect([tmp_path / "some.runs.parquet"])
    (directory / "run.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"run.json is not JSON"):
        collect([tmp_path])


def test_a_run_that_lacks_something_is_named(tmp_path):
    directory = write_run(tmp_path, SEC[0])
    (directory / "steps.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match=r"steps.jsonl line 1 lacks degenerate, seconds"):
        collect([tmp_path])
    (directory / "evals.jsonl").write_text("")
    (directory / "steps.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"evals.jsonl holds no evaluation"):
        collect([tmp_path])
    (directory / "evals.jsonl").write_text("".join(json.dumps(evaluation(i, 9, [1] * (i + 1))) + "\n" for i in (0, 1)))
    with pytest.raises(ValueError, match=r"evals.jsonl holds evaluations on 1 and 2 problems"):
        collect([tmp_path])
