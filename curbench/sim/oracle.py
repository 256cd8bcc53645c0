"""The two oracles that only a simulator can run: the best arm of every round, and the best fixed arm."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.tabular import TabularCurator
from curbench.sim.arms import Arms
from curbench.sim.comparator import best_fixed_arm
from curbench.types import Array, Bank

ORACLES = ("oracle_dynamic", "oracle_static")


class OracleCore(NamedTuple):
    p: Array
    start: Array  # i64[S], first round of each segment
    best: Array  # i64[S], whom to play in it


@nb.njit
def draw_core(core, arm, q, u, step):
    """Plays the arm that is known to be best in this round."""
    known = core.best[np.searchsorted(core.start, step, side="right") - 1]
    core.p.fill(0.0)
    core.p[known] = 1.0
    arm.fill(known)
    q.fill(1.0)


@nb.njit
def update_core(core, arm, expected, utility, step):
    """There is nothing to learn."""


class Oracle(TabularCurator):
    """Knows the means of a test-bed: regret to the comparator of the same name is zero.

    Raises ValueError for rested arms, whose best play depends on the plays, and for any design but iid.
    """

    draw_core = staticmethod(draw_core)
    update_core = staticmethod(update_core)
    explores = False

    def __init__(self, bank: Bank, *, arms: Arms, fixed: bool, design: str = "auto", **common: Any) -> None:
        super().__init__(bank, unit="problem", design="iid", **common)
        if arms.rested:
            raise ValueError(f"no oracle knows the best play on {arms.name}: its means depend on who is played")
        if design not in ("auto", "iid"):
            raise ValueError(f"an oracle plays one arm, so its design is iid; got {design!r}")
        best = np.argmax(arms.mean, axis=1)
        if fixed:
            best[:] = best_fixed_arm(arms)
        self.core = OracleCore(np.full(arms.count, 1.0 / arms.count), arms.start.astype(np.int64), best)
