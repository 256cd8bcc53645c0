"""The stages of gpu_campaign.py that measure, each run in a process of its own: python benchmarks/gpu_stages.py "row 5"

What is found is printed as JSON, a line each, as soon as it is known. A result of ours is checked before it is timed: a
wrong one ends the stage. Peers that cannot run keep a row that says why. ``--device cpu --shrink 10000`` runs the same
code, on less, where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from curbench import bench, kernels
from curbench.bench.advantage import trl_view, view
from curbench.bench.clock import alternate, ceiling_of
from curbench.bench.improvement import GROUP, utility
from curbench.bench.measure import limit, row_of, times
from curbench.bench.subject import Case, Work, far
from curbench.bench.torch_compile import compiled
from curbench.kernels.contract import ESTIMATORS
from curbench.kernels.extension import load

Tensor = torch.Tensor
Found = dict[str, Any]

DRAWS = 4096
FEATURES = 384
TOKENS = 4096
SLOWEST_S = 5.0  # a call that would take longer is left out


@dataclass(frozen=True)
class Place:
    """Where the stages run, and how many times smaller than asked for."""

    device: str = "cuda"
    shrink: int = 1

    def rows(self, wanted: int, bytes_per_row: float) -> tuple[int, str]:
        """So many rows, or as many as fit into the free memory, and then a sentence about it."""
        room = wanted // self.shrink
        if self.device == "cuda":
            torch.cuda.empty_cache()
            room = min(room, int(0.85 * torch.cuda.mem_get_info()[0] / bytes_per_row))
        if room >= wanted:
            return wanted, ""
        room = max(DRAWS + 1, room // 64 * 64)
        return room, f"scaled down from {wanted:,} rows, to what fits"

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def emit(found: Found) -> None:
    print(json.dumps(found, allow_nan=False), flush=True)


def contest(
    at: Place,
    row: int,
    op: str,
    case: Case,
    calls: dict[str, Callable[[], Any]],
    work: Work,
    check: Callable[[Any], str | None],
    agree: Callable[[Any, Any], float],
    *,
    target_us: float | None = None,
    scaled: str = "",
    note: str = "",
    budget_s: float = 3.0,
) -> None:
    """Emits a row for every peer in ``calls``, which begin with "ours".

    check  what is wrong with a result of ours, or None
    agree  how far a peer's result is from ours, in tolerances
    """
    own = calls["ours"]()
    wrong = check(own)
    if wrong:
        sys.exit(f"row {row}, {op} {case.text} {case.variant}: {wrong}; it was not timed")
    unable = {name: why for name, call in calls.items() if name != "ours" and (why := reason(at, call, own, agree))}
    ceiling = ceiling_of(Work(work.bytes), at.device)
    timed = {name: call for name, call in calls.items() if name not in unable} | {"ceiling": ceiling.call}
    time = alternate(timed, budget_s, at.device)
    for peer in [name for name in calls if name != "ours"] or ["none"]:
        found = row_of(op, case, at.device, case.dtype or "float32", peer)
        found |= times(time["ours"], time.get(peer), None) | limit(work, ceiling, time["ours"], time["ceiling"])
        met = None if target_us is None or scaled else found["us"] <= target_us
        found |= {"target_row": row, "target_us": target_us, "met": met}
        emit(found | {"note": "; ".join(filter(None, (scaled, note, unable.get(peer)))) or None})


def reason(at: Place, call: Callable[[], Any], own: Any, agree: Callable[[Any, Any], float]) -> str | None:
    """Why a peer is not timed, if so: it is wrong, too large for torch or for the memory, or has no compiler."""
    try:
        off = agree(call(), own)
        return f"{off:.3g} tolerances away from ours" if off > 1.0 else None
    except (RuntimeError, ImportError) as error:
        if at.device == "cuda":
            torch.cuda.empty_cache()
        return "unable to run: " + (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def ceilings(at: Place) -> None:
    """What copies, reads and products of random bf16 matrices attain."""
    emit({"environment": bench.document(bench.Timing([], [], []))["environment"]})
    n, _ = at.rows(2 << 30, 4 * 4)
    source = torch.rand(n, device=at.device)
    target = torch.empty_like(source)
    side = 8192 if at.shrink == 1 else 64
    a, b = (torch.randn(side, side, device=at.device, dtype=torch.bfloat16) for _ in range(2))
    calls = {"copy": lambda: target.copy_(source), "read": lambda: source.sum(), "multiply": lambda: a @ b}
    time = {name: one.median for name, one in alternate(calls, 2.0, at.device).items()}
    emit({"copy, GB/s read and written": 8e-9 * n / time["copy"], "sum of float32, GB/s": 4e-9 * n / time["read"]})
    emit({"bf16 matrix product, TFLOP/s": 2e-12 * side**3 / time["multiply"]})


def self_check(at: Place) -> None:
    """Every op and option on odd shapes against the reference."""
    wrong = bench.self_check()
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)


# --- Rows -------------------------------------------------------------------------------------------------------------


def row_5(at: Place) -> None:
    """Ratio and utility of 16384 groups of 8 rollouts of 4096 tokens, by mask and by lengths at 60 % valid."""
    rows, scaled = at.rows(16384 * GROUP, 4 * TOKENS * 8)
    rows -= rows % GROUP
    old = torch.rand(rows, TOKENS, device=at.device).neg_()
    new = torch.randn(rows, TOKENS, device=at.device).mul_(0.01).add_(old)
    advantage = torch.randn(rows // GROUP, GROUP, device=at.device)
    advantage = (advantage - advantage.mean(1, keepdim=True)).view(-1)
    length = torch.randint(int(0.4 * TOKENS), int(0.8 * TOKENS), (rows,), device=at.device)
    mask = torch.arange(TOKENS, device=at.device) < length[:, None]
    fused = compiled(utility)

    def run(ratio: str, tail: dict[str, Tensor], bytes_read: int, target_us: float) -> None:
        (name,) = tail
        arguments = (new, old, mask, advantage, ratio == "token_mean")
        some = 64 * GROUP
        exact = utility(*(x[:some].double() for x in (new, old, mask, advantage)), ratio == "token_mean")

        def check(result: Any) -> str | None:
            off = float((result.utility[: len(exact)] - exact).abs().max())
            return None if off < 1e-6 else f"a utility is {off:.2g} off"

        calls = {
            "ours": lambda: kernels.policy_improvement(new, old, advantage, GROUP, **tail, ratio=ratio, check=False),
            "torch eager": lambda: utility(*arguments),
            "torch compile": lambda: fused(*arguments),
        }
        case = Case((rows, TOKENS, f"{ratio} by {name}"), ())
        about = {"target_us": target_us, "scaled": scaled}
        agree = lambda result, own: far(result, own.utility, 0.0, 5e-7)  # noqa: E731  # ratios near 1 cancel
        contest(at, 5, "policy_improvement", case, calls, Work(bytes_read), check, agree, **about)

    for ratio in ("sequence_mean", "token_mean"):
        run(ratio, {"mask": mask}, 9 * new.numel(), 1350)
        run(ratio, {"length": length}, 8 * int(length.sum()), 850)


def row_6(at: Place) -> None:
    """Group advantages of 16384 groups of 64, every estimator."""
    groups, size = max(8, 16384 // at.shrink), 64
    reward = torch.rand(groups * size, device=at.device)
    fused = compiled(view)

    def run(estimator: str) -> None:
        exact = kernels.group_advantage(reward.cpu(), size, estimator=estimator).advantage

        def ours() -> Any:
            return kernels.group_advantage(reward, size, estimator=estimator, check=False)

        def check(result: Any) -> str | None:
            return None if torch.equal(result.advantage.cpu(), exact) else "CUDA and the CPU differ in some bit"

        calls = {"ours": ours}
        if estimator == "grpo":
            calls["torch TRL"] = lambda: trl_view({"reward": reward, "size": size})
            calls["torch compile"] = lambda: fused(reward, size)
        about = {"target_us": 8, "budget_s": 1.0, "note": launches(at, ours)}
        case = Case((groups, size, estimator), ())
        agree = lambda result, own: far(result, own.advantage, 1e-4, 1e-4)  # noqa: E731
        contest(at, 6, "group_advantage", case, calls, Work(2 * reward.nbytes), check, agree, **about)

    for estimator in ESTIMATORS:
        run(estimator)


def launches(at: Place, call: Callable[[], Any]) -> str:
    """How many kernels a call starts, in words; nothing where there is no profiler of the device."""
    if at.device != "cuda":
        return ""
    from torch.profiler import ProfilerActivity, profile

    call()
    at.wait()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        at.wait()
    names = [e.name for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    started = sum(not name.startswith("Mem") for name in names)
    return f"{started} launches"


def race(score: Tensor) -> tuple[Tensor, Tensor]:
    drawn = torch.topk(score - torch.empty_like(score).exponential_().log(), DRAWS).indices
    return drawn, torch.exp(score[drawn] - torch.logsumexp(score, 0))


def half(draw: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The probabilities in bfloat16, when the scores were."""
    return draw[0], draw[1].bfloat16()


