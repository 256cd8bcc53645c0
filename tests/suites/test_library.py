"""Any dataset of reasoning-gym as a suite: its scorers run what they are given, and cannot hurt us."""

import numpy as np
import pytest

from curbench.suites import load
from curbench.suites.library import Library

pytest.importorskip("reasoning_gym")


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("curbench.suites.library.TRAIN", 6)
        patch.setattr("curbench.suites.library.TEST", 2)
        yield load("rg:countdown", "train", {"max_numbers": "4", "timeout_s": "1.0"})


def test_a_dataset_is_a_suite_with_the_librarys_scores(suite):
    assert len(suite.bank) == 6
    assert suite.verify(0, suite.solution(0)) == (1.0, True)
    reward, success = suite.verify(0, "1+1")
    assert 0.0 < reward < 1.0  # the library's partial credit is kept apart from success
    assert not success
    assert suite.demonstration(np.random.default_rng(0)).wrong != suite.solution(0)


@pytest.mark.parametrize(
    "attack",
    [
        "open('{file}', 'w')",
        "__import__('os').system('touch {file}')",
        "[].__class__.__base__.__subclasses__()",
        "\0",
        "٣+٤",
        "x" * 19_000,
    ],
)
def test_attacks_on_a_scorer_that_evaluates_earn_nothing_and_write_nothing(suite, attack, tmp_path):
    file = tmp_path / "owned"
    reward, success = suite.verify(0, attack.format(file=file))
    assert reward < 0.1
    assert not success
    assert not file.exists()


def test_an_endless_expression_is_killed_and_counted(suite):
    suite.metrics()
    assert suite.verify(0, "9**9**9**9") == (0.0, False)
    assert suite.metrics()["scorer_timeouts"] == 1.0
    assert suite.verify(0, suite.solution(0)) == (1.0, True)


def test_unknown_datasets_and_settings_are_refused():
    with pytest.raises(ValueError, match="has no dataset 'chess_960'"):
        load("rg:chess_960")
    with pytest.raises(ValueError, match="has no setting 'no_such'"):
        Library("chain_sum", no_such=1)
