"""Banks of the user: read with care, split for good, judged by the verifier they name, and trained on."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curbench.config import validate
from curbench.report import write_report
from curbench.suites import label, load
from curbench.train.policy import shipped_base
from curbench.train.run import TrainSpec, train

ROW = [
    {
        "id": f"p{n}",
        "prompt": f"Make {n} from {n - 1} 1:",
        "answer": f"{n - 1}+1",
        "stratum": "odd" if n % 2 else "even",
    }
    for n in range(2, 22)
]


def judge(answer, right):
    return 1.0 if answer.count("+") == 1 else 0.25


def write(path, row):
    path.write_text("".join(json.dumps(one) + "\n" for one in row))
    return str(path)


@pytest.fixture
def bank(tmp_path):
    return write(tmp_path / "my.jsonl", ROW)


def test_a_fifth_is_held_out_whatever_the_order_of_the_lines(tmp_path, bank):
    train, test = load(bank, "train"), load(bank, "test")
    assert (len(train.bank), len(test.bank)) == (16, 4)
    assert set(train.bank.key) | set(test.bank.key) == {one["id"] for one in ROW}
    turned = load(write(tmp_path / "turned.jsonl", ROW[::-1]), "test")
    assert set(turned.bank.key) == set(test.bank.key)
    assert train.bank.stratum_name == test.bank.stratum_name == ("even", "odd")


def test_a_column_or_a_second_file_says_what_is_held_out(tmp_path, bank):
    column = write(tmp_path / "column.jsonl", [one | {"test": i < 3} for i, one in enumerate(ROW)])
    assert set(load(column, "test").bank.key) == {"p2", "p3", "p4"}
    other = write(tmp_path / "other.jsonl", [{"prompt": "Make 9 from 3 3:", "answer": "3*3", "stratum": "odd"}])
    test = load(bank, "test", {"test": other})
    assert test.bank.key.tolist() == ["other:1"]
    assert len(load(bank, "train", {"test": other}).bank) == 20


def test_parquet_and_jsonl_give_the_same_bank(tmp_path, bank):
    pq.write_table(pa.Table.from_pylist(ROW), tmp_path / "my.parquet")
    one, other = load(bank), load(str(tmp_path / "my.parquet"))
    assert one.bank.key.tolist() == other.bank.key.tolist()
    assert [one.prompt(i) for i in range(16)] == [other.prompt(i) for i in range(16)]


@pytest.mark.parametrize(
    ("verifier", "answer", "right", "wrong"),
    [
        ("exact", "yes", " yes\n", "Yes"),
        ("number", "1/2", "0.50", "0.5.0"),
        ("choice", "B", "(b)", "B or C"),
        ("tests.suites.test_user:judge", "3+1", "anything+else", "9**9"),
    ],
)
def test_verifiers_by_name(tmp_path, verifier, answer, right, wrong):
    row = [{"prompt": str(n), "answer": answer, "verifier": verifier} for n in range(2)]
    suite = load(write(tmp_path / "my.jsonl", row), "test")
    assert suite.verify(0, right) == (1.0, True)
    assert suite.verify(0, wrong) == ((0.25 if ":" in verifier else 0.0), False)
    assert suite.verify(0, "x" * 1_000_000)[1] is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: a problem is an object with prompt and answer; got list"),
        ('{"prompt": "a"}', "line 2: answer must be a text that is not empty; got None"),
        ('{"prompt": " ", "answer": "1"}', "line 2: prompt must be a text that is not empty; got ' '"),
        ('{"prompt": "a", "answer": "1", "tset": true}', "line 2: unknown column 'tset'; the columns are id, prompt"),
        ('{"prompt": "a", "answer": "1", "test": 1}', "line 2: test must be true or false; got 1"),
        ('{"prompt": "a", "answer": "1", "difficulty": "hard"}', "line 2: difficulty must be a number; got 'hard'"),
        ('{"prompt": "a", "answer": "1", "verifier": "vibes"}', "unknown verifier 'vibes'; choose from exact, number"),
        ('{"prompt": "a", "answer": "one", "verifier": "number"}', "the answer 'one' is not one that the verifier"),
        ('{"prompt": "q", "answer": "1"}', "line 2: the prompt is already that of .*line 1"),
        ('{"id": "my:1", "prompt": "a", "answer": "1"}', "line 2: the id is already that of .*line 1"),
    ],
)
def test_a_bad_line_is_named_with_its_rule(tmp_path, line, message):
    path = tmp_path / "my.jsonl"
    path.write_text('{"prompt": "q", "answer": "0"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        load(str(path))
    assert str(path) in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load(str(tmp_path / "none.jsonl"))
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(ValueError, match="is not a Parquet file"):
        load(str(tmp_path / "a.parquet"))
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no problem"):
        load(str(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        load(str(tmp_path / "b.jsonl"))


def test_a_scorer_that_fails_on_a_right_answer_is_refused_at_once(bank):
    with pytest.raises(ValueError, match="no_such cannot be used: AttributeError"):
        load(bank, "train", {"verifier": "tests.suites.test_user:no_such"})


def test_a_file_is_called_by_its_stem():
    assert label("/somewhere/else/my.jsonl") == "my"


def test_twenty_lines_train_resume_and_report(tmp_path, bank, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from curbench.curators.uniform import Uniform\n\n\nclass Mine(Uniform):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"suite": bank, "budget_steps": 1, "batch": 4, "group": 2, "model": str(shipped_base("countdown"))}
    spec |= {"suite_set": {"verifier": "tests.suites.test_user:judge"}, "grpo": {"threads": 1}}
    specs = [validate(TrainSpec, spec | {"curator": name}) for name in ("uniform", "mine:Mine")]
    rows = [train(one, tmp_path / "runs") for one in specs]
    assert [row["curator"] for row in rows] == ["uniform", "mine:Mine"]
    assert rows[0]["tokens"] == rows[1]["tokens"]
    step = json.loads((tmp_path / "runs" / "my" / "mine-Mine" / "0" / "steps.jsonl").read_text().splitlines()[-1])
    assert step["actor"]["scorer_calls"] == 8.0
    assert train(specs[0], tmp_path / "runs", resume=True) == rows[0]
    assert write_report([tmp_path / "runs"], tmp_path / "page.html")["training_runs"] == 2
