"""What exports DLPack is taken where it lies, whoever made it."""

import numpy as np
import pytest
import torch

from curbench.kernels import MirrorTree, group_advantage, mirror_step, policy_improvement
from curbench.kernels.arrays import place_of


class Exported:
    """An array that only speaks DLPack, from a library that nobody has heard of."""

    def __init__(self, array, device=None):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device or self.array.__dlpack_device__()


def test_arrow_arrays_are_taken():
    pyarrow = pytest.importorskip("pyarrow")
    reward = pyarrow.array([0.0, 1.0, 1.0, 1.0])
    result = group_advantage(reward, pyarrow.array([0, 2, 4]), estimator="rloo")
    np.testing.assert_array_equal(result.advantage, [-1.0, 1.0, 0.0, 0.0])
    assert isinstance(result.advantage, np.ndarray)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_exports_give_what_their_arrays_give(make):
    rng = np.random.default_rng(0)
    rows = [rng.random((4, 9), np.float32) for _ in range(2)]
    advantage, length = rng.random(4), np.array([9, 0, 3, 5])
    expected = policy_improvement(*rows, advantage, 2, length=length)
    fresh, old = (Exported(make(x)) for x in rows)
    ours = policy_improvement(fresh, old, Exported(make(advantage)), 2, length=Exported(make(length)))
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    p = np.array([0.25, 0.75])
    step = {"loss": Exported(make(np.array([1.0]))), "eta": 1.0}
    np.testing.assert_array_equal(
        mirror_step(Exported(make(p)), Exported(make(np.array([1]))), **step),
        mirror_step(p, [1], loss=[1.0], eta=1.0),
    )
    assert MirrorTree(Exported(make(p))).probability().tolist() == p.tolist()


def test_nothing_is_copied():
    array = np.arange(6.0)
    exported = Exported(array)
    assert np.shares_memory(place_of(exported).cast("x", exported), array)
    tensor = torch.arange(6.0)
    exported = Exported(tensor)
    assert place_of(exported).cast("x", exported).ctypes.data == tensor.data_ptr()


def test_what_numpy_cannot_take_is_one_sentence():
    with pytest.raises(TypeError, match="numpy cannot take reward by DLPack .*: pass an array or a tensor"):
        group_advantage(Exported(torch.zeros(2, dtype=torch.bfloat16)), 2)


def test_arrow_arrays_with_missing_entries_are_refused():
    pyarrow = pytest.importorskip("pyarrow")
    with pytest.raises(TypeError, match="numpy cannot take reward by DLPack"):
        group_advantage(pyarrow.array([1.0, None]), 2)


def test_exports_from_elsewhere_are_refused_by_name():
    with pytest.raises(ValueError, match="must be on a CPU or CUDA device; got one on DLPack device 8"):
        group_advantage(Exported(np.zeros(2), device=(8, 0)), 2)
    with pytest.raises(ValueError, match="group must live where the first argument does, numpy on the CPU; .* cuda:1"):
        group_advantage(np.zeros(2), Exported(np.zeros(2), device=(2, 1)))
    with pytest.raises(ValueError, match="group must live where the first argument does, torch on cpu"):
        group_advantage(torch.zeros(2), Exported(np.array([0, 2])))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_export_from_a_gpu_asks_for_one():
    with pytest.raises(RuntimeError, match="backend 'cuda' is not available: "):
        group_advantage(Exported(np.zeros(2), device=(2, 0)), 2)


def test_a_subclass_of_tensor_is_a_tensor():
    class Labelled(torch.Tensor):
        pass

    reward = torch.zeros(2).as_subclass(Labelled)
    assert isinstance(group_advantage(reward, 2).mean, torch.Tensor)
