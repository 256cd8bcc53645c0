"""What the exponential-weights curators share: the compiled step, and the checks of their parameters.

Their weights f64[K] sum to 1 and are multiplied by exp(eta ghat) with ghat the estimate of a reward y (gain form) or of
y - 1 (loss form); draws follow p = (1 - mix) weight + mix / K. ``expected`` is the expected number of draws of the arm
in the round (m p for m iid draws), so that an estimate averages the m rewards of the round.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numba as nb

from curbench.curators.tabular import unit_interval
from curbench.mirror import SMALLEST, exponentiated_step_, mix_, project_on_floor_
from curbench.types import Array

Form = Literal["loss", "gain"]


class ExponentialCore(NamedTuple):
    p: Array  # what is drawn from
    weight: Array  # the exponential weights; the same array as p when nothing is mixed in
    eta: float
    mix: float  # gamma: the share of uniform draws, of all arms together
    shift: float  # 1: losses 1 - y; 0: gains
    low: float
    high: float


@nb.njit
def exponential_step_(core, arm, expected, utility):
    """weight_i *= exp(eta sum_j (y_j - shift) / expected_j) over the draws j of arm i; left unnormalised."""
    for j in range(utility.size):
        loss = core.shift - unit_interval(utility[j], core.low, core.high)
        exponentiated_step_(core.weight, arm[j], loss / expected[j], core.eta)


@nb.njit
def update_core(core, arm, expected, utility, step):
    """One exponential step, and the mixture with uniform draws."""
    exponential_step_(core, arm, expected, utility)
    project_on_floor_(core.weight, SMALLEST)
    mix_(core.p, core.weight, core.mix)


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
