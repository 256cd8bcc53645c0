"""OSMD: online stochastic mirror descent over arms in loss form, the algorithm whose regret bound curbench proves.

p <- p exp(-eta l), l the importance-weighted loss estimate, then one of four ways to keep exploring:
clip     KL projection on {p_i >= floor / K};
share    (1 - share) p + share / K;
mix      draws follow (1 - mix) p + mix / K, the steps are taken on the unmixed p;
restart  back to uniform every ``restart_every`` rounds.
Bounds and their conditions: ``regret`` and docs/maths.md.
"""

from __future__ import annotations

from math import ceil, log, sqrt
from typing import Any, Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.compiled import cold, hot
from curbench.curators.exponential import draw_from_tree, fill_from_tree, keep_in_range_, multiply_, normalise_
from curbench.curators.tabular import Design, MirrorStep, TabularCurator, Unit, unit_interval
from curbench.mirror import copy_, share_
from curbench.regret import mix_slack
from curbench.sumtree import add_, build_, sum_tree, total
from curbench.types import Array, Bank

Method = Literal["clip", "share", "mix", "restart"]


class OsmdCore(NamedTuple):
    p: Array  # what is drawn from, written out by ``fill_core``
    weight: Array  # what the steps move, unnormalised
    tree: Array  # sum tree of the weights
    stepped: Array  # the normalised mirror step before sharing or restarting; for "mix" also the weights before it
    eta: float
    floor: float  # of one arm: gamma / K
    share: float
    mix: float
    restart_every: int  # 0: never
    low: float
    high: float


TOLERANCE = 1e-11
"""How far below the floor a probability may be: near 1 / K rounding must not lift all arms."""


@hot
def update_core(core, arm, expected, utility, step):
    """One mirror step on the loss 1 - y, y the utility mapped from [low, high] to [0, 1] and clipped."""
    for j in range(utility.size):
        loss = 1.0 - unit_interval(utility[j], core.low, core.high)
        if loss != 0.0:
            multiply_(core, arm[j], -core.eta * loss / expected[j])
    keep_in_range_(core)
    if core.floor > 0.0:
        least = core.floor * (1.0 - TOLERANCE) * total(core.tree)
        for j in range(arm.size):
            if core.weight[arm[j]] < least:
                lift_(core, arm)
                break
    if core.share > 0.0 or core.restart_every > 0:
        move_all_(core, step)


@cold
def lift_(core, arm):
    """KL projection on {p_i >= floor} after a step that lowered the weights of the drawn arms.

    All other probabilities rise when the mass is made up, so none of them can be below the floor: with F the drawn arms
    that are, p = floor on F and the rest is scaled to 1 - |F| floor. F only grows as the scale falls.
    """
    lifted, more = 0, True
    while more:
        more = False
        scale = (1.0 - lifted * core.floor) / total(core.tree)
        for j in range(arm.size):
            i = arm[j]
            if core.weight[i] > 0.0 and scale * core.weight[i] < core.floor * (1.0 - TOLERANCE):
                add_(core.tree, i, -core.weight[i])
                core.weight[i] = 0.0  # marks it
                lifted += 1
                more = True
    for j in range(arm.size):
        if core.weight[arm[j]] == 0.0:
            core.weight[arm[j]] = core.floor / scale
            add_(core.tree, arm[j], core.weight[arm[j]])


@cold
def move_all_(core, step):
    """Sharing, or a restart when one is due; O(K), and keeps the step before it for the certificate."""
    normalise_(core)
    copy_(core.stepped, core.weight)
    if core.share > 0.0:
        share_(core.weight, core.share)
    elif (step + 1) % core.restart_every == 0:
        core.weight.fill(1.0 / core.weight.size)
    build_(core.tree, core.weight)


@nb.njit(error_model="numpy")
def fill_core(core):
    """Writes what is drawn from to ``core.p``, and for "mix" the weights before and after the step to ``stepped``."""
    k = core.p.size
    fill_from_tree(core)
    if core.mix > 0.0:
        mass = total(core.tree)
        for i in range(k):
            core.stepped[k + i] = core.stepped[i]
            core.stepped[i] = core.weight[i] / mass


def effective_arms(arms: int, batch: int) -> float:
    """kappa = (K + m - 1) / m: m iid draws per round leave the variance of this many single-draw arms.

    >>> effective_arms(10, 1), effective_arms(10, 9)
    (10.0, 2.0)
    """
    return (arms + batch - 1) / batch


