"""Checkpoint averages against their recursion, and exact continuation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.averaging import Averaging, CheckpointAverage
from curbench.record import flatten, unflatten


def checkpoints(n, seed=0):
    rng = np.random.default_rng(seed)
    return [{"w": rng.normal(size=(2, 3)).astype(np.float32), "b": rng.normal(size=3)} for _ in range(n)]


@given(n=st.integers(1, 9), count=st.integers(1, 7), alpha=st.floats(0.05, 1.0))
@settings(max_examples=40)
def test_the_average_is_the_recursion_over_the_last_checkpoints(n, count, alpha):
    average = CheckpointAverage(Averaging(every=1, count=count, alpha=alpha))
    series = checkpoints(n)
    for one in series:
        average.add(one)
    kept = series[-count:]
    slow = kept[0]["w"].astype(float)
    for one in kept[1:]:
        slow = alpha * one["w"] + (1 - alpha) * slow
    result = average.average()
    np.testing.assert_allclose(result["w"], slow, atol=1e-6)
    assert result["w"].dtype == np.float32
    assert result["b"].dtype == np.float64


@given(n=st.integers(1, 9), kind=st.sampled_from(["ema", "mean"]), alpha=st.floats(0.05, 1.0))
def test_weights_are_positive_or_zero_and_sum_to_one(n, kind, alpha):
    weight = Averaging(every=1, kind=kind, alpha=alpha).weight(n)
    assert (weight >= 0).all()
    assert weight.sum() == pytest.approx(1.0)


def test_six_checkpoints_at_a_fifth():
    """0.8^5 for the oldest, then 0.2 0.8^4, ..., 0.2: the newest has a fifth."""
    weight = Averaging(every=1).weight(6)
    np.testing.assert_allclose(weight, [0.32768, 0.08192, 0.1024, 0.128, 0.16, 0.2])


def test_checkpoints_are_due_every_so_many_steps():
    average = CheckpointAverage(Averaging(every=3))
    assert [step for step in range(1, 10) if average.due(step)] == [3, 6, 9]


def test_what_is_kept_does_not_follow_the_weights():
    average = CheckpointAverage(Averaging(every=1))
    weight = {"w": np.ones(2)}
    average.add(weight)
    weight["w"][:] = 5.0
    assert average.average()["w"].tolist() == [1.0, 1.0]


def test_the_state_continues_exactly_through_a_checkpoint_file():
    whole, half = (CheckpointAverage(Averaging(every=1, count=3)) for _ in range(2))
    series = checkpoints(6)
    for one in series[:4]:
        whole.add(one)
        half.add(one)
    resumed = CheckpointAverage(Averaging(every=1, count=3))
    array, scalar = flatten(half.state())
    resumed.restore(unflatten(array | scalar))
    for one in series[4:]:
        whole.add(one)
        resumed.add(one)
    for name in ("w", "b"):
        np.testing.assert_array_equal(whole.average()[name], resumed.average()[name])
