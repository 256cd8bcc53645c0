"""Sweeps in the report: what is compared with what, and that every picture is drawn."""

import pytest

from curbench.config import validate
from curbench.report import sim_sections, write_report
from curbench.report.collect import collect
from curbench.report.sim_figures import competence_figure, complete
from curbench.report.sweep import by_test_bed, cut, held, lines, looseness, slopes, swept, theorems
from curbench.sim.axes import write_row
from curbench.sim.grid import Grid, expand
from curbench.sim.learner_grid import read, read_learner_unit
from tests.report.browser import chromium, inspect

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # a layout that does not fit


def unit(regret=1.0, bound=None, *, arms="a", curator="c", hyper=None, parameter=None, **setting):
    row = {"arms": arms, "curator": curator, "hyper": hyper or {}, "parameter": parameter or {}}
    row |= {"arms_count": 2, "horizon": 10, "batch": 1, "delay": 0, "noise": "bernoulli", "instance_seed": 0} | setting
    row |= {
        "regret": {"mean": regret, "lo": None, "hi": None, "comparator": "static"},
        "bound": {"name": "b", "source": "s", "status": "proved", "value": bound, "vacuous": False},
        "budget": None,
    }
    row["bound"]["informative_from"] = None if bound is None else 5
    return {"row": row}


def test_swept_axes_are_those_with_several_numbers():
    units = [
        unit(horizon=10, parameter={"gap": 0.1}, hyper={"eta": 1.0, "method": "clip"}, delay="5:2:0"),
        unit(horizon=20, parameter={"gap": 0.2}, hyper={"eta": 2.0, "method": "share"}, instance_seed=1),
    ]
    assert swept(units) == ["T", "gap", "eta"]


def test_a_cut_is_where_most_units_are_and_else_at_the_largest_problem():
    small, large = unit(horizon=10), unit(horizon=20)
    assert cut([small, large]) == [large]
    assert cut([small, large, unit(curator="d")]) == [small, unit(curator="d")]
    assert cut([large, small], "T") == [large, small]
    assert cut([unit(batch=4), unit(batch=1), unit(delay=3)]) == [unit(batch=1)]
    assert held([large], "T") == "K=2 m=1"
    assert held([unit(delay=3, noise="beta:4")], "T") == "K=2 m=1 delay=3 noise=beta:4"


def test_a_line_follows_one_axis_with_everything_else_held():
    units = [unit(float(t + m), horizon=t, batch=m) for t in (20, 10) for m in (1, 2)]
    units += [unit(5.0, curator="once", horizon=10)]
    line = lines(units, "T")
    assert list(line) == ["c"]
    assert [(x, row["regret"]["mean"]) for x, row in line["c"]] == [(10, 11.0), (20, 21.0)]


def test_a_hyper_parameter_is_an_axis_too():
    units = [unit(hyper={"eta": eta, "method": name}) for eta in (0.1, 0.2) for name in ("clip", "share")]
    assert list(lines(units, "eta")) == ["c method=clip", "c method=share"]


def test_slopes_are_exponents_of_regret_and_of_its_bound():
    units = [unit(t**0.5, 10.0 * t**0.6, horizon=t) for t in (10, 100, 1000)]
    (one,) = slopes(units)
    assert (one.axis, one.at) == ("T", "K=2 m=1")
    assert one.regret[:3] == pytest.approx((0.5,) * 3)
    assert one.bound[:3] == pytest.approx((0.6,) * 3)
    units[0]["row"]["regret"]["mean"] = 0.0  # an oracle has none
    units[1]["row"]["bound"]["value"] = None
    assert slopes(units)[0][-2:] == (None, None)


def test_noise_is_an_axis_of_texts():
    units = [unit(noise=noise, curator=name) for noise in ("bernoulli", "beta:4") for name in ("c", "d")]
    assert swept(units) == ["noise"]
    assert [x for x, _ in lines(units, "noise")["d"]] == ["bernoulli", "beta:4"]
    assert len(cut(units)) == 2  # curves of different noise are not mixed


def test_theorems_say_what_covered_an_algorithm_and_what_it_was_worth():
    rows = [unit(2.0, 6.0)["row"], unit(2.0, 8.0, batch=2)["row"], unit(-1.0, 8.0)["row"], unit(curator="d")["row"]]
    rows[1]["bound"] |= {"vacuous": True, "informative_from": None}
    rows[3]["bound"] |= {"name": "none", "status": "none", "source": "none known"}
    one, none = theorems(rows)
    assert (one.policy, one.comparator, one.bound, one.units, one.vacuous) == ("c", "static", "b", 3, 1)
    assert one.ratio == [3.0, 4.0]
    assert one.informative_from == [(5, 10), (5, 10)]
    assert (none.policy, none.bound, none.source, none.ratio) == ("d", None, "none known", [])


def test_heat_maps_are_full_tables_of_two_by_two():
    cell = {(1.0, 1.0): 1.0, (1.0, 2.0): 1.0, (2.0, 1.0): 1.0}
    assert complete({("a", "c"): cell, ("a", "d"): {(1.0, 1.0): 1.0, (2.0, 1.0): 2.0}}) == {}
    full = {("a", "c"): cell | {(2.0, 2.0): 1.0}}
    assert complete(full) == full


def test_looseness_has_a_point_for_every_bound():
    assert looseness([unit(2.0, 6.0), unit(2.0, 8.0, batch=2), unit(curator="free")]) == {
        "a (static)  c": [(3.0, False), (4.0, False)]
    }


