"""Learning-rate schedules against slow re-statements, their ends, their monotone parts, and what is refused."""

import json
from itertools import pairwise
from math import cos, exp, log, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.config import validate
from curbench.schedules import SCHEDULES, Schedule, cosine, infinite, linear, power, refine, rex, uba, wsd
from curbench.train.run import TrainSpec

share = st.floats(0.0, 1.0)
inside = st.floats(0.05, 0.95)
CLOSED = [name for name in SCHEDULES if name != "refined"]


@pytest.mark.parametrize("name", CLOSED)
def test_schedules_start_at_the_peak_fall_and_stay_inside(name):
    value = [Schedule(name=name)(z) for z in np.linspace(0.0, 1.0, 501)]
    assert value[0] == 1.0
    assert all(0.0 <= after <= before + 1e-12 for before, after in pairwise(value))


@pytest.mark.parametrize("name", CLOSED)
@given(z=st.floats(0.0, 0.9999), warmup=st.sampled_from([0.0, 0.2]))
@settings(max_examples=30)
def test_schedules_are_continuous(name, z, warmup):
    """Nowhere steeper than 25: the steepest is an exponential fall to a tenth within a tenth, of slope ln(10) / 0.1."""
    schedule = Schedule(name=name, warmup=warmup)
    assert abs(schedule(z + 1e-4) - schedule(z)) < 30e-4 / (1 - warmup)


@pytest.mark.parametrize(
    ("name", "end"),
    [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0), ("wsd", 0.1), ("rex", 0.0), ("uba", 0.0), ("infinite", 0.05)],
)
def test_end_values(name, end):
    assert Schedule(name=name)(1.0) == pytest.approx(end, abs=1e-15)


@pytest.mark.parametrize("name", ["linear", "cosine", "rex", "uba", "power"])
def test_final_is_the_share_left_at_the_end(name):
    left = 0.25 * Schedule(name=name, final=1.0)(1.0) if name == "power" else 0.25
    assert Schedule(name=name, final=0.25)(1.0) == pytest.approx(left)


@given(step=st.integers(0, 1000), final=inside)
def test_decays_equal_their_formulas_by_steps(step, final):
    total, peak = 1000, 3e-4
    low, z = final * peak, step / total
    assert peak * linear(z, final=final) == pytest.approx(low + (peak - low) * (total - step) / total)
    assert peak * cosine(z, final=final) == pytest.approx(low + 0.5 * (peak - low) * (1 + cos(pi * step / total)))
    left = 1 - step / total
    assert peak * rex(z) == pytest.approx(peak * left / (1 / 2 + left / 2), abs=1e-12)


@given(step=st.integers(0, 1000))
def test_wsd_has_the_half_life_that_its_final_value_implies(step):
    """Hu et al.: 0.5^((s - S) / tau) after S = 800 of 1000 steps, with tau = 50 steps: four half-lives."""
    expected = 1.0 if step < 800 else 0.5 ** ((step - 800) / 50)
    assert wsd(step / 1000, decay=0.2, final=0.5**4) == pytest.approx(expected)


@given(z=share)
def test_uba_is_cosine_at_two_and_constant_near_zero(z):
    assert uba(z, phi=2.0) == pytest.approx(cosine(z), abs=1e-12)
    assert uba(0.99 * z, phi=1e-9) == pytest.approx(1.0, abs=1e-4)


def test_uba_by_hand():
    """At half the budget c = 0: 2 / (2 phi + 2 - phi)."""
    assert uba(0.5, phi=1.0) == pytest.approx(2 / 3)
    assert uba(0.5, phi=6.0) == pytest.approx(0.25)


@given(step=st.integers(0, 1000))
def test_infinite_equals_its_three_phases(step):
    if step < 300:
        expected = 0.5 + 0.5 * (1 + cos(pi * step / 300)) / 2
    elif step < 800:
        expected = 0.5
    else:
        expected = 0.5 * exp(log(0.05 / 0.5) * (step - 800) / 200)
    assert infinite(step / 1000) == pytest.approx(expected)