def race_of_product(feature: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return race((feature.float() * weight).sum(1))


def race_of_scaled_product(feature: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return race(scale * (feature.float() * weight).sum(1))


def probabilities_agree(result: tuple[Tensor, Tensor], own: Any) -> float:
    """A peer draws in its own way: what must agree is the probability reported with a draw, as exact as its type."""
    drawn, probability = result
    expected = torch.exp(own.score[drawn].double() - own.log_normaliser)
    return far(probability, expected, 0.2 if probability.dtype == torch.bfloat16 else 1e-3, 0.0)


def wrong_draw(result: Any) -> str | None:
    """A draw must be the CPU's from the same scores, to the bit, and hold no problem twice."""
    options = {"count": DRAWS, "design": "race", "seed": 0, "threads": os.cpu_count() or 1}
    expected = kernels.draw(result.score.cpu(), **options)
    if not torch.equal(result.problem.cpu(), expected.problem):
        return "CUDA and the CPU draw differently from the same scores"
    if not torch.equal(result.propensity.cpu(), expected.propensity):
        return "CUDA and the CPU report other propensities for the same scores"
    return None if len(result.problem.unique()) == DRAWS else "a race drew a problem twice"


def wrong_bank(result: Any, exact: Callable[[Tensor], Tensor]) -> str | None:
    """Some scores against float64, the log-normaliser against torch's of all scores, and the draw."""
    score = result.score
    sample = torch.randint(0, len(score), (4096,), device=score.device)
    off = float((score[sample].double() - exact(sample)).abs().max())
    if not off < 1e-3:
        return f"a score is {off:.2g} off"
    top = score.max().double()
    total = sum(float((part.double() - top).exp().sum()) for part in score.split(1 << 24))
    whole = float(top + torch.tensor(total).double().log())
    if not abs(whole - result.log_normaliser) < 1e-7:
        return f"the log-normaliser is {result.log_normaliser!r}; of these scores it is {whole!r}"
    return wrong_draw(result)


def row_14(at: Place) -> None:
    """A race of 4096 among 1e8 given scores."""
    rows, scaled = at.rows(10**8, 40)
    score = torch.randn(rows, device=at.device)
    fused = compiled(race)
    calls = {
        "ours": lambda: kernels.draw(score, count=DRAWS, design="race", seed=0),
        "torch eager": lambda: race(score),
        "torch compile": lambda: fused(score),
    }
    about = {"target_us": 200, "scaled": scaled}
    contest(
        at, 14, "draw", Case((rows, "race"), ()), calls, Work(score.nbytes), wrong_draw, probabilities_agree, **about
    )


def row_12(at: Place) -> None:
    """Linear head on a bf16 bank of 1e7 and 1e8 problems."""
    weight = torch.randn(FEATURES, device=at.device) / FEATURES**0.5
    fused = compiled(race_of_product)

    def run(wanted: int, target_us: float) -> None:
        rows, scaled = at.rows(wanted, 2 * FEATURES + 48)
        feature = torch.empty(rows, FEATURES, device=at.device, dtype=torch.bfloat16).normal_()

        def check(result: Any) -> str | None:
            return wrong_bank(result, lambda i: feature[i].double() @ weight.double())

        calls = {
            "ours": lambda: kernels.score_bank(feature, weight, count=DRAWS, design="race", seed=0),
            "torch eager": lambda: half(race((feature @ weight.bfloat16()).float())),
            "torch compile": lambda: fused(feature, weight),
        }
        case = Case((rows, FEATURES, "race", "bfloat16"), ())
        about = {"target_us": target_us, "scaled": scaled}
        contest(at, 12, "score_bank", case, calls, Work(feature.nbytes), check, probabilities_agree, **about)

    run(10**7, 2100)
    run(10**8, 21000)


def row_13(at: Place) -> None:
    """The same for int8 with a scale per row."""
    rows, scaled = at.rows(10**8, FEATURES + 56)
    weight = torch.randn(FEATURES, device=at.device) / FEATURES**0.5
    feature = torch.empty(rows, FEATURES, device=at.device, dtype=torch.int8).random_(-127, 128)
    scale = torch.rand(rows, device=at.device).add_(1).div_(127)
    fused = compiled(race_of_scaled_product)

    def check(result: Any) -> str | None:
        return wrong_bank(result, lambda i: scale[i].double() * (feature[i].double() @ weight.double()))

    def dequantised() -> Any:
        parts = zip(feature.split(1 << 20), scale.split(1 << 20), strict=True)
        return race(torch.cat([(x.float() * s[:, None]) @ weight for x, s in parts]))

    calls = {
        "ours": lambda: kernels.score_bank(feature, weight, row_scale=scale, count=DRAWS, design="race", seed=0),
        "torch eager, in parts": dequantised,
        "torch compile": lambda: fused(feature, scale, weight),
    }
    case = Case((rows, FEATURES, "race", "int8"), ())
    about = {"target_us": 10800, "scaled": scaled}
    contest(at, 13, "score_bank", case, calls, Work(feature.nbytes), check, probabilities_agree, **about)


def hidden_scores(feature: Tensor, layer: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    layer, bias, weight = (x.to(feature.dtype) for x in (layer, bias, weight))
    return functional.gelu(functional.linear(feature, layer, bias)) @ weight


def row_15(at: Place) -> None:
    """MLP heads on a bf16 bank of 1e6, 1e7 and 1e8 problems, as far as a call stays short."""
    fused = compiled(hidden_scores)

    def run(hidden: int, wanted: int, target_us: float | None) -> float:
        head = (
            torch.randn(hidden, FEATURES, device=at.device).div_(FEATURES**0.5).bfloat16().float(),
            torch.randn(hidden, device=at.device),
            torch.randn(hidden, device=at.device).div_(hidden**0.5),
        )
        layer, bias, weight = head
        rows, scaled = at.rows(wanted, 2 * FEATURES + 48)
        feature = torch.empty(rows, FEATURES, device=at.device, dtype=torch.bfloat16).normal_()

        def ours() -> Any:
            options = {"layer": layer, "layer_bias": bias, "count": DRAWS, "design": "race", "seed": 0}
            return kernels.score_bank(feature, weight, **options)

        def chunked(score: Callable[..., Tensor]) -> Any:
            return half(race(torch.cat([score(part, *head) for part in feature.split(1 << 16)]).float()))

        def check(result: Any) -> str | None:
            return wrong_bank(result, lambda i: hidden_scores(feature[i].double(), *head))

        calls = {
            "ours": ours,
            "torch chunked": lambda: chunked(hidden_scores),
            "torch compile, chunked": lambda: chunked(fused),
            "torch eager": lambda: half(race(hidden_scores(feature, *head).float())),
        }
        if wanted > 10**7:
            del calls["torch eager"]  # its hidden layer is larger than the bank
        case = Case((rows, FEATURES, hidden, "race", "bfloat16"), ())
        work = Work(feature.nbytes, 2 * rows * FEATURES * hidden, True)
        about = {"target_us": target_us, "scaled": scaled}
        contest(at, 15, "score_bank", case, calls, work, check, probabilities_agree, **about)
        return alternate({"ours": ours}, 0.0, at.device)["ours"].median

    for hidden, target_us in ((256, 36000), (128, 22000)):
        for wanted in (10**6, 10**7, 10**8):
            seconds = run(hidden, wanted, target_us if wanted == 10**8 else None)
            if 10 * seconds > SLOWEST_S:
                print(f"ten times {wanted:,} rows would take more than {SLOWEST_S:.0f} s a call: they are left out")
                break


# --- Independence of the grid, and little of everything ---------------------------------------------------------------


def everything(at: Place, rows: int) -> Iterator[tuple[str, tuple]]:
    """(name, result) of every op and kind of draw, from fixed arrays."""
    torch.manual_seed(0)
    wide = torch.randn(rows, 96)
    bank, int8 = wide.bfloat16().to(at.device), (30 * wide).clamp(-127, 127).to(torch.int8).to(at.device)
    layer, weight, head = (torch.randn(*shape).to(at.device) / 10 for shape in ((24, 96), (96,), (24,)))
    new, old = (torch.rand(rows // 64 * 8, 100).to(at.device) / 100 for _ in range(2))
    length = torch.randint(0, 101, (len(new),)).to(at.device)
    for design in ("iid", "systematic", "race"):
        options = {"count": 64, "design": design, "floor": 0.1, "nucleus": 0.9, "seed": 1}
        yield f"score_bank {design}", kernels.score_bank(bank, weight, **options)
        yield f"score_bank {design} with a layer", kernels.score_bank(bank, head, layer=layer, **options)
        yield f"score_bank {design} of int8", kernels.score_bank(int8, weight / 30, **options)
        yield f"draw {design}", kernels.draw(new[:, 0].contiguous(), **options)
    for ratio in ("sequence_mean", "sequence", "token_mean"):
        arguments = (new, old, new[:, 0].contiguous(), 8)
        yield f"policy_improvement {ratio}", kernels.policy_improvement(*arguments, length=length, ratio=ratio)
    for estimator in ESTIMATORS:
        yield f"group_advantage {estimator}", kernels.group_advantage(new[:, 0].contiguous(), 8, estimator=estimator)
    p, arm, loss = torch.rand(rows).double(), torch.randint(0, rows, (64,)), torch.randn(64)
    step = {"loss": loss.to(at.device), "eta": 0.3, "floor": 0.1, "share": 0.01}
    yield "mirror_step", (kernels.mirror_step(p.to(at.device), arm.to(at.device), **step),)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(torch.nan_to_num(a.double(), nan=7.5), torch.nan_to_num(b.double(), nan=7.5))
    return a == b


def grids(at: Place) -> None:
    """Every op at two sizes of the grid, bit for bit."""

    def results(blocks: int) -> dict[str, tuple]:
        if at.device == "cuda":
            load().set_grid_limit(blocks)
        return dict(everything(at, max(1 << 12, (1 << 20) // at.shrink)))

    one, other = results(0), results(131)
    differ = [name for name, result in one.items() if not all(map(same, result, other[name]))]
    emit({"two grid sizes": f"{len(one)} calls, {'differ: ' + ', '.join(differ) if differ else 'equal to the bit'}"})
    sys.exit(1 if differ else 0)


def small(at: Place) -> None:
    """Every op on little, for compute-sanitizer."""
    for name, _ in everything(at, 2048):
        at.wait()
        print(name, flush=True)


STAGES: dict[str, Callable[[Place], None]] = {
    "self-check": self_check,
    "ceilings": ceilings,
    "row 5": row_5,
    "row 6": row_6,
    "row 12": row_12,
    "row 13": row_13,
    "row 14": row_14,
    "row 15": row_15,
    "grids": grids,
    "small": small,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shrink", type=int, default=1, help="as many times smaller")
    asked = parser.parse_args()
    STAGES[asked.stage](Place(asked.device, asked.shrink))


if __name__ == "__main__":
    main()
