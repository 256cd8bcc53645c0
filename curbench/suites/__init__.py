"""Suites: named problem banks, each with a verifier of its own. Only this package sees answers.

``SUITES`` maps a name to ``module:function``; the function takes a split and its settings and returns a ``Suite``.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any, NamedTuple, Protocol

import numpy as np

from curbench.settings import convert
from curbench.types import Bank

SUITES: dict[str, str] = {
    "countdown": "curbench.suites.countdown:load",
    "zebra": "curbench.suites.made:load",
    "arc_1d": "curbench.suites.made:load",
    "knights_knaves": "curbench.suites.made:load",
    "simple_equations": "curbench.suites.made:load",
    "gsm_symbolic": "curbench.suites.made:load",
    "mixed": "curbench.suites.mixed:load",
}
SPLITS = ("train", "test")
BANK_FILES = (".jsonl", ".parquet")

Progress = Callable[[float], None]


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

    def metrics(self) -> dict[str, float]:
        """What there is to report of the scoring since this was last asked, such as how often a scorer failed."""

    def demonstration(self, generator: np.random.Generator) -> Demonstration:
        """A fresh problem of the same kind, never one of the test split."""


def resolve(target: str) -> Any:
    """The object that ``module:name`` names.

    Raises ValueError if there is no such module or it has no such name.

    >>> resolve("math:factorial")(3)
    6
    """
    module, colon, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "" if colon else "; it is written module:name"
        raise ValueError(f"there is no {target!r}: {error}{hint}") from error


def load(
    name: str, split: str = "train", setting: dict[str, Any] | None = None, progress: Progress = lambda share: None
) -> Suite:
    """The suite of that name, with the problems of one split; train and test share no problem.

    name      one of ``SUITES``, several with commas between them, ``rg:DATASET`` for any dataset of reasoning-gym, or
              the path of a .jsonl or .parquet file of problems
    setting   the suite's own settings, as texts or values
    progress  called with the share that is done while problems have to be made
    Raises    ValueError for an unknown suite, split or setting, naming the choices.

    >>> suite = load("countdown", "test")
    >>> suite.verify(0, suite.solution(0))
    (1.0, True)
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    maker = resolve(_maker(name))
    value = setting or {}
    if all(one.kind is not one.VAR_KEYWORD for one in signature(maker).parameters.values()):
        value = convert(maker, value, reserved=frozenset({"name", "split", "progress"}), owner=f"the suite {name}")
    return maker(name, split, progress=progress, **value)


def _maker(name: str) -> str:
    """``module:function`` of what makes the suite of that name."""
    if name.endswith(BANK_FILES):
        return "curbench.suites.user:load"
    if name.startswith("rg:"):
        return "curbench.suites.library:load"
    if "," in name:
        return SUITES["mixed"]
    if name not in SUITES:
        files = " or ".join(BANK_FILES)
        raise ValueError(f"unknown suite {name!r}; choose from {', '.join(SUITES)}, rg:DATASET, or a {files} file")
    return SUITES[name]


def label(name: str) -> str:
    """The name of a suite as a folder: a file of problems is called by its stem.

    >>> label("data/my.jsonl"), label("rg:chain_sum"), label("countdown")
    ('my', 'rg-chain_sum', 'countdown')
    """
    if name.endswith(BANK_FILES):
        name = name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    return name.replace(":", "-")
