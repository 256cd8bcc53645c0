"""What the exponential-weights curators share: the compiled step, and the checks of their parameters.

Their weights f64[K] sum to 1 and are multiplied by exp(eta ghat) with ghat the estimate of a reward y; draws follow
p = (1 - mix) weight + mix / K. ``expected`` is the expected number of draws of the arm in the round (m p for m iid
draws), so that an estimate averages the m rewards of the round.
"""

from __future__ import annotations

from typing import Any, Literal

import numba as nb

from curbench.curators.tabular import unit_interval
from curbench.mirror import exponentiated_step_

Form = Literal["loss", "gain"]


@nb.njit
def exponential_step_(core, arm, expected, utility):
    """weight_i *= exp(eta sum_j y_j / expected_j) over the draws j of arm i; left unnormalised."""
    for j in range(utility.size):
        y = unit_interval(utility[j], core.low, core.high)
        exponentiated_step_(core.weight, arm[j], -y / expected[j], core.eta)


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
