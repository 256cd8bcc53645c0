"""A 16-ary tree of partial sums over K weights: drawing an arm and changing its weight cost log16 K steps, not K.

A node is 16 running sums of its children's totals, two cache lines: finding the child is one comparison of 16 numbers,
adding to a child one masked addition, and neither has a branch to mispredict. Levels follow each other from the root,
which is tree[:16]; tree[15] is the total. Children beyond K count as weight 0.

Additions leave rounding errors behind, of the order of 1e-16 of the largest total that the tree has had. Whoever lets
the total shrink by a large factor must call ``build_`` before the errors matter; weights themselves are kept outside.
"""

import numba as nb
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from curbench.compiled import hot
from curbench.types import Array

WIDTH = 16

_1, _4, _15, _16 = np.uint64(1), np.uint64(4), np.uint64(15), np.uint64(WIDTH)  # unsigned: no check for tree[-1]
_F64, _I64 = ir.DoubleType(), ir.IntType(64)


def _node(context, builder, array_type, array, at):
    """Pointer to the 16 numbers from ``at`` on, as one vector."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.VectorType(_F64, WIDTH).as_pointer())


def _broadcast(builder, value, kind):
    vector, lane = ir.VectorType(kind, WIDTH), ir.IntType(32)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(lane, 0))
    zeros = ir.Constant(ir.VectorType(lane, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


@intrinsic
def _count_up_to(typing, tree, at, x):
    """How many of tree[at : at + 16] are <= x; as vector code, which LLVM does not make of the loop."""

    def code(context, builder, signature, arguments):
        array, at, x = arguments
        node = builder.load(_node(context, builder, signature.args[0], array, at))
        node.align = 8
        below = builder.fcmp_ordered("<=", node, _broadcast(builder, x, _F64))
        return builder.zext(builder.ctpop(builder.bitcast(below, ir.IntType(WIDTH))), _I64)

    return types.uint64(tree, types.uint64, types.float64), code


@intrinsic
def _add_from(typing, tree, at, child, delta):
    """tree[at + child : at + 16] += delta."""

    def code(context, builder, signature, arguments):
        array, at, child, delta = arguments
        pointer = _node(context, builder, signature.args[0], array, at)
        node = builder.load(pointer)
        node.align = 8
        lane = ir.Constant(ir.VectorType(_I64, WIDTH), list(range(WIDTH)))
        inside = builder.icmp_unsigned(">=", lane, _broadcast(builder, child, _I64))
        zero = ir.Constant(ir.VectorType(_F64, WIDTH), [0.0] * WIDTH)
        change = builder.select(inside, _broadcast(builder, delta, _F64), zero)
        builder.store(builder.fadd(node, change), pointer).align = 8
        return context.get_dummy_value()

    return types.void(tree, types.uint64, types.uint64, types.float64), code


def sum_tree(weight: Array) -> Array:
    """The tree over weights f64[K], about 17/16 K numbers (up to twice that just above a power of 16).

    >>> tree = sum_tree(np.array([1.0, 2.0, 4.0])); tree[:3], total(tree)
    (array([1., 3., 7.]), 7.0)
    """
    first, width = 0, WIDTH  # of the last level; the levels above are complete
    while width < len(weight):
        first += width
        width *= WIDTH
    tree = np.empty(first + WIDTH * max(1, -(-len(weight) // WIDTH)))
    build_(tree, weight)
    return tree


@nb.njit(error_model="numpy")
def build_(tree, weight):
    """Recomputes every sum from weights f64[K]."""
    first, width = 0, WIDTH
    while first + width < tree.size:
        first += width
        width *= WIDTH
    running = 0.0
    for i in range(tree.size - first):
        running = 0.0 if i % WIDTH == 0 else running
        running += weight[i] if i < weight.size else 0.0
        tree[first + i] = running
    below = tree.size - first  # entries of the level that was just filled
    while first > 0:
        child, width = first, width // WIDTH
        first -= width
        for i in range(width):
            running = 0.0 if i % WIDTH == 0 else running
            running += tree[child + WIDTH * i + WIDTH - 1] if WIDTH * i < below else 0.0
            tree[first + i] = running
        below = width


@hot
def total(tree):
    """Sum of all weights."""
    return tree[15]


@hot
def find(tree, x, arms):
    """The i with sum of weights before i <= x < the same with i included, for x in [0, total): inversion, as a scan.

    arms  K; what rounding pushes beyond the last arm is given to it
    """
    size, first, width, n = np.uint64(tree.size), np.uint64(0), _16, np.uint64(0)
    while True:
        at = first + (n << _4)
        child = min(_count_up_to(tree, at, x), _15)  # type: ignore[call-arg]  # numba passes the typing context
        n = (n << _4) | child
        first += width
        if first >= size:
            return min(np.int64(n), arms - 1)
        if child > 0:
            x -= tree[at + child - _1]
        width <<= _4


@hot
def add_(tree, i, delta):
    """Adds to the weight of arm i."""
    size, first, width, n = np.uint64(tree.size), np.uint64(0), _16, np.uint64(i)
    while first + width < size:
        first += width
        width <<= _4
    while True:
        child = n & _15
        _add_from(tree, first + n - child, child, delta)  # type: ignore[call-arg]
        if width == _16:
            return
        width >>= _4
        first -= width
        n >>= _4
