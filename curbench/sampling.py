"""Draws that report the probability with which they happened. Compiled, and keyed by (seed, step, slot) only.

Arms hold one or more problems: ``member[start[c] : start[c] + size[c]]`` are the problems of arm c. A draw picks arms
from p and, inside an arm, problems uniformly. The propensity of a problem is that of the draw that was really made:

iid         p_c / size_c for each slot, duplicates allowed;
systematic  e_c / size_c, where e_c = min(size_c, s p_c) with s such that the e_c sum to B is the expected number of
            draws of arm c. No duplicates, and each arm gets e_c rounded down or up: the least variance any design with
            these expectations can have. Madow 1949; Tillé 2006, "Sampling Algorithms", section 7.1.

Multinomial without replacement has no such closed form, which is why it is not offered. Functions ending in ``_`` fill
the arrays they are given: a simulated round costs less than a memory allocation per array would.
"""

import numba as nb
import numpy as np

from curbench.philox import CANDIDATE, DRAW, ORDER, SYSTEMATIC, WITHIN, uniform, uniform_


@nb.njit
def iid_arm_(arm, p, u):
    """Fills arm i64[B] with independent draws from p f64[K] by inversion of u f64[B], uniform numbers in [0, 1).

    >>> arm = np.empty(3, np.int64); iid_arm_(arm, np.array([0.5, 0.5]), np.array([0.0, 0.6, 0.4])); arm
    array([0, 1, 0])
    """
    last = p.size - 1
    while p[last] == 0.0:  # absorbs what the prefix sum may miss of 1 by rounding
        last -= 1
    if arm.size == 1:  # half a scan on average; the same sums as below, hence the same draw
        reach = 0.0
        arm[0] = last
        for i in range(last):
            reach += p[i]
            if u[0] < reach:
                arm[0] = i
                break
        return
    prefix = np.cumsum(p)
    for j in range(arm.size):
        arm[j] = min(np.searchsorted(prefix, u[j], side="right"), last)


@nb.njit
def capped_expectation(p, size, batch):
    """f64[K], expected draws e_c = min(size_c, s p_c) with the e_c summing to ``batch``; s by active set.

    Raises ValueError if fewer than ``batch`` problems have a positive probability.

    >>> capped_expectation(np.array([0.8, 0.2]), np.array([1, 9]), 2)
    array([1., 1.])
    """
    k = p.size
    scale = float(batch)
    full = -1
    while True:
        count, left, mass = 0, float(batch), 0.0
        for c in range(k):
            if p[c] > 0.0 and scale * p[c] >= size[c]:
                count += 1
                left -= size[c]
            else:
                mass += p[c]
        if count <= full:
            break
        full = count
        if mass <= 0.0:
            if left > 0.0:
                raise ValueError("fewer problems can be drawn than the batch asks for; use a smaller batch")
            break
        scale = left / mass
    expected = np.empty(k)
    for c in range(k):
        expected[c] = min(float(size[c]), scale * p[c])
    return expected


@nb.njit
def systematic_arm_(arm, expected, seed, step):
    """Fills arm i64[B] so that arm c appears floor(e_c) or ceil(e_c) times, e_c times in expectation.

    One uniform offset and prefix sums of e f64[K] (summing to B) taken in a fresh random order, so that arms which are
    neighbours in the bank are not tied to each other. Slots of one arm are adjacent.
    """
    k = expected.size
    order = np.arange(k)
    for i in range(k - 1, 0, -1):
        other = int(uniform(seed, ORDER, step, i) * (i + 1))
        order[i], order[other] = order[other], order[i]
    last = k - 1
    while expected[order[last]] == 0.0:
        last -= 1
    point = uniform(seed, SYSTEMATIC, step, 0)
    reach, taken = 0.0, 0
    for i in range(last + 1):
        reach += expected[order[i]]
        while taken < arm.size and (point < reach or i == last):  # the last arm absorbs the rounding of the sum
            arm[taken] = order[i]
            taken += 1
            point += 1.0


