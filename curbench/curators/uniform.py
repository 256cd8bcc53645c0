"""Uniform selection: the baseline every curriculum has to beat."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.tabular import Design, TabularCurator
from curbench.types import Array, Bank


class UniformCore(NamedTuple):
    p: Array


@nb.njit
def update_core(core, arm, expected, utility, step):
    """Uniform selection learns nothing."""


class Uniform(TabularCurator):
    """Every problem with the same probability: a simple random sample of the bank (design "systematic") or iid draws.

    With ``admission="nondegenerate"`` it is uniform selection with the zero-variance filter of DAPO's dynamic sampling
    (Yu et al. 2025, 2503.14476), without the refill.
    """

    update_core = staticmethod(update_core)

    def __init__(self, bank: Bank, *, design: Design = "auto", **common: Any) -> None:
        super().__init__(bank, unit="problem", design=design, **common)
        self.core = UniformCore(np.full(len(bank), 1.0 / len(bank)))
