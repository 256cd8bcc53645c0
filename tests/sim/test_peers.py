"""Our regrets agree with those that SMPyBandits had (benchmarks/results/, written by benchmarks/peers_simulator.py)."""

import json
from math import hypot
from pathlib import Path

import pytest

from curbench.sim.arms import make_arms
from curbench.sim.simulate import simulate

RESULTS = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "peers_simulator.json").read_text())
ROWS = RESULTS["agreement"]["rows"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['arms']}-{row['curator']}")
def test_our_regret_agrees_with_the_peer_within_monte_carlo_error(row):
    count = row["arms_count"] if row["arms"] == "stationary" else None
    arms = make_arms(row["arms"], horizon=row["horizon"], arms=count)
    ours = simulate(arms, row["curator"], seeds=200, hyper=row["hyper"], first_seed=10_000).sampled
    error = (ours.hi - ours.lo) / 2 / 1.972  # t, 199 degrees of freedom
    assert abs(ours.mean - row["peer_mean"]) < 4 * hypot(error, row["peer_standard_error"])


def test_three_test_beds_and_four_algorithms_were_compared():
    assert len({row["arms"] for row in ROWS}) == 3
    assert len({row["curator"] for row in ROWS}) == 4
