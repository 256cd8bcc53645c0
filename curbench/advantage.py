"""From rewards to advantages and group statistics, in one pass over the groups."""

from __future__ import annotations

import numpy as np

from curbench import kernels
from curbench.types import Array, GroupStats, Reward, Rollouts

ESTIMATORS = ("grpo", "dr_grpo", "rloo")


def group_advantage(
    rollouts: Rollouts, reward: Reward, *, estimator: str = "grpo", among: Array | None = None
) -> tuple[Array, GroupStats]:
    """The advantage f64[R] of every rollout and the statistics [B] of every group.

    rollouts   gives the groups (offset i64[B+1]) and the lengths i32[R]
    reward     reward f64[R] and success bool[R]
    estimator  "grpo" (r - mean) / (std + 1e-6); "dr_grpo" r - mean; "rloo" r - mean of the other rollouts
    among      bool[R]: advantages of these rollouts among themselves, and 0 for the others; None takes all. The
               statistics are always those of whole groups
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
    if among is None:
        return result.advantage, stats
    advantage, count = np.zeros_like(result.advantage), np.add.reduceat(among.astype(np.int64), offset[:-1])
    part = np.concatenate([[0], np.cumsum(count[count > 0])])
    advantage[among] = kernels.group_advantage(reward.reward[among], part, estimator=estimator).advantage
    return advantage, stats
