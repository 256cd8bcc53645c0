"""From rewards to advantages and group statistics, in one pass over the groups."""

from __future__ import annotations

import numpy as np

from curbench import kernels
from curbench.types import Array, GroupStats, Reward, Rollouts

ESTIMATORS = ("grpo", "dr_grpo", "rloo")


def group_advantage(rollouts: Rollouts, reward: Reward, *, estimator: str = "grpo") -> tuple[Array, GroupStats]:
    """The advantage f64[R] of every rollout and the statistics [B] of every group.

    rollouts   gives the groups (offset i64[B+1]) and the lengths i32[R]
    reward     reward f64[R] and success bool[R]
    estimator  "grpo" (r - mean) / (std + 1e-6); "dr_grpo" r - mean; "rloo" r - mean of the other rollouts
    Raises     ValueError for an unknown estimator, a NaN reward or a shape that does not fit the groups.
    Source     Shao et al. 2024 (2402.03300) eq. 3; Liu et al. 2025 (2503.20783) eq. 3; Ahmadian et al. 2024
               (2402.14740) eq. 6.
    """
    offset = rollouts.offset
    result = kernels.group_advantage(reward.reward, offset, estimator=estimator, success=reward.success)
    stats = GroupStats(
        n=result.n,
        success=result.success,
        mean=result.mean,
        var=result.var,
        abs_advantage=result.abs_advantage,
        degenerate=result.degenerate,
        length=np.add.reduceat(rollouts.length, offset[:-1]) / result.n,
    )
    return result.advantage, stats
