import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curbench.kernels import mirror_step, reference


@st.composite
def steps(draw):
    arms = draw(st.sampled_from([1, 2, 5, 1023, 1024, 1025, 2500]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    p = rng.dirichlet(np.full(arms, draw(st.sampled_from([0.05, 1.0, 100.0]))))
    slots = draw(st.integers(0, 50))
    arguments = {
        "loss": rng.standard_normal(slots) * draw(st.sampled_from([0.0, 1.0, 1e4])),
        "eta": draw(st.sampled_from([0.0, 0.1, 2.0])),
        "floor": draw(st.sampled_from([0.0, 1e-3, 0.3, 0.99, 1.0])),
        "share": draw(st.sampled_from([0.0, 0.1, 1.0])),
    }
    return p, rng.integers(0, arms, slots), arguments


@given(steps())
def test_cpu_equals_reference(case):
    p, arm, arguments = case
    ours = mirror_step(p, arm, **arguments)
    expected = reference.mirror_step(p, arm, **arguments)
    # An exponent x rounds by |x| ulp/2, and exp turns that into a relative error; losses reach 4e4 * eta here.
    rtol = 1e-11 + 2.0**-50 * arguments["eta"] * np.abs(arguments["loss"]).sum()
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=1e-300)
    assert abs(ours.sum() - 1.0) < 1e-12
    low = (1 - arguments["share"]) * arguments["floor"] / len(p)
    assert (ours >= low * (1 - 1e-12)).all()


@given(steps())
def test_projection_minimises_the_divergence(case):
    # q = max(floor / K, c t) is the KL projection of t: above the floor q / t is one constant c, on it at least c.
    p, arm, arguments = case
    arguments |= {"loss": np.clip(arguments["loss"], -3, 3), "floor": 0.3, "share": 0.0}
    q = mirror_step(p, arm, **arguments)
    t = p * np.exp(-arguments["eta"] * np.bincount(arm, arguments["loss"], len(p)))
    above = q > 0.3 / len(p) * (1 + 1e-9)
    scale = (q[above] / t[above]).max(initial=0.0)
    np.testing.assert_allclose(q[above], scale * t[above], rtol=1e-9)
    assert (t[~above] * scale <= 0.3 / len(p) * (1 + 1e-9)).all()


def test_without_floor_it_is_exponential_weights():
    p = np.array([0.2, 0.3, 0.5])
    loss = np.array([1.0, 2.0, 0.5])
    weight = p * np.exp(-0.7 * np.array([0.0, 3.0, 0.5]))
    ours = mirror_step(p, np.array([1, 1, 2]), loss=loss, eta=0.7)
    np.testing.assert_allclose(ours, weight / weight.sum(), rtol=1e-14)


def test_a_huge_gain_does_not_overflow():
    ours = mirror_step(np.full(4, 0.25), np.array([2]), loss=np.array([-1e6]), eta=1.0, floor=0.4)
    np.testing.assert_allclose(ours, [0.1, 0.1, 0.7, 0.1], rtol=1e-14)


def test_a_dead_arm_stays_dead_whatever_its_gain():
    ours = mirror_step([0.4, 0.6, 0.0], [2], loss=[-1e6], eta=1.0)
    np.testing.assert_allclose(ours, [0.4, 0.6, 0.0], rtol=1e-14)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_block_of_dead_arms_stays_dead_under_a_huge_loss(backend):
    p = np.zeros(2000)
    p[0] = 1.0
    ours = mirror_step(p, [0], loss=[1000.0], eta=1.0, backend=backend)
    np.testing.assert_array_equal(ours, p)


def test_the_scale_of_the_probabilities_does_not_matter():
    p = np.random.default_rng(0).random(2000)
    one, two = (mirror_step(x, [3], loss=[1.0], eta=1.0, floor=0.2) for x in (p, 2.0**-30 * p))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("threads", [2, 3])
def test_thread_count_does_not_change_a_bit(threads):
    rng = np.random.default_rng(3)
    p, arm, loss = rng.random(50_001), rng.integers(0, 50_001, 400), rng.standard_normal(400)
    options = {"loss": loss, "eta": 0.5, "floor": 0.5, "share": 0.01}
    np.testing.assert_array_equal(mirror_step(p, arm, **options), mirror_step(p, arm, **options, threads=threads))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_arguments_are_left_alone_and_tensors_give_tensors(backend):
    p, arm, loss = np.array([0.5, 0.5]), np.array([1]), np.array([1.0])
    expected = mirror_step(p, arm, loss=loss, eta=1.0, backend=backend)
    np.testing.assert_array_equal(p, 0.5)
    tensors = [torch.from_numpy(x) for x in (p, arm, loss)]
    result = mirror_step(tensors[0], tensors[1], loss=tensors[2], eta=1.0, backend=backend)
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": np.array([0, 2])}, r"an arm must be in \[0, 2\); slot 1 has 2"),
        ({"arm": np.array([-1, 0])}, "slot 0 has -1"),
        ({"loss": np.array([0.0, np.nan])}, "loss must be finite; slot 1 has nan"),
        ({"probability": np.array([0.5, -0.5])}, "probability must be finite and not negative; arm 1 has -0.5"),
        ({"probability": np.array([np.inf, 0.5])}, "arm 0 has inf"),
        ({"probability": np.zeros(2)}, "some probability must be positive"),
        ({"probability": np.array([5e-324, 5e-324, 0.0])}, "neither their sum nor its inverse .* may overflow"),
        ({"probability": np.array([1e308, 1e308])}, "neither their sum nor its inverse .* may overflow"),
        (
            {"probability": [0.5, 0.25, 0.25], "arm": [0, 0], "loss": [1e308] * 2, "eta": 0.0},
            "times a loss may overflow",
        ),
        ({"probability": [0.5, 0.25, 0.25], "arm": [0, 0], "loss": [-1e308] * 2}, "times a loss may overflow"),
        ({"eta": np.nan}, "eta must be finite and not negative; got nan"),
        ({"floor": -0.1}, r"floor must be in \[0, 1\]; got -0.1"),
        ({"share": 2.0}, r"share must be in \[0, 1\]; got 2.0"),
    ],
)
def test_errors_name_the_rule_and_the_value(backend, change, message):
    arguments = {"probability": np.array([0.5, 0.5]), "arm": np.array([0, 1]), "loss": np.zeros(2), "eta": 1.0}
    with pytest.raises(ValueError, match=message):
        mirror_step(**arguments | change, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_loss_for_every_slot_is_needed(backend):
    with pytest.raises(ValueError, match="loss must have 2 entries; got 1"):
        mirror_step([0.5, 0.5], [0, 1], loss=[0.0], eta=1.0, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_step_without_slots_changes_nothing(backend):
    np.testing.assert_array_equal(mirror_step([0.5, 0.5], [], loss=[], eta=1.0, backend=backend), 0.5)
