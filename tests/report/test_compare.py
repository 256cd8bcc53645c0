"""Comparisons with uniform: known answers on curves made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbench.report.compare import compare, crossing, over_suites
from tests.report.test_report import training_run


def curve(name, seed, rates, suite="countdown", tokens=100):
    """A run whose held-out pass rate at 0, 100, 200 ... tokens is ``rates`` (tenths of ten problems)."""
    rows = [(i, i * tokens, [1] * round(10 * r) + [0] * (10 - round(10 * r))) for i, r in enumerate(rates)]
    return training_run(name, seed, *rows, suite=suite)


def test_a_curator_twice_as_fast_has_ratio_one_half():
    uniform = [curve("uniform", s, (0.0, 0.2, 0.4)) for s in range(4)]
    fast = [curve("sec", s, (0.0, 0.4, 0.6)) for s in range(4)]
    base, sec = compare([*uniform, *fast])
    assert (base.curator, base.seeds, base.gain, base.reached) == ("uniform", 4, None, 4)
    assert base.tokens.mean == pytest.approx(200)
    assert base.ratio is None
    assert sec.tokens.mean == pytest.approx(100, abs=1)
    assert sec.ratio == pytest.approx((0.5, 0.5, 0.5, 4), abs=0.01)
    assert (sec.final.mean, sec.gain.mean, sec.relative.mean) == pytest.approx((0.6, 0.2, 0.5))
    assert (sec.probability.mean, sec.reached) == (1.0, 4)


def test_a_curator_that_never_gets_there_is_said_so():
    runs = [curve("uniform", s, (0.0, 0.2, 0.5)) for s in range(3)]
    runs += [curve("sec", s, (0.0, 0.1, 0.1 + 0.5 * (s == 0))) for s in range(3)]
    sec = compare(runs)[1]
    assert np.isinf(sec.tokens.mean)
    assert np.isinf(sec.ratio.mean)
    assert sec.reached == 1


def test_seeds_are_paired_and_those_of_one_side_only_do_not_count():
    noise = (0.1, 0.3, 0.0)
    runs = [curve("uniform", s, (0.0, 0.1 + n, 0.3 + n)) for s, n in enumerate(noise)]
    runs += [curve("sec", s, (0.0, 0.2 + n, 0.4 + n)) for s, n in enumerate(noise)] + [curve("sec", 9, (0, 0, 0))]
    sec = compare(runs)[1]
    assert sec.seeds == 4
    assert sec.gain == pytest.approx((0.1, 0.1, 0.1, 1))


def test_one_seed_has_no_interval():
    sec = compare([curve("uniform", 0, (0.0, 0.4)), curve("sec", 0, (0.0, 0.8))])[1]
    assert sec.ratio.mean == pytest.approx(0.5, abs=0.01)
    assert not np.isfinite([sec.ratio.lo, sec.ratio.hi, sec.gain.lo, sec.final.hi]).any()


def test_without_uniform_there_is_nothing_to_compare_with():
    (sec,) = compare([curve("sec", 0, (0.0, 0.8)), curve("sec", 1, (0.0, 0.8))])
    assert (sec.final.mean, sec.gain, sec.ratio) == (pytest.approx(0.8), None, None)


def test_suites_count_alike():
    suites = {
        "countdown": [curve(n, s, r) for s in (0, 1) for n, r in (("uniform", (0, 0.2, 0.4)), ("sec", (0, 0.4, 0.4)))],
        "arc_1d": [
            curve(n, s, r, "arc_1d", 1000)
            for s in (0, 1)
            for n, r in (("uniform", (0, 0.2, 0.4)), ("sec", (0, 0.2, 0.8)), ("dump", (0, 0, 0)))
        ],
    }
    base, sec = over_suites(suites)  # dump ran on one of them only
    assert (base.curator, sec.curator) == ("uniform", "sec")
    assert sec.gain.mean == pytest.approx((0.0 + 0.4) / 2)
    assert sec.relative.mean == pytest.approx((0.0 + 1.0) / 2)
    assert sec.ratio.mean == pytest.approx((0.5 * (2 / 3)) ** 0.5, abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(0, 1))
def test_a_curve_stands_at_the_level_where_it_crosses(values, level):
    curve = np.array(values)
    at = np.arange(curve.size) * 10.0
    x = float(crossing(curve, at, np.array(level)))
    if np.isinf(x):
        assert (curve < level).all()
    else:
        assert np.interp(x, at, curve) == pytest.approx(max(level, curve[0] if x == 0 else level), abs=1e-6)
        assert (curve[at < x - 1e-6] < level).all()
