"""The ops in plain numpy and float64: slow, short, and what the compiled back-ends are tested against.

Same signatures as in ``curbench.kernels``, without the back-end. Algorithms differ on purpose where they can: sorting
instead of active sets, one prefix sum instead of blocks.
"""

import itertools
import math
from typing import Any

import numpy as np

from curbench.kernels import contract
from curbench.kernels.contract import NO_FAULT, ArmDraw, BankDraw, GroupAdvantage, Grouping, PolicyImprovement
from curbench.kernels.convention import rule_of


def first(bad: Any) -> int:
    """Index of the first true entry, or NO_FAULT."""
    return int(np.argmax(bad)) if np.any(bad) else NO_FAULT


def slots_of(group: Any, slots: int) -> list[Any]:
    """The slots of each group, of a group size, offsets or a Grouping; ValueError if they are not groups of slots."""
    if isinstance(group, int | np.integer):
        return list(np.arange(slots).reshape(-1, contract.group_size(group, slots)))
    offset, order = (group.offset, group.order) if isinstance(group, Grouping) else (group, None)
    offset = np.asarray(offset)
    bad = np.diff(offset) <= 0
    bad |= (offset[:-1] < 0) | (offset[1:] > slots)
    if len(bad):
        bad[0] |= offset[0] != 0
        bad[-1] |= offset[-1] != slots
    contract.group_fault(first(bad))
    places = [np.arange(i, j) if order is None else order[i:j] for i, j in itertools.pairwise(offset)]
    contract.order_fault(first([bool(((slot < 0) | (slot >= slots)).any()) for slot in places]))
    return places


def inverse_of(std: Any, eps: float, eps_mode: str) -> Any:
    """What an advantage is multiplied with instead of 1 / std."""
    if eps_mode == "unless_zero":
        return np.where(std > 0.0, 1.0 / np.where(std > 0.0, std + eps, 1.0), 1.0)
    return 1.0 / ((np.sqrt(np.maximum(std**2, eps)) if eps_mode == "floor_variance" else std) + eps)


def standard_deviation(x: Any, ddof: int) -> float:
    """0 for equal numbers, and where it is not defined; else of the differences from their mean."""
    if len(x) <= ddof or x.max() == x.min():
        return 0.0
    return math.sqrt(((x - x.mean()) ** 2).sum() / (len(x) - ddof))


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
) -> GroupAdvantage:
    """See ``curbench.kernels.group_advantage``.

    >>> group_advantage(np.array([0.0, 1.0, 5.0]), np.array([0, 2, 3]), estimator="dr_grpo").advantage
    array([-0.5,  0.5,  0. ])
    """
    rule = rule_of(convention, estimator, ddof, eps, eps_mode, singleton, nan)
    reward = np.asarray(reward)
    spread = reward if std_reward is None else np.asarray(std_reward)
    scored = ~np.isnan(reward) if rule.nan == "skip" else np.ones(len(reward), bool)
    slots = slots_of(group, len(reward))
    n = np.array([scored[slot].sum() for slot in slots], np.int64)
    fault = [first(scored & ~np.isfinite(reward)), NO_FAULT, first(n == 1), NO_FAULT, NO_FAULT]
    fault[4] = first(scored & ~np.isfinite(spread))
    contract.advantage_fault(fault, reward, spread, rule.singleton)

    def inverse(std: Any) -> Any:
        return inverse_of(std, rule.eps, rule.eps_mode)

    batch = inverse(standard_deviation(spread[scored].astype(np.float64), rule.ddof))
    advantage = np.zeros(len(reward))
    mean, var, abs_advantage = np.zeros((3, len(n)))
    degenerate = np.zeros(len(n), bool)
    for b, slot in enumerate(slots):
        slot = slot[scored[slot]]
        r, s = reward[slot].astype(np.float64), spread[slot].astype(np.float64)
        mean[b] = r.mean() if len(r) else np.nan
        degenerate[b] = len(r) == 0 or r.max() == r.min()
        raw = len(r) == 1 and rule.singleton == "raw"
        if degenerate[b] and not raw:
            continue
        var[b] = standard_deviation(r, rule.ddof) ** 2
        others = n[b] - 1 if n[b] > 1 else 1
        centred = r - (0.0 if raw else mean[b])
        alone = r - (0.0 if raw else (r.sum() - r) / others)
        std = 1.0 if raw else standard_deviation(s, rule.ddof)
        if estimator == "grpo":
            advantage[slot] = centred * inverse(std)
        elif estimator == "grpo_batch":
            advantage[slot] = centred * batch
        elif estimator == "dr_grpo":
            advantage[slot] = centred
        elif estimator == "rloo":
            advantage[slot] = alone
        else:
            advantage[slot] = alone * inverse(std if raw else deviation_of_others(s, rule.ddof))
        abs_advantage[b] = np.abs(advantage[slot]).mean()
    correct = None
    if success is not None:
        passed = np.asarray(success).astype(bool)
        correct = np.array([passed[slot].sum() for slot in slots], np.int64)
    return GroupAdvantage(advantage.astype(reward.dtype), n, mean, var, degenerate, abs_advantage, correct)


