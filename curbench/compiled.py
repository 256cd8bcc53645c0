"""How the inner loop of the simulator is compiled."""

from typing import Any

import numba as nb

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "forceinline": True, "_nrt": False}

hot = nb.njit(**_OPTIONS)
"""For what runs in every simulated round: inlined, without checks for division by zero, without reference counts.

Numba counts references to every array that a function touches, and each count is an atomic operation: together they
cost more than drawing an arm. Without them nothing can be allocated, so such a function fills arrays it is given.
"""

cold = nb.njit(error_model="numpy", forceinline=False)
"""For what few of the rounds need: called, never inlined, or it would take the registers of the loop around it.

Without saying so a function inherits ``forceinline`` from the hot function that it is first compiled for.
"""
