"""Suites made of tasks: what ships is right, drawing is repeatable, and no text but an answer is taken for one."""

import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.suites import load, resolve
from curbench.suites.generate import DATA, Recipe, bank_file, fresh_generator, generate, load_items
from curbench.suites.item import Item, read_items, tagged, write_items
from curbench.suites.knights_knaves import JOINED, KnightsKnaves, holds, solve
from curbench.suites.made import RECIPE, SHIPPED
from curbench.suites.verify import same_choice, same_letters, same_number

LIBRARY_FREE = ["knights_knaves"]
NEEDS_LIBRARY = ["arc_1d", "zebra", "simple_equations", "gsm_symbolic"]
ATTACKS = [
    "",
    "__import__('os').system('touch /tmp/owned')",
    "9**9**9**9",
    "(" * 100_000,
    "A" * 1_000_000,
    "\0",
    "A\0b",
    "１２",  # full-width digits
    "٣",
    "1e400",
    "nan",
    "1/0",
    "-" * 5000,
    "[1]*10**9",
    "{0}.__class__",
]


def task(name):
    if name in NEEDS_LIBRARY:
        pytest.importorskip("reasoning_gym")
    return resolve(RECIPE[name].task)()


def draws(name, count=6):
    one, generator = task(name), fresh_generator(7)
    found = []
    for k in range(400):
        item = one.draw(k % len(one.stratum_name), generator)
        found += [] if item is None else [item]
        if len(found) == count:
            return one, found
    raise AssertionError(f"{name} gave {len(found)} items in 400 draws")


@pytest.mark.parametrize("name", LIBRARY_FREE + NEEDS_LIBRARY)
def test_drawn_answers_are_right_spoilt_ones_wrong_and_attacks_fail(name):
    one, found = draws(name)
    generator = np.random.default_rng(0)
    begin = time.process_time()
    for item in found:
        assert one.success(item, item.answer)
        assert not one.success(item, one.spoil(item, generator))
        assert not any(one.success(item, attack) for attack in ATTACKS)
        assert not one.success(item, item.answer + " " + item.answer)
        assert 0.0 <= one.difficulty(item) <= 1.0
        assert len(one.question(item)) > 40
    assert time.process_time() - begin < 2.0


@pytest.mark.parametrize("name", ["arc_1d", "knights_knaves"])
def test_shipped_banks_are_those_of_their_recipe_small_and_split_apart(name):
    path = DATA / SHIPPED[name]
    assert path.stat().st_size < 300_000
    train, test = load(name, "train"), load(name, "test")
    assert not set(train.bank.key) & set(test.bank.key)
    assert not {train.prompt(i) for i in range(len(train.bank))} & {test.prompt(i) for i in range(len(test.bank))}
    assert set(train.bank.stratum_size) == {RECIPE[name].train}
    assert set(test.bank.stratum_size) == {RECIPE[name].test}
    about = pq.read_schema(path).metadata[b"curbench"].decode()
    assert f'"seed": {RECIPE[name].seed}' in about
    assert '"generator": "reasoning-gym 0.1' in about
    for i in range(0, len(test.bank), 50):
        assert test.verify(i, f"  {test.solution(i)}\n") == (1.0, True)
        assert test.verify(i, test.solution(i - 1) + "x") == (0.0, False)


@pytest.mark.parametrize("name", ["arc_1d", "knights_knaves"])
def test_prompts_and_answers_fit_a_tiny_model(name):
    from curbench.train.policy import load_policy

    test = load(name, "test")
    tokenizer = load_policy(None, name).tokenizer
    prompt = tokenizer([test.prompt(i) for i in range(len(test.bank))])["input_ids"]
    answer = tokenizer([test.solution(i) for i in range(len(test.bank))])["input_ids"]
    assert max(map(len, prompt)) <= 60
    assert max(map(len, answer)) < 20
    assert not any(tokenizer.unk_token_id in one for one in prompt + answer)