@given(tokens=st.integers(1, 900))
def test_power_is_the_papers_rate_over_its_peak(tokens):
    """min(peak, B a n^b) with the knee at 100 of 1000 tokens, before the last tenth."""
    peak, b = 0.02, -0.51
    scale = peak / 100**b
    assert peak * power(tokens / 1000, knee=0.1, exponent=0.51) == pytest.approx(min(peak, scale * tokens**b))


@given(norm=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=40), exponent=st.sampled_from([1.0, 2.0]))
@settings(max_examples=50)
def test_refinement_without_smoothing_is_weight_times_the_sum_of_later_weights(norm, exponent):
    weight = [n**-exponent for n in norm]
    raw = [w * sum(weight[t + 1 :]) for t, w in enumerate(weight)]
    np.testing.assert_allclose(refine(np.array(norm), power=exponent, smoothing=0.0), np.array(raw) / max(raw))


def test_refinement_takes_a_running_median_reflected_at_the_end_and_skips_zeros():
    norm = np.array([1.0, 9.0, 1.0, 0.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0])
    median = [1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0]  # width 3, the zero left out
    expected = refine(np.array(median), smoothing=0.0)
    np.testing.assert_allclose(refine(norm, smoothing=0.4), expected)


def test_a_schedule_refined_from_a_run_warms_up_where_its_gradients_were_large(tmp_path):
    norm = [4.0, 2.0, *[1.0] * 28]
    row = [json.dumps({"actor": {"grad_norm_l1": n}}) for n in norm]
    (tmp_path / "steps.jsonl").write_text("\n".join(row) + "\n")
    schedule = Schedule(name="refined", run=str(tmp_path))
    value = [schedule(t / 30) for t in range(30)]
    np.testing.assert_allclose(value, refine(np.array(norm)))
    assert value[0] < value[1] < value[2] == 1.0
    assert schedule(1.0) == 0.0


@given(z=share, warmup=inside)
def test_warm_up_is_linear_and_the_rest_is_the_schedule(z, warmup):
    value = Schedule(name="cosine", warmup=warmup)(z)
    if z < warmup:
        assert value == pytest.approx(0.1 + 0.9 * z / warmup)
    else:
        assert value == cosine((z - warmup) / (1 - warmup))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"name": "wds"}, "unknown schedule 'wds'; choose from constant, linear"),
        ({"decay": 0.3}, "constant has no setting 'decay'; its settings: none"),
        ({"name": "wsd", "decay": 3}, r"decay must be in \(0, 1\]; got 3"),
        ({"name": "linear", "final": -1}, r"final is a share of the peak, in \[0, 1\]; got -1"),
        ({"name": "uba", "phi": 0}, "phi must be positive; got 0"),
        ({"name": "infinite", "cooldown": 0.9}, "at most 1 together; got 0.9 and 0.2$"),
        ({"name": "power", "knee": 0}, r"knee must be in \(0, 1\]; got 0"),
        ({"name": "cosine", "warmup": 1.0}, r"warmup is a share of the budget, in \[0, 1\); got 1"),
        ({"name": "refined"}, "the schedule refined needs run"),
        ({"name": "refined", "run": "/no/run"}, "/no/run is not the directory of a training run"),
        ({"name": "cosine", "final": "low"}, "final=low: input should be a valid number"),
    ],
)
def test_bad_schedules_are_one_sentence(setting, message):
    with pytest.raises(ValueError, match=message):
        validate(Schedule, setting)


def test_a_spec_keeps_the_parameters_through_json():
    setting = {"name": "wsd", "warmup": "0.1", "decay": "0.3"}
    spec = TrainSpec(suite="countdown", curator="uniform", budget_steps=1, grpo={"schedule": setting})
    schedule = spec.grpo.schedule
    assert schedule.model_dump() == {"name": "wsd", "warmup": 0.1, "decay": 0.3}
    again = TrainSpec.model_validate(json.loads(json.dumps(spec.model_dump())))
    assert again.grpo.schedule(0.9) == schedule(0.9) == wsd((0.9 - 0.1) / 0.9, decay=0.3)
