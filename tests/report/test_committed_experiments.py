"""The committed training experiments: the page is what the data give, and a run comes out again."""

import importlib.util
from pathlib import Path

import pytest

from curbench.report import write_report
from curbench.report.collect import collect
from curbench.train.run import run_directory, train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/experiments"
DATA = RESULTS / "experiments.runs.parquet"


@pytest.fixture(scope="module")
def runs():
    return collect([DATA]).training


def test_the_committed_page_is_what_its_data_give(tmp_path):
    write_report([DATA], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == (RESULTS / "experiments.html").read_text()


def test_the_committed_runs_are_those_of_the_plan_all_complete_and_paired(runs):
    spec = importlib.util.spec_from_file_location("experiments", ROOT / "benchmarks/experiments.py")
    experiments = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(experiments)
    done = {(run.spec["suite"], run.spec["curator"], run.spec["seed"]): run for run in runs}
    for suite in {run.spec["suite"] for run in runs}:
        seeds = {seed for name, _, seed in done if name == suite}
        plan = experiments.plan(suite, seeds=sorted(seeds), tokens=experiments.TOKENS, **experiments.SETTING)
        for one in (one for specs in plan.values() for one in specs):
            run = done.pop((suite, one.curator, one.seed))
            assert run.status == "complete"
            assert run.spec == one.model_dump(mode="json")
            assert run.step[-1]["tokens"] >= experiments.TOKENS > run.step[-2]["tokens"]
    assert not done


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["countdown", "arc_1d", "knights_knaves"])
def test_a_committed_run_comes_out_again(runs, tmp_path, suite):
    """To the bit on the machine that made it; elsewhere rounding may differ, and the pass rate is near."""
    from curbench.train.run import TrainSpec

    (run,) = (r for r in runs if (r.spec["suite"], r.spec["curator"], r.spec["seed"]) == (suite, "sec", 0))
    spec = TrainSpec.model_validate(run.spec)
    row = train(spec, tmp_path)
    again = collect([run_directory(tmp_path, spec)]).training[0]
    assert row["pass_rate"] == pytest.approx(run.evaluation[-1]["pass_rate"], abs=0.06)
    if all(one["machine"] == again.environment[0]["machine"] for one in run.environment):
        assert [one["success"] for one in again.evaluation] == [one["success"] for one in run.evaluation]
