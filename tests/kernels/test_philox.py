"""The generator of the kernels gives the numbers of curbench.philox."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbench import philox
from curbench.kernels.extension import load

word = st.integers(0, 2**32 - 1)


# Random123's kat_vectors, philox4x32 with 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, answer):
    assert load().philox4x32(*counter, *key) == answer


@given(st.tuples(word, word, word, word), st.tuples(word, word))
def test_words_equal_those_of_the_python_generator(counter, key):
    ours = load().philox4x32(*counter, *key)
    assert ours == tuple(int(w) for w in philox.philox4x32(*map(np.uint64, counter + key)))


@given(st.integers(0, 2**64 - 1), word, word, st.integers(0, 2**64 - 1))
def test_uniforms_equal_those_of_the_python_generator(seed, stream, step, index):
    theirs = philox.uniform(np.uint64(seed), np.uint64(stream), np.uint64(step), np.uint64(index))
    assert load().uniform(seed, stream, step, index) == theirs