def test_in_words_only_the_tagged_answer_counts():
    suite = load("knights_knaves", "test", {"style": "question"})
    answer = suite.solution(0)
    assert "knight" in suite.prompt(0)
    assert suite.verify(0, f"so it is <answer>wrong</answer> no, {answer}") == (1.0, True)
    assert suite.verify(0, answer.replace("<answer>", "")) == (0.0, False)
    assert suite.verify(0, answer + "<answer>") == (0.0, False)
    with pytest.raises(ValueError, match="style is one of compact, question; got 'haiku'"):
        load("countdown", "test", {"style": "haiku"})


@given(st.text(max_size=60))
def test_any_text_can_be_searched_for_tags(text):
    assert tagged(text) is None or f"<answer>{tagged(text)}</answer>" in text


# --- Knights and knaves against slow truth ----------------------------------------------------------------------------

CLAIM = st.tuples(st.integers(0, 3), st.booleans())
STATEMENT = st.one_of(st.tuples(st.just("is"), CLAIM), st.tuples(st.sampled_from(JOINED), CLAIM, CLAIM))


@settings(max_examples=60)
@given(st.lists(STATEMENT, min_size=4, max_size=4))
def test_solutions_are_those_of_the_library(statement):
    library = pytest.importorskip("reasoning_gym.logic.knights_knaves").KnightsKnavesDataset
    word = {"implies": "->", "iff": "<=>"}

    def claim(one):
        return ("telling-truth" if one[1] else "lying", one[0])

    theirs = tuple(
        claim(one[1]) if one[0] == "is" else (word.get(one[0], one[0]), claim(one[1]), claim(one[2]))
        for one in statement
    )
    expected = {tuple(map(int, one)) for one in library.find_solution(theirs)}
    assert {tuple(one) for one in solve(statement)} == expected


@pytest.mark.parametrize("mention", ["near", "any"])
def test_every_puzzle_has_the_one_solution_that_is_stored(mention):
    one, generator = KnightsKnaves(mention), fresh_generator(3)
    found = [one.draw(s, generator) for s in (0, 1, 2, 5) for _ in range(12)]
    for item in filter(None, found):
        statement = [(kind, *(tuple(claim) for claim in rest)) for kind, *rest in item.given["statement"]]
        assert len(solve(statement)) == 1
        role = [int(word.isupper()) for word in item.answer.split()]
        assert all(holds(said, role) == role[who] for who, said in enumerate(statement))
    assert any(found)


