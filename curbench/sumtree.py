"""A binary tree of partial sums over K weights: drawing an arm and changing its weight cost log2 K steps, not K.

``tree`` is f64[2 L], L the power of two not below K: tree[L + i] is weight i (0 beyond K), tree[n] the sum of
tree[2 n] and tree[2 n + 1], tree[1] the total. Every sum is recomputed from its two children, so errors do not
accumulate over a run.
"""

import numba as nb
import numpy as np

from curbench.types import Array


def sum_tree(weight: Array) -> Array:
    """f64[2 L], the tree over weights f64[K].

    >>> sum_tree(np.array([1.0, 2.0, 4.0]))
    array([0., 7., 3., 4., 1., 2., 4., 0.])
    """
    leaves = 1 << max(len(weight) - 1, 0).bit_length()
    tree = np.zeros(2 * leaves)
    tree[leaves : leaves + len(weight)] = weight
    refresh_(tree)
    return tree


@nb.njit
def refresh_(tree):
    """Recomputes every sum from the weights."""
    for n in range((tree.size >> 1) - 1, 0, -1):
        tree[n] = tree[2 * n] + tree[2 * n + 1]


@nb.njit
def find(tree, x):
    """The i with sum of weights before i <= x < the same with i included, for x in [0, total): inversion, as a scan.

    An arm of weight 0 is never found, whatever rounding does to x.
    """
    leaves, n = tree.size >> 1, 1
    while n < leaves:
        n <<= 1
        if x >= tree[n] and tree[n + 1] > 0.0:
            x -= tree[n]
            n += 1
    return n - leaves


@nb.njit
def set_(tree, i, weight):
    """Gives arm i another weight."""
    n = i + (tree.size >> 1)
    tree[n] = weight
    while n > 1:
        n >>= 1
        tree[n] = tree[2 * n] + tree[2 * n + 1]