def deviation_of_others(x: Any, ddof: int) -> Any:
    return np.array([standard_deviation(np.delete(x, i), ddof) for i in range(len(x))])


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
) -> PolicyImprovement:
    """See ``curbench.kernels.policy_improvement``."""
    contract.improvement_options(mask, length, cu_seqlens)
    low, high = contract.clip_bounds(ratio_clip)
    contract.choice("ratio", ratio, contract.RATIOS)
    contract.choice("form", form, contract.FORMS)
    tokens = new_logprob.shape[-1]
    if cu_seqlens is not None:
        bound = np.asarray(cu_seqlens)
        bad = (np.diff(bound) < 0) | (bound[:-1] < 0) | (bound[1:] > tokens)
        if len(bad):
            bad[0] |= bound[0] != 0
            bad[-1] |= bound[-1] != tokens
        contract.improvement_fault([first(bad), *[NO_FAULT] * 4], None, cu_seqlens, None)
        rows: list[Any] = [slice(i, j) for i, j in itertools.pairwise(bound)]
    elif length is not None:
        length = np.asarray(length)
        wrong = first((length < 0) | (length > tokens))
        contract.improvement_fault([wrong, *[NO_FAULT] * 4], length, None, None)
        rows = [(r, slice(n)) for r, n in enumerate(length)]
    else:
        rows = list(range(len(new_logprob)))
    places = slots_of(group, len(rows))

    n, value = np.zeros(len(rows), np.int64), np.ones(len(rows))
    for r, row in enumerate(rows):
        new, old = new_logprob[row].astype(np.float64), old_logprob[row].astype(np.float64)
        if mask is not None:
            valid = np.asarray(mask)[row] != 0
            new, old = new[valid], old[valid]
        n[r] = len(new)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, by row
            if n[r] > 0 and ratio == "token_mean":
                value[r] = np.exp(new - old).mean()
            elif n[r] > 0:
                value[r] = np.exp((new - old).sum() / (n[r] if ratio == "sequence_mean" else 1))
    value = np.clip(value, low, high)
    contract.improvement_fault([NO_FAULT, first(~np.isfinite(value)), *[NO_FAULT] * 3], length, cu_seqlens, value)

    with np.errstate(over="ignore", invalid="ignore"):
        gain = (value - (1.0 if form == "gain" else 0.0)) * np.asarray(advantage, np.float64)
        utility = np.array([gain[slot].mean() for slot in places])
    bad_utility = first(~np.isfinite(utility))
    contract.improvement_fault([*[NO_FAULT] * 3, bad_utility, NO_FAULT], length, cu_seqlens, value)
    return PolicyImprovement(utility, value, n)


def uniforms(seed: int, stream: int, step: int, n: int) -> Any:
    from curbench import philox  # here, because numba takes long to import and only draws need it

    return np.array([philox.uniform(np.uint64(seed), stream, step, k) for k in range(n)])


def inclusion(q: Any, count: int, remedy: str = "") -> tuple[Any, Any]:
    """(pi = min(1, c q) f64[M] summing to ``count``, which are certain bool[M]), by sorting.

    >>> inclusion(np.array([0.8, 0.1, 0.1]), 2)[0]
    array([1. , 0.5, 0.5])
    """
    order = np.argsort(-q, kind="stable")
    ranked = q[order]
    rest = np.cumsum(ranked[::-1])[::-1]  # rest[k]: mass when the k largest are certain
    left = count - np.arange(len(q))
    k = 0
    while k < count and rest[k] > 0.0 and ranked[k] >= contract.CERTAIN * rest[k] / left[k]:
        k += 1
    if k < count and rest[k] <= 0.0:
        raise contract.unreachable(count, k, remedy=remedy)
    certain = np.zeros(len(q), bool)
    certain[order[:k]] = True
    scale = left[k] / rest[k] if k < count else 0.0
    return np.where(certain, 1.0, scale * q), certain


