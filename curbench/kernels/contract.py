"""What every op returns, which options it takes, and the sentences with which it refuses. Shared by all back-ends."""

import math
from typing import Any, NamedTuple

ESTIMATORS = ("grpo", "dr_grpo", "rloo", "grpo_batch", "rloo_std")  # the order of csrc/kernels.h, as in those below
EPS_MODES = ("add", "floor_variance", "unless_zero")
RATIOS = ("sequence_mean", "sequence", "token_mean")
FORMS = ("gain", "surrogate")
DESIGNS = ("iid", "systematic", "race")
BANK_DTYPES = ("float32", "bfloat16", "int8")
ACTIVATIONS = ("none", "gelu", "gelu_tanh")

# Systematic draws take a candidate for certain above this probability; see csrc/score_bank.h.
CERTAIN = 1.0 - 2.0**-30

NO_FAULT = 2**63 - 1


class Grouping(NamedTuple):
    """B groups of R rollouts, in the order in which their ids first appear. Any op takes one as its ``group``."""

    offset: Any  # i64[B+1], group b owns the places offset[b] to offset[b+1]
    order: Any  # i64[R], the rollout at each place; None when rollouts lie group by group already
    first: Any  # i64[B], the first rollout of each group: id[first] are the distinct ids


class GroupAdvantage(NamedTuple):
    """R rollouts in B groups. ``mean`` to ``abs_advantage`` are per group; ``success`` is None when not given."""

    advantage: Any  # [R], dtype of the reward
    n: Any  # i64[B]
    mean: Any  # f64[B]
    var: Any  # f64[B]
    degenerate: Any  # bool[B], all rewards equal
    abs_advantage: Any  # f64[B], mean |advantage|
    success: Any  # i64[B], successes, or None


class PolicyImprovement(NamedTuple):
    utility: Any  # f64[B]
    ratio: Any  # f64[R]
    tokens: Any  # i64[R]


class BankDraw(NamedTuple):
    problem: Any  # i64[count], row of the bank
    propensity: Any  # f64[count], of the draw (iid) or of inclusion (systematic; race, given log_time)
    probability: Any  # f64[count], softmax of the score within the nucleus, without the floor
    score: Any  # f32[M]
    log_normaliser: float  # log sum exp(score) over the nucleus
    mass: float  # share of the softmax that the nucleus holds; 1.0 without one
    log_time: float  # race: when the first candidate arrived that did not win; inf when none is left, or no race


class BankShard(NamedTuple):
    """The scores of the rows first to first + rows of a bank, or of candidates among them."""

    first: int
    rows: int
    candidate: Any  # i64[M], rows of the whole bank; None for all of the shard
    score: Any  # f32[M]


class ArmDraw(NamedTuple):
    arm: Any  # i64[count]
    propensity: Any  # f64[count], of the draw (iid) or of inclusion
    probability: Any  # f64[count], of the arm in one draw, without the mix


def require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def choice(name: str, value: str, allowed: tuple[str, ...]) -> int:
    """Position of ``value`` in ``allowed``; raises ValueError if it is not there."""
    require(value in allowed, f"{name} must be one of {', '.join(allowed)}; got {value!r}")
    return allowed.index(value)


def unit_interval(name: str, value: float) -> None:
    require(0.0 <= value <= 1.0, f"{name} must be in [0, 1]; got {value!r}")


def improvement_options(mask: Any, length: Any, cu_seqlens: Any) -> None:
    if cu_seqlens is None:
        require((mask is None) != (length is None), "exactly one of mask and length must be given for padded rows")
    else:
        require(length is None, "cu_seqlens holds the lengths of packed rows already; drop length")


def clip_bounds(ratio_clip: Any) -> tuple[float, float]:
    """
    >>> clip_bounds(10.0)
    (-inf, 10.0)
    """
    if ratio_clip is None:
        return -math.inf, math.inf
    if not isinstance(ratio_clip, tuple | list):
        require(ratio_clip >= 1.0, f"ratio_clip must be at least 1, or None; got {ratio_clip!r}")
        return -math.inf, float(ratio_clip)
    around = len(ratio_clip) == 2 and 0.0 <= ratio_clip[0] <= 1.0 <= ratio_clip[1]
    require(around, f"ratio_clip must be (low, high) with 0 <= low <= 1 <= high; got {ratio_clip!r}")
    return float(ratio_clip[0]), float(ratio_clip[1])


def score_options(bias: float, temperature: float) -> None:
    require(math.isfinite(bias), f"bias must be finite; got {bias!r}")
    require(0.0 < temperature < math.inf, f"temperature must be finite and positive; got {temperature!r}")


def draw_options(rows: int, count: int, design: str, floor: float, nucleus: float) -> None:
    choice("design", design, DESIGNS)
    unit_interval("floor", floor)
    require(0.0 < nucleus <= 1.0, f"nucleus must be in (0, 1]; got {nucleus!r}")
    require(rows >= 1, "a bank needs at least one candidate to draw from")
    whole_number("count", count)
    require(count >= 1, f"count must be at least 1; got {count!r}")
    if design != "iid":
        require(
            count <= rows,
            f"a {design} draw has no duplicates, so count must be at most the {rows} candidates; got {count!r}",
        )


def whole_number(name: str, value: Any) -> None:
    require(hasattr(value, "__index__"), f"{name} must be a whole number; got {value!r}")


