"""Policy-gradient losses with clipped ratios: GRPO, Dr. GRPO, GSPO, DAPO and RLOO are settings of the same functions.

The loss is always -sum(weight * (surrogate - kl * divergence)) over tokens. ``surrogate`` knows the ratio and the clip,
``token_weight`` the aggregation. Because the weights are fixed before the first forward pass, a batch may be split into
any micro-batches, and their gradients add up to that of the whole. Which settings make up a method:
``settings.PRESETS``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RATIOS = ("token", "sequence", "likelihood")
AGGREGATIONS = ("token_mean", "sequence_mean", "constant")
KL_ESTIMATORS = ("k1", "k2", "k3")


@dataclass(frozen=True)
class Surrogate:
    """The clipped objective of every token, and what is worth knowing about its ratio; all f32[R, L], 0 off the mask.

    value      min(ratio * A, clip(ratio) * A)
    ratio      pi_new / pi_old, of the token or of its whole sequence; gradients flow through it
    clipped    1 where the clip binds, so that the token has no gradient
    log_ratio  log pi_new - log pi_old of the token
    """

    value: Tensor
    ratio: Tensor
    clipped: Tensor
    log_ratio: Tensor


def length_mask(length: Tensor, width: int) -> Tensor:
    """f32[R, width], 1 on the first ``length`` places of each row."""
    return (torch.arange(width, device=length.device) < length[:, None]).float()


def token_weight(length: Tensor, width: int, aggregation: str, limit: int, weight: Tensor | None = None) -> Tensor:
    """f32[R, width], the weight of every token in the loss of these R rollouts.

    length       i64[R]
    aggregation  "token_mean" 1 / sum(length); "sequence_mean" 1 / (R length_i); "constant" 1 / (R limit)
    limit        largest number of new tokens, the constant of Dr. GRPO
    weight       f32[R, width] or None, factors of the tokens' terms. A token of weight 0 leaves the normaliser as well,
                 as if it had not been generated, and so does a rollout of such tokens
    Raises       ValueError for an unknown aggregation.
    Source       Yu et al. 2025 (2503.14476) eq. 12; Shao et al. 2024 (2402.03300) eq. 3; Liu et al. 2025 (2503.20783).

    >>> token_weight(torch.tensor([1, 3]), 3, "token_mean", 8).tolist()
    [[0.25, 0.0, 0.0], [0.25, 0.25, 0.25]]
    """
    term = mask = length_mask(length, width)
    if weight is not None:
        mask = mask * (weight != 0)
        term = mask * weight
    count = mask.sum(1, keepdim=True)
    rows = (count > 0).sum()
    if aggregation == "token_mean":
        return term / count.sum().clamp(min=1)
    if aggregation == "sequence_mean":
        return term / (count * rows).clamp(min=1)
    if aggregation == "constant":
        return term / (limit * rows).clamp(min=1)
    raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}; got {aggregation!r}")


def surrogate(
    logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    length: Tensor,
    *,
    ratio: str = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Surrogate:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) for every token; maximised by the update.

    logprob, old_logprob  f32[R, L], of the policy being trained and of the one that sampled
    advantage             f32[R]
    length                i64[R], tokens of each rollout; values beyond it are ignored, whatever they are
    ratio                 "token": rho_t = pi_new / pi_old of the token; "sequence": exp(mean_t log rho_t) and
                          "likelihood": exp(sum_t log rho_t), the same for every token of a rollout
    Raises                ValueError for an unknown ratio.
    Source                Schulman et al. 2017 (1707.06347) eq. 7; sequence ratio: Zheng et al. 2025 (2507.18071) eq. 7.

    With "likelihood", "sequence_mean" and no clip in reach the gradient is that of mean_i A_i log pi(y_i): REINFORCE.

    >>> old = torch.log(torch.tensor([[0.5, 0.5]]))
    >>> new = torch.log(torch.tensor([[0.6, 0.9]]))
    >>> surrogate(new, old, torch.tensor([2.0]), torch.tensor([2])).value  # ratios 1.2 and 1.8, the second clipped
    tensor([[2.4000, 2.4000]])
    """
    mask = length_mask(length, logprob.shape[1])
    log_ratio = torch.where(mask > 0, logprob - old_logprob, 0.0)
    if ratio == "token":
        rho = log_ratio.exp()
    elif ratio == "sequence":
        rho = (log_ratio.sum(1) / length).exp()[:, None].expand_as(log_ratio)
    elif ratio == "likelihood":
        rho = log_ratio.sum(1).exp()[:, None].expand_as(log_ratio)
    else:
        raise ValueError(f"ratio must be one of {', '.join(RATIOS)}; got {ratio!r}")
    gain = rho * advantage[:, None]
    bounded = rho.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage[:, None]
    clipped = (bounded < gain).float() * mask
    return Surrogate(torch.minimum(gain, bounded) * mask, rho * mask, clipped, log_ratio.detach())


def divergence(logprob: Tensor, reference: Tensor, length: Tensor, estimator: str = "k3") -> Tensor:
    """f32[R, L], an estimate of KL(pi | pi_ref) from every sampled token, 0 off the mask.

    With d = log pi - log pi_ref of the token, sampled from pi:
        k1  d                   unbiased; as a loss its gradient is 0 in expectation
        k2  d^2 / 2             biased, never negative; as a loss its gradient is that of the divergence
        k3  exp(-d) - 1 + d     unbiased, never negative; as a loss its gradient is that of KL(pi_ref | pi)
    Multiplied by the ratio pi / pi_old, k1 and k3 have the divergence's own gradient, whoever sampled.

    logprob, reference  f32[R, L], under the policy being trained and the reference
    length              i64[R], tokens of each rollout; values beyond it are ignored, whatever they are
    Raises              ValueError for an unknown estimator.
    Source              Schulman 2020, "Approximating KL Divergence"; k3: Shao et al. 2024 (2402.03300) eq. 4.

    >>> divergence(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), torch.tensor([2]), "k2").tolist()
    [[0.0, 0.5]]
    """
    mask = length_mask(length, logprob.shape[1])
    d = torch.where(mask > 0, logprob - reference, 0.0)
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        return torch.expm1(-d) + d
    raise ValueError(f"kl_estimator must be one of {', '.join(KL_ESTIMATORS)}; got {estimator!r}")
