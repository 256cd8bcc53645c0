"""From rewards to advantages and group statistics, in one pass over the groups."""

from __future__ import annotations

import numpy as np

from curbench import kernels
from curbench.kernels.contract import ESTIMATORS as UNWEIGHTED
from curbench.types import Array, GroupStats, Reward, Rollouts

ESTIMATORS = (*UNWEIGHTED, "opo", "oblr")


def group_advantage(
    rollouts: Rollouts, reward: Reward, *, estimator: str = "grpo", among: Array | None = None
) -> tuple[Array, GroupStats]:
    """The advantage f64[R] of every rollout and the statistics [B] of every group.

    rollouts   gives the groups (offset i64[B+1]) and the lengths i32[R]
    reward     reward f64[R] and success bool[R]
    estimator  "grpo" (r - mean) / (std + 1e-6); "dr_grpo" r - mean; "rloo" r - mean of the other rollouts;
               "grpo_batch" (r - mean) / std of the batch; "rloo_std" r - mean of the others, over their std;
               "opo" r - mean weighted by length; "oblr" r - mean of the others weighted by ``rollouts.gradient_sq``
    among      bool[R]: advantages of these rollouts among themselves, and 0 for the others; None takes all. The
               statistics are always those of whole groups
    Raises     ValueError for an unknown estimator, a NaN reward, a shape that does not fit the groups, or "oblr" with
               rollouts that carry no gradient norms.
    Source     Shao et al. 2024 (2402.03300) eq. 3; Liu et al. 2025 (2503.20783) eq. 3; Ahmadian et al. 2024
               (2402.14740) eq. 6; Hao et al. 2025 (2505.23585); OBLR-PO (2511.23310), see ``weighted_baseline``.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}; choose from {', '.join(ESTIMATORS)}")
    if estimator == "oblr" and rollouts.gradient_sq is None:
        raise ValueError("the estimator oblr weights by gradient norms, which these rollouts do not carry; take opo")
    offset = rollouts.offset
    weight = {"opo": rollouts.length, "oblr": rollouts.gradient_sq}.get(estimator)

    def advantages(value: Array, success: Array | None, weight: Array | None, part: Array) -> kernels.GroupAdvantage:
        if weight is None:
            return kernels.group_advantage(value, part, estimator=estimator, success=success)
        centred = kernels.group_advantage(value, part, estimator="dr_grpo", success=success)
        # Exactly 0 where all rewards are equal, and so is any weighted mean of zeros.
        other = weighted_baseline(centred.advantage, weight, part, leave_one_out=estimator == "oblr")
        advantage = centred.advantage - other
        spread = np.add.reduceat(np.abs(advantage), part[:-1]) / centred.n
        return centred._replace(advantage=advantage, abs_advantage=spread)

    result = advantages(reward.reward, reward.success, weight, offset)
    stats = GroupStats(
        n=result.n,
        success=result.success,
        mean=result.mean,
        var=result.var,
        abs_advantage=result.abs_advantage,
        degenerate=result.degenerate,
        length=np.add.reduceat(rollouts.length, offset[:-1]) / result.n,
    )
    if among is None:
        return result.advantage, stats
    advantage, count = np.zeros_like(result.advantage), np.add.reduceat(among.astype(np.int64), offset[:-1])
    part = np.concatenate([[0], np.cumsum(count[count > 0])])
    kept = None if weight is None else weight[among]
    advantage[among] = advantages(reward.reward[among], None, kept, part).advantage
    return advantage, stats


def weighted_baseline(reward: Array, weight: Array, offset: Array, *, leave_one_out: bool) -> Array:
    """The baseline f64[R] of every rollout: the mean of its group's rewards, weighted by ``weight`` >= 0, f64[R].

        b = sum_j w_j r_j / sum_j w_j,  over the group, or over j != i

    With w = |grad log pi|^2 it minimises the variance of the policy gradient; leaving out i keeps that unbiased. Where
    the others weigh nothing it is their plain mean, and 0 without others.
    Source  elementary; the principle of OBLR-PO (2511.23310), whose own constants are UNVERIFIED. Lengths as weights:
            Hao et al. 2025 (2505.23585), for gradient norms that grow with the root of the length.

    >>> weighted_baseline(np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0, 3.0]), np.array([0, 3]), leave_one_out=True)
    array([0.  , 0.25, 0.5 ])
    """
    size = np.diff(offset)
    weight = np.asarray(weight, float)

    def others(value: Array) -> Array:
        total = np.repeat(np.add.reduceat(value, offset[:-1]), size)
        return total - value if leave_one_out else total

    mass, count = others(weight), others(np.ones_like(reward))
    # A difference that is all rounding says nothing about the weights of the others.
    weightless = mass <= 1e-9 * (mass + weight)
    plain = others(reward) / np.maximum(count, 1.0)
    return np.where(weightless, plain, others(weight * reward) / np.where(weightless, 1.0, mass))
