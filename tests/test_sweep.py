"""Grids of simulations: what they expand to, what they refuse, what they keep, and that no engine changes a bit."""

import json
import sys

import pyarrow.parquet as pq
import pytest

from curbench import cli
from curbench.config import validate
from curbench.sim.arms import Noise
from curbench.sim.grid import SHIPPED, Grid, Unit, expand, read_grid, read_unit
from curbench.sweep import run_sweep

TINY = """
arms: [stationary, switching: {arms_count: 4, segments: [2, 5]}]
curators: [uniform, osmd: {eta: [1e-2, 0.1]}]
horizon: 60
seeds: 3
"""


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path / "tiny.yaml"


def units_of(**content):
    return expand(validate(Grid, {"arms": "switching", "curators": "uniform"} | content))


def test_a_grid_is_the_product_of_what_it_lists(tiny):
    units = read_grid(tiny)
    assert len(units) == (1 + 2) * (1 + 2)
    assert [unit.parameter for unit in units[:6:3]] == [{}, {"segments": 2}]
    assert [unit.hyper for unit in units[:3]] == [{}, {"eta": 0.01}, {"eta": 0.1}]
    assert (units[0].arms_count, units[3].arms_count) == (None, 4)
    assert len(units_of(horizon=[10, 20], batch=[1, 2], arms_count=[3, 4, 5], delay=[0, 1])) == 24


def test_equal_questions_are_asked_once_whatever_they_are_written_like():
    units = units_of(
        horizon=["1e3", 1000, 1_000.0],
        delay=[2, "2", "2:0:0"],
        noise=["beta:1", "beta", "beta:1.0"],
        curators=["uniform", "uniform"],
    )
    assert len(units) == 1
    assert (units[0].horizon, units[0].delay, units[0].noise) == (1000, 2, "beta")


def test_every_question_changes_the_name_of_the_file():
    ways = {"horizon": 20, "arms_count": 3, "batch": 2, "delay": 1, "noise": "beta", "instance_seed": 1, "seeds": 7}
    ways |= {"curators": {"osmd": {"eta": 0.5}}, "arms": {"switching": {"segments": 3}}}
    path = {units_of(**{name: value})[0].path for name, value in ways.items()}
    assert len(path | {units_of()[0].path}) == len(ways) + 1


def test_a_test_bed_with_its_own_number_of_arms_keeps_it():
    units = units_of(arms=["garivier_moulines", "switching"], arms_count=[4, 8])
    assert [unit.arms_count for unit in units] == [None, 4, 8]


def test_noise_is_an_axis(tmp_path):
    units = units_of(noise=["beta:4", "bernoulli:1:shared", None], batch=4)
    assert [unit.make_arms().noise for unit in units[:2]] == [Noise("beta", 4.0), Noise(shared=True)]
    rows = [unit.run(tmp_path, {}) for unit in units]
    assert [row["noise"] for row in rows] == ["beta:4", "bernoulli:1:shared", "bernoulli"]
    assert len({row["sampled_regret"]["mean"] for row in rows}) == 1  # uniform selection does not look at rewards


