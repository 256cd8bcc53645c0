"""Scoring a problem bank with a linear head, and drawing problems from the softmax of the scores."""

from typing import Any

from curbench.kernels import reference
from curbench.kernels.arrays import matrix, no_fault, place_of, runs_reference, through_numpy, vector
from curbench.kernels.contract import (
    DESIGNS,
    BankDraw,
    bank_fault,
    bank_options,
    random_options,
    unreachable,
)
from curbench.kernels.extension import load


def score_bank(
    feature: Any,
    weight: Any,
    *,
    count: int,
    bias: float = 0.0,
    temperature: float = 1.0,
    candidate: Any = None,
    design: str = "iid",
    floor: float = 0.0,
    seed: int,
    step: int = 0,
    backend: str = "auto",
    threads: int = 1,
) -> BankDraw:
    """``count`` problems drawn from q = (1 - floor) softmax(score) + floor / M, with their exact propensities.

    score = (feature @ weight + bias) / temperature, summed in float64 and rounded once. The softmax and the prefix
    sums of the draw are float64 over blocks, so banks of more than 2^24 problems are drawn exactly.

    feature    f32[N, F]; rows may be apart, but each must be contiguous
    weight     f32[F] or f64[F]
    candidate  i64[M], distinct rows of the bank to choose from; None for all of them
    design     "iid": independent draws with replacement, propensity q. "systematic": without replacement, propensity
               pi = min(1, c q) with sum pi = count (above 1 - 1e-9 it is 1). Problems that are certain come first,
               then the others in the order of the candidates: neighbours there seldom come together
    seed, step the key and the counter of the draws: same pair, same draw
    Returns    BankDraw. On CUDA, waits for the device: ``log_normaliser`` is a float
    Raises     ValueError if an argument breaks its rule or a score is not finite; RuntimeError if the back-end is
               absent.
    Source     inversion and Madow 1949; see csrc/score_bank.h.

    >>> import numpy as np
    >>> score_bank(np.zeros((4, 1), np.float32), [0.0], count=4, design="systematic", seed=0).problem
    array([0, 1, 2, 3])
    """
    place = place_of(feature)
    random_options(seed, step)
    on_reference = runs_reference(backend, place, threads)
    feature, stride = matrix(place, "feature", feature, ("float32",))
    problems, features = feature.shape
    weight = vector(place, "weight", weight, "float64", features)
    if candidate is not None:
        candidate = vector(place, "candidate", candidate, "int64")
    rows = problems if candidate is None else len(candidate)
    bank_options(rows, count, bias, temperature, design, floor)
    if on_reference:
        options = {"count": count, "bias": bias, "temperature": temperature, "candidate": candidate}
        options |= {"design": design, "floor": floor, "seed": seed, "step": step}
        return through_numpy(place, reference.score_bank, feature, weight, **options)

    score = place.empty(rows, "float32")
    problem = place.empty(count, "int64")
    propensity = place.empty(count, "float64")
    probability = place.empty(count, "float64")
    workspace = place.empty(load().score_bank_workspace(rows), "float64")
    fault = no_fault(place, 2)
    at = place.address
    with place.guard():
        log_normaliser, reachable = load().score_bank(
            *(at(feature), stride, problems, features, at(weight), bias, temperature, at(candidate), rows),
            *(count, DESIGNS.index(design), floor, seed, step),
            *(at(score), at(problem), at(propensity), at(probability), at(workspace)),
            *(at(fault), place.where(threads)),
        )
    bank_fault(fault.tolist(), candidate, problems)
    if reachable >= 0:
        raise unreachable(count, reachable)
    return BankDraw(problem, propensity, probability, score, log_normaliser)
