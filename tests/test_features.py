"""Features: each source against a slow restatement, side by side, in blocks, on disk."""

from collections import Counter

import numpy as np
import pytest

from curbench import features
from curbench.features import column_moments, file_name, make_features, make_sources, ngram, parse_sources, project
from curbench.types import ActorView, Bank

TEXT = ["Make 21 from 7 3:", "", "a", "Make 21 from 3 7:", "prove ∀x"]
BANK = Bank(
    key=list("abcde"),
    stratum=[0, 2, 1, 2, 0],
    feature=np.arange(10).reshape(5, 2),
    prompt=lambda i: TEXT[i],
)
VIEW = ActorView(hidden=lambda problem, depth: np.stack([problem, problem**2, -problem], 1).astype("f4"), angle=None)


def slow_ngram(text, width):
    """One text, in whole numbers of 64 bits."""
    out, raw, top = np.zeros(width), text.encode(), 2**64
    for n in (1, 2, 3, 4):
        for start in range(len(raw) - n + 1):
            h = 0xCBF29CE484222325 ^ n
            for byte in raw[start : start + n]:
                h = ((h ^ byte) * 0x100000001B3) % top
            h ^= h >> 33
            h = h * 0xFF51AFD7ED558CCD % top
            h ^= h >> 33
            out[(h & 0x7FFFFFFF) % width] += 1 if h >> 63 else -1
    return out / max(np.linalg.norm(out), 1e-300)


@pytest.mark.parametrize("width", [1, 7, 64])
def test_ngrams_are_signed_counts_of_hashes(width):
    np.testing.assert_allclose(ngram(TEXT, width), [slow_ngram(t, width) for t in TEXT], atol=1e-6)


def test_hashed_inner_products_are_those_of_counts():
    rng = np.random.default_rng(0)
    text = ["".join(rng.choice(list("abcdefghij klmn"), 40)) for _ in range(30)]
    count = [Counter(t[i : i + n] for n in (1, 2, 3, 4) for i in range(len(t) - n + 1)) for t in text]
    gram = np.array([[sum(a[key] * b[key] for key in a) for b in count] for a in count], float)
    size = np.sqrt(np.diag(gram))
    row = ngram(text, 4096)
    np.testing.assert_allclose(row @ row.T, gram / np.outer(size, size), atol=5 / np.sqrt(4096))


def test_projection_keeps_inner_products_in_expectation():
    state = np.random.default_rng(0).normal(size=(40, 300)).astype("f4") + 1.0
    found, exact = project(state, 128), state.astype(float)
    assert found.shape == (40, 128)
    size = np.linalg.norm(exact, axis=1)
    error = (found @ found.T - exact @ exact.T) / np.outer(size, size)
    assert np.abs(error).max() < 5 / np.sqrt(128)


def test_sources_stand_side_by_side_in_the_order_of_the_text():
    table = make_features(make_sources("strata+bank+hidden:4+ngram:8", BANK, VIEW), 5)
    assert table.shape == (5, 3 + 2 + 4 + 8)
    np.testing.assert_array_equal(table[:, :3], np.eye(3)[[0, 2, 1, 2, 0]])
    np.testing.assert_array_equal(table[:, 3:5], BANK.feature)
    np.testing.assert_array_equal(table[:, 5:9], project(VIEW.hidden(np.arange(5), 1.0), 4))
    np.testing.assert_array_equal(table[:, 9:], ngram(TEXT, 8))


def test_a_table_on_disk_is_made_in_blocks_once_and_again_when_it_would_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "EMBEDDED_AT_ONCE", 2)
    path, asked, done = tmp_path / "new" / "table.npy", [], []

    def hidden(problem, depth):
        asked.append(problem.tolist())
        return VIEW.hidden(problem, depth)

    source = make_sources("hidden:4+strata", BANK, ActorView(hidden, None))
    table = features.write_features(path, source, 5, done.append)
    assert asked == [[0, 1], [0, 1], [2, 3], [4]]
    assert done == [2, 4, 5]
    assert isinstance(table, np.memmap)
    np.testing.assert_array_equal(table, make_features(source, 5))
    asked.clear()
    again = features.write_features(path, source, 5)
    assert asked == [[0, 1]]  # enough to see that it is the same
    np.testing.assert_array_equal(again, table)
    other = make_sources("hidden:4+strata", BANK, ActorView(lambda p, d: 2 * VIEW.hidden(p, d), None))
    np.testing.assert_array_equal(features.write_features(path, other, 5)[:, :4], 2 * table[:, :4])
    assert sorted(f.name for f in path.parent.iterdir()) == ["table.npy"]


def test_a_bank_takes_a_memory_map_as_it_is(tmp_path):
    table = features.write_features(tmp_path / "t.npy", make_sources("bank", BANK), 5)
    bank = Bank(key=BANK.key, stratum=BANK.stratum, feature=table)
    assert np.shares_memory(bank.feature, table)
    with pytest.raises(ValueError, match="read-only"):
        bank.feature[0, 0] = 1.0


def test_moments_are_those_of_the_whole_table(monkeypatch):
    monkeypatch.setattr(features, "BLOCK", 3)
    table = np.random.default_rng(0).normal(3, [1.0, 20.0, 0.0], size=(10, 3)).astype("f4")
    mean, spread = column_moments(table)
    np.testing.assert_allclose(mean, table.mean(0), rtol=1e-6)
    np.testing.assert_allclose(spread, [*table.astype(float).std(0)[:2], 1.0], rtol=1e-6)


def test_file_names_differ_with_sources_and_problems():
    other = Bank(key=list("abcdf"), stratum=BANK.stratum)
    assert len({file_name("s", "strata", BANK), file_name("s", "ngram", BANK), file_name("s", "strata", other)}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ngrams", "unknown source of features 'ngrams'; join some of bank, strata, ngram, hidden with +"),
        ("ngram+ngram:8", "given twice"),
        ("strata:8", "only ngram and hidden take a width"),
        ("ngram:0", "only ngram and hidden take a width"),
        ("", "unknown source of features ''"),
    ],
)
def test_texts_that_name_no_sources_are_refused(text, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        parse_sources(text)


@pytest.mark.parametrize(
    ("text", "message"), [("bank", "ships no features"), ("ngram", "has no text"), ("hidden", "needs an actor")]
)
def test_sources_without_material_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        make_sources(text, Bank(key=["a"], stratum=[0]))
