"""The ops as torch operators: for ``torch.compile``, which sees one node and no graph break, and for gradients.

Importing this module registers ``torch.ops.curbench.*``; the functions here have the signatures of those in
``curbench.kernels``, without a back-end, and take tensors only. A call costs some microseconds more than there.

``policy_improvement`` has gradients. The others have none: policy gradients hold advantages fixed (so rewards need no
gradient), draws are not differentiable, and a mirror step is the update itself. Asking for one is an error of torch.
"""

import math
from typing import Any

import torch
from torch import Tensor

from curbench import kernels
from curbench.kernels.contract import BankDraw, GroupAdvantage, Grouping, PolicyImprovement, clip_bounds, group_size

Group = tuple[Tensor | None, Tensor | None, int]


def _parts(group: Any, slots: int) -> Group:
    """(offsets or None, order or None, group size or 0), since operators take no unions."""
    if isinstance(group, Grouping):
        return group.offset, group.order, 0
    return (group, None, 0) if isinstance(group, Tensor) else (None, None, group_size(group, slots))


def _joined(offset: Tensor | None, order: Tensor | None, size: int) -> Any:
    return size if offset is None else offset if order is None else Grouping(offset, order, None)


def _count(offset: Tensor | None, size: int, slots: int) -> int:
    return slots // size if offset is None else offset.shape[0] - 1