def systematic(q: Any, count: int, seed: int, step: int, remedy: str = "") -> tuple[Any, Any]:
    """(rows i64[count], their inclusion probability f64[count]): the certain ones, then equally spaced points."""
    from curbench import philox  # as in uniforms

    propensity, certain = inclusion(q, count, remedy)
    sure, rest = np.flatnonzero(certain), np.flatnonzero(~certain)
    left = count - len(sure)
    prefix = np.cumsum(q[rest])
    point = (uniforms(seed, philox.SYSTEMATIC, step, 1) + np.arange(left)) / max(left, 1)
    drawn = np.append(sure, rest[np.searchsorted(prefix, point * prefix[-1], side="right")] if left else [])
    drawn = drawn.astype(np.int64)
    return drawn, propensity[drawn]


def exponentials(seed: int, stream: int, step: int, row: Any) -> Any:
    """log e f64[M] of the rows i64[M] of a race, e ~ Exp(1) from 64 bits; see csrc/race.h.

    >>> exponentials(0, 24, 0, np.arange(3)).round(3)
    array([-0.145, -0.077,  0.472])
    """
    from curbench import philox  # as in uniforms

    index, word = (row // 64 * 16 + row % 16).astype(np.uint64), row // 16 % 4
    high, low = (
        np.take_along_axis(philox.words(np.uint64(seed), s, step, index), word[:, None], 1)[:, 0].astype(np.uint64)
        for s in (stream, stream + 1)
    )
    bits = high << np.uint64(32) | low
    late = bits >> np.uint64(63) == 1
    v = (bits.astype(np.float64) + 0.5) * 2.0**-64
    rest = ((~bits).astype(np.float64) + 0.5) * 2.0**-64  # 1 - v, exact where v is near 1
    with np.errstate(divide="ignore"):
        return np.log(np.where(late, -np.log(rest), -np.log1p(-np.minimum(v, 0.75))))


def exponential_race(
    score: Any, log_normaliser: float, *, row: Any, count: int, floor: float, seed: int, step: int
) -> tuple[Any, float]:
    """(positions i64[count] of the winners in order, log T): two races, one sort."""
    from curbench import philox  # as in uniforms

    with np.errstate(divide="ignore", invalid="ignore"):
        softmax = exponentials(seed, philox.RACE, step, row) - (score - log_normaliser + np.log1p(-floor))
        uniform = exponentials(seed, philox.FLOOR_RACE, step, row) - np.log(floor / len(row))
    log_time = np.minimum(softmax, uniform)
    order = np.argsort(log_time, kind="stable")
    arriving = int(np.isfinite(log_time).sum())
    if arriving < count:
        raise contract.unreachable(count, arriving, "race")
    return order[:count], float(log_time[order[count]]) if count < len(order) else math.inf


def kept_by_nucleus(p: Any, nucleus: float) -> Any:
    """bool[M], the largest entries of p, ties by row, up to the first where their mass reaches ``nucleus``.

    >>> kept_by_nucleus(np.array([0.2, 0.5, 0.2, 0.1]), 0.6)
    array([ True,  True, False, False])
    """
    order = np.argsort(-p, kind="stable")
    kept = np.zeros(len(p), bool)
    kept[order[: np.searchsorted(np.cumsum(p[order]), nucleus - 1e-13) + 1]] = True  # less the rounding of the sum
    return kept


def log_sum_exp(score: Any) -> float:
    return float(score.max() + np.log(np.exp(score - score.max()).sum()))


def activate(activation: str, x: Any) -> Any:
    """GELU f64, exact or its approximation by tanh.

    >>> activate("gelu", np.array([1.0])).round(6), activate("gelu_tanh", np.array([1.0])).round(6)
    (array([0.841345]), array([0.841192]))
    """
    if activation == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    from scipy.special import ndtr  # here, because only an MLP head needs it

    return x * ndtr(x)


def bank_score(feature: Any, weight: Any, row: Any, *, layer: Any, layer_bias: Any, activation: str, bias: float,
               row_scale: Any, temperature: float, prior: Any) -> Any:  # fmt: skip
    """f32[M], the scores of the rows i64[M]."""
    value = np.asarray(feature)[row].astype(np.float64)
    if row_scale is not None:
        value = value * np.asarray(row_scale, np.float64)[row][:, None]
    if layer is not None:
        value = activate(activation, value @ np.asarray(layer, np.float64).T + np.asarray(layer_bias, np.float64))
    with np.errstate(over="ignore", invalid="ignore"):  # for the caller to report, by problem
        score = (value @ np.asarray(weight, np.float64) + bias) / temperature
        return (score + (0.0 if prior is None else np.asarray(prior, np.float64)[row])).astype(np.float32)


def score_rows(
    feature: Any,
    weight: Any,
    *,
    bias: float = 0.0,
    layer: Any = None,
    layer_bias: Any = None,
    activation: str = "gelu",
    row_scale: Any = None,
    temperature: float = 1.0,
    prior: Any = None,
    candidate: Any = None,
    first_row: int = 0,
) -> Any:
    """f32[M], the scores of ``curbench.kernels.score_bank``; feature_scale is in the head."""
    row = np.arange(len(feature)) if candidate is None else np.asarray(candidate)
    contract.score_options(bias, temperature)
    contract.bank_fault([first((row < 0) | (row >= len(feature))), NO_FAULT], candidate, len(feature))
    head = {"layer": layer, "layer_bias": layer_bias, "activation": activation, "bias": bias, "row_scale": row_scale}
    score = bank_score(feature, weight, row, **head, temperature=temperature, prior=prior)
    contract.bank_fault([NO_FAULT, first(~np.isfinite(score))], candidate, len(feature), first_row)
    return score


def score_bank(
    feature: Any,
    weight: Any,
    *,
    count: int,
    candidate: Any = None,
    design: str = "iid",
    floor: float = 0.0,
    nucleus: float = 1.0,
    seed: int,
    step: int = 0,
    **head: Any,
) -> BankDraw:
    """See ``curbench.kernels.score_bank``; ``head`` is what ``score_rows`` takes."""
    contract.random_options(seed, step)
    row = np.arange(len(feature)) if candidate is None else np.asarray(candidate)
    contract.draw_options(len(row), count, design, floor, nucleus)
    score = score_rows(feature, weight, candidate=candidate, **head)
    options: dict[str, Any] = {"design": design, "floor": floor, "nucleus": nucleus, "seed": seed, "step": step}
    return draw(score, count=count, candidate=row, **options)


def draw(
    score: Any,
    *,
    count: int,
    design: str = "iid",
    floor: float = 0.0,
    nucleus: float = 1.0,
    candidate: Any = None,
    seed: int,
    step: int = 0,
) -> BankDraw:
    """See ``curbench.kernels.draw``.

    >>> draw(np.array([0.0, -np.inf, 0.0]), count=3, floor=0.5, design="systematic", seed=0).probability
    array([0.5, 0. , 0.5])
    """
    from curbench import philox  # as in uniforms

    contract.random_options(seed, step)
    row = np.arange(len(score)) if candidate is None else np.asarray(candidate)
    contract.draw_options(len(row), count, design, floor, nucleus)
    s = np.asarray(score, np.float32).astype(np.float64)
    if not np.isfinite(s.max()) or np.isnan(s).any():
        contract.score_fault(first(np.isnan(s) | (s == np.inf)), score)
    log_normaliser, mass, log_time = log_sum_exp(s), 1.0, math.inf
    if nucleus < 1.0:
        s = np.where(kept_by_nucleus(np.exp(s - log_normaliser), nucleus), s, -np.inf)
        whole, log_normaliser = log_normaliser, log_sum_exp(s)
        mass = math.exp(log_normaliser - whole)
    p = np.exp(s - log_normaliser)
    q = (1.0 - floor) * p + floor / len(row)
    if design == "iid":
        propensity = q
        prefix = np.cumsum(q)
        drawn = np.searchsorted(prefix, uniforms(seed, philox.DRAW, step, count) * prefix[-1], side="right")
        propensity = propensity[drawn]
    elif design == "systematic":
        drawn, propensity = systematic(q, count, seed, step)
    else:
        drawn, log_time = exponential_race(s, log_normaliser, row=row, count=count, floor=floor, seed=seed, step=step)
        with np.errstate(divide="ignore", over="ignore"):  # what rings at an infinite rate has rung
            log_q = np.log(q[drawn]) if floor else s[drawn] - log_normaliser
            propensity = -np.expm1(-np.exp(log_q + log_time))
    return BankDraw(row[drawn].astype(np.int64), propensity, p[drawn], score, log_normaliser, mass, log_time)


def mirror_step(
    probability: Any,
    arm: Any,
    *,
    loss: Any,
    eta: float,
    floor: float = 0.0,
    share: float = 0.0,
) -> Any:
    """See ``curbench.kernels.mirror_step``.

    >>> mirror_step(np.array([0.98, 0.01, 0.01]), np.array([], int), loss=np.array([]), eta=1.0, floor=0.3)
    array([0.8, 0.1, 0.1])
    """
    contract.mirror_options(eta, floor, share)
    probability, loss = np.asarray(probability, np.float64), np.asarray(loss, np.float64)
    arm = np.asarray(arm)
    arms = len(probability)
    fault = [
        first((arm < 0) | (arm >= arms)),
        first(~np.isfinite(loss)),
        first(~(np.isfinite(probability) & (probability >= 0.0))),
    ]
    contract.mirror_fault(fault, True, probability, arm, loss)
    total = np.zeros(arms)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # refused below
        np.add.at(total, arm, loss)
        exponent = np.where(probability > 0.0, -eta * total, -np.inf)
        top = exponent.max(initial=-np.inf)
        p = probability * np.exp(exponent - top)
        solved = np.isfinite([top, p.sum(), 1.0 / p.sum()]).all()
    contract.mirror_fault([NO_FAULT] * 3, bool(solved), probability, arm, loss)

    if floor > 0.0:
        low = floor / arms
        ranked = np.sort(p)[::-1]
        kept = np.arange(1, arms + 1)  # the largest `kept` arms share what the floors leave
        scale = (1.0 - (arms - kept) * low) / np.cumsum(ranked)
        held = scale * ranked >= low
        held[0] = True  # the largest arm always keeps a share; only rounding could deny it
        k = int(np.flatnonzero(held)[-1])
        p = np.maximum(low, scale[k] * p)
    return (1.0 - share) * p / p.sum() + share / arms


class MirrorTree:
    """See ``curbench.kernels.MirrorTree``; here a table.

    >>> MirrorTree([0.0, 2.0]).draw(1, seed=0).arm
    array([1])
    """

    def __init__(self, probability: Any) -> None:
        none = np.zeros(0, np.int64)
        self.p = mirror_step(probability, none, loss=none, eta=0.0)

    def step_(self, arm: Any, *, loss: Any, eta: float, floor: float = 0.0, share: float = 0.0) -> None:
        self.p = mirror_step(self.p, arm, loss=loss, eta=eta, floor=floor, share=share)

    def probability(self, arm: Any = None) -> Any:
        return self.p if arm is None else self.p[arm]

    def draw(self, count: int, *, design: str = "iid", mix: float = 0.0, seed: int, step: int = 0) -> ArmDraw:
        from curbench import philox  # as in uniforms

        contract.tree_draw_options(len(self.p), count, design, mix, seed, step)
        q = (1.0 - mix) * self.p + mix / len(self.p)
        if design == "race":
            arm, propensity = race(q, count, seed, step, "mix > 0")
        elif design == "systematic":
            arm, propensity = systematic(q, count, seed, step, "mix > 0")
        else:
            prefix = np.cumsum(q)
            arm = np.searchsorted(prefix, uniforms(seed, philox.DRAW, step, count) * prefix[-1], side="right")
            propensity = q[arm]
        return ArmDraw(arm, propensity, self.p[arm])


def race(q: Any, count: int, seed: int, step: int, remedy: str = "") -> tuple[Any, Any]:
    """(arms i64[count], their probability f64[count] of coming before the first arm that is not drawn)."""
    from curbench import philox  # as in uniforms

    left, drawn, index = q.copy(), np.zeros(0, np.int64), 0
    while len(drawn) < count:
        if left.sum() <= 0.0:
            raise contract.unreachable(count, len(drawn), "race", remedy)
        end = index + count - len(drawn)
        prefix = np.cumsum(left)
        point = uniforms(seed, philox.DRAW, step, end)[index:] * prefix[-1]
        arm = np.searchsorted(prefix, point, side="right")
        drawn = np.append(drawn, arm[np.sort(np.unique(arm, return_index=True)[1])])
        left[drawn], index = 0.0, end
    mass = np.append(np.cumsum(q[drawn][::-1])[::-1], 0.0) + left.sum()  # of those still to come, at every arrival
    with np.errstate(divide="ignore"):  # when all are drawn
        time = (-np.log1p(-uniforms(seed, philox.ARRIVAL, step, count + 1)) / mass).sum()
    return drawn, -np.expm1(-q[drawn] * time)
