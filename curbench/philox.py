"""Philox4x32-10, the counter-based generator behind every draw of curbench.

A draw is a pure function of where it happens: key = the 64-bit seed, counter = (index, step, stream). Nothing is
consumed, so a new draw in one place cannot shift another, resuming needs no generator state, and C++ and CUDA
(``csrc/philox.h``) give the same numbers. Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy
as 1, 2, 3", SC 2011; known answers from the authors' Random123 test vectors.
"""

import numba as nb
import numpy as np

from curbench.compiled import cold

# Streams name the purpose of a draw; csrc/philox.h repeats the ones that the kernels use.
DRAW = 0  # one uniform per slot of an iid draw
SYSTEMATIC = 1  # the single offset of a systematic draw
WITHIN = 2  # which problem inside a stratum
CANDIDATE = 3  # which problems enter the candidate set
REWARD = 4  # reward of the n-th visit to an arm (index = visit, step = arm)
INSTANCE = 5  # random test-bed instances
ORDER = 6  # the order in which a systematic draw visits the arms
ROLLOUT = 7  # tokens of training rollouts (index = rollout and position)
EVALUATION = 8  # tokens of held-out evaluations
NOISE = 9  # reward noise that all draws of a simulated round share
DELAY = 10  # when, and whether, simulated feedback arrives
VERDICT = 11  # a noisy verifier, in the simulated learner (index = visit, step = problem)
KEY = 12  # sampling keys of a curator's candidates (index = place)
TIE = 13  # which of equal scores, and who passes a filter (index = place)
WEIGHT = 14  # initial weights of neural curators, and random projections
PROBE = 15  # problems that are rolled out to learn about them, not to train on them
SUBSET = 16  # a simple random sample (index = slot)
POSTERIOR = 20  # posterior samples of Thompson sampling (index = arm and attempt, step = round)
RACE = 24  # arrival times of an exponential race, high words (index and word: csrc/race.h); low words under RACE + 1
FLOOR_RACE = 26  # the same for the uniform floor, low words under FLOOR_RACE + 1
ARRIVAL = 30  # waiting times of a draw without replacement from a tree (index = number of arms drawn before)

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@nb.njit(forceinline=True)
def philox4x32(c0, c1, c2, c3, k0, k1):
    """The four 32-bit words of block (c0, c1, c2, c3) under key (k0, k1), as uint64 scalars.

    >>> [hex(w) for w in philox4x32(*[np.uint64(0)] * 6)]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@nb.njit
def uniform(seed, stream, step, index):
    """One float64 in [0, 1) with 53 random bits, at counter (index, step, stream) under ``seed``.

    seed    uint64, the key
    stream  int in [0, 2^32), the purpose of the draw
    step    int in [0, 2^32), the round
    index   int in [0, 2^64), the slot within the round

    >>> uniform(np.uint64(7), DRAW, 0, 0) == uniform(np.uint64(7), DRAW, 0, 0) != uniform(np.uint64(8), DRAW, 0, 0)
    True
    """
    s = np.uint64(seed)
    i = np.uint64(index)
    w0, w1, _, _ = philox4x32(i & _LOW, i >> _32, np.uint64(step) & _LOW, np.uint64(stream) & _LOW, s & _LOW, s >> _32)
    return (float(w0 >> np.uint64(5)) * 67108864.0 + float(w1 >> np.uint64(6))) * (1.0 / 9007199254740992.0)


@nb.njit
def uniform_pair(seed, stream, step, index):
    """Both float64 in [0, 1) that the block at counter (index, step, stream) holds; the first is ``uniform``'s.

    >>> uniform_pair(np.uint64(7), DRAW, 0, 0)[0] == uniform(np.uint64(7), DRAW, 0, 0)
    True
    """
    s = np.uint64(seed)
    i = np.uint64(index)
    w = philox4x32(i & _LOW, i >> _32, np.uint64(step) & _LOW, np.uint64(stream) & _LOW, s & _LOW, s >> _32)
    first = (float(w[0] >> np.uint64(5)) * 67108864.0 + float(w[1] >> np.uint64(6))) * (1.0 / 9007199254740992.0)
    second = (float(w[2] >> np.uint64(5)) * 67108864.0 + float(w[3] >> np.uint64(6))) * (1.0 / 9007199254740992.0)
    return first, second


uniform_inline = nb.njit(forceinline=True)(uniform.py_func)
"""``uniform``, for loops over many numbers: inlined they become vector code, 1 ns a number."""


@cold
def uniform_(u, seed, stream, step):
    """Fills u f64[n] with the numbers at (0, step) to (n - 1, step): those of the slots of one round.

    >>> u = np.empty(2); uniform_(u, 7, DRAW, 3); bool(u[1] == uniform(7, DRAW, 3, 1))
    True
    """
    for j in range(u.size):
        u[j] = uniform_inline(seed, stream, step, j)


@cold
def uniform_rounds_(u, rounds, seed, stream, step):
    """Fills u f64[m * rounds] with the numbers of m slots in ``rounds`` rounds: u[j * rounds + t] is (j, step + t)."""
    for j in range(u.size // rounds):
        for t in range(rounds):
            u[j * rounds + t] = uniform_inline(seed, stream, step + t, j)


@cold
def uniform_run_(u, first, count, seed, stream, step, index):
    """Fills u[first : first + count] with the numbers at (index, step) to (index + count - 1, step)."""
    for i in range(count):
        u[first + i] = uniform_inline(seed, stream, step, index + i)


@nb.njit
def normals(count, seed, stream, step):
    """f64[count], standard normal; entry i is a function of (seed, stream, step, i) only.

    Source: Box & Muller 1958, on both uniforms of a block.

    >>> bool((normals(4, 7, WEIGHT, 0)[:3] == normals(3, 7, WEIGHT, 0)).all())
    True
    """
    out = np.empty(count)
    for i in range(0, count, 2):
        u, v = uniform_pair(seed, stream, step, i // 2)
        length, angle = np.sqrt(-2.0 * np.log(1.0 - u)), 2.0 * np.pi * v
        out[i] = length * np.cos(angle)
        if i + 1 < count:
            out[i + 1] = length * np.sin(angle)
    return out


@nb.njit
def words(seed, stream, step, index):
    """u32[n, 4], the four words of the blocks at counters (index, step, stream) under ``seed``; index is u64[n].

    >>> [hex(w) for w in words(np.uint64(0), 0, 0, np.zeros(1, np.uint64))[0]]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    out = np.empty((len(index), 4), np.uint32)
    s = np.uint64(seed)
    for k in range(len(index)):
        i = np.uint64(index[k])
        w = philox4x32(i & _LOW, i >> _32, np.uint64(step) & _LOW, np.uint64(stream) & _LOW, s & _LOW, s >> _32)
        for j in range(4):
            out[k, j] = w[j]
    return out


def spawn_seeds(seed, count):
    """``count`` independent 64-bit seeds derived from one run seed, through numpy's SeedSequence.

    Raises ValueError if the seed is negative.

    >>> spawn_seeds(0, 3) == spawn_seeds(0, 3), len(set(spawn_seeds(0, 3)))
    (True, 3)
    """
    if seed < 0:
        raise ValueError(f"a seed must be a non-negative integer; got {seed!r}")
    return [int(child.generate_state(1, np.uint64)[0]) for child in np.random.SeedSequence(seed).spawn(count)]