def random_options(seed: int, step: int) -> None:
    whole_number("seed", seed)
    whole_number("step", step)
    require(0 <= seed < 2**64, f"seed must be in [0, 2^64); got {seed!r}")
    require(0 <= step < 2**32, f"step must be in [0, 2^32); got {step!r}")


def mirror_options(eta: float, floor: float, share: float) -> None:
    require(0.0 <= eta < math.inf, f"eta must be finite and not negative; got {eta!r}")
    unit_interval("floor", floor)
    unit_interval("share", share)


def tree_draw_options(arms: int, count: int, design: str, mix: float, seed: int, step: int) -> None:
    choice("design", design, DESIGNS)
    unit_interval("mix", mix)
    random_options(seed, step)
    whole_number("count", count)
    require(count >= 1, f"count must be at least 1; got {count!r}")
    distinct = design == "iid" or count <= arms
    require(distinct, f"a {design} draw has no duplicates, so count must be at most the {arms} arms; got {count!r}")


def group_size(size: Any, slots: int) -> int:
    if size < 1 or slots % size != 0:  # not by require, whose sentence torch.compile could not trace
        raise ValueError(f"a group size must divide the {slots} rollouts; got {size!r}")
    return int(size)


# The errors below take the indices that a kernel reported: the first offender of each rule, or NO_FAULT.


def group_fault(b: int) -> None:
    if b != NO_FAULT:
        raise ValueError(f"group offsets must rise from 0 to R, without empty groups; see group {b}")


def order_fault(b: int) -> None:
    if b != NO_FAULT:
        raise ValueError(f"the order of a Grouping must hold slots in [0, R); that of group {b} does not")


def advantage_fault(fault: list[int], reward: Any, std_reward: Any, singleton: str) -> None:
    slot, group, single, order, std_slot = fault
    group_fault(group)
    order_fault(order)
    for name, value, bad in (("reward", reward, slot), ("std_reward", std_reward, std_slot)):
        if bad != NO_FAULT:
            got = float(value[bad])
            remedy = "score it, drop its rollout, or pass nan='skip'" if got != got else "score it, or drop its rollout"
            raise ValueError(f"{name} must be finite; slot {bad} has {got!r}: {remedy}")
    if singleton == "error" and single != NO_FAULT:
        raise ValueError(f"a group needs two rollouts; group {single} has one: singleton='zero' gives it advantage 0")


def improvement_fault(fault: list[int], length: Any, cu_seqlens: Any, ratio: Any) -> None:
    row, bad_ratio, group, bad_utility, order = fault
    group_fault(group)
    order_fault(order)
    if row != NO_FAULT and cu_seqlens is not None:
        raise ValueError(f"cu_seqlens must rise from 0 to T; see rollout {row}")
    if row != NO_FAULT:
        raise ValueError(f"length must be in [0, L]; row {row} has {int(length[row])!r}")
    if bad_ratio != NO_FAULT:
        got = float(ratio[bad_ratio])
        remedy = "check its log-probabilities, or pass ratio_clip"
        raise ValueError(f"an importance ratio must be finite; row {bad_ratio} has {got!r}: {remedy}")
    if bad_utility != NO_FAULT:
        raise ValueError(f"a utility must be finite; group {bad_utility} is not: check its advantages")


def bank_fault(fault: list[int], candidate: Any, problems: int, first: int = 0, slot: int = 0) -> None:
    """``first`` is the row of the whole bank, and ``slot`` that of the call, at which what was scored begins."""
    outside, bad = fault
    if outside != NO_FAULT:
        got = int(candidate[outside])
        raise ValueError(
            f"a candidate must be in [0, {problems}), a row of the bank; slot {slot + outside} has {got!r}"
        )
    if bad != NO_FAULT:
        problem = first + (slot + bad if candidate is None else int(candidate[bad]))
        raise ValueError(f"a score must be finite; that of problem {problem} is not: check feature and weight")


def score_fault(bad: int, score: Any) -> None:
    if bad != NO_FAULT:
        raise ValueError(f"a score must be finite, or -inf for what is not to be drawn; slot {bad} has {score[bad]}")
    raise ValueError("some score must be finite; all are -inf")


def unreachable(count: int, reachable: int, design: str = "systematic", remedy: str = "") -> ValueError:
    return ValueError(
        f"a {design} draw of {count} needs as many candidates of positive probability; "
        f"{reachable} have one: pass {remedy or 'floor > 0, a higher temperature, or a larger nucleus'}"
    )


def outside_fault(slot: int, arms: int, arm: Any) -> None:
    if slot != NO_FAULT:
        raise ValueError(f"an arm must be in [0, {arms}); slot {slot} has {int(arm[slot])!r}")


def mirror_fault(fault: list[int], solved: bool, probability: Any, arm: Any, loss: Any) -> None:
    outside, bad_loss, bad = fault
    outside_fault(outside, len(probability), arm)
    if bad_loss != NO_FAULT:
        raise ValueError(f"loss must be finite; slot {bad_loss} has {float(loss[bad_loss])!r}")
    if bad != NO_FAULT:
        got = float(probability[bad])
        raise ValueError(f"probability must be finite and not negative; arm {bad} has {got!r}")
    rule = "some probability must be positive, and neither their sum nor its inverse nor eta times a loss may overflow"
    require(solved, rule)
