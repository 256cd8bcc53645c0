"""The league: who takes part, scores by hand, standings, and data that regenerate bit for bit."""

import json
import sys

import numpy as np
import pytest

from curbench import cli
from curbench.curators import CURATORS, curator_class
from curbench.sim.league import (
    ABLATED,
    ABLATIONS,
    BLOCK,
    ENTRANTS,
    POINTS,
    SCENARIOS,
    Entry,
    League,
    ablation_units,
    cells,
    gather,
    league_units,
    read_league,
    standings,
    write_league,
)
from curbench.sim.learner import LEARNERS
from curbench.sim.simulate_learner import GREEDY


def entry(scenario, curator, final, begin=0.2):
    final = np.asarray(final, float)
    start = np.full(final.size, begin)
    curve = np.linspace([0, begin], [100, final.mean()], POINTS)
    return Entry(scenario, curator, "a paper", 0.25, start, final, (start + final) / 2, curve)


def league_of(**final):
    """Two scenarios; the second has other starts and twice the oracle's gain."""
    made = {}
    for curator, value in final.items():
        for scenario, begin, scale in (("bimodal", 0.25, 1.0), ("huge bank", 0.125, 2.0)):
            made[scenario, curator] = entry(scenario, curator, begin + scale * np.asarray(value, float), begin)
    return League(made)


GAINS = {"greedy": [0.5, 0.25, 0.5, 0.5], "uniform": [0.125, 0.125, 0.125, 0.25], "sec": [0.25, 0.125, 0.375, 0.25]}
"""Exact in binary, so that ties are ties: sec scores 1/2, 1/2, 3/4, 1/2 and uniform 1/4, 1/2, 1/4, 1/2."""


def test_scenarios_are_those_that_were_announced_and_exist():
    assert len(SCENARIOS) == 8
    assert set(SCENARIOS.values()) <= set(LEARNERS)


def test_everyone_takes_part_everywhere_with_equal_rollouts_and_neural_ones_with_fewer_seeds():
    units = league_units(seeds=50, neural_seeds=7)
    assert {unit.curator for unit in units} == {*ENTRANTS, GREEDY} >= {*CURATORS}
    assert len({unit.path for unit in units}) == len(units)
    for scenario in SCENARIOS.values():
        assert {unit.curator for unit in units if unit.learner == scenario} == {*ENTRANTS, GREEDY}
    assert {(unit.rollouts, unit.steps, unit.tokens, unit.instance_seed) for unit in units} == {
        (51_200, None, None, None)
    }
    seed = {}
    for unit in units:
        where = unit.learner, unit.curator, unit.hyper.get("variant")
        seed.setdefault(where, []).extend(range(unit.first_seed, unit.first_seed + unit.seeds))
    few = {curator for (_, curator, _), own in seed.items() if own == [*range(7)]}
    assert few == {name for name in CURATORS if curator_class(name).neural}
    assert all(own == [*range(50)] for (_, curator, _), own in seed.items() if curator not in few)
    assert max(unit.seeds for unit in units) == BLOCK
    variants = {(unit.curator, unit.hyper.get("variant")) for unit in units}
    assert variants >= {(name, other) for name, one in CURATORS.items() for other in one.variants[1:]}


@pytest.mark.parametrize("name", CURATORS)
def test_who_uses_torch_is_neural(name):
    cls = curator_class(name)
    assert cls.neural == hasattr(sys.modules[cls.__module__], "torch")


@pytest.mark.parametrize("curator", ABLATIONS)
def test_an_ablation_changes_one_setting_at_a_time_and_every_unit_is_accepted(curator):
    units = ablation_units(curator, seeds=3)
    own = [unit for unit in units if unit.curator == curator]
    assert {unit.curator for unit in units} == {curator, "uniform", GREEDY}
    assert len({unit.path for unit in units}) == len(units)
    assert len(own) == len(ABLATED) * (1 + len(ABLATIONS[curator]))
    together = ({"dormant", "warmup"}, {"held_out", "every"})
    assert all(len(setting) == 1 or set(setting) in together for setting in ABLATIONS[curator])
    plain = [unit for unit in own if not unit.hyper and unit.signal is None]
    assert {unit.learner for unit in plain} == set(ABLATED.values())


