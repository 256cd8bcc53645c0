"""The committed results: pages that regenerate bit for bit, runs that come out again, and a page for every method."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from curbench.curators import CURATORS
from curbench.loop import Budget
from curbench.record import read_json
from curbench.report.league import league_page
from curbench.sim.axes import label
from curbench.sim.league import (
    ABLATED,
    ABLATIONS,
    BATCH,
    ENTRANTS,
    GROUP,
    ROLLOUTS,
    SCENARIOS,
    read_league,
    standings,
)
from curbench.sim.simulate_learner import simulate_learner

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
COMMITTED = [curator for curator in ABLATIONS if (RESULTS / f"ablation-{curator}/league.parquet").exists()]


def loaded(name):
    folder = RESULTS / name
    league = read_league(folder / "league.parquet")
    return folder, league, standings(league), read_json(folder / "cost.json")


@pytest.fixture(scope="module")
def whole():
    return loaded("league")


@pytest.fixture(scope="module", params=COMMITTED)
def ablation(request):
    return request.param, *loaded(f"ablation-{request.param}")


@pytest.fixture(scope="module")
def method_pages():
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "docs/method_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_what_its_data_give(whole):
    folder, league, rows, cost = whole
    assert (folder / "league.html").read_text() == league_page(league, rows, cost)


def test_everyone_is_in_the_committed_league(whole):
    _, league, _, _ = whole
    assert league.scenarios == list(SCENARIOS)
    variants = {label(name, {"variant": one}) for name in CURATORS for one in CURATORS[name].variants[1:]}
    assert {*league.curators} == {*ENTRANTS, *variants}


def test_committed_ablations_are_whole_and_their_pages_what_their_data_give(ablation):
    curator, folder, league, rows, cost = ablation
    assert league.baseline == curator
    assert league.scenarios == list(ABLATED)
    assert {*league.curators} == {"uniform", *(label(curator, setting) for setting in ({}, *ABLATIONS[curator]))}
    assert (folder / "league.html").read_text() == league_page(league, rows, cost)


@pytest.mark.parametrize(("curator", "scenario", "seeds"), [("sec", "bimodal", 3), ("pudf", "drifting", 2)])
def test_committed_runs_come_out_again(whole, curator, scenario, seeds):
    """To the bit where BLAS and libm are the same; a tolerance, since they need not be."""
    _, league, _, _ = whole
    question = {"budget": Budget(rollouts=ROLLOUTS), "batch": BATCH, "group": GROUP, "instance_seed": None}
    again = simulate_learner(SCENARIOS[scenario], curator, seeds=seeds, measure_regret=False, **question)
    kept = league.entry[scenario, curator]
    for name in ("begin", "final", "early"):
        np.testing.assert_allclose(getattr(again, name), getattr(kept, name)[:seeds], atol=1e-9, rtol=0)


def test_the_measured_part_of_every_page_is_up_to_date(whole, method_pages):
    _, league, rows, cost = whole
    for path, text in method_pages.pages(league, rows, cost).items():
        assert path.read_text() == text, f"{path.name} is stale; run: python docs/method_pages.py"


def test_every_method_has_a_page_that_says_what_it_maximises_and_when_it_fails():
    nav = (ROOT / "mkdocs.yml").read_text()
    for name in CURATORS:
        text = (ROOT / f"docs/methods/{name}.md").read_text()
        assert text.startswith(f"# {name}\n")
        assert re.search(r"^\*\*Maximises\*\* ", text, re.M)
        assert re.search(r"^\*\*Fails\*\* ", text, re.M)
        assert f"methods/{name}.md" in nav
