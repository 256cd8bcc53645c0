"""``score_bank``: N problems of F features and 256 draws; ``draw``: the same from given scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from curbench import kernels
from curbench.bench.subject import Arrays, Case, Subject, Target, Work, distance, far, on_host
from curbench.bench.torch_compile import compiled
from curbench.kernels import BankDraw, reference
from curbench.kernels.contract import DESIGNS

COUNT, NUCLEUS = 256, 0.9
LEVELS_COUNT = 200_000
CHUNK = 2048  # rows that torch's hidden layer holds at a time, in the peer that cares
BLOCK = 1 << 15  # rows whose scores the reference makes at a time, in float64


class TopK(NamedTuple):
    """What a search for inner products returns: no draw, no probability."""

    problem: Any
    score: Any


def make_bank(problems: int, features: int, *names: Any) -> Arrays:
    """names  hidden units of an MLP head, if any; the design; the type of the bank, if not float32."""
    hidden = names[0] if isinstance(names[0], int) else 0
    design, dtype = (*names[bool(hidden) :], "float32")[:2]
    rng = np.random.default_rng(0)
    a: Arrays = {"design": design, "dtype": dtype, "candidate": np.arange(0, problems, 2)[::-1].copy()}
    if hidden:
        a["layer"] = (rng.standard_normal((hidden, features)) / math.sqrt(features)).astype(np.float32)
        a["layer_bias"] = rng.standard_normal(hidden).astype(np.float32)
    width = hidden or features
    a["weight"] = (rng.standard_normal(width) / math.sqrt(width)).astype(np.float32)
    if dtype == "int8":
        a["feature"] = rng.integers(-127, 128, (problems, features), np.int8)
        a["row_scale"] = (rng.random(problems, dtype=np.float32) + 1) / 127
        a["dequantised"] = a["feature"] * a["row_scale"][:, None]
    else:
        a["feature"] = rng.standard_normal((problems, features), dtype=np.float32)
    if dtype == "bfloat16":
        a["feature"] = torch.from_numpy(a["feature"]).bfloat16()
    return a


def bank_arguments(a: Arrays) -> Arrays:
    head: Arrays = {name: a[name] for name in ("layer", "layer_bias", "row_scale") if name in a}
    if a["dtype"] == "bfloat16":  # all must be tensors
        head = {name: torch.as_tensor(value) for name, value in head.items()}
    weight = torch.as_tensor(a["weight"], device=a["feature"].device) if a["dtype"] == "bfloat16" else a["weight"]
    return {"feature": a["feature"], "weight": weight, "count": COUNT, "design": a["design"], "seed": 0, **head}


def bank_variants(a: Arrays) -> Iterator[Arrays]:
    yield {}
    for design, floor, candidate in product(DESIGNS, (0.0, 0.1), (None, a["candidate"])):
        drawn = {"count": 9, "design": design, "floor": floor, "candidate": candidate, "seed": 2**63 + 5, "step": 7}
        yield {**drawn, "bias": -0.5, "temperature": 0.7}
        yield {**drawn, "nucleus": 0.8}


def reference_scores(a: Arrays) -> Any:
    """What ``score_bank`` returns, the scores by the reference in parts: in float64 the bank would be large."""
    given = bank_arguments(a)
    score = []
    for start in range(0, len(a["feature"]), BLOCK):
        part = slice(start, start + BLOCK)
        changed = {name: given[name][part] for name in ("feature", "row_scale") if name in given}
        score.append(on_host(kernels.score_bank(**given | changed | {"count": 1}, backend="reference").score))
    return reference.draw(np.concatenate(score), count=COUNT, design=a["design"], seed=0)


def own_bank_distance(result: Any, expected: Any) -> float:
    """Scores and what follows, within rounding; the draw is exactly the reference's from the very scores returned."""
    score = on_host(result.score)
    near = distance(score, expected.score, 1e-5, 2e-6)
    design = "iid" if result.log_time == math.inf else "race"
    drawn = reference.draw(score, count=len(result.problem), design=design, seed=0)
    return max(near, distance(result._replace(score=score), drawn, 1e-9, 0.0))