def test_no_ablation_of_anyone_else():
    with pytest.raises(ValueError, match="no ablation of 'sec'; choose from actor_curator, target_aligned"):
        ablation_units("sec")


def test_a_score_is_the_share_of_the_oracles_gain_on_the_same_seed():
    league = league_of(**GAINS)
    for task in league.score("sec"):
        np.testing.assert_allclose(task, [0.5, 0.5, 0.75, 0.5])
    np.testing.assert_allclose(league.score("uniform", "early")[1], [0.25, 0.5, 0.25, 0.5])
    np.testing.assert_allclose(league.score(GREEDY)[0], 1.0)


def test_fewer_seeds_are_compared_with_the_same_seeds_of_others():
    league = league_of(**GAINS | {"neural": [0.1875, 0.1875]})
    np.testing.assert_allclose(league.score("neural")[0], [0.375, 0.75])
    assert league.improvement("neural", "uniform").mean == 0.75  # 0.375 above 0.25, 0.75 above 0.25 and 0.5
    assert league.improvement("uniform", "neural").mean == 0.25


def test_standings_rank_by_the_interquartile_mean_and_leave_out_the_oracle():
    table = standings(league_of(**GAINS), draws=100)
    assert [row["curator"] for row in table] == ["sec", "uniform"]
    best = table[0]
    assert best["iqm"]["mean"] == pytest.approx(0.5)
    assert best["iqm"]["lo"] <= 0.5 <= best["iqm"]["hi"]
    assert best["improvement"]["uniform"]["mean"] == pytest.approx((3 * 3 + 4) / 16)
    assert best["beats"] == 1
    assert table[1]["beats"] == 0
    assert best["score"] == pytest.approx({"bimodal": 0.5625, "huge bank": 0.5625})
    assert best["competence"] == pytest.approx({"bimodal": 0.5, "huge bank": 0.625})
    json.dumps(table, allow_nan=False)


def test_a_single_seed_has_scores_and_no_intervals():
    league = league_of(**GAINS | {"one": [0.25]})
    (alone,) = [row for row in standings(league, draws=10) if row["curator"] == "one"]
    assert alone["iqm"] == {"mean": 0.5, "lo": None, "hi": None}
    assert alone["gain"] == {"mean": 0.25, "lo": None, "hi": None}
    assert cells(alone, league, {"curation_s": {}}) == ("one", "1", "0.500", "", "1.00", "0", "0.500", "0.25", "")


def test_gains_are_paired_and_against_the_baseline_of_the_league():
    league = league_of(**GAINS)
    assert league.gain("sec").mean == pytest.approx(3 / 16)  # 1/4, 0, 1/2 and 0
    other = League(league.entry, "sec")
    assert other.gain("uniform").mean == pytest.approx(-3 / 16)
    assert other.gain("sec") == (0.0, 0.0, 0.0, 2)


def test_standings_are_the_same_every_time_and_for_any_company():
    alone = standings(league_of(**GAINS), draws=50)
    with_others = standings(league_of(**GAINS | {"osmd": [0.3, 0.2, 0.1, 0.3]}), draws=50)
    assert alone == standings(league_of(**GAINS), draws=50)
    named = {row["curator"]: row["iqm"] for row in with_others}
    assert all(named[row["curator"]] == row["iqm"] for row in alone)


def test_a_league_reads_back_as_it_was_written(tmp_path):
    league = league_of(**GAINS)
    for name in ("one", "two"):
        write_league(tmp_path / name, league)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert standings(read_league(tmp_path / "one"), draws=20) == standings(league, draws=20)
    write_league(tmp_path / "three", League(league.entry, "sec"))
    assert read_league(tmp_path / "three").baseline == "sec"


