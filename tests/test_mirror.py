import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq

from curbench.kernels import reference
from curbench.mirror import exponentiated_step_, project_on_floor_, share_

positive = arrays(float, st.integers(1, 40), elements=st.floats(1e-12, 1.0))


@given(p=positive, gamma=st.floats(0.0, 1.0))
def test_projection_is_the_kl_projection_on_the_floor(p, gamma):
    floor = gamma / p.size
    q = p.copy()
    project_on_floor_(q, floor)
    assert q.sum() == pytest.approx(1.0, abs=1e-12)
    assert (q >= floor).all()
    if gamma < 1.0 - 1e-9:  # the optimality condition: q = max(floor, c p), with c from a root finder
        high = 2.0 / p.min()
        c = brentq(lambda c: np.maximum(floor, c * p).sum() - 1.0, 0.0, high, xtol=1e-300, rtol=1e-14, maxiter=1_000)
        np.testing.assert_allclose(q, np.maximum(floor, c * p), rtol=1e-9, atol=1e-15)


@given(p=positive, gamma=st.floats(0.0, 1.0))
def test_projecting_twice_changes_nothing(p, gamma):
    project_on_floor_(p, gamma / p.size)
    again = p.copy()
    project_on_floor_(again, gamma / p.size)
    np.testing.assert_allclose(again, p, rtol=1e-12)


@given(weight=positive, eta=st.floats(1e-3, 2.0), gamma=st.floats(0.0, 0.9), data=st.data())
def test_mirror_step_agrees_with_the_kernel_reference(weight, eta, gamma, data):
    p = weight / weight.sum()
    k = p.size
    arm = np.array(data.draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=5)))
    loss = np.array(data.draw(st.lists(st.floats(0, 50), min_size=arm.size, max_size=arm.size)))
    mine = p.copy()
    for i, x in zip(arm, loss, strict=True):
        exponentiated_step_(mine, i, x, eta)
    project_on_floor_(mine, gamma / k)
    theirs = reference.mirror_step(p, arm, loss=loss, eta=eta, floor=gamma)
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-14)


def test_a_huge_loss_leaves_a_positive_probability():
    p = np.array([0.5, 0.5])
    exponentiated_step_(p, 0, 1e300, 1.0)
    project_on_floor_(p, 0.0)
    assert 0.0 < p[0] < 1e-200


def test_fixed_share_mixes_with_uniform():
    p = np.array([1.0, 0.0])
    share_(p, 0.5)
    assert p.tolist() == [0.75, 0.25]
