import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curbench.sumtree import find, set_, sum_tree

WEIGHTS = st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=1, max_size=40).filter(any)


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_finding_is_inversion_of_the_running_sum(weight, u):
    weight = np.array(weight)
    x = u * weight.sum()
    assert find(sum_tree(weight), x) == np.searchsorted(np.cumsum(weight), x, side="right")


@given(WEIGHTS, st.data())
def test_setting_a_weight_gives_the_tree_of_the_new_weights(weight, data):
    weight = np.array(weight)
    tree = sum_tree(weight)
    i = data.draw(st.integers(0, weight.size - 1))
    weight[i] = 7.0
    set_(tree, i, 7.0)
    np.testing.assert_array_equal(tree, sum_tree(weight))


@given(st.lists(st.floats(1e-300, 1e3), min_size=2, max_size=33), st.floats(0.999999999, 1.0))
def test_rounding_never_finds_an_arm_without_weight(weight, u):
    weight = np.array([*weight, 0.0, 0.0, 0.0])
    tree = sum_tree(weight)
    assert weight[find(tree, u * tree[1])] > 0.0
