import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbench.philox import philox4x32, spawn_seeds, uniform

# Random123's kat_vectors for philox4x32-10: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter, key, result):
    assert tuple(int(w) for w in philox4x32(*(np.uint64(w) for w in counter + key))) == result


words = st.integers(0, 2**32 - 1)


@given(seed=st.integers(0, 2**64 - 1), stream=words, step=words, index=st.integers(0, 2**63 - 1))
def test_every_coordinate_moves_the_uniform(seed, stream, step, index):
    here = uniform(np.uint64(seed), stream, step, index)
    assert 0.0 <= here < 1.0
    assert here != uniform(np.uint64(seed ^ 1), stream, step, index)
    assert here != uniform(np.uint64(seed ^ (1 << 40)), stream, step, index)
    assert here != uniform(np.uint64(seed), stream ^ 1, step, index)
    assert here != uniform(np.uint64(seed), stream, step ^ 1, index)
    assert here != uniform(np.uint64(seed), stream, step, index ^ 1)
    assert here != uniform(np.uint64(seed), stream, step, index ^ (1 << 40))


def test_uniforms_are_uniform():
    value = np.array([uniform(np.uint64(1), 0, t, j) for t in range(200) for j in range(50)])
    count = np.histogram(value, 20, (0, 1))[0]
    chi2 = ((count - 500) ** 2 / 500).sum()
    assert chi2 < 43.8  # 99.9 % point of chi-square with 19 degrees of freedom


def test_spawned_seeds_are_reproducible_and_distinct():
    assert spawn_seeds(5, 3) == spawn_seeds(5, 3)
    assert len({*spawn_seeds(5, 3), *spawn_seeds(6, 3)}) == 6
    with pytest.raises(ValueError, match="non-negative"):
        spawn_seeds(-1, 1)
