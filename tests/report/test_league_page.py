"""The page of a league: a function of its data, self-contained, and its table and curves answer to clicks."""

import re

import pytest

from curbench.report.league import league_page
from curbench.sim.league import standings
from tests.report.browser import chromium, run_script
from tests.sim.test_league import GAINS, league_of

COST = {
    "curation_s": {"sec": 1e-4, "uniform": 2e-4, "sec variant=released": 1e-4},
    "environment": [
        {"command": "curbench league", "versions": {"numpy": "2"}, "commit": None, "machine": "<a> machine"}
    ],
}
SIX = GAINS | {name: [0.2, 0.1, 0.1 * i, 0.2] for i, name in enumerate("abcd")}

CLICK = """<script>
const text = () => [...document.querySelectorAll('.sort tbody tr')].map(row => row.cells[0].textContent).join(',');
const heads = document.querySelectorAll('.sort th'), before = text();
heads[0].click();
const name = text();
heads[3].click(); heads[3].click();
const row = document.querySelector('tr[data-curator="a"]'), line = () => document.querySelectorAll('path.on').length;
const first = line();
row.click();
document.title = [before, name, text(), line() - first].join(' | ');
</script>"""


@pytest.fixture(scope="module")
def page():
    league = league_of(**SIX)
    return league_page(league, standings(league, draws=50), COST)


def test_the_page_is_a_function_of_its_data(page):
    league = league_of(**SIX)
    assert league_page(league, standings(league, draws=50), COST) == page


def test_the_page_needs_no_network_and_escapes_what_it_shows(page):
    assert not re.search(r"https?://|src=|@import", page)
    assert "&lt;a&gt; machine" in page
    assert "<a> machine" not in page


def test_every_curator_has_a_row_and_a_line_in_every_panel(page):
    for name in (*SIX, "uniform"):
        assert page.count('<path class="') >= 3 * len(SIX)
        assert page.count(f'data-curator="{name}"') == 3 + (name != "greedy")  # two scenarios, the profile, its row


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_heads_sort_and_rows_pick_curves(page, tmp_path):
    path = tmp_path / "league.html"
    path.write_text(page)
    title, console = run_script(path, CLICK)
    before, by_name, by_score, picked = title.split(" | ")
    assert by_name.split(",") == sorted(by_name.split(","))
    assert by_score == before.replace(before, by_score)
    assert before.split(",")[0] == by_score.split(",")[0] == "sec"
    assert abs(int(picked)) == 3
    assert console == []
