"""Drawing from the softmax of given scores."""

import math
from typing import Any

from curbench.kernels import reference
from curbench.kernels.arrays import no_fault, place_of, runs_reference, through_numpy, vector
from curbench.kernels.contract import DESIGNS, BankDraw, draw_options, random_options, score_fault, unreachable
from curbench.kernels.extension import load


def draw(
    score: Any,
    *,
    count: int,
    design: str = "iid",
    floor: float = 0.0,
    nucleus: float = 1.0,
    candidate: Any = None,
    seed: int,
    step: int = 0,
    backend: str = "auto",
    threads: int = 1,
) -> BankDraw:
    """``count`` slots drawn from q = (1 - floor) p + floor / M, p = softmax(score), with their exact propensities.

    What ``score_bank`` does after scoring, with the same draws for the same scores: to a race or to 1e8 scores it makes
    no difference where they come from.

    score      f32[M]; float64 is rounded. -inf has p = 0
    design, floor, nucleus, seed, step  as for ``score_bank``
    candidate  i64[M], the problem of each score; None for 0 to M - 1
    Returns    BankDraw. On CUDA, waits for the device: ``log_normaliser`` is a float
    Raises     ValueError if an argument breaks its rule; RuntimeError if the back-end is absent.
    Source     see ``score_bank``.

    >>> draw([0.0, -float("inf"), 0.0], count=2, design="systematic", seed=0).problem
    array([0, 2])
    """
    place = place_of(score)
    random_options(seed, step)
    on_reference = runs_reference(backend, place, threads)
    score = vector(place, "score", score, "float32")
    rows = len(score)
    candidate = None if candidate is None else vector(place, "candidate", candidate, "int64", rows)
    draw_options(rows, count, design, floor, nucleus)
    if on_reference:
        options = {"count": count, "design": design, "floor": floor, "nucleus": nucleus, "candidate": candidate}
        return through_numpy(place, reference.draw, score, **options, seed=seed, step=step)

    kept = place.empty(rows, "float32") if nucleus < 1.0 else None
    problem = place.empty(count, "int64")
    propensity = place.empty(count, "float64")
    probability = place.empty(count, "float64")
    workspace = place.empty(load().score_bank_workspace(rows, count), "float64")
    fault = no_fault(place, 2)
    at = place.address
    with place.guard():
        log_normaliser, mass, log_time, reachable = load().draw(
            *(at(score), at(candidate), rows, count, DESIGNS.index(design), floor, nucleus, seed, step, at(kept)),
            *(at(problem), at(propensity), at(probability), at(workspace)),
            *(at(fault), place.where(threads)),
        )
    if not math.isfinite(log_normaliser):
        score_fault(fault.tolist()[1], score)
    if reachable >= 0:
        raise unreachable(count, reachable, design)
    return BankDraw(problem, propensity, probability, score, log_normaliser, mass, log_time)
