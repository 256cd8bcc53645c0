"""Every instruction set of this processor gives the same bits."""

from collections.abc import Iterator

import numpy as np
import pytest

from curbench import bench, kernels
from curbench.bench.measure import call_of
from curbench.kernels.extension import load

SETS = ("portable", "avx2", "avx512")


@pytest.fixture
def widest() -> Iterator[str]:
    before = load().isa()
    yield before
    load().use_isa(before)


def fields(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("op", bench.SUBJECTS)
def test_every_instruction_set_gives_the_same_bits(widest, op):
    subject = bench.SUBJECTS[op]
    for shape in subject.odd_shapes:
        arrays = subject.make(*shape)
        for change in subject.variants(arrays):
            load().use_isa("portable")
            expected = call_of(op, kernels, arrays, change)()
            for name in filter(load().use_isa, SETS):
                for a, b in zip(fields(call_of(op, kernels, arrays, change)()), fields(expected), strict=True):
                    np.testing.assert_array_equal(a, b, err_msg=name)


def test_the_widest_instruction_set_is_used_unless_told_otherwise(widest):
    assert [name for name in SETS if load().use_isa(name)][-1] == widest
    with pytest.raises(ValueError, match="one of portable, avx2, avx512; got sse9"):
        load().use_isa("sse9")
