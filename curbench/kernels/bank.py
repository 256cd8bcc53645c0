"""Scoring a problem bank with a small head, and drawing problems from the softmax of the scores."""

import math
from typing import Any, NamedTuple

from curbench.kernels import reference
from curbench.kernels.arrays import (
    Place,
    matrix,
    no_fault,
    place_of,
    runs_reference,
    small_matrix,
    through_numpy,
    vector,
)
from curbench.kernels.contract import (
    ACTIVATIONS,
    BANK_DTYPES,
    DESIGNS,
    BankDraw,
    bank_fault,
    choice,
    draw_options,
    random_options,
    require,
    score_options,
    unreachable,
)
from curbench.kernels.draw import draw
from curbench.kernels.extension import load
from curbench.kernels.mapped import Span, resident_limit

BANK_BYTES = (4, 2, 1)  # of an entry, by dtype
AROUND = 1 << 16  # bytes that the system maps around a row at random


def score_bank(
    feature: Any,
    weight: Any,
    *,
    count: int,
    bias: float = 0.0,
    layer: Any = None,
    layer_bias: Any = None,
    activation: str = "gelu",
    feature_scale: Any = None,
    row_scale: Any = None,
    temperature: float = 1.0,
    prior: Any = None,
    candidate: Any = None,
    design: str = "iid",
    floor: float = 0.0,
    nucleus: float = 1.0,
    seed: int,
    step: int = 0,
    resident_bytes: int | None = None,
    backend: str = "auto",
    threads: int = 1,
) -> BankDraw:
    """``count`` problems drawn from q = (1 - floor) p + floor / M, p = softmax(score), with their exact propensities.

    score = (h @ weight + bias) / temperature + prior, rounded once to float32, with h the features, or
    activation(feature @ layer.T + layer_bias). Products are summed in float32; those of an int8 bank with a linear head
    in whole numbers. Everything after the scores is float64 over blocks of 1024: banks of more than 2^24 problems are
    drawn exactly. The bank is read once, front to back.

    feature        f32, bf16 or i8 [N, F]; rows may be apart, but each must be contiguous
    weight         f32[F], or f32[H] with a layer; float64 is rounded, but for an int8 bank without a layer: there the
                   entries are used to 29 bits of the largest
    layer          f32[H, F], first layer of an MLP head, as in torch.nn.Linear; None for a linear head. For a bfloat16
                   bank it is rounded to bfloat16, and processors that multiply pairs of those round in their own way
    layer_bias     f32[H]; None for 0
    activation     "gelu", x Phi(x), or "gelu_tanh", its approximation by tanh
    feature_scale  f32[F], what the features of an int8 bank are multiples of; None for 1
    row_scale      f32[N], what the rows of an int8 bank are multiples of; None for 1
    prior          f32[N], added to the score of a problem; None for 0
    candidate      i64[M], distinct rows of the bank to choose from; None for all of them
    design         "iid": independent draws with replacement, propensity q. Without replacement:
                   "systematic": inclusion probability pi = min(1, c q) with sum pi = count (above 1 - 1e-9 it is 1).
                   Problems that are certain come first, then the others in the order of the candidates: neighbours
                   there seldom come together
                   "race": successive draws in order, each from those left. No closed form has their inclusion
                   probability; the propensity is that given the time T when the next one would have been drawn,
                   1 - exp(-q T), and the sum of f / propensity is unbiased
    nucleus        p is cut to its largest entries, ties by row, up to the first where their mass reaches ``nucleus``
    seed, step     the key and the counter of the draws: same pair, same draw. A race gives each problem of the bank
                   its own number, whichever candidates run
    resident_bytes  about how much of a bank in a shared mapping of a file (numpy.memmap of mode "r" or "r+",
                   torch.from_file(shared=True)) is in memory at a time, if it is larger than this: it is read in parts
                   then, with the same result. None for a quarter of the machine's memory. For plain reads of any
                   other source, pass them one by one to ``score_shard``
    Returns        BankDraw. On CUDA, waits for the device: ``log_normaliser`` is a float
    Raises         ValueError if an argument breaks its rule or a score is not finite; RuntimeError if the back-end is
                   absent.
    Source         inversion; Madow 1949; Efraimidis & Spirakis 2006 and Duffield, Lund & Thorup 2007; see
                   csrc/score_bank.h and csrc/race.h.

    >>> import numpy as np
    >>> score_bank(np.zeros((4, 1), np.float32), [0.0], count=4, design="systematic", seed=0).problem
    array([0, 1, 2, 3])
    """
    place = place_of(feature)
    random_options(seed, step)
    limit = resident_limit(resident_bytes)
    on_reference = runs_reference(backend, place, threads)
    head = {"bias": bias, "layer": layer, "layer_bias": layer_bias, "activation": activation}
    head |= {"feature_scale": feature_scale, "row_scale": row_scale, "temperature": temperature, "prior": prior}
    bank = bank_of(place, feature, weight, **head, candidate=candidate)
    draw_options(bank.rows, count, design, floor, nucleus)
    options: dict[str, Any] = {"count": count, "design": design, "floor": floor, "nucleus": nucleus}
    options |= {"seed": seed, "step": step}
    if on_reference:
        return through_numpy(place, reference.score_bank, *bank.arguments(), **bank.options(), **options)
    if not in_parts(bank, limit):
        return kernel(bank, **options, threads=threads)
    score = scores(bank, limit, threads)
    return draw(score, candidate=bank.candidate, **options, backend=backend, threads=threads)


