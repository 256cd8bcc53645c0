"""The arithmetic of online stochastic mirror descent with negative entropy, in place and compiled."""

import numba as nb
import numpy as np

# No arm is ever lost to underflow, however many losses meet on it. Stopping early is a truncated loss estimate, which
# only adds slack to the one-step inequality that ``regret`` checks.
SMALLEST = 1e-300


@nb.njit
def copy_(target, source):
    """target[:] = source for f64[K]; as a slice assignment its error path alone would take seconds to compile."""
    for i in range(source.size):
        target[i] = source[i]


@nb.njit
def exponentiated_step_(p, arm, loss, eta):
    """Multiplies p[arm] by exp(-eta loss); p f64[K] is left unnormalised. ``loss`` >= 0 is importance-weighted."""
    p[arm] = max(p[arm] * np.exp(-eta * loss), SMALLEST)


@nb.njit
def mass_above(p, threshold):
    """(count of p_i < threshold, sum of the others), summed in four interleaved lanes.

    The lanes are a fixed order of summation that the compiler can vectorise: several times faster than one running sum
    and the same bits wherever it is inlined.
    """
    k = p.size
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    below = 0
    for i in range(0, k - 3, 4):
        w, x, y, z = p[i], p[i + 1], p[i + 2], p[i + 3]
        below += (w < threshold) + (x < threshold) + (y < threshold) + (z < threshold)
        a += 0.0 if w < threshold else w
        b += 0.0 if x < threshold else x
        c += 0.0 if y < threshold else y
        d += 0.0 if z < threshold else z
    for i in range(k - k % 4, k):
        below += p[i] < threshold
        a += 0.0 if p[i] < threshold else p[i]
    return below, (a + b) + (c + d)


@nb.njit
def project_on_floor_(p, floor):
    """KL projection of p f64[K] onto {q : sum q = 1, q_i >= floor}: q_i = max(floor, c p_i); scaling if floor = 0.

    floor  float in [0, 1/K]. The set {c p_i < floor} only grows as c falls, so a threshold on p replaces a sort.
    """
    k = p.size
    below, mass = mass_above(p, 0.0)
    scale = 1.0 / mass
    while floor > 0.0:
        count, mass = mass_above(p, floor / scale)
        if count <= below or count == k:  # <=, not ==: rounding may let an arm on the threshold step back
            break
        below = count
        scale = (1.0 - count * floor) / mass
    for i in range(k):
        p[i] = max(floor, scale * p[i])


@nb.njit
def share_(p, share):
    """Fixed share: p <- (1 - share) p + share / K. Herbster & Warmuth 1998."""
    for i in range(p.size):
        p[i] = (1.0 - share) * p[i] + share / p.size


@nb.njit
def mix_(p, weight, mix):
    """p <- (1 - mix) weight + mix / K for f64[K] arrays, which may be the same; weight must sum to 1."""
    for i in range(p.size):
        p[i] = (1.0 - mix) * weight[i] + mix / p.size


@nb.njit
def project_on_box_(x, floor, cap, total):
    """KL projection of x f64[K] onto {z : sum z = total, floor <= z_i <= cap}: z_i = min(cap, max(floor, c x_i)).

    x       positive
    floor   float in [0, total / K]; cap float in [total / K, total]
    Source  variable fixing: with c from the arms still free, all that violate the worse violated side belong there
            (Bretthauer & Shetty 1995). Thresholds on x replace the lists of fixed arms.
    """
    low, high, scale = 0.0, np.inf, 1.0  # x < low: at the floor; x > high: at the cap
    while True:
        left, mass = total, 0.0
        for i in range(x.size):
            if x[i] < low:
                left -= floor
            elif x[i] > high:
                left -= cap
            else:
                mass += x[i]
        if mass <= 0.0 or left <= 0.0:
            break
        scale = left / mass
        under, over = 0.0, 0.0
        for i in range(x.size):
            if low <= x[i] <= high:
                under += max(0.0, floor - scale * x[i]) if x[i] < floor / scale else 0.0
                over += max(0.0, scale * x[i] - cap) if x[i] > cap / scale else 0.0
        if under == 0.0 and over == 0.0:
            break
        if under > over:
            low = max(low, floor / scale)
        else:
            high = min(high, cap / scale)
    for i in range(x.size):
        if x[i] < low:
            x[i] = floor
        elif x[i] > high:
            x[i] = cap
        else:
            x[i] = min(cap, max(floor, scale * x[i]))