def normalised(score: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return torch.exp(score[drawn] - torch.logsumexp(score, 0))


def race(score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.topk(score - torch.empty_like(score).exponential_().log(), COUNT).indices
    return drawn, normalised(score, drawn)


def draw_of(score: torch.Tensor, design: str) -> tuple[torch.Tensor, torch.Tensor]:
    if design != "iid":  # its one way to draw without replacement
        return race(score)
    drawn = torch.multinomial(torch.softmax(score, 0), COUNT, replacement=True)
    return drawn, normalised(score, drawn)


def mlp(feature: torch.Tensor, a: Arrays) -> torch.Tensor:
    layer, bias, weight = (a[name].to(feature.dtype) for name in ("layer", "layer_bias", "weight"))
    return functional.gelu(functional.linear(feature, layer, bias)) @ weight


def rounded(draw: tuple[torch.Tensor, torch.Tensor], feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The probabilities in the type that the scores were made in, which says how exact they are."""
    return draw[0], draw[1].to(feature.dtype)


def torch_bank(a: Arrays) -> Any:
    feature = a["feature"]
    score = mlp(feature, a) if "layer" in a else feature @ a["weight"].to(feature.dtype)
    return rounded(draw_of(score.float(), a["design"]), feature)


def torch_chunked(a: Arrays) -> Any:
    """The hidden layer of 2,048 rows at a time, which then stays in the cache."""
    score = torch.cat([mlp(part, a) for part in a["feature"].split(CHUNK)])
    return rounded(draw_of(score.float(), a["design"]), a["feature"])


def torch_dequantised(a: Arrays) -> Any:
    """On the bank in float32: torch has no product of int8 rows with a float32 head."""
    return draw_of(a["dequantised"] @ a["weight"], a["design"])


def fused_scores(feature: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return race((feature.float() * weight).sum(1))


def fused_mlp(feature: torch.Tensor, a: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
    return rounded(race(mlp(feature, a).float()), feature)


def torch_compiled_bank(a: Arrays) -> Any:
    if "layer" in a:
        return compiled(fused_mlp)(a["feature"], {name: a[name] for name in ("layer", "layer_bias", "weight")})
    return compiled(fused_scores)(a["feature"], a["weight"])


def numpy_bank(a: Arrays) -> Any:
    score = np.vecdot(a["feature"], a["weight"])  # as fast as `@`, whose BLAS would use every core
    rng = np.random.default_rng(0)
    log_normaliser = score.max() + np.log(np.exp(score - score.max()).sum())
    if a["design"] == "iid":
        prefix = np.cumsum(np.exp(score - log_normaliser), dtype=np.float64)
        drawn = np.searchsorted(prefix, rng.random(COUNT) * prefix[-1])
    else:
        drawn = np.argpartition(-score - rng.gumbel(size=len(score)), COUNT)[:COUNT]
    return drawn, np.exp(score[drawn] - log_normaliser)


def faiss_top_k(a: Arrays) -> Any:
    """The exact search of a vector database for the 256 largest scores. It neither draws nor normalises."""
    import faiss  # optional, and late: it brings a BLAS and an OpenMP of its own

    faiss.omp_set_num_threads(1)
    score, problem = faiss.knn(a["weight"][None], a["feature"], COUNT, metric=faiss.METRIC_INNER_PRODUCT)
    return TopK(problem[0], score[0])


def bank_distance(result: Any, expected: Any) -> float:
    """A peer draws in its own way: what must agree is the probability reported with a draw, or the scores found."""
    if isinstance(result, TopK):
        return far(np.sort(result.score), np.sort(expected.score)[-COUNT:], 1e-4, 1e-5)
    drawn, probability = result
    score = expected.score[on_host(drawn)].astype(np.float64)
    half = 5e-2 if isinstance(probability, torch.Tensor) and probability.dtype == torch.bfloat16 else 0.0
    return far(probability, np.exp(score - expected.log_normaliser), 1e-4 + half, 0.0)


def bank_work(a: Arrays) -> Work:
    bytes_read = a["feature"].nbytes
    if "layer" not in a:
        return Work(bytes_read)
    return Work(bytes_read, 2 * len(a["feature"]) * a["layer"].size, a["dtype"] == "bfloat16")


# draw


def make_scores(problems: int, design: str) -> Arrays:
    """design  also "nucleus", draws from the largest scores that hold 0.9 of the softmax; or "two levels", draws when
    the scores of one half are twice as likely as those of the other."""
    score = np.random.default_rng(0).standard_normal(problems, dtype=np.float32)
    if design == "two levels":
        score = np.where(np.arange(problems) < problems // 2, np.float32(math.log(2.0)), np.float32(0.0))
    return {"score": score, "design": design, "candidate": np.arange(problems)[::-1].copy()}


def draw_arguments(a: Arrays) -> Arrays:
    common = {"score": a["score"], "count": COUNT, "seed": 0}
    if a["design"] == "two levels":
        return common | {"count": LEVELS_COUNT}
    return common | ({"nucleus": NUCLEUS} if a["design"] == "nucleus" else {"design": a["design"]})


def draw_variants(a: Arrays) -> Iterator[Arrays]:
    yield {}
    for design, floor, nucleus in product(DESIGNS, (0.0, 0.1, 1.0), (1.0, 0.8)):
        yield {"count": 9, "design": design, "floor": floor, "nucleus": nucleus, "candidate": a["candidate"], "step": 7}


class Share(NamedTuple):
    """Which share of the draws comes from the second half of the problems."""

    value: float
    problems: int


def draws_expected(a: Arrays) -> Any:
    if a["design"] == "two levels":
        return Share(1 / 3, len(a["score"]))
    return reference.draw(**draw_arguments(a))


def share_distance(drawn: Any, expected: Share) -> float:
    """In units of four standard errors."""
    share = float((on_host(drawn) >= expected.problems // 2).mean())
    return abs(share - expected.value) / (4 * math.sqrt(expected.value * (1 - expected.value) / LEVELS_COUNT))


def own_draw_distance(result: BankDraw, expected: Any) -> float:
    if isinstance(expected, Share):
        return share_distance(result.problem, expected)
    return distance(result, expected, 1e-9, 0.0)


def draw_distance(result: Any, expected: Any) -> float:
    return share_distance(result[0], expected) if isinstance(expected, Share) else bank_distance(result, expected)


def torch_draw(a: Arrays) -> Any:
    score, design = a["score"], a["design"]
    if design == "two levels":
        return torch.multinomial(torch.softmax(score, 0), LEVELS_COUNT, replacement=True), None
    if design != "nucleus":
        return draw_of(score, design)
    ranked, order = score.sort(descending=True)
    p = torch.softmax(ranked, 0)
    p = p * (p.cumsum(0) - p < NUCLEUS)
    place = torch.multinomial(p, COUNT, replacement=True)
    return order[place], p[place] / p.sum()


def torch_compiled_draw(a: Arrays) -> Any:
    return compiled(race)(a["score"])


def numpy_draw(a: Arrays) -> Any:
    rng, score, design = np.random.default_rng(0), a["score"], a["design"]
    weight = np.exp(score - score.max())
    if design == "race":
        drawn = np.argpartition(rng.standard_exponential(len(score), np.float32) / weight, COUNT)[:COUNT]
        return drawn, weight[drawn] / weight.sum(dtype=np.float64)
    order = np.arange(len(score))
    if design == "nucleus":
        order = np.argsort(-score)
        prefix = np.cumsum(weight[order], dtype=np.float64)
        order = order[: np.searchsorted(prefix, NUCLEUS * prefix[-1]) + 1]
    prefix = np.cumsum(weight[order], dtype=np.float64)
    count = LEVELS_COUNT if design == "two levels" else COUNT
    drawn = order[np.searchsorted(prefix, rng.random(count) * prefix[-1], side="right")]
    return drawn, weight[drawn] / prefix[-1]


BANK_PEERS = {
    "torch eager": torch_bank,
    "torch chunked": torch_chunked,
    "torch float32": torch_dequantised,
    "torch compile": torch_compiled_bank,
    "numpy": numpy_bank,
    "faiss top-k": faiss_top_k,
}
LINEAR = ("torch eager", "torch compile", "numpy", "faiss top-k")
HALF = ("torch eager", "torch compile")
MLP = ("torch eager", "torch chunked", "torch compile")

SCORE_BANK = Subject(
    cases=(
        Case((50_000, 384, "iid"), ("torch eager", "numpy"), fast=("torch eager", "numpy")),
        Case((300_000, 384, "iid"), ("torch eager", "numpy")),
        Case((100_000, 384, "race"), LINEAR),
        Case((300_000, 384, "race"), LINEAR),
        Case(
            (1_000_000, 384, "race"),
            LINEAR,
            {"torch eager": Target(2.8, 7), "torch compile": Target(1.4, 7), "numpy": Target(1.4, 7)},
        ),
        Case((100_000, 384, "race", "bfloat16"), HALF),
        Case(
            (1_000_000, 384, "race", "bfloat16"),
            HALF,
            {"torch eager": Target(5, 8), "torch compile": Target(1.7, 8)},
        ),
        Case((100_000, 384, "race", "int8"), ("torch float32",)),
        Case((1_000_000, 384, "race", "int8"), ("torch float32",), {"torch float32": Target(9, 9)}),
        Case((10_000, 384, 256, "race"), MLP),
        Case((100_000, 384, 256, "race"), MLP, {"torch eager": Target(2.4, 16)}),
        Case((10_000, 384, 256, "race", "bfloat16"), MLP),
        Case((100_000, 384, 256, "race", "bfloat16"), MLP, {"torch eager": Target(1.65, 16)}),
    ),
    odd_shapes=((257, 1, "systematic"), (1025, 33, "iid"), (3001, 65, "systematic")),
    make=make_bank,
    arguments=bank_arguments,
    variants=bank_variants,
    tolerance=(2e-6, 5e-7),  # products are summed in float32, and probabilities follow the scores
    expected=reference_scores,
    own_distance=own_bank_distance,
    peer_distance=bank_distance,
    peers=BANK_PEERS,
    work=bank_work,
)

DRAW_PEERS = {"torch eager": torch_draw, "torch compile": torch_compiled_draw, "numpy": numpy_draw}
PLAIN = ("torch eager", "numpy")

DRAW = Subject(
    cases=(
        Case((100_000, "race"), tuple(DRAW_PEERS)),
        Case((1_000_000, "race"), tuple(DRAW_PEERS), {"torch eager": Target(20, 10)}, fast=PLAIN),
        Case((10_000_000, "race"), tuple(DRAW_PEERS)),
        Case((100_000, "iid"), PLAIN),
        Case((1_000_000, "iid"), PLAIN),
        Case((10_000_000, "iid"), PLAIN),
        Case((1_000_000, "systematic"), ("torch eager",)),
        Case((100_000, "nucleus"), PLAIN),
        Case((1_000_000, "nucleus"), PLAIN, {"torch eager": Target(25, 11)}),
        Case((1 << 24, "two levels"), PLAIN),
    ),
    odd_shapes=((257, "systematic"), (1025, "iid"), (3001, "race")),
    make=make_scores,
    arguments=draw_arguments,
    variants=draw_variants,
    tolerance=(1e-9, 0.0),
    expected=draws_expected,
    own_distance=own_draw_distance,
    peer_distance=draw_distance,
    peers=DRAW_PEERS,
    work=lambda a: Work(a["score"].nbytes),
)