@pytest.mark.parametrize("name", ["simple_equations", "zebra", "gsm_symbolic"])
def test_made_suites_load(name, tmp_path, monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setenv("CURBENCH_CACHE", str(tmp_path))
    suite = load(name, "test", {"train": "1", "test": "1"})
    assert set(suite.bank.stratum_size) == {1}
    assert suite.verify(0, suite.solution(0)) == (1.0, True)


def test_only_known_settings_of_a_suite_are_taken():
    with pytest.raises(ValueError, match="KnightsKnaves has no setting 'size'; its settings: mention"):
        load("knights_knaves", "train", {"size": "3"})
    with pytest.raises(ValueError, match="mention=all: input should be 'near' or 'any'"):
        load("knights_knaves", "train", {"mention": "all"})
    with pytest.raises(ValueError, match="the suite countdown has no setting 'numbers'"):
        load("countdown", "train", {"numbers": "3"})


# --- Scorers ----------------------------------------------------------------------------------------------------------


@given(st.fractions(max_denominator=10**6).filter(lambda f: abs(f) < 10**9))
def test_a_number_equals_itself_in_every_form(value):
    assert same_number(f"{value.numerator}/{value.denominator}", str(value))
    if value.denominator == 1:
        assert same_number(f"{value.numerator:,}", str(value))
        assert same_number(f"{value.numerator}.00", str(value))
        assert not same_number(str(value.numerator + 1), str(value))


@given(st.text(max_size=80), st.text(max_size=20))
def test_any_text_is_scored_without_an_exception(answer, right):
    for scorer in (same_number, same_choice, same_letters):
        assert scorer(answer, right) in (True, False)


@given(st.text(alphabet="Ab 01", max_size=12))
def test_letters_are_equal_up_to_spaces(text):
    assert same_letters(text.strip(), text.replace(" ", "")) == (len(text.strip()) <= 2 * len(text.replace(" ", "")))


# --- Making and keeping -----------------------------------------------------------------------------------------------


def test_banks_are_made_once_repeatably_and_without_duplicates(tmp_path, monkeypatch):
    monkeypatch.setenv("CURBENCH_CACHE", str(tmp_path))
    recipe = Recipe("curbench.suites.knights_knaves:KnightsKnaves", {}, train=3, test=1)
    one, share = KnightsKnaves(), []
    first = load_items(one, recipe, None, share.append)
    assert share == sorted(share)
    assert share[-1] == pytest.approx(1.0)
    assert [path.name for path in tmp_path.iterdir()] == [bank_file(recipe)]
    monkeypatch.setattr("curbench.suites.generate.generate", None)
    assert load_items(one, recipe, None) == first
    assert len({one.key(item) for item in first}) == len(first) == 12 * 4
    assert [sum(item.split == "test" for item in first if item.stratum == s) for s in range(12)] == [1] * 12


def test_neighbouring_seeds_share_no_stream():
    one, other = (fresh_generator(seed, 0, index).integers(1 << 62) for seed, index in ((1, 1), (2, 0)))
    assert one != other


class Slow:
    """Hangs at every other draw."""

    name = "slow"
    stratum_name = ("only",)

    def draw(self, stratum, generator):
        if generator.integers(4) == 0:
            time.sleep(60)
        return Item({}, str(generator.integers(1000)), stratum)

    def prompt(self, item):
        return item.answer

    def key(self, item):
        return item.answer

    def success(self, item, answer):
        return answer == item.answer


def test_a_draw_that_hangs_is_killed_and_skipped():
    recipe = Recipe("tests.suites.test_items:Slow", {}, train=4, test=2, timeout_s=0.5)
    begin = time.monotonic()
    assert len(generate(Slow(), recipe)) == 6
    assert time.monotonic() - begin < 50


def test_a_damaged_file_is_refused_with_its_remedy(tmp_path):
    one = KnightsKnaves()
    item = [one.draw(0, fresh_generator(0, k)) for k in range(20)]
    good = [it for it in item if it is not None][:2]
    path = tmp_path / "bank.parquet"
    write_items(path, good, {})
    assert read_items(path, one) == good
    for bad, message in (
        ([good[0], good[0]], "row 1: the problem is already in row 0"),
        ([good[0]._replace(split="dev")], "row 0: split 'dev', stratum 0 do not exist"),
    ):
        write_items(path, bad, {})
        with pytest.raises(ValueError, match=message):
            read_items(path, one)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(ValueError, match=r"sha256 differs\): delete it, and it is made again"):
        read_items(path, one)


def test_a_mix_has_the_problems_and_verdicts_of_its_members():
    mix = load("countdown,knights_knaves", "test")
    own = [load(name, "test") for name in ("countdown", "knights_knaves")]
    assert len(mix.bank) == sum(len(one.bank) for one in own)
    assert mix.bank.stratum_name[4] == "knights_knaves: 3 people"
    at = len(own[0].bank) + 7
    assert (mix.prompt(at), mix.bank.stratum[at]) == (own[1].prompt(7), own[1].bank.stratum[7] + 4)
    assert mix.verify(at, own[1].solution(7)) == (1.0, True)
    assert mix.verify(at, own[0].solution(7)) == (0.0, False)
    kinds = {mix.demonstration(np.random.default_rng(k)).prompt[:2] for k in range(12)}
    assert kinds == {"Ma", "kk"}
    with pytest.raises(ValueError, match="a mix is of different suites"):
        load("countdown,countdown")
