"""Scoring a bank in shards, in as many processes, machines or reads as it takes."""

from collections.abc import Iterable
from typing import Any

from curbench.kernels import reference
from curbench.kernels.arrays import place_of, runs_reference, through_numpy, vector
from curbench.kernels.bank import bank_of, scores
from curbench.kernels.contract import BankDraw, BankShard, require, whole_number
from curbench.kernels.draw import draw
from curbench.kernels.mapped import resident_limit


def score_shard(
    feature: Any,
    weight: Any,
    *,
    first: int,
    bias: float = 0.0,
    layer: Any = None,
    layer_bias: Any = None,
    activation: str = "gelu",
    feature_scale: Any = None,
    row_scale: Any = None,
    temperature: float = 1.0,
    prior: Any = None,
    candidate: Any = None,
    resident_bytes: int | None = None,
    backend: str = "auto",
    threads: int = 1,
) -> BankShard:
    """The scores of the rows from ``first`` on of a bank whose other rows are scored elsewhere; see ``merge_shards``.

    feature    [N, F], the rows of the shard; row_scale, prior [N] and candidate i64[M] in [0, N) are of the shard, too
    the rest   as for ``score_bank``
    Returns    BankShard, of numpy arrays or tensors: 4 bytes for every row, and 8 more for a candidate
    Raises     as ``score_bank``.

    >>> import numpy as np
    >>> score_shard(np.ones((2, 1), np.float32), [3.0], first=1024).score
    array([3., 3.], dtype=float32)
    """
    whole_number("first", first)
    require(first >= 0, f"first must be a row of the whole bank; got {first!r}")
    limit = resident_limit(resident_bytes)
    place = place_of(feature)
    on_reference = runs_reference(backend, place, threads)
    head = {"bias": bias, "layer": layer, "layer_bias": layer_bias, "activation": activation}
    head |= {"feature_scale": feature_scale, "row_scale": row_scale, "temperature": temperature, "prior": prior}
    bank = bank_of(place, feature, weight, **head, candidate=candidate)
    if on_reference:
        score = through_numpy(place, reference.score_rows, *bank.arguments(), **bank.options(), first_row=first)
    else:
        score = scores(bank, limit, threads, first)
    return BankShard(first, len(bank.feature), None if bank.candidate is None else bank.candidate + first, score)


def merge_shards(
    shards: Iterable[BankShard],
    *,
    count: int,
    design: str = "iid",
    floor: float = 0.0,
    nucleus: float = 1.0,
    seed: int,
    step: int = 0,
    backend: str = "auto",
    threads: int = 1,
) -> BankDraw:
    """The draw of ``score_bank`` from a bank that was scored in shards: the same bits, however it was cut.

    shards     of any sizes and in any order, that cover the bank from row 0 without a gap; either none of them has
               candidates or all of them do. All with the same head and temperature, which nobody can check here
    design, floor, nucleus, seed, step  as for ``score_bank``
    Returns    BankDraw; ``score`` holds that of every shard, in the order of the rows
    Raises     ValueError if the shards do not make up a bank, or as ``draw``.

    Scores are all that a draw needs to know, so this is ``draw`` from them: every design, a floor and a nucleus merge.
    What does not: scores of a bfloat16 bank and an MLP head, made by processors of which some multiply pairs of
    bfloat16 and some do not, differ in their last bits from those of one machine.

    >>> import numpy as np
    >>> from curbench.kernels import score_bank
    >>> feature, options = np.arange(4, dtype=np.float32)[:, None], {"count": 2, "seed": 0}
    >>> shards = (score_shard(feature[i : i + 2], [1.0], first=i) for i in (0, 2))
    >>> (merge_shards(shards, **options).problem == score_bank(feature, [1.0], **options).problem).all()
    np.True_
    """
    shards = list(shards)
    for shard in shards:
        if not isinstance(shard, BankShard):
            raise TypeError(f"shards must come from score_shard; got a {type(shard).__name__}")
    shards.sort(key=lambda shard: (shard.first, shard.rows))
    require(len(shards) > 0, "a bank needs at least one shard")
    end = 0
    for shard in shards:
        rule = f"shards must cover the bank without gaps or overlaps: row {end} comes next, and a shard begins at"
        require(shard.first == end, f"{rule} {shard.first}")
        end += shard.rows
    with_candidates = sum(shard.candidate is not None for shard in shards)
    require(
        with_candidates in (0, len(shards)),
        f"all shards must have candidates, or none; {with_candidates} of {len(shards)} have some",
    )
    place = place_of(shards[0].score)
    score, candidate = [], []
    for shard in shards:
        if with_candidates:
            candidate.append(vector(place, "candidate", shard.candidate, "int64"))
        length = len(candidate[-1]) if with_candidates else shard.rows
        score.append(vector(place, "score", shard.score, "float32", length))
    options: dict[str, Any] = {"floor": floor, "nucleus": nucleus, "seed": seed, "step": step}
    chosen = place.joined(candidate) if with_candidates else None
    return draw(
        place.joined(score), candidate=chosen, count=count, design=design, **options, backend=backend, threads=threads
    )