@nb.njit
def problem_with_replacement_(slot, member, start, size, seed, step):
    """Replaces every slot's arm by one of its problems, uniformly and independently. slot i64[B]."""
    for j in range(slot.size):
        c = slot[j]
        inside = 0 if size[c] == 1 else int(uniform(seed, WITHIN, step, j) * size[c])
        slot[j] = member[start[c] + inside]


@nb.njit
def problem_without_replacement_(slot, member, start, size, seed, step):
    """Replaces every slot's arm by one of its problems; the slots of an arm form a uniform subset, no repetition.

    Slots of an arm must be adjacent. Source: Floyd's subset algorithm, Bentley & Floyd, CACM 1987.
    """
    first = 0
    while first < slot.size:
        c = slot[first]
        end = first
        while end < slot.size and slot[end] == c:
            end += 1
        for j in range(first, end):
            limit = size[c] - (end - j)
            chosen = member[start[c] + int(uniform(seed, WITHIN, step, j) * (limit + 1))]
            for i in range(first, j):
                if slot[i] == chosen:
                    chosen = member[start[c] + limit]
                    break
            slot[j] = chosen
        first = end


@nb.njit
def select_iid_(problem, propensity, p, member, start, size, seed, step):
    """Fills problem i64[B] and the propensity f64[B] of each single draw, iid over arms with probabilities p."""
    u = np.empty(problem.size)
    uniform_(u, seed, DRAW, step)
    iid_arm_(problem, p, u)
    for j in range(problem.size):
        propensity[j] = p[problem[j]] / size[problem[j]]
    problem_with_replacement_(problem, member, start, size, seed, step)


@nb.njit
def select_systematic_(problem, propensity, p, member, start, size, seed, step):
    """Fills problem i64[B] and its inclusion probability f64[B], systematic over arms with probabilities p."""
    expected = capped_expectation(p, size, problem.size)
    systematic_arm_(problem, expected, seed, step)
    for j in range(problem.size):
        propensity[j] = min(1.0, expected[problem[j]] / size[problem[j]])
    problem_without_replacement_(problem, member, start, size, seed, step)


@nb.njit
def systematic_fits(p, size, batch):
    """True when no cap binds (batch p_c <= size_c for every arm), so that inclusion is proportional to p.

    >>> systematic_fits(np.array([0.5, 0.5]), np.array([1, 9]), 2)
    True
    """
    for c in range(p.size):  # noqa: SIM110  # compiled
        if batch * p[c] > size[c] * (1.0 + 1e-12):  # the uniform distribution over N = B problems must pass
            return False
    return True


@nb.njit
def expected_count_(arm, expected, problem, propensity, arm_of, size, iid):
    """Fills each slot's arm i64[B], and in expected f64[B] how many draws of that arm the design expected.

    Dividing a slot's loss by it and summing over slots is unbiased for the mean loss of the arm's problems:
    actor-curator's partial-feedback estimate, with the propensity of the draw that was made.
    """
    for j in range(problem.size):
        c = arm_of[problem[j]]
        arm[j] = c
        expected[j] = propensity[j] * size[c]
        if iid:
            expected[j] *= problem.size


@nb.njit
def candidate_set(count, total, seed, step, stream=CANDIDATE):
    """i64[count], a uniform random subset of range(total) in random order.

    Source: Floyd's subset algorithm, then a shuffle (its own order is not uniform).

    >>> np.sort(candidate_set(3, 3, 0, 0))
    array([0, 1, 2])
    """
    chosen = np.empty(count, np.int64)
    seen = set()
    for j in range(count):
        limit = total - count + j
        i = int(uniform(seed, stream, step, j) * (limit + 1))
        if i in seen:
            i = limit
        seen.add(i)
        chosen[j] = i
    for j in range(count - 1, 0, -1):
        other = int(uniform(seed, stream, step, count + j) * (j + 1))
        chosen[j], chosen[other] = chosen[other], chosen[j]
    return chosen