class Bank(NamedTuple):
    """A bank and what makes scores of it, checked and converted."""

    place: Place
    feature: Any
    stride: int
    dtype: int
    head: "Head"
    bias: float
    activation: str
    row_scale: Any
    temperature: float
    prior: Any
    candidate: Any
    rows: int  # M

    def arguments(self) -> tuple[Any, Any]:
        return self.feature, self.head.weight

    def options(self) -> dict[str, Any]:
        """Those of the reference."""
        head = {"layer": self.head.layer, "layer_bias": self.head.layer_bias, "activation": self.activation}
        rows = {"row_scale": self.row_scale, "prior": self.prior, "candidate": self.candidate}
        return head | rows | {"bias": self.bias, "temperature": self.temperature}

    def span(self) -> Span:
        """From the first row to the last."""
        rows, features = self.feature.shape
        entries = max(0, rows - 1) * self.stride + features
        return Span(self.place.pointer(self.feature), entries * BANK_BYTES[self.dtype])

    def part(self, first: int, rows: int) -> "Bank":
        """So many candidates from ``first`` on."""
        cut = slice(first, first + rows)
        if self.candidate is not None:
            candidate = self.candidate[cut]
            return self._replace(candidate=candidate, rows=len(candidate))
        row_scale, prior = (None if array is None else array[cut] for array in (self.row_scale, self.prior))
        feature = self.feature[cut]
        return self._replace(feature=feature, row_scale=row_scale, prior=prior, rows=len(feature))


def bank_of(
    place: Place,
    feature: Any,
    weight: Any,
    *,
    bias: float,
    layer: Any,
    layer_bias: Any,
    activation: str,
    feature_scale: Any,
    row_scale: Any,
    temperature: float,
    prior: Any,
    candidate: Any,
) -> Bank:
    feature, stride = matrix(place, "feature", feature, BANK_DTYPES)
    problems, features = feature.shape
    dtype = BANK_DTYPES.index(place.dtype(feature))
    name = BANK_DTYPES[dtype]
    require(name == "int8" or feature_scale is row_scale is None, "feature_scale and row_scale are for banks of int8")
    scale = None if feature_scale is None else vector(place, "feature_scale", feature_scale, "float64", features)
    head = head_of(place, name, features, weight, scale, layer, layer_bias, activation)
    row_scale = None if row_scale is None else vector(place, "row_scale", row_scale, "float32", problems)
    prior = None if prior is None else vector(place, "prior", prior, "float32", problems)
    candidate = None if candidate is None else vector(place, "candidate", candidate, "int64")
    score_options(bias, temperature)
    rows = problems if candidate is None or problems == 0 else len(candidate)
    return Bank(place, feature, stride, dtype, head, bias, activation, row_scale, temperature, prior, candidate, rows)


def in_parts(bank: Bank, limit: int) -> bool:
    """Whether the bank lies in a file and has more bytes than the limit."""
    span = bank.span()
    return not bank.place.on_cuda and span.size > limit and span.shared_with_file()


