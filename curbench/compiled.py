"""How the inner loop of the simulator is compiled."""

import numba as nb

hot = nb.njit(error_model="numpy", forceinline=True, _nrt=False)
"""For what runs in every simulated round: inlined, without checks for division by zero, without reference counts.

Numba counts references to every array that a function touches, and each count is an atomic operation: together they
cost more than drawing an arm. Without them nothing can be allocated, so such a function fills arrays it is given.
"""
