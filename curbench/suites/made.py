"""The suites whose banks are made from a task: their recipes, and which of them ship with the package."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge

from curbench.settings import convert
from curbench.suites import Progress, Suite, resolve
from curbench.suites.generate import Recipe, load_items
from curbench.suites.item import as_suite, in_style

RECIPE: dict[str, Recipe] = {
    "zebra": Recipe("curbench.suites.zebra:Zebra", {}, train=400, test=40),
    "arc_1d": Recipe("curbench.suites.arc_1d:Arc1D", {}, train=500, test=56),
    "knights_knaves": Recipe("curbench.suites.knights_knaves:KnightsKnaves", {}, train=400, test=40),
    "simple_equations": Recipe("curbench.suites.simple_equations:SimpleEquations", {}, train=400, test=64),
    "gsm_symbolic": Recipe("curbench.suites.gsm_symbolic:GsmSymbolic", {}, train=1000, test=128),
}
SHIPPED = {"arc_1d": "arc_1d.parquet", "knights_knaves": "knights_knaves.parquet"}
"""Banks in the package's data, made with the default settings."""


def load(name: str, split: str, *, progress: Progress, style: str = "compact", **setting: Any) -> Suite:
    """The problems of one split of a suite, from its file in the package or in the cache, which is made where missing.

    style     "compact": the shortest prompt, and the whole completion is the answer; "question": see ``item.InWords``
    progress  called with the share of the bank that is made
    setting   ``train``, ``test`` (problems per stratum), ``seed``, and the knobs of the task
    """
    plain = RECIPE[name]
    own = convert(_size, {k: setting.pop(k) for k in ("train", "test", "seed") if k in setting})
    recipe = plain._replace(knobs=convert(resolve(plain.task), setting), **own)
    task = resolve(recipe.task)(**recipe.knobs)
    shipped = SHIPPED.get(name) if recipe == plain else None
    suite = as_suite(task, load_items(task, recipe, shipped, progress), split)
    return in_style(suite, style, suite.question)


def _size(train: Annotated[int, Ge(1)], test: Annotated[int, Ge(1)], seed: Annotated[int, Ge(0)]) -> None:
    """Only for its annotations."""