def test_test_beds_are_sorted_from_small_to_large_with_uniform_first():
    units = [unit(horizon=20), unit(parameter={"gap": 9}), unit(parameter={"gap": 10}), unit(curator="uniform")]
    order = [(one["row"]["horizon"], one["row"]["curator"]) for one in by_test_bed(reversed(units))["a (static)"]]
    assert order == [(10, "uniform"), (10, "c"), (10, "c"), (20, "c")]


def test_what_differs_only_between_test_beds_is_no_axis(monkeypatch):
    units = [unit(arms="a", arms_count=2), unit(arms="b", arms_count=3)]
    monkeypatch.setattr(sim_sections.sim_figures, "regret_figure", lambda name, units: name)
    monkeypatch.setattr(sim_sections, "_simulation_row", lambda row: [])
    shown = "".join(sim_sections.sweep(units))
    assert "a (static)  K=2 T=10" in shown
    assert "Regret against" not in shown


@pytest.fixture(scope="module")
def swept_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("swept")
    grid = {"arms": {"switching": {"segments": [2, 3]}}, "curators": ["uniform", {"osmd": {"eta": [0.1, 0.2]}}]}
    grid |= {"horizon": [40, 80], "arms_count": 3, "delay": [0, 2], "seeds": 2}
    for one in expand(validate(Grid, grid)):
        environment = {"command": "x", "commit": None, "versions": {}, "machine": "m", "python": "3"}
        one.run(out, environment)
    return out


def test_the_page_shows_curves_axes_heat_maps_looseness_and_slopes(swept_folder, tmp_path):
    found = collect([swept_folder, swept_folder / "sweep"])
    assert len(found.sweep) == len(list((swept_folder / "sweep").iterdir())) == 24
    summary = write_report([swept_folder], tmp_path / "report.html")
    assert summary["units"] == 24
    page = (tmp_path / "report.html").read_text()
    for title in ("Regret on switching", "Regret against T", "Regret against delay", "Regret against segments"):
        assert f'aria-label="{title}' in page
    assert 'aria-label="regret per round over T and segments"' in page
    assert 'aria-label="regret / bound over T and segments"' in page
    assert 'aria-label="Looseness of the bounds"' in page
    assert "How regret grows" in page
    assert 'aria-label="What the regret consisted of"' in page
    assert "Which theorem covers which algorithm" in page
    assert "docs/maths.md theorem 1 A" in page
    assert "none known against this comparator" in page
    assert "switching segments=2 / osmd eta=0.1" in page


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_a_browser_draws_every_picture_of_a_sweep(swept_folder, tmp_path):
    write_report([swept_folder], tmp_path / "report.html")
    seen = inspect(tmp_path / "report.html")
    assert seen.drawn == seen.pictures == 11
    assert seen.console == []


def test_equal_sweeps_give_equal_pages(swept_folder, tmp_path):
    for name in ("a", "b"):
        write_report([swept_folder], tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_a_unit_without_what_the_page_reads_is_named(tmp_path):
    from curbench.sim.grid import write_unit

    row = unit()["row"] | {"unit": "u", "seeds": 1, "noise": "bernoulli"}
    path = tmp_path / "sweep" / "a-c-0.parquet"
    curves = {"round": [1], "curve": [[1.0, 1.0, 1.0]], "bound_curve": None, "lower_curve": None}
    write_unit(path, {"row": row, "environment": {}}, curves)
    with pytest.raises(ValueError, match=r"a-c-0.parquet.* lacks"):
        collect([tmp_path])


# --- Learners ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("learnt")
    grid = {"learners": ["plain", {"forgetting": {"forgetting": [0.0, 0.1]}}], "curators": ["uniform", "greedy"]}
    for one in read({**grid, "steps": 2, "batch": 4, "delay": [0, 1], "seeds": 2}):
        one.run(out, {"command": "x", "commit": None, "versions": {}, "machine": "m", "python": "3"})
    return out


def test_the_page_shows_what_learners_learnt(learnt_folder, tmp_path):
    summary = write_report([learnt_folder], tmp_path / "report.html")
    assert (summary["learner_units"], summary["units"]) == (12, 0)
    page = (tmp_path / "report.html").read_text()
    for title in ("Learning curves on plain", "Competence against delay", "Competence against forgetting"):
        assert f'aria-label="{title}' in page
    assert "forgetting forgetting=0.1 / greedy" in page
    best = page.index("plain / greedy"), page.index("plain / uniform")
    assert best[0] < best[1]  # the highest competence first


def test_a_learner_unit_without_what_the_page_reads_is_named(learnt_folder, tmp_path):
    kept = next((learnt_folder / "learn").iterdir())
    content = read_learner_unit(kept)
    del content["row"]["competence"]["lo"]
    path = tmp_path / "learn" / kept.name
    column = {name: value for name, value in content.items() if name not in ("row", "environment")}
    write_row(path, column, {"row": content["row"], "environment": {}}, {})
    with pytest.raises(ValueError, match=rf"{kept.name}.* lacks"):
        collect([tmp_path])


def test_names_are_drawn_as_they_are(tmp_path):
    """Two dollar signs are no formula, and a long name is wrapped."""
    (one,) = read({"learners": "plain", "curators": "uniform", "steps": 1, "batch": 2, "seeds": 1})
    one.run(tmp_path, {"command": "x", "commit": None, "versions": {}, "machine": "m", "python": "3"})
    unit = read_learner_unit(tmp_path / one.path)
    picture = competence_figure("$a_b$ " + "long " * 40, {"$x_y$": unit})
    assert "$a_b$ long" in picture
    assert "$x_y$" in picture


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_a_browser_draws_what_learners_learnt(learnt_folder, tmp_path):
    write_report([learnt_folder], tmp_path / "report.html")
    seen = inspect(tmp_path / "report.html")
    assert seen.drawn == seen.pictures == 4
    assert seen.console == []
