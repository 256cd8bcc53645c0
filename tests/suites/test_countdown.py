"""The countdown bank: what is in the file, that train and test are apart, and that a broken file is refused."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curbench.suites import load
from curbench.suites.countdown import BANK, Problem, Recipe, generate, read_bank, split, write_bank
from curbench.suites.verify import reaches_target


@pytest.fixture(scope="module", params=["train", "test"])
def suite(request):
    return load("countdown", request.param)


def test_every_stored_solution_succeeds(suite):
    assert all(suite.verify(i, suite.solution(i)) == (1.0, True) for i in range(len(suite.bank)))


def test_a_solution_of_another_problem_fails(suite):
    assert suite.verify(0, suite.solution(len(suite.bank) - 1)) == (0.0, False)


def test_the_prompt_states_target_and_numbers(suite):
    assert suite.prompt(5) == f"Make {suite.target(5)} from {' '.join(map(str, suite.number(5)))}:"


def test_train_and_test_share_no_problem():
    train, test = load("countdown", "train").bank, load("countdown", "test").bank
    assert not set(train.key) & set(test.key)
    assert train.stratum_size.tolist() == [432, 2000, 1500, 1000]
    assert test.stratum_size.tolist() == [128, 128, 128, 128]


def test_a_key_ignores_the_order_of_the_numbers():
    assert Problem("train", (7, 3), 21, "7*3").key == Problem("test", (3, 7), 21, "3*7").key


def test_features_do_not_depend_on_the_order_of_the_numbers_nor_on_the_answer(suite):
    from curbench.suites.countdown import feature

    number, target = suite.number(9), suite.target(9)
    np.testing.assert_array_equal(np.float32(feature(number[::-1], target)), suite.bank.feature[9])
    assert suite.bank.feature.shape == (len(suite.bank), 24)
    assert np.abs(suite.bank.feature).max() < 5


def test_difficulty_is_between_zero_and_one_and_grows_with_the_strata(suite):
    assert suite.bank.difficulty.min() >= 0
    assert suite.bank.difficulty.max() <= 1
    mean = [suite.bank.difficulty[suite.bank.stratum == c].mean() for c in range(4)]
    assert mean == sorted(mean)


def test_the_file_names_its_recipe():
    about = json.loads(pq.read_schema(BANK).metadata[b"curbench"])
    assert about["recipe"]["seed"] == Recipe().seed
    assert about["generator"].startswith("reasoning-gym 0.1")
    assert BANK.stat().st_size < 2_000_000


def test_splitting_is_independent_of_the_order_of_the_problems():
    problem = [Problem("train", (n, n + 1), 2 * n + 1, f"{n}+{n + 1}") for n in range(1, 20)]
    recipe = Recipe(test=5)
    one = {p.key: p.split for p in split(problem, recipe)}
    assert one == {p.key: p.split for p in split(problem[::-1], recipe)}
    assert sorted(one.values()).count("test") == 5


def test_an_unknown_suite_or_split_names_the_choices():
    with pytest.raises(ValueError, match="unknown suite 'chess'; choose from countdown"):
        load("chess")
    with pytest.raises(ValueError, match="unknown split 'dev'; choose from train, test"):
        load("countdown", "dev")


# --- Broken files -----------------------------------------------------------------------------------------------------

GOOD = [Problem("train", (7, 3), 21, "7*3"), Problem("test", (2, 3, 4), 10, "2*3+4")]


def test_a_written_bank_is_read_back(tmp_path):
    write_bank(tmp_path / "bank.parquet", GOOD, {"seed": 1})
    assert read_bank(tmp_path / "bank.parquet") == GOOD


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Problem("dev", (1, 2), 3, "1+2"), "split must be train or test; got 'dev'"),
        (Problem("test", (3,), 3, "3"), r"a problem has 2 to 5 numbers; got \[3\]"),
        (Problem("test", (0, 3), 3, "0+3"), r"numbers must be positive integers; got \[0, 3\]"),
        (Problem("test", (1, 2), -1, "1-2"), "the target must be a positive integer; got -1"),
        (Problem("test", (1, 2), 4, "1+2"), r"the solution '1\+2' does not make 4 from \[1, 2\]"),
        (Problem("test", (1, 2), 3, "__import__('os')"), "the solution .* does not make 3"),
        (Problem("test", (3, 7), 21, "3*7"), "problem 3,7=21 is already in row 0"),
    ],
)
def test_a_broken_row_is_named_with_its_rule(tmp_path, row, message):
    path = tmp_path / "bank.parquet"
    write_bank(path, [*GOOD, row], {})
    with pytest.raises(ValueError, match=rf"bank\.parquet, row 2: {message}"):
        read_bank(path)


def test_changed_rows_are_noticed(tmp_path):
    path = tmp_path / "bank.parquet"
    write_bank(path, GOOD, {})
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 1), path)
    with pytest.raises(ValueError, match="the rows are not those that were written"):
        read_bank(path)


def test_a_missing_value_is_named(tmp_path):
    path = tmp_path / "bank.parquet"
    columns = {"split": ["train"], "number": [[1, 2]], "target": [None], "solution": ["1+2"]}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match="row 0: the target must be a positive integer; got None"):
        read_bank(path)


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "bank.txt"
    text.write_text("not parquet")
    with pytest.raises(ValueError, match=r"bank\.txt is not a Parquet file"):
        read_bank(text)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="must have the columns split, number, target, solution"):
        read_bank(tmp_path / "a.parquet")


# --- Demonstrations ---------------------------------------------------------------------------------------------------


def test_demonstrations_have_a_right_and_a_wrong_answer_and_are_never_held_out():
    train, held_out = load("countdown", "train"), set(load("countdown", "test").bank.key)
    generator = np.random.default_rng(0)
    for _ in range(2000):
        one = train.demonstration(generator)
        target, *number = (int(n) for n in re.findall(r"\d+", one.prompt))
        assert reaches_target(one.right, number, target)
        assert not reaches_target(one.wrong, number, target)
        assert Problem("train", tuple(number), target, one.right).key not in held_out


def test_demonstrations_follow_their_generator():
    train = load("countdown", "train")
    one, two, other = ([train.demonstration(np.random.default_rng(s)) for _ in range(3)] for s in (1, 1, 2))
    assert one == two != other


# --- Making the bank --------------------------------------------------------------------------------------------------


def test_generated_problems_are_distinct_right_split_and_repeatable():
    pytest.importorskip("reasoning_gym")
    recipe = Recipe(size={2: 6, 3: 5}, test=2)
    found = []
    problem = generate(recipe, found.append)
    assert found == [2] * 6 + [3] * 5
    assert len({p.key for p in problem}) == 11
    assert all(reaches_target(p.solution, p.number, p.target) for p in problem)
    assert [sum(p.split == "test" and len(p.number) == n for p in problem) for n in (2, 3)] == [2, 2]
    stored = {p.key for p in read_bank(BANK)}
    assert {p.key for p in problem} <= stored  # the first problems of the bank in the package, by the same seed


def test_importing_suites_is_light():
    code = (
        "import sys, curbench.suites; print(sorted({'torch', 'pyarrow', 'transformers', 'numba'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
