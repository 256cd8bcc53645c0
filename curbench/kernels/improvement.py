"""Importance ratios and the policy-improvement utility, from old and new log-probabilities."""

import math
from typing import Any

from curbench.kernels import reference
from curbench.kernels.arrays import given, groups, matrix, no_fault, place_of, runs_reference, through_numpy, vector
from curbench.kernels.contract import (
    RATIOS,
    PolicyImprovement,
    choice,
    improvement_fault,
    improvement_options,
)
from curbench.kernels.extension import load


def policy_improvement(
    new_logprob: Any,
    old_logprob: Any,
    advantage: Any,
    group: Any,
    *,
    mask: Any = None,
    length: Any = None,
    ratio: str = "sequence_mean",
    ratio_clip: float | None = None,
    check: bool = True,
    backend: str = "auto",
    threads: int = 1,
) -> PolicyImprovement:
    """How much the policy step improved each group, as the mean of (ratio - 1) * advantage over its rollouts.

    That is the mean of ratio * advantage when the advantages of a group sum to 0, without the cancellation: ratios
    lie within 1e-3 of 1 after one step.

    new_logprob, old_logprob  f32[R, L], padded; rows may be apart, but each must be contiguous
    advantage   f32[R] or f64[R]
    group       int G or offsets i64[B+1], as for ``group_advantage``
    mask        bool[R, L] or uint8[R, L], which tokens count; or
    length      i64[R], how many leading tokens count. Exactly one of the two; what they leave out may be NaN
    ratio       of a row, with rho_t = exp(new_t - old_t): "sequence_mean": exp(mean log rho_t); "sequence":
                exp(sum log rho_t); "token_mean": mean rho_t, with rho_t = inf where log rho_t > 88, the end of
                float32. A row without tokens has ratio 1
    ratio_clip  upper bound of a row's ratio, at least 1, or None
    check       as for ``group_advantage``
    Returns     PolicyImprovement: utility f64[B], ratio f64[R], tokens i64[R]. Tensors that require a gradient give
                tensors that have one; see ``operators``
    Raises      ValueError if an argument breaks its rule; RuntimeError if the back-end is absent.
    Source      sequence_mean: the ratio of GSPO, Zheng et al. 2025; token_mean: the surrogate of GRPO, unclipped.

    >>> import numpy as np
    >>> new = np.log(np.array([[2.0], [1.0]], np.float32))
    >>> policy_improvement(new, np.zeros_like(new), [1.0, -1.0], 2, length=[1, 1]).utility.round(6)
    array([0.5])
    """
    place = place_of(new_logprob)
    if backend == "auto" and place.wants_gradient(new_logprob, old_logprob, advantage):
        from curbench.kernels import operators  # here, because it imports torch

        options = {"mask": mask, "length": length, "ratio": ratio, "ratio_clip": ratio_clip, "check": check}
        return operators.policy_improvement(new_logprob, old_logprob, advantage, group, **options, threads=threads)
    improvement_options(mask, length, ratio_clip)
    code = choice("ratio", ratio, RATIOS)
    on_reference = runs_reference(backend, place, threads)
    fresh, new_stride = matrix(place, "new_logprob", new_logprob, ("float32",))
    slots, tokens = fresh.shape
    old, old_stride = matrix(place, "old_logprob", old_logprob, ("float32",), (slots, tokens))
    mask_stride = 0
    if mask is not None:
        mask, mask_stride = matrix(place, "mask", mask, ("bool", "uint8"), (slots, tokens))
    else:
        length = vector(place, "length", length, "int64", slots)
    advantage = vector(place, "advantage", advantage, "float64", slots)
    offset, order, size, count = groups(place, group, slots)
    if on_reference:
        options = {"mask": mask, "length": length, "ratio": ratio, "ratio_clip": ratio_clip}
        arguments = (fresh, old, advantage, given(place, offset, order, size))
        return through_numpy(place, reference.policy_improvement, *arguments, **options)

    result = PolicyImprovement(
        utility=place.empty(count, "float64"),
        ratio=place.empty(slots, "float64"),
        tokens=place.empty(slots, "int64"),
    )
    fault = no_fault(place, 5)
    clip = math.inf if ratio_clip is None else ratio_clip
    at = place.address
    with place.guard():
        load().policy_improvement(
            *(at(fresh), new_stride, at(old), old_stride, tokens, at(mask), mask_stride, at(length)),
            *(at(advantage), at(offset), at(order), size, count, slots, code, clip),
            *(at(field) for field in result),
            *(at(fault), place.where(threads)),
        )
    if check:
        improvement_fault(fault.tolist(), length, result.ratio)
    return result
