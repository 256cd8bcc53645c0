"""What the exponential-weights curators share: the compiled step, weights in a sum tree, and checks of parameters.

Their weights f64[K] sum to 1 and are multiplied by exp(eta ghat) with ghat the estimate of a reward y; draws follow
p = (1 - mix) weight + mix / K. ``expected`` is the expected number of draws of the arm in the round (m p for m iid
draws), so that an estimate averages the m rewards of the round.

An importance-weighted estimate changes the weights of the drawn arms only. With the weights in a sum tree, and left
unnormalised, a round costs O(m log K) whatever K is; the functions on a tree expect a core with ``p``, ``weight``
f64[K], ``tree`` and ``mix``.
"""

from __future__ import annotations

from typing import Any, Literal

import numba as nb
import numpy as np

from curbench.compiled import cold, hot
from curbench.curators.tabular import unit_interval
from curbench.mirror import SMALLEST, exponentiated_step_
from curbench.sumtree import add_, build_, find, total

Form = Literal["loss", "gain"]


@nb.njit
def exponential_step_(core, arm, expected, utility):
    """weight_i *= exp(eta sum_j y_j / expected_j) over the draws j of arm i; left unnormalised."""
    for j in range(utility.size):
        y = unit_interval(utility[j], core.low, core.high)
        exponentiated_step_(core.weight, arm[j], -y / expected[j], core.eta)


@hot
def draw_from_tree(core, arm, q, u, step):
    """Draws from (1 - mix) weight / total + mix / K, with one uniform per slot; a ``draw_core``."""
    mass, k = total(core.tree), core.weight.size
    for j in range(arm.size):
        x, uniformly = u[j], False
        if core.mix > 0.0:
            uniformly = x < core.mix
            x = x / core.mix if uniformly else (x - core.mix) / (1.0 - core.mix)
        i = min(int(x * k), k - 1) if uniformly else find(core.tree, x * mass, k)
        arm[j] = i
        q[j] = core.weight[i] / mass
        if core.mix > 0.0:
            q[j] = (1.0 - core.mix) * q[j] + core.mix / k


@hot
def multiply_(core, i, exponent):
    """weight_i *= exp(exponent)."""
    weight = max(core.weight[i] * np.exp(exponent), SMALLEST)
    add_(core.tree, i, weight - core.weight[i])
    core.weight[i] = weight


@hot
def keep_in_range_(core):
    """Makes the weights sum to 1 again before the total has changed so much that the tree's rounding errors show."""
    if not 1e-3 < total(core.tree) < 1e3:
        normalise_(core)


@cold
def normalise_(core):
    """Divides the weights by their total; what would underflow stays at the smallest weight."""
    mass = total(core.tree)
    for i in range(core.weight.size):
        core.weight[i] = max(core.weight[i] / mass, SMALLEST)
    build_(core.tree, core.weight)


@cold
def start_again_(core):
    """Back to equal weights."""
    core.weight.fill(1.0 / core.weight.size)
    build_(core.tree, core.weight)


@nb.njit(error_model="numpy")
def fill_from_tree(core):
    """Writes what is drawn from to ``core.p``; a ``fill_core``."""
    k, mass = core.weight.size, total(core.tree)
    for i in range(k):
        core.p[i] = (1.0 - core.mix) * core.weight[i] / mass + core.mix / k


def check_range(low: float, high: float) -> dict[str, float]:
    """The range of the utility as fields of a core.

    Raises ValueError unless low < high.
    """
    if not low < high:
        raise ValueError(f"the utility range needs low < high; got [{low}, {high}]")
    return {"low": float(low), "high": float(high)}


def chosen(name: str, given: Any, default: float, *, largest: float = float("inf")) -> float:
    """The given parameter, or the default (cut at ``largest``) when it is None.

    Raises ValueError if the given one is not in (0, largest].

    >>> chosen("mix", None, 1.7, largest=1.0), chosen("mix", "0.5", 1.7, largest=1.0)
    (1.0, 0.5)
    """
    value = float(min(default, largest) if given is None else given)
    if not 0.0 < value <= largest:
        rule = "must be positive" if largest == float("inf") else f"must be in (0, {largest:g}]"
        raise ValueError(f"{name} {rule}; got {given}")
    return value
