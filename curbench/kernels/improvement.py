"""Importance ratios and the policy-improvement utility, from old and new log-probabilities."""

from typing import Any

from curbench.kernels import reference
from curbench.kernels.arrays import (
    Place,
    given,
    groups,
    matrix,
    no_fault,
    packed,
    place_of,
    runs_reference,
    through_numpy,
    vector,
)
from curbench.kernels.contract import (
    FORMS,
    RATIOS,
    PolicyImprovement,
    choice,
    clip_bounds,
    improvement_fault,
    improvement_options,
    require,
)
from curbench.kernels.extension import load

LOGPROBS = ("float32", "bfloat16")
MASKS = ("bool", "uint8", "int64")


def policy_improvement(
    new_logprob: Any,
    old_logprob: Any,
    advantage: Any,
    group: Any,
    *,
    mask: Any = None,
    length: Any = None,
    cu_seqlens: Any = None,
    ratio: str = "sequence_mean",
    ratio_clip: float | tuple[float, float] | None = None,
    form: str = "gain",
    check: bool = True,
    backend: str = "auto",
    threads: int = 1,
) -> PolicyImprovement:
    """How much the policy step improved each group, as the mean of (ratio - 1) * advantage over its rollouts.

    That is the mean of ratio * advantage when the advantages of a group sum to 0, as centred, leave-one-out and
    standardised ones do, without the cancellation: ratios lie within 1e-3 of 1 after one step.

    new_logprob, old_logprob  f32 or bf16 [R, L], padded; rows may be apart, but each must be contiguous. Or [T], packed
    advantage   f32[R] or f64[R]
    group       int G, offsets i64[B+1] or ``group_by_id(id)``, as for ``group_advantage``
    mask        bool, uint8 or i64, shaped like the log-probabilities: a token counts where it is not 0
    length      i64[R], how many leading tokens of each padded row count. What does not count may be NaN
    cu_seqlens  i64[R+1], from 0 to T: rollout r is cu_seqlens[r] to cu_seqlens[r+1] of what is then packed. Padded rows
                need exactly one of mask and length; packed ones may have a mask
    ratio       of a row, with rho_t = exp(new_t - old_t): "sequence_mean": exp(mean log rho_t); "sequence":
                exp(sum log rho_t); "token_mean": mean rho_t. A row without tokens has ratio 1
    ratio_clip  upper bound of a row's ratio, at least 1; or (low, high) around 1; or None
    form        "gain": mean of (ratio - 1) A; "surrogate": mean of ratio A
    check       as for ``group_advantage``
    Returns     PolicyImprovement: utility f64[B], ratio f64[R], tokens i64[R]. Tensors that require a gradient give
                tensors that have one; see ``operators``. Per token the arithmetic is float32, sums are float64: every
                ratio that float64 can hold is finite, whatever one token contributes
    Raises      ValueError if an argument breaks its rule, or a ratio or a utility is not finite; RuntimeError if the
                back-end is absent.
    Source      sequence_mean: the ratio of GSPO, Zheng et al. 2025 (2507.18071); token_mean: the surrogate of GRPO,
                unclipped.

    >>> import numpy as np
    >>> new = np.log(np.array([[2.0], [1.0]], np.float32))
    >>> policy_improvement(new, np.zeros_like(new), [1.0, -1.0], 2, length=[1, 1]).utility.round(6)
    array([0.5])
    """
    place = place_of(new_logprob)
    if backend == "auto" and place.wants_gradient(new_logprob, old_logprob, advantage):
        from curbench.kernels import operators  # here, because it imports torch

        options = {"mask": mask, "length": length, "cu_seqlens": cu_seqlens, "ratio": ratio, "ratio_clip": ratio_clip}
        options |= {"form": form, "check": check, "threads": threads}
        return operators.policy_improvement(new_logprob, old_logprob, advantage, group, **options)
    improvement_options(mask, length, cu_seqlens)
    clip_low, clip_high = clip_bounds(ratio_clip)
    code, surrogate = choice("ratio", ratio, RATIOS), choice("form", form, FORMS) == 1
    on_reference = runs_reference(backend, place, threads)
    if cu_seqlens is None:
        rows = padded_rows(place, new_logprob, old_logprob, mask)
        slots = len(rows[0])
        length = None if length is None else vector(place, "length", length, "int64", slots)
    else:
        rows = packed_rows(place, new_logprob, old_logprob, mask)
        cu_seqlens = vector(place, "cu_seqlens", cu_seqlens, "int64")
        require(len(cu_seqlens) >= 1, "cu_seqlens must have R + 1 entries, the first of them 0")
        slots = len(cu_seqlens) - 1
        require(
            slots > 0 or len(rows[0]) == 0, f"cu_seqlens must end at the {len(rows[0])} tokens; it holds no rollout"
        )
    fresh, new_stride, old, old_stride, mask, mask_stride = rows
    advantage = vector(place, "advantage", advantage, "float64", slots)
    offset, order, size, count = groups(place, group, slots)
    if on_reference:
        options = {"mask": mask, "length": length, "cu_seqlens": cu_seqlens, "ratio": ratio, "form": form}
        arguments = (fresh, old, advantage, given(place, offset, order, size))
        return through_numpy(place, reference.policy_improvement, *arguments, **options, ratio_clip=ratio_clip)

    result = PolicyImprovement(
        utility=place.empty(count, "float64"),
        ratio=place.empty(slots, "float64"),
        tokens=place.empty(slots, "int64"),
    )
    fault = no_fault(place, 5)
    at = place.address
    bf16 = [place.dtype(array) == "bfloat16" for array in (fresh, old)]
    wide = mask is not None and place.dtype(mask) == "int64"
    with place.guard():
        load().policy_improvement(
            *(at(fresh), bf16[0], new_stride, at(old), bf16[1], old_stride, fresh.shape[-1]),
            *(at(mask), wide, mask_stride, at(length), at(cu_seqlens)),
            *(at(advantage), at(offset), at(order), size, count, slots, code, clip_low, clip_high, surrogate),
            *(at(field) for field in result),
            *(at(fault), place.where(threads)),
        )
    if check:
        improvement_fault(fault.tolist(), length, cu_seqlens, result.ratio)
    return result


def padded_rows(place: Place, new_logprob: Any, old_logprob: Any, mask: Any) -> tuple[Any, int, Any, int, Any, int]:
    """New and old log-probabilities and mask, each with the entries from one row to the next."""
    fresh, new_stride = matrix(place, "new_logprob", new_logprob, LOGPROBS)
    shape = tuple(fresh.shape)
    old, old_stride = matrix(place, "old_logprob", old_logprob, LOGPROBS, shape)
    if mask is None:
        return fresh, new_stride, old, old_stride, None, 0
    return fresh, new_stride, old, old_stride, *matrix(place, "mask", mask, MASKS, shape)


def packed_rows(place: Place, new_logprob: Any, old_logprob: Any, mask: Any) -> tuple[Any, int, Any, int, Any, int]:
    fresh = packed(place, "new_logprob", new_logprob, LOGPROBS)
    old = packed(place, "old_logprob", old_logprob, LOGPROBS, len(fresh))
    mask = None if mask is None else packed(place, "mask", mask, MASKS, len(fresh))
    return fresh, 0, old, 0, mask, 0
