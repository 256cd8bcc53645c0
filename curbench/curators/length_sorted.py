"""Short prompts first: the control that every difficulty order has to beat."""

from __future__ import annotations

from curbench.curators.sorted_pass import SortedPass


class LengthSorted(SortedPass):
    """A sorted pass by the length of the prompt (``Bank.length``).

    Source  a control of ours: the released order of GAIN-RL on MATH agrees with plain question length (Spearman 0.92),
            so a difficulty order that is not compared with this one shows little.
    """

    score = "length"
    needs = ("length",)