class Osmd(TabularCurator):
    """Online stochastic mirror descent, tabular, loss form.

    method         "clip", "share", "mix" or "restart"
    eta            step size; default: tuned for the bound from K, batch, horizon (and ``segments`` or ``variation``)
    floor          gamma of "clip": every arm keeps at least gamma / K; default 1 / horizon
    share          alpha of "share"; default 1 / horizon
    mix            gamma of "mix": the share of uniform draws; default 1 / horizon
    restart_every  rounds between restarts; default tuned for a variation budget of ``variation``
    segments       S, number of constant pieces of the comparator, if known; default 1; not with ``variation``
    variation      V, sum over rounds of the largest change of a mean, if known; default unknown (restart assumes 1)
    low, high      range of the utility that is mapped to [0, 1]; outside is clipped

    Raises ValueError for an unknown method, a parameter outside its range or one the method does not use.
    Source  OSMD: Bubeck & Cesa-Bianchi 2012 section 5; the tunings are those of docs/maths.md.
    """

    draw_core = staticmethod(draw_from_tree)
    update_core = staticmethod(update_core)
    fill_core = staticmethod(fill_core)

    def __init__(
        self,
        bank: Bank,
        *,
        method: Method = "clip",
        eta: float | None = None,
        floor: float | None = None,
        share: float | None = None,
        mix: float | None = None,
        restart_every: int | None = None,
        segments: int | None = None,
        variation: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        self.method = method
        self._check(floor=floor, share=share, mix=mix, restart_every=restart_every, eta=eta, low=low, high=high)
        if segments is not None and segments < 1:
            raise ValueError(f"segments must be at least 1; got {segments}")
        if segments is not None and (method == "restart" or variation is not None):
            raise ValueError("segments tune the step size of clip, share or mix without a variation; leave them out")
        if variation is not None and variation <= 0:
            raise ValueError(f"variation must be positive; got {variation}")
        k, t = self.arm_count, self.horizon
        kappa = effective_arms(k, self.batch)
        floor = (1.0 / t if floor is None else floor) if method == "clip" else 0.0
        share = (1.0 / t if share is None else share) if method == "share" else 0.0
        mix = (1.0 / t if mix is None else mix) if method == "mix" else 0.0
        if method == "restart":
            v = 1.0 if variation is None else variation
            tuned = ceil((kappa * log(max(k, 2)) / 2) ** (1 / 3) * (t / v) ** (2 / 3))
            restart_every = min(t, tuned) if restart_every is None else restart_every
            default_eta = sqrt(2 * log(max(k, 2)) / (kappa * restart_every))
        else:
            restart_every = 0
            mixing = floor + share + mix  # only one of them is used
            reach = log(k / mixing) if mixing > 0 else log(max(k, 2))
            if variation is None:
                default_eta = sqrt(2 * (log(max(k, 2)) + ((segments or 1) - 1) * reach) / (kappa * t))
            else:
                default_eta = (4 * variation * reach / (t * kappa**2)) ** (1 / 3)
        p = np.full(k, 1.0 / k)
        self.core = OsmdCore(
            p=p,
            weight=p.copy(),
            tree=sum_tree(p),
            stepped=np.full(2 * k if mix > 0.0 else k, 1.0 / k),
            eta=float(default_eta if eta is None else eta),
            floor=float(floor / k),
            share=float(share),
            mix=float(mix),
            restart_every=int(restart_every),
            low=float(low),
            high=float(high),
        )

    def _check(self, *, floor, share, mix, restart_every, eta, low, high) -> None:
        given = {"floor": floor, "share": share, "mix": mix, "restart_every": restart_every}
        own = {"clip": "floor", "share": "share", "mix": "mix", "restart": "restart_every"}
        if self.method not in own:
            raise ValueError(f"method must be one of {', '.join(own)}; got {self.method!r}")
        for name, value in given.items():
            if value is not None and name != own[self.method]:
                raise ValueError(f"{name} belongs to another method than {self.method!r}; leave it out")
        for name, value in (("floor", floor), ("share", share), ("mix", mix)):
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1]; got {value}")
        if restart_every is not None and restart_every < 1:
            raise ValueError(f"restart_every must be at least 1; got {restart_every}")
        if eta is not None and eta <= 0:
            raise ValueError(f"eta must be positive; got {eta}")
        if not low < high:
            raise ValueError(f"the utility range needs low < high; got [{low}, {high}]")

    def bound(self, comparator: str) -> tuple[str, dict[str, Any]] | None:
        core, name = self.core, self._bound_name(comparator)
        used = {"eta": core.eta, "floor": core.floor * core.p.size + core.mix, "share": core.share}
        return None if name is None else (name, used | {"restart_every": core.restart_every})

    def _bound_name(self, comparator: str) -> str | None:
        if self.method == "mix":
            return "static_mix" if comparator == "static" else None
        if comparator == "top_m":
            return None if self.method == "restart" else f"top_{self.method}"
        kind = "dynamic" if comparator == "dynamic" or self.method == "restart" else "tracking"
        return f"{kind}_{self.method}"

    def mirror_step(self) -> MirrorStep:
        core = self.core
        if core.mix > 0.0:
            return MirrorStep(core.eta, core.mix, core.stepped, mix_slack)
        if self.method == "clip":
            return MirrorStep(core.eta, core.floor * core.p.size, core.p)
        return MirrorStep(core.eta, 0.0, core.stepped)

    def metrics(self) -> dict[str, float]:
        return {**super().metrics(), "eta": self.core.eta}
