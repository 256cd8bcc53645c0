"""Group advantages: the learning weight of each rollout, against the rollouts of the same problem."""

from typing import Any

from curbench.kernels import reference
from curbench.kernels.arrays import given, groups, no_fault, owned, place_of, runs_reference, through_numpy, vector
from curbench.kernels.contract import EPS_MODES, ESTIMATORS, GroupAdvantage, advantage_fault, require
from curbench.kernels.convention import rule_of
from curbench.kernels.extension import load


def group_advantage(
    reward: Any,
    group: Any,
    *,
    estimator: str = "grpo",
    convention: str = "curbench",
    ddof: int | None = None,
    eps: float | None = None,
    eps_mode: str | None = None,
    singleton: str | None = None,
    nan: str | None = None,
    std_reward: Any = None,
    success: Any = None,
    check: bool = True,
    backend: str = "auto",
    threads: int = 1,
) -> GroupAdvantage:
    """Advantage of every rollout within its group, and the statistics of every group, in one pass.

    reward     f32[R] or f64[R], finite
    group      int G when all groups have G rollouts; offsets i64[B+1], when group b is offset[b] to offset[b+1]; or
               ``group_by_id(id)`` when rollouts carry ids, such as uuids, in any order
    estimator  "grpo": (r - mean) / std; "dr_grpo": r - mean; "rloo": r - mean of the other rewards; "grpo_batch":
               (r - mean) / std of the batch; "rloo_std": r - mean of the others, over the std of the others
    convention whose epsilon, singletons and NaN: "curbench", "verl", "verl_vectorized", "trl", "openrlhf", "nemo_rl",
               "gspo" or "dapo" (see ``curbench.kernels.convention``). The next five, when given, replace its choice
    ddof       0 or 1: the variance divides by n - ddof
    eps_mode   "add": over (std + eps); "floor_variance": over (sqrt(max(var, eps)) + eps); "unless_zero": as "add",
               but r - mean is not divided by a std of 0
    singleton  of a group of one: "zero": advantage 0; "raw": mean 0 and std 1; "error": it is refused
    nan        a NaN reward: "error": it is refused; "skip": it does not count, and has advantage 0. A group of nothing
               else has n = 0, a mean of NaN and is degenerate
    std_reward f32[R] or f64[R] like ``reward``, what the standard deviation is taken of instead; or None
    success    bool[R] or None, exact correctness, counted per group
    check      read the result of the checks back and raise; on CUDA this waits for the device. With False a wrong
               reward gives a wrong advantage, and groups with wrong offsets are left unwritten
    Returns    GroupAdvantage; statistics in float64. A group of equal rewards has advantage exactly 0, unless it is a
               "raw" group of one
    Raises     ValueError if an argument breaks its rule; RuntimeError if the back-end is absent.
    Source     GRPO: Shao et al. 2024 (2402.03300); Dr. GRPO: Liu et al. 2025 (2503.20783); RLOO: Ahmadian et al. 2024
               (2402.14740); std of the batch and of the others: the trainers of TRL and NeMo-RL.

    >>> group_advantage([0.0, 1.0, 1.0, 1.0], 2, estimator="rloo").advantage
    array([-1.,  1.,  0.,  0.])
    """
    place = place_of(reward)
    rule = rule_of(convention, estimator, ddof, eps, eps_mode, singleton, nan)
    on_reference = runs_reference(backend, place, threads)
    array = owned(place, "reward", reward, 1)
    dtype = place.dtype(array)
    require(dtype in ("float32", "float64"), f"reward must be float32 or float64; got {dtype}")
    reward = place.contiguous(array, dtype)
    slots = len(reward)
    offset, order, size, count = groups(place, group, slots)
    if std_reward is not None:
        divided = estimator in ("grpo", "grpo_batch", "rloo_std")
        require(divided, f"std_reward has no use in {estimator}, which divides by no standard deviation")
        defined = rule.eps > 0.0 or rule.eps_mode == "unless_zero"
        require(defined, "with std_reward, eps must be positive or eps_mode 'unless_zero', since it can be flat")
        std_reward = owned(place, "std_reward", std_reward, 1)
        got = place.dtype(std_reward)
        require(got == dtype, f"std_reward must be {dtype}, as reward is; got {got}")
        require(len(std_reward) == slots, f"std_reward must have {slots} entries; got {len(std_reward)}")
        std_reward = place.contiguous(std_reward, dtype)
    if success is not None:
        success = vector(place, "success", success, "uint8", slots)
    if on_reference:
        options = {"estimator": estimator, "convention": convention, **rule._asdict()}
        options |= {"std_reward": std_reward, "success": success}
        return through_numpy(place, reference.group_advantage, reward, given(place, offset, order, size), **options)

    result = GroupAdvantage(
        advantage=place.empty(slots, dtype),
        n=place.empty(count, "int64"),
        mean=place.empty(count, "float64"),
        var=place.empty(count, "float64"),
        degenerate=place.empty(count, "bool"),
        abs_advantage=place.empty(count, "float64"),
        success=None if success is None else place.empty(count, "int64"),
    )
    code, eps_code = ESTIMATORS.index(estimator), EPS_MODES.index(rule.eps_mode)
    extension = load()
    need = extension.group_advantage_workspace(code, count)
    workspace = place.empty(need, "float64") if need else None
    fault = no_fault(place, 5)
    at = place.address
    with place.guard():
        extension.group_advantage(
            *(at(reward), dtype == "float64", at(std_reward), at(offset), at(order), size, count, slots),
            *(code, rule.ddof, rule.eps, eps_code, rule.singleton == "raw", rule.nan == "skip", at(success)),
            *(at(field) for field in result),
            *(at(workspace), at(fault), place.where(threads)),
        )
    if check:
        advantage_fault(fault.tolist(), reward, std_reward, rule.singleton)
    return result
