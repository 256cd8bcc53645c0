"""Learning-rate schedules: pure functions of the share of the budget that is used.

A run is budgeted in steps, rollouts or tokens, so its schedule runs on the used share z of the tightest of them
(``loop.Budget.fraction``), not on steps: it ends where the run ends, and a resumed run continues it exactly, without
any state. A schedule says by what the learning rate is multiplied. Formulas and pictures: docs/schedules.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from inspect import signature
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from scipy.ndimage import median_filter

from curbench.config import convert
from curbench.types import Array

WARMUP_START = 0.1
"""Where a warm-up starts, as a share of its end; from 0, the first batch would be spent on a step of length zero."""


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low < value <= high:
        raise ValueError(f"{name} must be in ({low:g}, {high:g}]; got {value:g}")


def _between(share: float, final: float) -> float:
    """``final`` at share 0, 1 at share 1."""
    if not 0.0 <= final <= 1.0:
        raise ValueError(f"final is a share of the peak, in [0, 1]; got {final:g}")
    return final + (1.0 - final) * share


def constant(z: float) -> float:
    """1 for ever: what selection methods are compared at, because decay weights late data less."""
    return 1.0


def linear(z: float, *, final: float = 0.0) -> float:
    """final + (1 - final)(1 - z), the best decay in the worst case of stochastic convex optimisation.

    Source  Defazio et al. 2023 (2310.07831) corollary of theorem 1.

    >>> linear(0.25)
    0.75
    """
    return _between(1.0 - z, final)


def cosine(z: float, *, final: float = 0.0) -> float:
    """final + (1 - final)(1 + cos(pi z)) / 2.

    Source  Loshchilov & Hutter 2017 (1608.03983) eq. 5, without restarts.
    """
    return _between((1.0 + cos(pi * z)) / 2.0, final)


def wsd(z: float, *, decay: float = 0.1, final: float = 0.1) -> float:
    """Warm-up, stable, decay: 1, then an exponential fall to ``final`` over the last share ``decay`` of the budget.

    With half-life tau the paper's fall 0.5^((s - S) / tau) ends at final = 0.5^(decay T / tau).
    Source  Hu et al. 2024 (2404.06395) section 4.2: the last tenth; the half-life, hence ``final``, UNVERIFIED.

    >>> wsd(0.5), round(wsd(0.95), 3)
    (1.0, 0.316)
    """
    _require("decay", decay, 0.0, 1.0)
    _require("final", final, 0.0, 1.0)
    return float(final ** (max(0.0, z - (1.0 - decay)) / decay))


def rex(z: float, *, final: float = 0.0) -> float:
    """(1 - z) / (1/2 + (1 - z)/2), above linear throughout, scaled to end at ``final``.

    Source  Chen et al. 2021 (2107.04197), "reflected exponential".

    >>> round(rex(0.5), 3)
    0.667
    """
    return _between((1.0 - z) / (0.5 + 0.5 * (1.0 - z)), final)


def uba(z: float, *, phi: float = 1.0, final: float = 0.0) -> float:
    """2 (1 + c) / (2 phi + (2 - phi)(1 + c)) with c = cos(pi z): cosine at phi = 2, constant as phi goes to 0.

    Source  "unified budget-aware", Tang et al. 2025 (2505.24452). The formula UNVERIFIED beyond these two limits; the
            default of phi is ours.
    """
    if not phi > 0.0:
        raise ValueError(f"phi must be positive; got {phi:g}")
    rise = 1.0 + cos(pi * z)
    return _between(2.0 * rise / (2.0 * phi + (2.0 - phi) * rise), final)


def infinite(
    z: float, *, cooldown: float = 0.3, plateau: float = 0.5, annealing: float = 0.2, final: float = 0.05
) -> float:
    """A cosine from 1 to ``plateau`` over a share ``cooldown``, the plateau, an exponential fall to ``final`` at last.

    The plateau may be extended without end by a run that has not begun to anneal, hence the name.
    Source  Singh et al. 2025 (2503.02844); the shares and levels are ours, the paper's UNVERIFIED.
    """
    _require("plateau", plateau, 0.0, 1.0)
    _require("final", final, 0.0, plateau)
    if min(cooldown, annealing) <= 0.0 or cooldown + annealing > 1.0:
        raise ValueError(
            f"cooldown and annealing are positive shares of at most 1 together; got {cooldown:g} and {annealing:g}"
        )
    down = _between((1.0 + cos(pi * min(1.0, z / cooldown))) / 2.0, plateau)
    return down * float((final / plateau) ** (max(0.0, z - (1.0 - annealing)) / annealing))


def power(z: float, *, knee: float = 0.1, exponent: float = 0.51, decay: float = 0.1, final: float = 0.0) -> float:
    """min(1, (z / knee)^-exponent), times a linear fall to ``final`` over the last share ``decay``.

    The paper's rate min(peak, B a n^-0.51) after n tokens has its knee where B a n^-0.51 = peak; we give the knee as a
    share of the budget instead, since a = 4.6 belongs to pre-training from scratch.
    Source  Shen et al. 2024 (2408.13359) eq. 5; knee and the form of the last decay UNVERIFIED.

    >>> power(0.05), round(power(0.4), 3)
    (1.0, 0.493)
    """
    _require("knee", knee, 0.0, 1.0)
    _require("decay", decay, 0.0, 1.0)
    fall = _between(min(1.0, (1.0 - z) / decay), final)
    return fall * min(1.0, (max(z, knee) / knee) ** -exponent)


def refine(norm: Array, *, power: float = 1.0, smoothing: float = 0.1) -> Array:
    """Refined linear decay f64[T] from the gradient norms f64[T] of an earlier run: w_t sum over s > t of w_s, peak 1.

    norm       norms of the T steps; zeros, where no step was made, are left out first
    power      w_t = norm_t^-power of the smoothed norms: 2 with Euclidean norms for SGD, 1 with l1 norms for Adam
    smoothing  width of the running median, as a share of the steps
    Raises     ValueError with fewer than two steps.
    Source     Defazio et al. 2023 (2310.07831) theorem 3 and algorithm 2. Equal norms give linear decay to 0.

    >>> refine(np.ones(5))
    array([1.  , 0.75, 0.5 , 0.25, 0.  ])
    """
    norm = np.asarray(norm, float)
    norm = norm[norm > 0.0]
    if norm.size < 2:
        raise ValueError(f"refined decay needs the gradient norms of at least two steps; got {norm.size}")
    width = 2 * (int(smoothing * norm.size) // 2) + 1
    # A median near the end of the run would be pulled towards what came long before; reflection keeps the trend.
    padded = np.pad(norm, (0, width - 1), mode="reflect")
    weight = median_filter(padded, size=width, mode="nearest")[: norm.size] ** -power
    later = np.concatenate([np.cumsum(weight[::-1])[-2::-1], [0.0]])
    return weight * later / (weight * later).max()


def refined(z: float, *, run: str, power: float = 1.0) -> float:
    """``refine`` applied to an earlier run of ours, whose steps stand for equal shares of the budget.

    run     directory of a training run under Adam; its l1 gradient norms are read
    Raises  ValueError if it holds no such norms.
    """
    table = _refined_table(run, power)
    return float(table[min(int(z * table.size), table.size - 1)])


@lru_cache(maxsize=8)
def _refined_table(run: str, power: float) -> Array:
    path = Path(run) / "steps.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} is not the directory of a training run: it has no steps.jsonl")
    row = [json.loads(line)["actor"] for line in path.read_text().splitlines()]
    if not all("grad_norm_l1" in one for one in row):
        raise ValueError(f"{path} holds no l1 gradient norms; give a run of this version")
    return refine(np.array([one["grad_norm_l1"] for one in row]), power=power)


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
    "rex": rex,
    "uba": uba,
    "infinite": infinite,
    "power": power,
    "refined": refined,
}


class Schedule(BaseModel):
    """A schedule by name with its parameters, and a linear warm-up before it.

    name    of ``SCHEDULES``; further fields are that function's parameters, as numbers or texts
    warmup  share of the budget, in [0, 1): the rate rises from a tenth of where the schedule starts, and the schedule's
            own shares are those of the rest
    Raises  ValueError for an unknown name or parameter, or a value that the schedule refuses.

    >>> schedule = Schedule(name="linear", final="0.5", warmup=0.2)
    >>> schedule(0.0), schedule(0.2), schedule(1.0)
    (0.1, 1.0, 0.5)
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "constant"
    warmup: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _convert(cls, value: Any) -> Any:
        """Converts the parameters by the annotations of the schedule's function."""
        if not isinstance(value, dict):
            return value
        own = {key: value[key] for key in ("name", "warmup") if key in value}
        name = own.get("name", "constant")
        if name not in SCHEDULES:
            raise ValueError(f"unknown schedule {name!r}; choose from {', '.join(SCHEDULES)}")
        rest = {key: str(one) for key, one in value.items() if key not in own}
        for key, parameter in signature(SCHEDULES[name]).parameters.items():
            if key != "z" and parameter.default is parameter.empty and key not in rest:
                raise ValueError(f"the schedule {name} needs {key}")
        return own | convert(SCHEDULES[name], rest, reserved=frozenset({"z"}))

    @model_validator(mode="after")
    def _refuse_early(self) -> Schedule:
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"warmup is a share of the budget, in [0, 1); got {self.warmup:g}")
        self(0.0)
        return self

    def __call__(self, z: float) -> float:
        """The multiplier of the learning rate when the share z in [0, 1] of the budget is used."""
        shape = SCHEDULES[self.name]
        parameter: dict[str, Any] = dict(self.__pydantic_extra__ or {})
        if z < self.warmup:
            return (WARMUP_START + (1.0 - WARMUP_START) * z / self.warmup) * shape(0.0, **parameter)
        return shape((z - self.warmup) / (1.0 - self.warmup), **parameter)
