"""Token budgets and length rewards against the paper's formulas."""

from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curbench.train.length import LengthBudget, band, triangle
from curbench.types import Reward

share = st.floats(0.0, 1.0)


def slow_reward(length, budget, flat):
    if length <= budget:
        return 1.0 if flat else length / budget
    return 1 - (length - budget) / budget if length <= 2 * budget else 0.0


@given(length=st.integers(1, 600), budget=st.floats(1.0, 300.0))
def test_length_rewards_equal_their_piecewise_formulas(length, budget):
    assert triangle(np.array([length]), budget)[0] == pytest.approx(slow_reward(length, budget, False), abs=1e-12)
    assert band(np.array([length]), budget)[0] == pytest.approx(slow_reward(length, budget, True), abs=1e-12)


@pytest.mark.parametrize("step", [0, 149, 150, 299, 300, 449, 450, 599])
def test_the_budget_drops_like_the_papers(step):
    """256 -> 87 tokens in T = 600 steps with n = 3 drops: gamma = (87 / 256)^(1/3) = 0.698, one every 150 steps."""
    gamma = (87 / 256) ** (1 / 3)
    expected = max(1.0, 256 * gamma ** floor(step / 150))
    assert LengthBudget(start=256, end=87, drops=3).tokens(step / 600) == pytest.approx(expected)


def test_a_continuous_budget_is_that_of_mid_training():
    budget = LengthBudget(start=800, end=160, drops=0)
    for z in (0.0, 0.3, 1.0):
        assert budget.tokens(z) == pytest.approx(800 * 0.2**z)


def test_a_linear_budget():
    assert [LengthBudget(start=10, end=4, decay="linear", drops=2).tokens(z) for z in (0.0, 0.34, 0.67)] == [10, 7, 4]
    assert LengthBudget(start=10, end=4, decay="linear", drops=0).tokens(0.5) == 7


@given(
    start=st.integers(2, 500),
    end=st.integers(1, 500),
    decay=st.sampled_from(["linear", "exponential"]),
    drops=st.sampled_from([0, 1, 4]),
    z=share,
    more=share,
)
def test_budgets_run_monotonically_from_start_to_end(start, end, decay, drops, z, more):
    budget = LengthBudget(start=start, end=end, decay=decay, drops=drops)
    assert budget.tokens(0.0) == start
    assert budget.tokens(1.0) == pytest.approx(end)
    early, late = budget.tokens(min(z, more)), budget.tokens(max(z, more))
    assert (late - early) * (end - start) >= -1e-9


def test_shaping_leaves_success_alone():
    verdict = Reward([1.0, 0.0, 1.0], [True, False, True])
    shaped = LengthBudget(start=10, end=5, correct=0.6, length=0.3).shape(verdict, np.array([10, 5, 20]), 0.0)
    np.testing.assert_allclose(shaped.reward, [0.9, 0.15, 0.6])
    np.testing.assert_array_equal(shaped.success, verdict.success)


def test_an_instruction_states_the_budget():
    budget = LengthBudget(start=10, end=5, drops=0, instruction="Use {budget} tokens. ")
    assert budget.instruct("2+2=", 0.0) == "Use 10 tokens. 2+2="
    assert budget.instruct("2+2=", 1.0) == "Use 5 tokens. 2+2="
    assert LengthBudget(start=10, end=5).instruct("2+2=", 0.0) == "2+2="


@pytest.mark.parametrize("setting", [{"end": 0}, {"drops": -1}, {"reward": "box"}, {"instruction": "Be brief."}])
def test_bad_budgets_are_refused(setting):
    with pytest.raises(ValidationError):
        LengthBudget(**({"start": 10, "end": 5} | setting))