def test_what_is_no_whole_league_is_refused(tmp_path):
    (tmp_path / "text").write_text("nothing")
    league = league_of(**GAINS)
    broken = League({key: one for key, one in league.entry.items() if key != ("bimodal", "sec")})
    no_oracle = League({key: one for key, one in league.entry.items() if key[1] != GREEDY})
    write_league(tmp_path / "part", broken)
    write_league(tmp_path / "scale", no_oracle)
    for name in ("text", "part", "scale", "absent"):
        with pytest.raises(ValueError, match=f"{name} is not .*make it with: curbench league"):
            read_league(tmp_path / name)


# --- From the command line --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A league of three on four steps, run twice by the command line's own parts, into two folders."""
    units = league_units(["sec"], seeds=2, neural_seeds=1, rollouts=1024)
    made = []
    for name in ("one", "two"):
        out = tmp_path_factory.mktemp(name)
        for unit in units if name == "one" else units[::-1]:
            unit.run(out, {"command": name, "time": name, "versions": {}, "commit": None, "machine": ""})
        league, cost = gather(units, out)
        write_league(out / "league.parquet", league)
        made.append((out, league, cost))
    return made


def test_the_data_regenerate_bit_for_bit(small):
    (one, _, first), (two, _, second) = small
    assert (one / "league.parquet").read_bytes() == (two / "league.parquet").read_bytes()
    assert first["environment"] != second["environment"]
    assert first["curation_s"].keys() == {"greedy", "uniform", "sec", "sec variant=released"}


def test_a_league_grows_by_blocks_of_seeds(monkeypatch, tmp_path):
    nowhere = {"command": "", "time": "", "versions": {}, "commit": None, "machine": ""}
    made = []
    for block in (20, 2):
        monkeypatch.setattr("curbench.sim.league.BLOCK", block)
        units = [unit for unit in league_units(["dapo"], seeds=3, rollouts=1024) if unit.learner == "bimodal"]
        assert [unit.first_seed for unit in units] == sorted(unit.first_seed for unit in units)
        for unit in units:
            unit.run(tmp_path, nowhere)
        made.append(gather(units, tmp_path)[0].entry)
    one, two = made
    assert len({*tmp_path.rglob("*.parquet")}) == 4 + 8  # greedy, uniform and two variants, in one block and in two
    for where, entry in one.items():
        for name in ("begin", "final", "early"):
            np.testing.assert_array_equal(getattr(entry, name), getattr(two[where], name))
        assert entry.wasted == pytest.approx(two[where].wasted)
        np.testing.assert_allclose(entry.curve[:3], two[where].curve[:3])


def test_seeds_have_problems_of_their_own_and_curators_share_them(small):
    _, league, _ = small[0]
    for scenario in league.scenarios:
        begin = league.entry[scenario, "sec"].begin
        assert begin[0] != begin[1]
        np.testing.assert_array_equal(begin, league.entry[scenario, "uniform"].begin)
        assert league.entry[scenario, GREEDY].final.mean() > begin.mean()


def test_the_command_reads_what_is_there_and_writes_table_data_and_page(small, monkeypatch, capsys):
    out = small[0][0]
    before = (out / "league.parquet").read_bytes()
    asked = ["sec", "--out", out, "--seeds", 2, "--neural-seeds", 1, "--rollouts", 1024]

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["curbench", "league", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        return capsys.readouterr().out

    table = call(*asked)
    assert "sec variant=released" in table
    assert (out / "league.parquet").read_bytes() == before
    page = (out / "league.html").read_bytes()
    rows = [json.loads(line) for line in call(*asked, "--json").splitlines()]
    assert {row["curator"] for row in rows} == {"sec", "sec variant=released", "uniform"}
    assert {row["seeds"] for row in rows} == {2}
    assert all(row["curation_s"] > 0 for row in rows)
    call("--data", out / "league.parquet", "--out", out / "again")
    assert (out / "again" / "league.html").read_bytes() == page


def test_an_unknown_curator_is_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["curbench", "league", "nobody", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "unknown curator 'nobody'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
