import uuid

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curbench.kernels import Grouping, group_advantage, group_by_id, policy_improvement
from curbench.kernels.grouping import sorted_by_id


def plain(ids):
    """Grouping by a dict, in Python."""
    slots = {}
    for slot, id in enumerate(ids):
        slots.setdefault(id, []).append(slot)
    order = [slot for group in slots.values() for slot in group]
    offset = np.cumsum([0, *map(len, slots.values())])
    return Grouping(offset, None if order == sorted(order) else order, [group[0] for group in slots.values()])


def assert_groups(result, ids):
    expected = plain(ids)
    assert (result.order is None) == (expected.order is None)
    for a, b in zip(result, expected, strict=True):
        if b is not None:
            np.testing.assert_array_equal(a, b)


@given(st.lists(st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1), max_size=60))
def test_integers(ids):
    assert_groups(group_by_id(ids), ids)
    assert_groups(group_by_id(np.array(ids, np.int64)), ids)
    if ids:
        assert_groups(group_by_id(torch.tensor(ids)), ids)


@given(st.lists(st.text(max_size=3), max_size=40))
def test_strings(ids):
    assert_groups(group_by_id(ids), ids)
    assert_groups(group_by_id(tuple(ids)), ids)
    assert_groups(group_by_id(np.array(ids, object)), ids)
    fixed = np.array(ids, "U3")  # drops trailing NULs
    assert_groups(group_by_id(fixed), fixed.tolist())
    assert_groups(group_by_id(fixed[::-1]), fixed.tolist()[::-1])
    assert_groups(group_by_id(fixed.astype(np.dtypes.StringDType())), fixed.tolist())


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int32, np.uint32, np.uint64, np.int64, ">i8"])
def test_integers_of_any_width(dtype):
    ids = np.array([1, 0, 1, 1, 0], dtype)
    assert_groups(group_by_id(ids), ids.tolist())


def test_ids_of_many_groups_outgrow_the_table():
    ids = [str(uuid.UUID(int=i % 5000)) for i in range(20_000)]
    assert_groups(group_by_id(ids), ids)
    numbers = [int(i * 2**50 + 7) % 2**62 for i in range(20_000)]
    assert_groups(group_by_id(numbers), numbers)


def test_equal_strings_need_not_be_one_object():
    ids = [f"{i % 3} ä" for i in range(9)]
    assert len({id(i) for i in ids}) == 9
    assert_groups(group_by_id(ids), ids)


def test_other_objects_are_compared_as_in_a_dict():
    ids = [(1, 2), "a", 1.0, 1, None, "a", (1, 2), b"a", uuid.UUID(int=4), uuid.UUID(int=4)]
    assert_groups(group_by_id(ids), ids)
    holes = np.empty(2, object)
    assert_groups(group_by_id(holes), [None, None])


def test_ids_that_change_the_list_while_they_are_hashed_do_no_harm():
    ids = []

    class Vandal:
        def __hash__(self):
            ids.clear()
            return 0

        def __eq__(self, other):
            ids.clear()
            return False

    ids.extend(["a", Vandal(), "b", Vandal()])
    assert len(group_by_id(ids).first) == 4


def test_what_hashing_or_comparing_raises_is_passed_on():
    class Angry:
        def __hash__(self):
            return 0

        def __eq__(self, other):
            raise KeyError("angry")

    with pytest.raises(TypeError, match="unhashable"):
        group_by_id(["a", ["b"]])
    with pytest.raises(KeyError, match="angry"):
        group_by_id(["a", Angry(), Angry()])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros(3), "ids must be integers, strings or objects with a hash; got float64"),
        (np.zeros((2, 2), int), r"ids must have 1 axis; got shape \(2, 2\)"),
        (torch.zeros(3), r"ids in a tensor must be integers on 1 axis; got torch.float32 of shape \(3,\)"),
    ],
)
def test_wrong_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        group_by_id(ids)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_sorting_gives_the_groups_of_the_hash_table(ids):
    by_sorting, expected = sorted_by_id(torch.tensor(ids, dtype=torch.int64)), plain(ids)
    order = [other for slot in expected.first for other in np.flatnonzero(np.array(ids) == ids[slot])]
    for a, b in zip(by_sorting, (expected.offset, order, expected.first), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ops_take_groups_of_strings_for_tensors():
    reward, ids = torch.tensor([0.0, 5.0, 1.0, 7.0]), ["x", "y", "x", "y"]
    result = group_advantage(reward, group_by_id(ids), estimator="dr_grpo")
    np.testing.assert_array_equal(result.advantage, [-0.5, -1.0, 0.5, 1.0])
    logprob = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    for backend in ("cpu", "reference"):
        gain = policy_improvement(
            logprob, 0 * logprob, result.advantage, group_by_id(ids), mask=logprob == logprob, backend=backend
        )
        np.testing.assert_allclose(gain.utility, [-0.5 * (np.e - 1) / 2, 0.0], rtol=1e-7)


def test_an_order_outside_the_rollouts_is_refused():
    logprob, bad = np.zeros((2, 1), np.float32), Grouping(np.array([0, 2]), np.array([0, 9]), None)
    for backend in ("cpu", "reference"):
        with pytest.raises(ValueError, match="that of group 0 does not"):
            policy_improvement(logprob, logprob, [1.0, 1.0], bad, length=[1, 1], backend=backend)
