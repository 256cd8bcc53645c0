"""The tree takes the dense step, keeps nothing but its leaves, and draws with the propensities it reports."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.kernels import MirrorTree, reference
from curbench.kernels.extension import load

DESIGNS = ("iid", "race", "systematic")


@st.composite
def courses(draw):
    """Probabilities f64[K], and steps on them."""
    arms = draw(st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 700, 4097]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    p = rng.dirichlet(np.full(arms, draw(st.sampled_from([0.05, 1.0, 100.0]))))
    p[rng.random(arms) < draw(st.sampled_from([0.0, 0.5]))] = 0.0
    p[-1] += 0.1
    size = draw(st.sampled_from([0.0, 0.1, 3.0]))
    many = draw(st.sampled_from([1, 5, 300]))
    floor, share = draw(st.sampled_from([(0.0, 0.0), (0.1, 0.0), (0.9, 0.0), (0.0, 0.01), (0.3, 0.1), (0.0, 1.0)]))
    steps = []
    for _ in range(draw(st.integers(1, 12))):
        arm = rng.integers(0, arms, rng.integers(0, many + 1))
        steps.append({"arm": arm, "loss": size * rng.standard_normal(len(arm)), "eta": 0.5})
    return p, [step | {"floor": floor, "share": share} for step in steps]


def walk(tree, steps):
    for step in steps:
        tree.step_(**step)
    return tree


@given(courses())
@settings(max_examples=60)
def test_it_is_the_dense_step(course):
    p, steps = course
    tree, table = MirrorTree(p), reference.MirrorTree(p)
    some = np.arange(0, len(p), 3)
    for step in steps:
        tree.step_(**step)
        table.step_(**step)
        # Floors and shares hide what is below: what stands on a level of 1e-2 / K after ten steps has 12 digits left.
        np.testing.assert_allclose(tree.probability(some), table.p[some], rtol=1e-11, atol=1e-290)
    np.testing.assert_allclose(tree.probability(), table.p, rtol=1e-11, atol=1e-290)


@given(courses(), st.sampled_from(DESIGNS))
@settings(max_examples=30)
def test_a_tree_made_of_its_state_continues_with_the_same_bits(course, design):
    p, steps = course
    tree = walk(MirrorTree(p), steps)
    other = MirrorTree(tree.state())
    for step in steps:
        tree.step_(**step)
        other.step_(**step)
    for a, b in zip(*(t.draw(1, design=design, mix=0.1, seed=3) for t in (tree, other)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(tree.state(), other.state())


@given(courses(), st.sampled_from(DESIGNS))
@settings(max_examples=30)
def test_without_a_share_reading_and_drawing_change_nothing(course, design):
    p, steps = course
    steps = [step | {"share": 0.0} for step in steps]
    quiet, watched = MirrorTree(p), MirrorTree(p)
    for step in steps:
        quiet.step_(**step)
        watched.step_(**step)
        watched.draw(1, design=design, mix=0.2, seed=0)
        watched.state()
    np.testing.assert_array_equal(quiet.state(), watched.state())


@given(courses(), st.sampled_from(DESIGNS), st.sampled_from([0.0, 1e-9, 0.2, 1.0]), st.integers(1, 40))
@settings(max_examples=60)
def test_draws_equal_the_reference(course, design, mix, count):
    p, steps = course
    tree, table = walk(MirrorTree(p), steps), walk(reference.MirrorTree(p), steps)
    options = {"design": design, "mix": mix, "seed": 2**63 + 5, "step": 7}
    if design != "iid" and count > (np.count_nonzero(table.p) if mix == 0.0 else len(p)):
        for either in (tree, table):
            with pytest.raises(ValueError, match="needs as many|at most the"):
                either.draw(count, **options)
        return
    expected, ours = table.draw(count, **options), tree.draw(count, **options)
    same = ours.arm == expected.arm
    assert same.mean() > 0.99 or len(p) > 700  # a point on a boundary may fall to either side
    np.testing.assert_allclose(ours.propensity[same], expected.propensity[same], rtol=1e-9, atol=1e-290)
    np.testing.assert_allclose(ours.probability, table.p[ours.arm], rtol=1e-9, atol=1e-290)
    assert design == "iid" or len(set(ours.arm)) == count


def weights(arms=64):
    return np.random.default_rng(0).dirichlet(np.full(arms, 0.5))


def test_iid_draws_have_their_propensity():
    p, n = weights(), 1_000_000
    draw = MirrorTree(p).draw(n, mix=0.1, seed=1)
    q = 0.9 * p + 0.1 / len(p)
    np.testing.assert_allclose(draw.propensity, q[draw.arm], rtol=1e-13)
    count = np.bincount(draw.arm, minlength=len(p))
    assert ((count - n * q) ** 2 / (n * q)).sum() < 63 + 5 * np.sqrt(2 * 63)  # chi-square, five standard deviations


@pytest.mark.parametrize("design", ["race", "systematic"])
def test_dividing_by_the_propensity_is_unbiased(design):
    p, rounds, value = weights(40), 4000, np.linspace(-1.0, 2.0, 40) ** 2
    tree = MirrorTree(p)
    draws = [tree.draw(8, design=design, mix=0.3, seed=5, step=i) for i in range(rounds)]
    estimate = np.array([(value[d.arm] / d.propensity).sum() for d in draws])
    error = estimate.std() / np.sqrt(rounds)
    assert abs(estimate.mean() - value.sum()) < 4 * error
    assert error < 0.02 * value.sum()


def test_a_race_takes_arms_in_the_order_of_successive_draws():
    p, rounds = np.array([0.6, 0.3, 0.1]), 20_000
    tree = MirrorTree(p)
    first, second = np.array([tree.draw(2, design="race", seed=2, step=i).arm for i in range(rounds)]).T
    for i in range(3):
        for j in set(range(3)) - {i}:
            expected = p[i] * p[j] / (1 - p[i])
            share = ((first == i) & (second == j)).mean()
            assert abs(share - expected) < 4 * np.sqrt(expected / rounds)


def test_a_race_over_arms_of_very_different_weight_ends():
    p = 0.5 ** np.arange(200.0)
    draw = MirrorTree(p).draw(200, design="race", seed=0)
    assert sorted(draw.arm) == list(range(200))
    np.testing.assert_array_equal(draw.propensity, 1.0)


def test_more_than_2_to_the_24_arms_are_drawn_right():
    arms = 2**24 + 5
    p = np.ones(arms)
    p[: arms // 2] = 2.0
    draw = MirrorTree(p).draw(20_000, seed=0)
    share = (draw.arm >= arms // 2).mean()
    assert abs(share - 1 / 3) < 4 * np.sqrt(2 / 9 / 20_000)  # torch.multinomial gives 0


@pytest.mark.parametrize("design", DESIGNS)
def test_the_seed_reaches_every_draw(design):
    tree = MirrorTree(np.ones(1000))
    arms = [tree.draw(5, design=design, seed=seed, step=step).arm.tolist() for seed, step in ((0, 0), (1, 0), (0, 1))]
    assert arms[0] == tree.draw(5, design=design, seed=0).arm.tolist()
    assert arms[0] != arms[1] != arms[2] != arms[0]


def test_instructions_and_threads_do_not_change_a_bit():
    before = load().isa()
    rng = np.random.default_rng(1)
    p, arm, loss = rng.random(5000), rng.integers(0, 5000, 200), rng.standard_normal(200)
    states = []
    try:
        for name in filter(load().use_isa, ("portable", "avx2", "avx512")):
            for threads in (1, 3):
                tree = MirrorTree(p, threads=threads)
                for floor in (0.0, 0.2):
                    tree.step_(arm, loss=loss, eta=1.0, floor=floor, share=0.1)
                draws = [tree.draw(60, design=design, mix=0.1, seed=0) for design in DESIGNS]
                states.append((name, threads, tree.state(), draws))
    finally:
        load().use_isa(before)
    for name, threads, state, draws in states:
        np.testing.assert_array_equal(state, states[0][2], err_msg=f"{name} {threads}")
        np.testing.assert_array_equal(draws, states[0][3], err_msg=f"{name} {threads}")


@pytest.mark.parametrize("huge", [1e3, 1e6, 1e20, 1e300])
def test_huge_gains_and_losses_neither_overflow_nor_lose_what_is_left(huge):
    tree = MirrorTree(np.full(4, 0.25))
    tree.step_([2], loss=[-huge], eta=1.0, floor=0.4)
    np.testing.assert_allclose(tree.probability(), [0.1, 0.1, 0.7, 0.1], rtol=1e-14)
    tree.step_([0, 1, 2], loss=[huge] * 3, eta=1.0)
    np.testing.assert_allclose(tree.probability(), [0.0, 0.0, 0.0, 1.0], rtol=1e-14)
    tree.step_([3, 0], loss=[huge, -huge], eta=1.0, share=0.4)
    np.testing.assert_allclose(tree.probability(), [0.1, 0.1, 0.1, 0.7], rtol=1e-14)  # the others were dead
    tree.step_(range(4), loss=[huge] * 4, eta=1.0)
    np.testing.assert_allclose(tree.probability(), [0.1, 0.1, 0.1, 0.7], rtol=1e-14)


def test_small_steps_in_one_direction_never_leave_the_range_of_doubles():
    tree = MirrorTree(np.ones(300))
    arm = np.arange(300)
    for _ in range(50):
        tree.step_(arm, loss=np.full(300, 100.0), eta=1.0)
        tree.step_(arm[:20], loss=np.full(20, -100.0), eta=1.0)
    np.testing.assert_allclose(tree.probability(arm[:20]), 0.05, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": [0, 2]}, r"an arm must be in \[0, 2\); slot 1 has 2"),
        ({"arm": [-1, 2]}, "slot 0 has -1"),
        ({"loss": [0.0, np.nan]}, "loss must be finite; slot 1 has nan"),
        ({"loss": [0.0]}, "loss must have 2 entries; got 1"),
        ({"arm": [1, 1], "loss": [-1e308, -1e308]}, "nor eta times a loss may overflow"),
        ({"arm": [1, 1], "loss": [1e308, 1e308], "eta": 0.0}, "nor eta times a loss may overflow"),
        ({"eta": -1.0}, "eta must be finite and not negative; got -1.0"),
        ({"floor": 1.5}, r"floor must be in \[0, 1\]; got 1.5"),
        ({"share": np.nan}, r"share must be in \[0, 1\]; got nan"),
    ],
)
def test_a_wrong_step_is_one_sentence_and_changes_nothing(change, message):
    tree = MirrorTree([0.25, 0.75])
    with pytest.raises(ValueError, match=message):
        tree.step_(**{"arm": [0, 1], "loss": [1.0, 2.0], "eta": 1.0} | change)
    np.testing.assert_array_equal(tree.probability(), [0.25, 0.75])


def test_a_step_that_would_leave_no_arm_alive_changes_nothing():
    tree = MirrorTree([0.25, 0.75])
    with pytest.raises(ValueError, match="some probability must be positive"):
        tree.step_([0, 0, 1, 1], loss=[1e308] * 4, eta=1.0)
    np.testing.assert_array_equal(tree.probability(), [0.25, 0.75])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"count": 4, "design": "race"}, "a race draw has no duplicates, so count must be at most the 3 arms; got 4"),
        ({"count": 3, "design": "systematic"}, "a systematic draw of 3 needs as many .* 2 have one: pass mix > 0"),
        ({"count": 3, "design": "race"}, "a race draw of 3 needs as many .* 2 have one: pass mix > 0"),
        ({"count": 1, "design": "poisson"}, "design must be one of iid, systematic, race; got 'poisson'"),
        ({"count": 1, "mix": 2.0}, r"mix must be in \[0, 1\]; got 2.0"),
        ({"count": 1, "seed": -1}, r"seed must be in \[0, 2\^64\); got -1"),
    ],
)
def test_a_wrong_draw_is_one_sentence(options, message):
    for tree in (MirrorTree([0.5, 0.5, 0.0]), reference.MirrorTree([0.5, 0.5, 0.0])):
        with pytest.raises(ValueError, match=message):
            tree.draw(**{"seed": 0} | options)
        np.testing.assert_array_equal(tree.probability(), [0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("probability", "message"),
    [
        ([], "a MirrorTree needs 1 to 2\\^40 arms; got 0"),
        ([0.0, 0.0], "some probability must be positive"),
        ([1.0, -1.0], "arm 1 has -1.0"),
        ([np.nan], "arm 0 has nan"),
        ([1e308, 1e308], "neither their sum nor its inverse"),
        ([[1.0]], "probability must have 1 axis"),
    ],
)
def test_a_wrong_start_is_one_sentence(probability, message):
    with pytest.raises(ValueError, match=message):
        MirrorTree(probability)


def test_probabilities_of_arms_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"an arm must be in \[0, 2\); slot 1 has 5"):
        MirrorTree([0.5, 0.5]).probability([0, 5])


def test_tensors_give_tensors_and_the_start_is_copied():
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)
    tree = MirrorTree(p)
    tree.step_(torch.tensor([0]), loss=torch.tensor([-np.log(3.0)]), eta=1.0)
    assert p.tolist() == [0.5, 0.5]
    results = [tree.probability(), tree.probability(torch.tensor([1])), tree.state(), *tree.draw(1, seed=0)]
    assert all(isinstance(result, torch.Tensor) for result in results)
    torch.testing.assert_close(tree.probability(), torch.tensor([0.75, 0.25], dtype=torch.float64))
