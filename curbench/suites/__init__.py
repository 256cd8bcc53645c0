"""Suites: named problem banks, each with a verifier of its own. Only this package sees answers.

``SUITES`` maps a name to ``module:function``; the function takes a split and returns a ``Suite``. Nothing is imported
before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, Protocol

import numpy as np

from curbench.types import Bank

SUITES: dict[str, str] = {
    "countdown": "curbench.suites.countdown:load",
}
SPLITS = ("train", "test")


class Demonstration(NamedTuple):
    """A question with a right answer and one made wrong by a single change: what a base model is warmed up on."""

    prompt: str
    right: str
    wrong: str


class Suite(Protocol):
    """A problem bank and the verifier of its answers; a problem is an index into ``bank``.

    The answer is the whole completion, stripped, up to the end of text.
    """

    name: str
    bank: Bank

    def prompt(self, problem: int) -> str:
        """The text that a model is given."""

    def solution(self, problem: int) -> str:
        """A completion that succeeds; never shown to a curator or to an actor in RL."""

    def verify(self, problem: int, completion: str) -> tuple[float, bool]:
        """The reward in [0, 1] and whether the answer is exactly right, for any text whatever."""

    def demonstration(self, generator: np.random.Generator) -> Demonstration:
        """A fresh problem of the same kind, never one of the test split."""


def load(name: str, split: str = "train") -> Suite:
    """The suite of that name, with the problems of one split; train and test share no problem.

    Raises ValueError for an unknown suite or split, naming the choices.

    >>> suite = load("countdown", "test")
    >>> suite.verify(0, suite.solution(0))
    (1.0, True)
    """
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; choose from {', '.join(sorted(SUITES))}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    module, function = SUITES[name].split(":")
    return getattr(import_module(module), function)(split)
