"""Draws from 1e8 problems and steps over 1e8 arms, where float32 sums and 24-bit uniforms are wrong."""

import numpy as np
import pytest

from curbench import philox
from curbench.kernels import MirrorTree, draw, mirror_step, reference

pytestmark = pytest.mark.slow

ROWS = 10**8
HALF = ROWS // 2  # the first of them weigh twice as much as the others


@pytest.fixture(scope="module")
def score():
    score = np.zeros(ROWS, np.float32)
    score[:HALF] = np.log(2.0)
    return score


def test_draws_with_replacement(score):
    drawn = draw(score, count=100_000, seed=0)
    assert abs((drawn.problem >= HALF).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / 100_000)
    np.testing.assert_allclose(np.unique(drawn.propensity), [2 / 3 / ROWS, 4 / 3 / ROWS], rtol=1e-7)
    _, repeats = np.unique(drawn.problem, return_counts=True)
    assert abs((repeats - 1).sum() - 55.6) < 5 * np.sqrt(55.6)  # pairs: n^2 / 2 times the sum of q^2, 10 / (9 ROWS)


def test_a_race_has_no_ties_and_the_right_winners(score):
    count = 4096
    drawn = draw(score, count=count, design="race", seed=1)
    key = reference.exponentials(1, philox.RACE, 0, drawn.problem) - score[drawn.problem]
    assert (np.diff(key) > 0).all()
    assert abs((drawn.problem >= HALF).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / count)
    arrived = np.exp(drawn.log_time)  # about `count` exponentials of rates q have rung by then
    assert abs(arrived - count) < 5 * np.sqrt(count)
    np.testing.assert_allclose(drawn.propensity, -np.expm1(-drawn.probability * arrived), rtol=1e-9)


def test_a_systematic_draw_takes_its_share_of_both_halves(score):
    drawn = draw(score, count=30_000, design="systematic", seed=2)
    assert abs((drawn.problem >= HALF).sum() - 10_000) <= 1
    assert (np.diff(drawn.problem) > 0).all()


def test_a_nucleus_ends_inside_the_heavy_half(score):
    drawn = draw(score, count=10_000, nucleus=0.5, seed=3)
    np.testing.assert_allclose(drawn.mass, 0.5, atol=1e-7)
    assert drawn.problem.max() < 3 / 4 * HALF  # 3/4 of the heavy half hold half of the mass


def test_mirror_step():
    arm = np.array([7, ROWS - 1, 7])
    p = mirror_step(np.ones(ROWS), arm, loss=-np.log([2.0, 6.0, 2.0]), eta=1.0, floor=0.5, share=0.25)
    total = ROWS + 3 + 5
    changed = 0.75 * np.array([4.0, 6.0]) / total + 0.25 / ROWS
    np.testing.assert_allclose(p[[7, ROWS - 1]], changed, rtol=1e-12)
    np.testing.assert_allclose(p[[0, HALF]], 0.75 / total + 0.25 / ROWS, rtol=1e-12)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)


def test_mirror_tree():
    p = np.ones(ROWS)
    p[:HALF] = 2.0
    tree = MirrorTree(p)
    arm = np.array([7, ROWS - 1, 7])
    tree.step_(arm, loss=-np.log([2.0, 6.0, 2.0]), eta=1.0)
    total = 1.5 * ROWS + 6 + 5
    np.testing.assert_allclose(tree.probability([7, ROWS - 1, 0]), np.array([8.0, 6.0, 2.0]) / total, rtol=1e-12)
    for design, count in (("iid", 100_000), ("race", 4096), ("systematic", 30_000)):
        drawn = tree.draw(count, design=design, seed=4)
        assert abs((drawn.arm >= HALF).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / count)
        assert design == "iid" or len(set(drawn.arm)) == count