@torch.library.custom_op("curbench::group_advantage", mutates_args=())
def _group_advantage(
    reward: Tensor,
    offset: Tensor | None,
    order: Tensor | None,
    size: int,
    estimator: str,
    convention: str,
    ddof: int | None,
    eps: float | None,
    eps_mode: str | None,
    singleton: str | None,
    nan: str | None,
    std_reward: Tensor | None,
    success: Tensor | None,
    check: bool,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rule: dict[str, Any] = {"estimator": estimator, "convention": convention, "ddof": ddof, "eps": eps}
    rule |= {"eps_mode": eps_mode, "singleton": singleton, "nan": nan, "std_reward": std_reward, "success": success}
    group = _joined(offset, order, size)
    result = kernels.group_advantage(reward, group, **rule, check=check, threads=threads)
    return *result[:6], result.n.new_empty(0) if success is None else result.success


@_group_advantage.register_fake
def _(reward, offset, order, size, *rule):
    success = rule[8]
    groups = _count(offset, size, reward.shape[0])
    n = reward.new_empty(groups, dtype=torch.int64)
    mean, var, spread = (reward.new_empty(groups, dtype=torch.float64) for _ in range(3))
    degenerate = reward.new_empty(groups, dtype=torch.bool)
    counted = n.new_empty(0 if success is None else groups)
    return torch.empty_like(reward, memory_format=torch.contiguous_format), n, mean, var, degenerate, spread, counted


def group_advantage(
    reward: Tensor,
    group: Any,
    *,
    estimator: str = "grpo",
    convention: str = "curbench",
    ddof: int | None = None,
    eps: float | None = None,
    eps_mode: str | None = None,
    singleton: str | None = None,
    nan: str | None = None,
    std_reward: Tensor | None = None,
    success: Tensor | None = None,
    check: bool = True,
    threads: int = 1,
) -> GroupAdvantage:
    """See ``curbench.kernels.group_advantage``.

    >>> group_advantage(torch.tensor([0.0, 1.0]), 2, estimator="rloo").advantage
    tensor([-1.,  1.])
    """
    rule = (estimator, convention, ddof, eps, eps_mode, singleton, nan, std_reward, success, check, threads)
    *fields, counted = _group_advantage(reward, *_parts(group, reward.shape[0]), *rule)
    return GroupAdvantage._make([*fields, None if success is None else counted])


@torch.library.custom_op("curbench::policy_improvement", mutates_args=())
def _policy_improvement(
    new_logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    offset: Tensor | None,
    order: Tensor | None,
    size: int,
    mask: Tensor | None,
    length: Tensor | None,
    cu_seqlens: Tensor | None,
    ratio: str,
    clip_low: float,
    clip_high: float,
    form: str,
    check: bool,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    rows: dict[str, Any] = {"mask": mask, "length": length, "cu_seqlens": cu_seqlens}
    one_sided = None if clip_high == math.inf else clip_high
    clip = one_sided if clip_low == -math.inf else (clip_low, clip_high)
    rule: dict[str, Any] = {"ratio": ratio, "ratio_clip": clip, "form": form, "check": check, "threads": threads}
    group = _joined(offset, order, size)
    return tuple(kernels.policy_improvement(new_logprob, old_logprob, advantage, group, **rows, **rule))


def _rows(logprob: Tensor, cu_seqlens: Tensor | None) -> int:
    return logprob.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


@_policy_improvement.register_fake
def _(new_logprob, old_logprob, advantage, offset, order, size, mask, length, cu_seqlens, *rule):
    rows = _rows(new_logprob, cu_seqlens)
    utility = new_logprob.new_empty(_count(offset, size, rows), dtype=torch.float64)
    return utility, utility.new_empty(rows), new_logprob.new_empty(rows, dtype=torch.int64)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    *arrays, size, mask, length, cu_seqlens, kind, low, high, form, _, _ = inputs
    _, ratio, tokens = output
    ctx.save_for_backward(*arrays, mask, length, cu_seqlens, ratio, tokens)
    ctx.size, ctx.kind, ctx.low, ctx.high, ctx.form, ctx.inputs = size, kind, low, high, form, len(inputs)


def _share(of_group: Tensor, offset: Tensor | None, order: Tensor | None, size: int, slots: int) -> Tensor:
    """f64[R], for every rollout what its group holds, divided by the rollouts of the group."""
    if offset is None:
        return (of_group / size).repeat_interleave(size)
    n = offset.diff()
    place = torch.repeat_interleave(of_group / n, n, output_size=slots)
    return place if order is None else torch.empty_like(place).scatter_(0, order, place)


def _backward(ctx: Any, for_utility: Tensor, for_ratio: Tensor, _: Tensor) -> tuple:
    """With U_b = mean_i (r_i - 1) A_i: dU / dA_i = (r_i - 1) / n_b, or r_i / n_b of the surrogate, and dU / dr_i =
    A_i / n_b. For a token that counts dr_i / dnew_t = r_i / L_i (sequence_mean), r_i (sequence), rho_t / L_i
    (token_mean); 0 where r_i is at a clip.
    """
    new_logprob, old_logprob, advantage, offset, order, mask, length, cu_seqlens, ratio, tokens = ctx.saved_tensors
    share = _share(for_utility, offset, order, ctx.size, ratio.shape[0])
    unchanged = 1.0 if ctx.form == "gain" else 0.0
    for_advantage = (share * (ratio - unchanged)).to(advantage.dtype)

    slope = (share * advantage + for_ratio) * ((ctx.low < ratio) & (ratio < ctx.high))
    if ctx.kind != "token_mean":
        slope = slope * ratio
    if ctx.kind != "sequence":
        slope = slope / tokens.clamp_min(1)
    slope = slope.float()
    if cu_seqlens is None:
        per_token = slope[:, None]
    else:
        per_token = torch.repeat_interleave(slope, cu_seqlens.diff(), output_size=new_logprob.shape[0])
    if ctx.kind == "token_mean":
        per_token = per_token * (new_logprob.float() - old_logprob.float()).exp()
    if mask is not None:
        per_token = torch.where(mask != 0, per_token, 0.0)  # padding may be NaN
    elif length is not None:
        counts = torch.arange(new_logprob.shape[1], device=ratio.device) < length[:, None]
        per_token = torch.where(counts, per_token, 0.0)
    return (
        per_token.to(new_logprob.dtype),
        (-per_token).to(old_logprob.dtype),
        for_advantage,
        *[None] * (ctx.inputs - 3),
    )


torch.library.register_autograd("curbench::policy_improvement", _backward, setup_context=_save)


def policy_improvement(
    new_logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    group: Any,
    *,
    mask: Tensor | None = None,
    length: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    ratio: str = "sequence_mean",
    ratio_clip: float | tuple[float, float] | None = None,
    form: str = "gain",
    check: bool = True,
    threads: int = 1,
) -> PolicyImprovement:
    """See ``curbench.kernels.policy_improvement``. Utility and ratio have gradients for both log-probabilities and the
    advantage; a ratio at a clip has none.

    >>> new = torch.zeros(1, 2, requires_grad=True)
    >>> policy_improvement(new, torch.zeros(1, 2), torch.tensor([4.0]), 1, length=torch.tensor([2])).utility.backward()
    >>> new.grad
    tensor([[2., 2.]])
    """
    parts, clip = _parts(group, _rows(new_logprob, cu_seqlens)), clip_bounds(ratio_clip)
    rule = (mask, length, cu_seqlens, ratio, *clip, form, check, threads)
    return PolicyImprovement(*_policy_improvement(new_logprob, old_logprob, advantage, *parts, *rule))


@torch.library.custom_op("curbench::mirror_step", mutates_args=())
def _mirror_step(
    probability: Tensor, arm: Tensor, loss: Tensor, eta: float, floor: float, share: float, threads: int
) -> Tensor:
    return kernels.mirror_step(probability, arm, loss=loss, eta=eta, floor=floor, share=share, threads=threads)


@_mirror_step.register_fake
def _(probability, arm, loss, eta, floor, share, threads):
    return probability.new_empty(probability.shape[0], dtype=torch.float64)


def mirror_step(
    probability: Tensor,
    arm: Tensor,
    *,
    loss: Tensor,
    eta: float,
    floor: float = 0.0,
    share: float = 0.0,
    threads: int = 1,
) -> Tensor:
    """See ``curbench.kernels.mirror_step``.

    >>> mirror_step(torch.tensor([1.0, 3.0]), torch.tensor([0]), loss=torch.zeros(1), eta=1.0)
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    return _mirror_step(probability, arm, loss, eta, floor, share, threads)


def _signed(seed: int) -> int:
    """The seed as torch stores whole numbers; ``% 2**64`` undoes it."""
    return seed - 2**64 if seed >= 2**63 else seed


Drawn = tuple[Tensor, Tensor, Tensor, Tensor]


def _drawn(draw: BankDraw) -> Drawn:
    totals = draw.propensity.new_tensor([draw.log_normaliser, draw.mass, draw.log_time])
    return draw.problem, draw.propensity, draw.probability, totals


def _fake_drawn(like: Tensor, count: int) -> Drawn:
    number = like.new_empty(count, dtype=torch.float64)
    return like.new_empty(count, dtype=torch.int64), number, torch.empty_like(number), number.new_empty(3)


@torch.library.custom_op("curbench::score_bank", mutates_args=())
def _score_bank(
    feature: Tensor,
    weight: Tensor,
    count: int,
    bias: float,
    layer: Tensor | None,
    layer_bias: Tensor | None,
    activation: str,
    feature_scale: Tensor | None,
    row_scale: Tensor | None,
    temperature: float,
    prior: Tensor | None,
    candidate: Tensor | None,
    design: str,
    floor: float,
    nucleus: float,
    seed: int,
    step: int,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    head: dict[str, Any] = {"bias": bias, "layer": layer, "layer_bias": layer_bias, "activation": activation}
    head |= {"feature_scale": feature_scale, "row_scale": row_scale, "prior": prior}
    options: dict[str, Any] = {"design": design, "floor": floor, "nucleus": nucleus, "temperature": temperature}
    options |= {"candidate": candidate, "seed": seed % 2**64, "step": step, "threads": threads}
    draw = kernels.score_bank(feature, weight, count=count, **head, **options)
    return *_drawn(draw), draw.score


@_score_bank.register_fake
def _(feature, weight, count, *rest):
    candidate = rest[8]
    rows = feature.shape[0] if candidate is None else candidate.shape[0]
    return *_fake_drawn(feature, count), feature.new_empty(rows, dtype=torch.float32)


def score_bank(
    feature: Tensor,
    weight: Tensor,
    *,
    count: int,
    bias: float = 0.0,
    layer: Tensor | None = None,
    layer_bias: Tensor | None = None,
    activation: str = "gelu",
    feature_scale: Tensor | None = None,
    row_scale: Tensor | None = None,
    temperature: float = 1.0,
    prior: Tensor | None = None,
    candidate: Tensor | None = None,
    design: str = "iid",
    floor: float = 0.0,
    nucleus: float = 1.0,
    seed: int,
    step: int = 0,
    threads: int = 1,
) -> BankDraw:
    """See ``curbench.kernels.score_bank``; the last three fields are tensors of one number here.

    >>> score_bank(torch.zeros(4, 1), torch.zeros(1), count=4, design="systematic", seed=0).problem
    tensor([0, 1, 2, 3])
    """
    head = (count, bias, layer, layer_bias, activation, feature_scale, row_scale, temperature, prior, candidate)
    *drawn, totals, score = _score_bank(feature, weight, *head, design, floor, nucleus, _signed(seed), step, threads)
    return BankDraw._make([*drawn, score, *totals.unbind()])


@torch.library.custom_op("curbench::draw", mutates_args=())
def _draw(
    score: Tensor,
    count: int,
    design: str,
    floor: float,
    nucleus: float,
    candidate: Tensor | None,
    seed: int,
    step: int,
    threads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    options: dict[str, Any] = {"design": design, "floor": floor, "nucleus": nucleus, "candidate": candidate}
    return _drawn(kernels.draw(score, count=count, **options, seed=seed % 2**64, step=step, threads=threads))


@_draw.register_fake
def _(score, count, design, floor, nucleus, candidate, seed, step, threads):
    return _fake_drawn(score, count)


def draw(
    score: Tensor,
    *,
    count: int,
    design: str = "iid",
    floor: float = 0.0,
    nucleus: float = 1.0,
    candidate: Tensor | None = None,
    seed: int,
    step: int = 0,
    threads: int = 1,
) -> BankDraw:
    """See ``curbench.kernels.draw``; the last three fields are tensors of one number here.

    >>> draw(torch.tensor([0.0, -torch.inf, 0.0]), count=2, design="systematic", seed=0).problem
    tensor([0, 2])
    """
    *drawn, totals = _draw(score, count, design, floor, nucleus, candidate, _signed(seed), step, threads)
    return BankDraw._make([*drawn, score.float(), *totals.unbind()])
