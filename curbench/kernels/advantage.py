"""Group advantages: the learning weight of each rollout, against the rollouts of the same problem."""

from typing import Any

from curbench.kernels import reference
from curbench.kernels.arrays import groups, no_fault, owned, place_of, runs_reference, through_numpy, vector
from curbench.kernels.contract import (
    ESTIMATORS,
    GroupAdvantage,
    advantage_fault,
    advantage_options,
    choice,
    require,
)
from curbench.kernels.extension import load


def group_advantage(
    reward: Any,
    group: Any,
    *,
    estimator: str = "grpo",
    ddof: int = 1,
    eps: float = 1e-6,
    singleton: str = "zero",
    success: Any = None,
    check: bool = True,
    backend: str = "auto",
    threads: int = 1,
) -> GroupAdvantage:
    """Advantage of every rollout within its group, and the statistics of every group, in one pass.

    reward     f32[R] or f64[R], finite
    group      int G when all groups have G rollouts, else offsets i64[B+1]: group b is offset[b] to offset[b+1]
    estimator  "grpo": (r - mean) / (std + eps); "dr_grpo": r - mean; "rloo": r - mean of the other rewards
    ddof       the variance divides by n - ddof
    singleton  "zero": a group of one has advantage 0; "error": it is refused
    success    bool[R] or None, exact correctness, counted per group
    check      read the result of the checks back and raise; on CUDA this waits for the device. With False a wrong
               reward gives a wrong advantage, and groups with wrong offsets are left unwritten
    Returns    GroupAdvantage; statistics in float64; a group of equal rewards has advantage exactly 0
    Raises     ValueError if an argument breaks its rule; RuntimeError if the back-end is absent.
    Source     GRPO: Shao et al. 2024 (2402.03300); Dr. GRPO: Liu et al. 2025 (2503.20783); RLOO: Ahmadian et al. 2024
               (2402.14740).

    >>> group_advantage([0.0, 1.0, 1.0, 1.0], 2, estimator="rloo").advantage
    array([-1.,  1.,  0.,  0.])
    """
    place = place_of(reward)
    advantage_options(ddof, eps, singleton)
    code = choice("estimator", estimator, ESTIMATORS)
    on_reference = runs_reference(backend, place, threads)
    dtype = place.dtype(owned(place, "reward", reward, 1))
    require(dtype in ("float32", "float64"), f"reward must be float32 or float64; got {dtype}")
    reward = place.contiguous(reward, dtype)
    slots = len(reward)
    offset, size, count = groups(place, group, slots)
    if success is not None:
        success = vector(place, "success", success, "uint8", slots)
    if on_reference:
        options = {"estimator": estimator, "ddof": ddof, "eps": eps, "singleton": singleton, "success": success}
        return through_numpy(place, reference.group_advantage, reward, size if offset is None else offset, **options)

    result = GroupAdvantage(
        advantage=place.empty(slots, dtype),
        n=place.empty(count, "int64"),
        mean=place.empty(count, "float64"),
        var=place.empty(count, "float64"),
        degenerate=place.empty(count, "bool"),
        abs_advantage=place.empty(count, "float64"),
        success=None if success is None else place.empty(count, "int64"),
    )
    fault = no_fault(place, 5)
    at = place.address
    with place.guard():
        load().group_advantage(
            *(at(reward), dtype == "float64", None, at(offset), None, size, count, slots, code, ddof, eps, 0, False, False),
            at(success),
            *(at(field) for field in result),
            *(None, at(fault), place.where(threads)),
        )
    if check:
        advantage_fault(fault.tolist()[:3], reward, singleton)
    return result
