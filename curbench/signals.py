"""Signals: estimators of the utility of having selected a problem, one number per group.

A signal sees the rollouts, their rewards, the group statistics and the actor's report; it never sees an answer or a
latent mean. ``SIGNALS`` maps the name that a run records to the function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from curbench import kernels
from curbench.types import Array, GroupStats, Reward, Rollouts, UpdateReport

Signal = Callable[[Rollouts, Reward, GroupStats, UpdateReport], Array]


def mean_reward(rollouts: Rollouts, reward: Reward, stats: GroupStats, report: UpdateReport) -> Array:
    """f64[B], the mean reward of each group: in the bandit simulator the reward of an arm is its utility."""
    return stats.mean


def mean_abs_advantage(rollouts: Rollouts, reward: Reward, stats: GroupStats, report: UpdateReport) -> Array:
    """f64[B], mean |advantage| of each group under the estimator of the run.

    Source  the learnability signal of SEC (Chen et al. 2025, 2505.14970) and DUMP (Wang et al. 2025, 2504.09710).
    """
    return stats.abs_advantage


def pass_rate(rollouts: Rollouts, reward: Reward, stats: GroupStats, report: UpdateReport) -> Array:
    """f64[B], share of successes in each group, whatever the scale of the reward."""
    return stats.success / np.maximum(stats.n, 1)


def success_variance(rollouts: Rollouts, reward: Reward, stats: GroupStats, report: UpdateReport) -> Array:
    """f64[B], k (G - k) / (G (G - 1)): unbiased for p (1 - p) of the pass rate p; 0 for a single rollout.

    Source  learnability of SFL (Rutherford et al. 2024, 2408.15099), with the finite-sample correction.
    """
    n, k = stats.n, stats.success
    return k * (n - k) / np.maximum(n * (n - 1), 1)


def policy_improvement(
    rollouts: Rollouts,
    reward: Reward,
    stats: GroupStats,
    report: UpdateReport,
    *,
    ratio: str = "sequence_mean",
    advantage: str = "dr_grpo",
) -> Array:
    """f64[B], mean over a group of (rho - 1) A: the change of expected reward that the update made on that problem.

    ratio      "sequence_mean" (exp of the mean log-ratio, as released), "sequence" (likelihood ratio, clipped at 10) or
               "token_mean"
    advantage  "dr_grpo" (centred) or "rloo" (leave-one-out) estimate a change of expected reward; "grpo" (standardised)
               divides it by the group's standard deviation
    Raises     ValueError if the actor cannot report new log-probabilities.
    Source     performance-difference identity; Gu et al. 2026 (2602.20532) section 3.1. In-sample, hence optimistic:
               the ratio was raised because these very rollouts had a positive advantage.
    """
    value = kernels.group_advantage(reward.reward, rollouts.offset, estimator=advantage).advantage
    return _improvement(rollouts, report, value, slice(None), rollouts.offset, ratio)


class CrossFit:
    """Policy improvement on rollouts that the update did not see: half of every group trains, the other half measures.

    u = mean over the measuring rollouts of (rho - 1) (r - mean reward of the training half). The update depends on the
    training half only (its advantages are relative to that half, see ``trains_on``), so with the exact ratio
    ("sequence", up to its clip) u is unbiased for the change of expected reward, where the in-sample utility is
    optimistic. The price is half of the training signal: a group needs at least 4 rollouts, and all selections cost
    the same as before. The halves swap at every step. 0 for a group without a measuring or a training rollout.
    """

    def __init__(self, ratio: str = "sequence_mean") -> None:
        self.ratio = ratio

    def trains_on(self, rollouts: Rollouts) -> Array:
        """bool[R], which rollouts train: every other one of a group."""
        size = np.diff(rollouts.offset)
        place = np.arange(rollouts.offset[-1]) - np.repeat(rollouts.offset[:-1], size)
        return (place + rollouts.selection.step) % 2 == 0

    def __call__(self, rollouts: Rollouts, reward: Reward, stats: GroupStats, report: UpdateReport) -> Array:
        trains, size, first = self.trains_on(rollouts), np.diff(rollouts.offset), rollouts.offset[:-1]
        count = np.add.reduceat(trains.astype(np.int64), first)
        base = np.add.reduceat(reward.reward * trains, first) / np.maximum(count, 1)
        value = reward.reward - np.repeat(base, size)
        measured = (count > 0) & (count < size)
        row = ~trains & np.repeat(measured, size)
        utility = np.zeros(size.size)
        if row.any():
            offset = np.concatenate([[0], np.cumsum((size - count)[measured])])
            utility[measured] = _improvement(rollouts, report, value, row, offset, self.ratio)
        return utility


def _improvement(rollouts: Rollouts, report: UpdateReport, value: Array, row: Any, offset: Array, ratio: str) -> Array:
    """f64[B'], mean of (rho - 1) value over the groups ``offset`` of the rollouts ``row``."""
    if report.new_logprob is None:
        raise ValueError("the signal policy_improvement needs an actor that reports new log-probabilities")
    asked = np.zeros(value.size, bool)
    asked[row] = True
    asked &= value != 0  # what is multiplied by zero need not be run
    return kernels.policy_improvement(
        report.new_logprob(asked)[row],
        rollouts.logprob[row],  # type: ignore[attr-defined]  # rollouts of a language model carry them
        value[row],
        offset,
        length=rollouts.length[row].astype(np.int64),
        ratio=ratio,
        ratio_clip=10.0 if ratio == "sequence" else None,
    ).utility


def target_alignment(rollouts: Rollouts, reward: Reward, stats: GroupStats, report: UpdateReport) -> Array:
    """f64[B], <g_b, v>: how the policy gradient of each group aligns with the gradient of the target.

    Raises  ValueError if the actor followed no target gradient: a curator has to ask for it (``Guidance.target``).
    """
    if report.alignment is None:
        raise ValueError("the signal target_alignment needs a curator that states a target, such as target_aligned")
    return report.alignment


SIGNALS: dict[str, Signal] = {
    "mean_reward": mean_reward,
    "mean_abs_advantage": mean_abs_advantage,
    "pass_rate": pass_rate,
    "success_variance": success_variance,
    "policy_improvement": policy_improvement,
    "policy_improvement_loo": partial(policy_improvement, advantage="rloo"),
    "policy_improvement_standardised": partial(policy_improvement, advantage="grpo"),
    "policy_improvement_sequence": partial(policy_improvement, ratio="sequence"),
    "policy_improvement_token": partial(policy_improvement, ratio="token_mean"),
    "policy_improvement_cross_fit": CrossFit(),
    "policy_improvement_cross_fit_sequence": CrossFit(ratio="sequence"),
    "target_alignment": target_alignment,
}
