import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curbench.record import environment
from curbench.report import write_report
from curbench.report.collect import TrainingRun, collect
from curbench.report.training import curator_share, learning_curve, results, stratum_share
from curbench.sim.arms import make_arms
from curbench.sim.simulate import keep, simulate
from tests.report.browser import chromium, inspect

SECONDS = {"select": 1.0, "rollout": 5.0, "reward": 1.0, "update": 2.0, "signal": 0.5, "curator_update": 0.5}


def evaluation(step, tokens, success):
    row = {"step": step, "rollouts": step * 8, "tokens": tokens, "success": success, "n": [1] * len(success)}
    return row | {"pass_rate": float(np.mean(success)), "stratum": [0] * len(success), "eval_tokens": 10}


def training_run(curator, seed, *evaluations, problem=(0, 1, 2, 3)):
    rows = [evaluation(*one) for one in evaluations]
    step = [{"step": i + 1, "degenerate": 0.5, "seconds": SECONDS} for i in range(rows[-1]["step"])]
    spec = {"suite": "countdown", "curator": curator, "seed": seed}
    selected = np.repeat(np.arange(1, rows[-1]["step"] + 1), len(problem))
    return TrainingRun(spec, [environment()], "complete", step, rows, selected, np.tile(problem, rows[-1]["step"]))


def write_run(out, run):
    directory = out / "countdown" / run.spec["curator"] / str(run.spec["seed"])
    (directory / "selections").mkdir(parents=True)
    content = {"spec": run.spec, "environment": run.environment, "status": run.status}
    (directory / "run.json").write_text(json.dumps(content))
    for name, rows in (("steps", run.step), ("evals", run.evaluation)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pa.table({"step": run.selected_step, "problem": run.selected_problem})
    pq.write_table(table, directory / "selections" / "00000002.parquet")
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
    assert curve.tokens.tolist() == [0, 100, 230]
    assert curve.mean.tolist() == [0.5, 0.625, 0.75]
    assert len(curve.seed) == 2


def test_curation_time_is_selecting_signal_and_learning():
    assert curator_share([{"seconds": SECONDS}]) == pytest.approx(0.2)


def test_stratum_shares_add_up_at_every_time():
    stratum = np.array([0, 0, 1, 2])
    step, share = stratum_share(UNIFORM, stratum, 3)
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
        "shape": "8x8",
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
    assert page.count("<svg") == 4
    assert "&lt;numpy&gt;" in page
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_a_browser_draws_every_plot_without_a_console_message(everything, tmp_path):
    write_report([everything], tmp_path / "report.html")
    seen = inspect(tmp_path / "report.html")
    assert seen.drawn == seen.pictures == 4
    assert seen.tables == 4
    assert seen.console == []


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_the_browser_check_notices_a_broken_page(tmp_path):
    (tmp_path / "bad.html").write_text("<title>x</title><svg width=300 height=300></svg><script>nope()</script>")
    seen = inspect(tmp_path / "bad.html")
    assert (seen.drawn, seen.pictures) == (0, 1)
    assert any("nope is not defined" in line for line in seen.console)


def test_nothing_found_is_said(tmp_path):
    with pytest.raises(ValueError, match="no results in"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(ValueError, match="does not exist"):
        write_report([tmp_path / "nope"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_malformed_files_are_named_with_their_line(tmp_path):
    directory = write_run(tmp_path, SEC[0])
    (directory / "evals.jsonl").write_text('{"step": 0}\n{"step"\n')
    with pytest.raises(ValueError, match=r"evals.jsonl line 2 is not JSON"):
        collect([tmp_path])
    (directory / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run.json lacks environment, spec, status"):
        collect([tmp_path])
