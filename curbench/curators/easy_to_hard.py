"""Easy to hard: mixtures over tiers of difficulty that move with time, or stay fixed."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from curbench.curators.tabular import Design
from curbench.curators.tiers import By, TierSchedule, parse_mixture
from curbench.types import Array, Bank

Schedule = Literal["gaussian", "cosine", "stages", "fixed"]


class EasyToHard(TierSchedule):
    """A mixture over K tiers, k = 0 the easiest, at progress z = step / horizon:

    "gaussian"  p_k ~ exp(-(k - (K - 1) z^power)^2 / (2 width^2)), mixed with uniform so that p_k >= floor
    "cosine"    p_k ~ a (K - k) + (1 - a) (k + 1), a = (1 + cos(pi z)) / 2, then raised to the floor and normalised
    "stages"    one tier at a time: classical curriculum learning
    "fixed"     ``mixture`` for ever; none given: equal shares, whatever the sizes of the tiers

    power, width  of "gaussian"; released settings 0.5 and 0.5
    floor         least share of a tier; default 2 / (K (K + 1)), with which the cosine schedule begins
    mixture       shares such as ``0.5,0.3,0.2`` for "fixed"
    tiers, by, design  see ``TierSchedule``

    Raises ValueError for a parameter outside its range or one the schedule does not use.
    Source  E2H Reasoner (Parashar et al. 2025, 2506.06632), formulas and constants of the released code;
            stages: Bengio et al. 2009. The schedules need the horizon: they are as long as the run is planned to be.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        schedule: Schedule = "gaussian",
        power: float = 0.5,
        width: float = 0.5,
        floor: float | None = None,
        mixture: str | None = None,
        tiers: int = 4,
        by: By = "difficulty",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, tiers=tiers, by=by, design=design, **common)
        if schedule not in ("gaussian", "cosine", "stages", "fixed"):
            raise ValueError(f"schedule must be gaussian, cosine, stages or fixed; got {schedule!r}")
        for name, value in (("power", power), ("width", width)):
            if value <= 0.0:
                raise ValueError(f"{name} must be positive; got {value}")
        k = self.tier_count
        if floor is not None and not 0.0 <= floor <= 1.0 / k:
            raise ValueError(f"the floor of {k} tiers must be in [0, 1 / {k}]; got {floor}")
        if mixture is not None and schedule != "fixed":
            raise ValueError(f"a mixture belongs to schedule=fixed, not {schedule}")
        self.schedule, self.power, self.width = schedule, power, width
        self.floor = 2.0 / (k * (k + 1)) if floor is None else floor
        self.fixed = np.full(k, 1.0 / k) if mixture is None else parse_mixture(mixture, k)

    def mixture(self, progress: float) -> Array:
        k = np.arange(self.tier_count)
        if self.schedule == "fixed":
            return self.fixed
        if self.schedule == "stages":
            return np.eye(k.size)[min(int(progress * k.size), k.size - 1)]
        if self.schedule == "cosine":
            early = 0.5 * (1.0 + np.cos(np.pi * progress))
            share = (early * (k.size - k) + (1.0 - early) * (k + 1)) / (k.size * (k.size + 1) / 2)
            share = np.maximum(share, self.floor)
            return share / share.sum()
        share = np.exp(-((k - (k.size - 1) * progress**self.power) ** 2) / (2.0 * self.width**2))
        return self.floor + (1.0 - k.size * self.floor) * share / share.sum()
