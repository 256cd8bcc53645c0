"""Test-beds by name, from a file of means, or from a function of the user's.

``model`` has the type, ``published`` and ``synthetic`` the instances (see docs/testbeds.md), ``files`` the reader.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from curbench.sim.arms import published, synthetic
from curbench.sim.arms.files import READERS, arms_from_file
from curbench.sim.arms.model import BERNOULLI, Arms, Noise, noise_text, parse_noise

__all__ = [
    "ARMS",
    "BERNOULLI",
    "FIXED_ARMS",
    "USUAL_ARMS",
    "Arms",
    "Noise",
    "arms_from_file",
    "make_arms",
    "noise_text",
    "parse_noise",
]

ARMS: dict[str, Callable[..., Arms]] = {
    function.__name__: function
    for function in (
        synthetic.stationary,
        published.garivier_moulines,
        synthetic.switching,
        synthetic.drifting,
        published.periodic,
        published.besbes_sine,
        published.besbes_thirds,
        published.flipping,
        published.hazard,
        published.hazard_per_arm,
        published.random_walk,
        published.m_ucb_random,
        published.yahoo_cao,
        published.wei_srivastava,
        published.besson_random,
        published.besson_1,
        published.besson_2,
        published.mukherjee,
        published.besson_4,
        published.auer_lower,
        synthetic.switching_lower,
        published.stochastic_adversarial,
        synthetic.square_wave,
        published.rested_rotting,
        synthetic.rested_rising,
        synthetic.learning_curves,
    )
}
FIXED_ARMS = {
    "garivier_moulines": 3,
    "periodic": 2,
    "besbes_sine": 2,
    "besbes_thirds": 2,
    "flipping": 2,
    "yahoo_cao": 6,
    "wei_srivastava": 5,
    "besson_1": 3,
    "besson_2": 3,
    "mukherjee": 3,
    "besson_4": 3,
    "square_wave": 2,
    "rested_rotting": 2,
}
USUAL_ARMS = {"besson_random": 5}
"""Published numbers of arms where they are open and not the default."""
DEFAULT_ARMS = 10


def make_arms(
    name: str,
    *,
    horizon: int,
    arms: int | None = None,
    instance_seed: int = 0,
    noise: Noise | None = None,
    **parameter: Any,
) -> Arms:
    """The named test-bed, rescaled to ``horizon``; ``instance_seed`` fixes what is random about the instance.

    name       of ``ARMS``; or a file of means, see ``arms_from_file``; or ``module:function`` of a function
               (arms, horizon, rng, **parameter) -> Arms
    noise      in place of the test-bed's own
    parameter  of the test-bed's function
    Raises     ValueError for an unknown name, a horizon or number of arms below 1, or ``arms`` where it is fixed.

    >>> make_arms("garivier_moulines", horizon=10_000).start.tolist()
    [0, 3000, 5000]
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1; got {horizon}")
    if arms is not None and arms < 1:
        raise ValueError(f"arms must be at least 1; got {arms}")
    if Path(name).suffix in READERS:
        if arms is not None:
            raise ValueError(f"{name} says itself how many arms there are; leave --arms out")
        made = arms_from_file(name, horizon=horizon, **parameter)
    else:
        function = _generator(name)
        if name in FIXED_ARMS and arms is not None:
            raise ValueError(f"{name} has {FIXED_ARMS[name]} arms by definition; leave --arms out")
        rng = np.random.default_rng((instance_seed, zlib.crc32(name.encode())))
        count = USUAL_ARMS.get(name, DEFAULT_ARMS) if arms is None else arms
        made = function(count, horizon, rng, **parameter)
        if not isinstance(made, Arms):
            raise ValueError(f"{name} must return curbench.sim.arms.Arms; got {type(made).__name__}")
    return made if noise is None else replace(made, noise=noise)


def _generator(name: str) -> Callable[..., Arms]:
    """The function behind a name of ``ARMS`` or behind ``module:function``."""
    if name in ARMS:
        return ARMS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(
            f"unknown arms {name!r}; choose from {', '.join(ARMS)}, or give a file ({', '.join(READERS)}) "
            "or module:function"
        )
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot load the test-bed {name}: {error}") from None
