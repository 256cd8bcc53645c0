"""A bank scored in shards, or in parts of a file larger than memory, gives the draws of the bank in one piece."""

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.kernels import merge_shards, score_bank, score_shard
from curbench.kernels.contract import DESIGNS
from curbench.kernels.mapped import Span

DTYPES = ("float32", "bfloat16", "int8")


def bank_of(dtype, rows, features, rng):
    wide = rng.standard_normal((rows, features), np.float32)
    if dtype == "int8":
        return torch.from_numpy(np.clip(50 * wide, -128, 127).astype(np.int8))
    return torch.from_numpy(wide).to(getattr(torch, dtype))


@st.composite
def banks(draw):
    """(bank and head, what belongs to rows, options of the draw)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, features, hidden = draw(st.sampled_from([1, 2, 200, 1024, 1025, 2500])), draw(st.integers(1, 70)), 3
    dtype = draw(st.sampled_from(DTYPES))
    head = {"feature": bank_of(dtype, rows, features, rng), "weight": rng.standard_normal(features) / 4}
    head |= {"bias": 0.5, "temperature": draw(st.sampled_from([1.0, 0.3]))}
    if dtype == "int8":
        head["feature_scale"] = rng.random(features) / 50
    if draw(st.booleans()):
        head |= {"layer": rng.standard_normal((hidden, features)) / 4, "layer_bias": np.ones(hidden)}
        head["weight"] = rng.standard_normal(hidden)
    own = {"prior": rng.standard_normal(rows)} if draw(st.booleans()) else {}
    if dtype == "int8":
        own["row_scale"] = rng.random(rows)
    count = draw(st.integers(1, min(rows, 40)))
    options = {"design": draw(st.sampled_from(DESIGNS)), "floor": draw(st.sampled_from([0.0, 0.1, 1.0]))}
    options |= {"nucleus": draw(st.sampled_from([1.0, 0.999])), "seed": draw(st.integers(0, 2**64 - 1)), "step": 3}
    if options["floor"] == 0.0 and options["nucleus"] < 1.0:
        count = 1  # more may not be left
    tensors = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in (head | own).items()}
    own = {name: tensors.pop(name) for name in own}
    return tensors, own, options | {"count": count}


def shards_of(head, own, cuts, candidate=None):
    """In the order of the cuts, reversed."""
    feature = head["feature"]
    rest = {name: value for name, value in head.items() if name not in ("feature", "weight")}
    for i, j in reversed(list(itertools.pairwise(cuts))):
        part = {name: value[i:j] for name, value in own.items()}
        if candidate is not None:
            part["candidate"] = candidate[(candidate >= i) & (candidate < j)] - i
        yield score_shard(feature[i:j], head["weight"], first=i, **rest, **part)


def assert_same_draw(result, expected):
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@given(banks(), st.lists(st.floats(0.0, 1.0), max_size=4), st.booleans())
@settings(max_examples=80)
def test_shards_merge_to_the_draw_of_the_whole_bank(case, cuts, some):
    head, own, options = case
    rows = len(head["feature"])
    cuts = sorted({0, rows, *(int(cut * rows) for cut in cuts)})
    candidate = None
    if some:
        candidate = torch.from_numpy(np.arange(rows)[:: max(1, rows // 150)].copy())
        options["count"] = min(options["count"], len(candidate))
    expected = score_bank(**head, **own, candidate=candidate, **options)
    assert_same_draw(merge_shards(shards_of(head, own, cuts, candidate), **options), expected)


def test_shards_come_from_other_processes():
    rng = np.random.default_rng(0)
    feature, weight = rng.standard_normal((3000, 5), np.float32), rng.standard_normal(5)
    shards = [score_shard(feature[i:j], weight, first=i) for i, j in ((1700, 3000), (0, 1700))]
    sent = [pickle.loads(pickle.dumps(shard)) for shard in shards]
    options = {"count": 30, "design": "race", "floor": 0.1, "seed": 5}
    assert_same_draw(merge_shards(sent, **options), score_bank(feature, weight, **options))
    plain = merge_shards(sent, **options, backend="reference")
    np.testing.assert_array_equal(plain.problem, score_bank(feature, weight, **options).problem)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_shard_names_problems_of_the_whole_bank(backend):
    feature = np.array([[0], [np.inf]], np.float32)
    with pytest.raises(ValueError, match="that of problem 101 is not"):
        score_shard(feature, [1.0], first=100, backend=backend)
    with pytest.raises(ValueError, match="that of problem 101 is not"):
        score_shard(feature, [1.0], first=100, candidate=[0, 1], backend=backend)
    np.testing.assert_array_equal(
        score_shard(feature, [1.0], first=100, candidate=[0], backend=backend).candidate, [100]
    )


def shard(first, rows, **options):
    return score_shard(np.zeros((rows, 1), np.float32), [1.0], first=first, **options)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([], "at least one shard"),
        ([(1, 2)], "row 0 comes next, and a shard begins at 1"),
        ([(0, 2), (3, 2)], "without gaps or overlaps: row 2 comes next, and a shard begins at 3"),
        ([(2, 2), (0, 3)], "row 3 comes next, and a shard begins at 2"),
        ([(0, 2), (0, 2)], "row 2 comes next, and a shard begins at 0"),
        ([(0, 0)], "at least one candidate to draw from"),
    ],
)
def test_shards_that_make_up_no_bank_are_refused(shards, message):
    with pytest.raises(ValueError, match=message):
        merge_shards([shard(*one) for one in shards], count=1, seed=0)


def test_all_shards_have_candidates_or_none():
    with pytest.raises(ValueError, match="all shards must have candidates, or none; 1 of 2 have some"):
        merge_shards([shard(0, 2), shard(2, 2, candidate=[1])], count=1, seed=0)
    with pytest.raises(ValueError, match="first must be a row of the whole bank; got -1"):
        shard(-1, 2)


def test_what_is_no_shard_is_refused():
    with pytest.raises(TypeError, match="shards must come from score_shard; got a int"):
        merge_shards([shard(0, 2), 3], count=1, seed=0)
    with pytest.raises(ValueError, match="score must have 2 entries; got 1"):
        merge_shards([shard(0, 2)._replace(score=np.zeros(1, np.float32))], count=1, seed=0)
    with pytest.raises(ValueError, match="first must be a whole number; got 0.5"):
        shard(0.5, 2)
    with pytest.raises(ValueError, match="resident_bytes must be a whole number; got 1.5"):
        shard(0, 2, resident_bytes=1.5)


def test_a_shard_may_be_empty():
    shards = [shard(0, 2, candidate=[1]), shard(2, 0), shard(2, 3, candidate=[])]
    shards[1] = shards[1]._replace(candidate=np.zeros(0, np.int64))
    np.testing.assert_array_equal(merge_shards(shards, count=1, seed=0).problem, [1])


@given(banks(), st.integers(1, 3000), st.booleans())
@settings(max_examples=25)
def test_a_bank_in_a_file_is_read_in_parts_with_the_same_result(tmp_path_factory, case, resident_bytes, some):
    head, own, options = case
    feature = head.pop("feature")
    path = str(tmp_path_factory.mktemp("bank") / "bank")
    feature.view(torch.uint8).numpy().tofile(path)
    mapped = torch.from_file(path, shared=True, size=feature.numel(), dtype=feature.dtype).view(feature.shape)
    assert Span(mapped.data_ptr(), feature.nbytes).shared_with_file()
    candidate = torch.from_numpy(np.random.default_rng(1).permutation(len(feature))) if some else None
    options |= {"candidate": candidate, "threads": 1}
    expected = score_bank(feature, **head, **own, **options)
    assert_same_draw(score_bank(mapped, **head, **own, **options, resident_bytes=resident_bytes), expected)


def test_faults_in_a_part_are_named_by_row_and_slot(tmp_path):
    feature = np.memmap(tmp_path / "bank", np.float32, "w+", shape=(50, 4))
    options = {"count": 1, "seed": 0, "resident_bytes": 100}
    with pytest.raises(ValueError, match="slot 40 has 50"):
        score_bank(feature, np.ones(4), candidate=[1] * 40 + [50], **options)
    feature[33] = np.nan
    with pytest.raises(ValueError, match="that of problem 33"):
        score_bank(feature, np.ones(4), **options)
    with pytest.raises(ValueError, match="that of problem 33"):
        score_bank(feature, np.ones(4), candidate=[1] * 40 + [33], **options)
    with pytest.raises(ValueError, match="resident_bytes must be at least 1; got 0"):
        score_bank(feature, np.ones(4), count=1, seed=0, resident_bytes=0)


def test_what_is_changed_in_memory_only_is_not_given_back(tmp_path):
    path = tmp_path / "bank"
    np.zeros((1000, 4), np.float32).tofile(path)
    private = np.memmap(path, np.float32, "c", shape=(1000, 4))
    private[500] = 9.0
    draw = score_bank(private, np.ones(4), count=1, seed=0, resident_bytes=100)
    assert draw.score[500] == 36.0
    assert (private[500] == 9.0).all()
    assert not Span(private.ctypes.data, private.nbytes).shared_with_file()


PEAK = """
import resource, sys
import numpy as np
from curbench.kernels import score_bank
path, rows, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
bank = np.memmap(path, np.float32, "r", shape=(rows, 256))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
score_bank(bank[:2000], np.ones(256), count=10, seed=0)
before = peak()
draw = score_bank(bank, np.ones(256), count=10, design="race", seed=0, resident_bytes=limit)
print(peak() - before, *draw.problem)
"""


def test_a_large_bank_in_a_file_does_not_fill_memory(tmp_path):
    rows, limit = 250_000, 16 << 20  # 256 MB, of a file that is all hole
    path = tmp_path / "bank"
    with open(path, "wb") as file:
        file.truncate(rows * 1024)
    run = subprocess.run([sys.executable, "-c", PEAK, path, str(rows), str(limit)], capture_output=True, text=True)
    grown, *problem = map(int, run.stdout.split())
    assert grown < 3 * limit  # the part, the scores, and the pages that the system maps ahead
    expected = score_bank(np.zeros((rows, 1), np.float32), [1.0], count=10, design="race", seed=0).problem
    np.testing.assert_array_equal(problem, expected)
