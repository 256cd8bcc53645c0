import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.sumtree import add_, build_, find, sum_tree, total

SIZES = st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 4097])


def weights(size: int, seed: int) -> np.ndarray:
    """Multiples of 1/64 with many zeros, so that every sum is exact."""
    rng = np.random.default_rng(seed)
    value = rng.integers(0, 200, size) * rng.integers(0, 2, size) / 64
    value[rng.integers(size)] = 1.0
    return value


@given(SIZES, st.integers(0, 9), st.floats(0, 1, exclude_max=True))
def test_finding_is_inversion_of_the_running_sum(size, seed, u):
    weight = weights(size, seed)
    x = u * weight.sum()
    assert find(sum_tree(weight), x, size) == np.searchsorted(np.cumsum(weight), x, side="right")


@given(SIZES, st.integers(0, 9), st.data())
def test_adding_to_a_weight_gives_the_tree_of_the_new_weights(size, seed, data):
    weight = weights(size, seed)
    tree = sum_tree(weight)
    for _ in range(3):
        i = data.draw(st.integers(0, size - 1))
        add_(tree, i, 7.25 - weight[i])
        weight[i] = 7.25
        np.testing.assert_array_equal(tree, sum_tree(weight))
    assert total(tree) == weight.sum()


@settings(max_examples=20)
@given(SIZES, st.integers(0, 9))
def test_rebuilding_removes_what_additions_left(size, seed):
    rng = np.random.default_rng(seed)
    weight = rng.random(size)
    tree = sum_tree(weight)
    for i in rng.integers(0, size, 500):
        add_(tree, i, 0.1)
        weight[i] += 0.1
    np.testing.assert_allclose(tree, sum_tree(weight), rtol=1e-12)
    build_(tree, weight)
    np.testing.assert_array_equal(tree, sum_tree(weight))


@pytest.mark.parametrize("size", [1, 10, 16, 40, 300])
def test_rounding_never_finds_an_arm_that_does_not_exist(size):
    tree = sum_tree(np.full(size, 0.1))
    assert find(tree, np.nextafter(total(tree), 0.0), size) == size - 1
    assert find(tree, total(tree) * (1 + 1e-12), size) == size - 1