def test_means_from_a_file_are_part_of_the_question(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("a,b\n0.1,0.9\n")
    before = units_of(arms=str(file), arms_count=5)[0]
    file.write_text("a,b\n0.2,0.9\n")
    after = units_of(arms=str(file), arms_count=5)[0]
    assert before.path.name.startswith("mine-uniform-")
    assert before.path != after.path
    assert after.run(tmp_path, {})["arms_count"] == 2


BAD = [
    ("speed: 1", "there is no setting 'speed'; choose from horizon, arms_count"),
    ("horizon: 0", "horizon.0: Input should be greater than or equal to 1; got 0"),
    ("horizon: many", "horizon.0: Input should be a valid integer"),
    ("horizon: []", "horizon: List should have at least 1 item"),
    ("batch: [1, 0]", "batch.1: Input should be greater than or equal to 1; got 0"),
    ("arms_count: 0", "arms_count.0: Input should be greater than or equal to 1; got 0"),
    ("seeds: 0", "seeds: Input should be greater than or equal to 1; got 0"),
    ("delay: -1", "a delay is ROUNDS[:JITTER[:LOSS]]"),
    ("noise: loud", "noise is KIND[:SCALE[:shared]]"),
    ("noise: [beta, 'beta:-1']", "the scale of noise must be positive and finite; got -1.0"),
    ("arms: nope", "unknown arms 'nope'; choose from stationary"),
    ("arms: [switching: {gap: 1}]", "switching has no setting 'gap'; its settings: segments"),
    ("arms: [switching: {horizon: 0}]", "horizon.0: Input should be greater than or equal to 1; got 0"),
    ("arms: [garivier_moulines: {arms_count: 4}]", "garivier_moulines has 3 arms by definition"),
    ("arms: [3]", "write NAME, or NAME: {PARAMETER: [VALUE, ...]}"),
    ("arms: [drifting]\nhorizon: 3", "drifting arms need a horizon of at least 21 rounds; got 3"),
    ("curators: nope", "unknown curator 'nope'; choose from uniform"),
    ("curators: {osmd: {etta: 1}}", "Osmd has no setting 'etta'; its settings: "),
    ("curators: {osmd: {eta: -1}}", "eta must be positive; got -1"),
    ("curators: {osmd: {eta: []}}", "at least 1 item"),
    ("curators: {osmd: {design: systematic}}\nbatch: 11", "a systematic draw of 11 problems needs as many"),
    ("curators: []", "at least 1 item"),
    ("arms: [", "is not YAML"),
    ("- arms", "a grid is a mapping of horizon, arms_count"),
    ("!!python/object/apply:os.getcwd []", "is not YAML"),
]


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


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text for text, _ in BAD])
def test_a_bad_grid_is_one_sentence_before_anything_runs(curbench, tmp_path, text, message):
    base = [line for line in ("arms: switching", "curators: uniform") if line.split(":")[0] not in text]
    (tmp_path / "bad.yaml").write_text("\n".join([text] if text[0] in "-!" else [*base, text]))
    code, out, err = curbench("sweep", tmp_path / "bad.yaml", "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("curbench: ")
    assert message in err
    assert "bad.yaml" in err
    assert not (tmp_path / "out").exists()


def test_a_grid_that_is_not_there_names_the_shipped_ones(curbench, tmp_path):
    code, _, err = curbench("sweep", tmp_path / "nope.yaml", "--out", tmp_path)
    assert code == 2
    assert "does not exist; give a YAML file, or one of: certified, large, learners, small, standard" in err
    assert curbench("sweep", "small", "--out", tmp_path, "--engine", "spark")[2].count("choose from pool, ray") == 1


@pytest.mark.parametrize("grid", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_grids_name_what_exists(grid):
    assert read_grid(grid)


def answers(out):
    """What the files of a sweep hold, but for times and provenance."""
    return {
        path.name: pq.read_table(path).drop_columns(["row", "environment"]).to_pylist()
        for path in (out / "sweep").glob("*.parquet")
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The tiny grid, unit by unit in this process."""
    out = tmp_path_factory.mktemp("alone")
    (out / "tiny.yaml").write_text(TINY)
    units = read_grid(out / "tiny.yaml")
    rows = [unit.run(out, {"time": "now"}) for unit in units]
    return out, units, rows


@pytest.mark.parametrize(("engine", "jobs"), [("pool", 1), ("pool", 2), ("ray", 2)])
def test_no_engine_and_no_number_of_jobs_changes_a_bit(alone, tmp_path, engine, jobs):
    if engine == "ray":
        pytest.importorskip("ray")
    out, units, rows = alone
    found = run_sweep(units[1:3], tmp_path, jobs=jobs, engine=engine)  # of one curator: each process compiles it
    assert answers(tmp_path).items() <= answers(out).items()
    assert [row["unit"] for row in found] == [row["unit"] for row in rows[1:3]]


def test_a_unit_keeps_row_curves_and_provenance(alone):
    out, units, rows = alone
    kept = read_unit(out / units[1].path)
    assert kept["row"] == json.loads(json.dumps(rows[1]))
    assert kept["environment"] == {"time": "now"}
    assert kept["round"][-1] == 60
    assert [len(one) for one in kept["curve"]] == [3] * len(kept["round"])
    assert len(kept["bound_curve"]) == len(kept["round"])
    assert read_unit(out / units[0].path)["bound_curve"] is None
    folder = pq.read_table(out / "sweep")
    assert folder.num_rows == len(units)
    assert set(folder["curator"].to_pylist()) == {"uniform", "osmd"}


def test_what_is_there_is_not_run_again_and_a_table_ends_it(alone, curbench):
    out, units, rows = alone
    before = {path: path.stat().st_mtime_ns for path in (out / "sweep").iterdir()}
    code, text, _ = curbench("sweep", out / "tiny.yaml", "--out", out, "--jobs", 1)
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == ["test-bed", *(unit.arms for unit in units)]
    code, text, _ = curbench("sweep", out / "tiny.yaml", "--out", out, "--json")
    assert [json.loads(line)["regret"] for line in text.splitlines()] == [row["regret"] for row in rows]
    assert {path: path.stat().st_mtime_ns for path in (out / "sweep").iterdir()} == before


def test_a_violated_bound_exits_1(alone, curbench, monkeypatch):
    from curbench.sim import grid

    out, _, rows = alone
    broken = rows[1] | {"holds": False}
    assert Unit.cells(broken)[-1] == "VIOLATED"
    monkeypatch.setattr(grid, "read_unit", lambda path: {"row": broken})
    assert curbench("sweep", out / "tiny.yaml", "--out", out)[0] == 1


def test_a_damaged_result_is_named(alone, curbench, tmp_path):
    _, units, _ = alone
    (tmp_path / "sweep").mkdir()
    (tmp_path / units[0].path).write_bytes(b"PAR1")
    (tmp_path / "tiny.yaml").write_text(TINY)
    code, _, err = curbench("sweep", tmp_path / "tiny.yaml", "--out", tmp_path)
    assert code == 2
    assert f"{units[0].path} is not a result of curbench sweep" in err


def test_an_interrupt_keeps_what_had_finished_and_exits_130(alone, curbench, monkeypatch, tmp_path):
    from curbench import sweep

    _, units, _ = alone

    def interrupted(task, missing, **_):
        yield missing[0], task(missing[0])
        raise KeyboardInterrupt

    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(sweep, "each", interrupted)
    code, out, err = curbench("sweep", tmp_path / "tiny.yaml", "--out", tmp_path)
    assert (code, out) == (130, "")
    assert "curbench: interrupted; 1 of 9 units are kept, run it again to go on" in err
    assert list((tmp_path / "sweep").iterdir()) == [tmp_path / units[0].path]