def scores(bank: Bank, limit: int, threads: int, first: int = 0) -> Any:
    """f32[M], read so that about ``limit`` bytes of a bank in a file are resident. ``first`` names its row 0."""
    place = bank.place
    if bank.rows == 0:
        return place.empty(0, "float32")
    if not in_parts(bank, limit):
        return kernel(bank, threads=threads, first=first).score
    span, score = bank.span(), place.empty(bank.rows, "float32")
    each = span.size // len(bank.feature) + (0 if bank.candidate is None else AROUND)
    rows = max(1, limit // each)
    for start in range(0, bank.rows, rows):
        part = bank.part(start, rows)
        score[start : start + rows] = kernel(part, threads=threads, first=first, slot=start).score
        (part.span() if bank.candidate is None else span).give_back()
    return score


def kernel(
    bank: Bank,
    *,
    count: int = 0,
    design: str = "iid",
    floor: float = 0.0,
    nucleus: float = 1.0,
    seed: int = 0,
    step: int = 0,
    threads: int = 1,
    first: int = 0,
    slot: int = 0,
) -> BankDraw:
    """One call, of scores only when ``count`` is 0."""
    place, head, rows = bank.place, bank.head, bank.rows
    problems, features = bank.feature.shape
    linear = head.layer is None
    whole = linear and BANK_DTYPES[bank.dtype] == "int8"
    fixed, unit = fixed_point(place, head.weight) if whole else (None, 0.0)
    layer = None if linear else place.contiguous(head.layer.T, "float32")
    score = place.empty(rows, "float32")
    kept = place.empty(rows, "float32") if nucleus < 1.0 else None
    problem = place.empty(count, "int64")
    propensity = place.empty(count, "float64")
    probability = place.empty(count, "float64")
    workspace = place.empty(load().score_bank_workspace(rows, count), "float64")
    fault = no_fault(place, 2)
    at = place.address
    with place.guard():
        log_normaliser, mass, log_time, reachable = load().score_bank(
            *(at(bank.feature), bank.dtype, bank.stride, problems, features),
            *(0 if linear else len(head.layer), 0 if linear else ACTIVATIONS.index(bank.activation)),
            *(None if whole else at(head.weight), at(fixed), unit, at(layer), at(head.layer_bias)),
            *(bank.bias, at(bank.row_scale), bank.temperature, at(bank.prior), at(bank.candidate), rows),
            *(count, DESIGNS.index(design), floor, nucleus, seed, step, at(score), at(kept)),
            *(at(problem), at(propensity), at(probability), at(workspace)),
            *(at(fault), place.where(threads)),
        )
    bank_fault(fault.tolist(), bank.candidate, problems, first, slot)
    if reachable >= 0:
        raise unreachable(count, reachable, design)
    return BankDraw(problem, propensity, probability, score, log_normaliser, mass, log_time)


class Head(NamedTuple):
    weight: Any  # f32[F] or [H]; f64[F] for an int8 bank and a linear head
    layer: Any  # f32[H, F] or None
    layer_bias: Any  # f32[H] or None


def head_of(
    place: Place, dtype: str, features: int, weight: Any, scale: Any, layer: Any, layer_bias: Any, activation: str
) -> Head:
    """The head in the numbers it is used with; ``scale`` f64[F] is multiplied into it."""
    if layer is None:
        require(layer_bias is None, "layer_bias is for a head with a layer")
        weight = vector(place, "weight", weight, "float64" if dtype == "int8" else "float32", features)
        return Head(weight if scale is None else weight * scale, None, None)
    choice("activation", activation, ACTIVATIONS[1:])
    layer = small_matrix(place, "layer", layer, "float64" if dtype == "int8" else "float32", features)
    hidden = len(layer)
    require(hidden >= 1, "a layer needs at least one hidden unit")
    if dtype == "int8":
        layer = place.contiguous(layer if scale is None else layer * scale, "float32")
    if dtype == "bfloat16":
        layer = place.nearest_bfloat16(layer)
    weight = vector(place, "weight", weight, "float32", hidden)
    absent = place.full(hidden, 0.0, "float32") if layer_bias is None else layer_bias
    return Head(weight, layer, vector(place, "layer_bias", absent, "float32", hidden))


def fixed_point(place: Place, weight: Any) -> tuple[Any, float]:
    """(i32[F], unit): the weights f64[F] as multiples of a power of two, 29 bits for the largest."""
    top = float(abs(weight).max()) if len(weight) else 0.0
    if not math.isfinite(top):  # the scores will not be finite, and say so
        return place.full(len(weight), 0, "int32"), math.nan
    unit = math.ldexp(1.0, max(math.frexp(top)[1] - 29, -1022))
    return place.contiguous((weight / unit).round(), "int32"), unit
