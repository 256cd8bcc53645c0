"""Foreign code in a process of its own: killed when it hangs, contained when it attacks, counted when it fails."""

import os
import time
from pathlib import Path

import pytest

from curbench.suites.judge import FAILURES_IN_A_ROW, Judge
from curbench.suites.worker import CallFailed, CallTimeout, Worker


def misbehave(how, *rest):
    """What scorers have done, or could be made to do by an answer that they evaluate."""
    if how == "echo":
        return rest[0]
    if how == "print":
        print("noise")
        return os.getpid()
    if how == "hang":
        while True:
            pass
    if how == "power":
        return eval("9**9**9**9") > 0
    if how == "memory":
        return len("x" * (64 << 30))
    if how == "long":
        return "x" * (2 << 20)
    if how == "die":
        os._exit(3)
    if how == "raise":
        raise RuntimeError("bad answer")
    return eval(rest[0])  # what several published scorers do


def scorer(answer, right):
    return eval(answer) == eval(right)


def broken(answer, right):
    raise KeyError(answer)


@pytest.fixture(scope="module")
def worker():
    with Worker("tests.suites.test_worker:misbehave", memory=2 << 30) as one:
        yield one


def test_a_call_returns_the_value_and_what_is_printed_is_dropped(worker):
    text = "\0 ٣ 𝟛 \ud7ff\n" + "x" * 100_000
    assert worker.call("echo", text, timeout_s=60) == text
    first = worker.call("print", timeout_s=60)
    assert worker.call("print", timeout_s=60) == first != os.getpid()


@pytest.mark.parametrize("how", ["hang", "power"])
def test_an_endless_call_is_killed_and_the_next_one_works(worker, how):
    begin = time.monotonic()
    with pytest.raises(CallTimeout, match=r"no answer within 0\.5 s"):
        worker.call(how, timeout_s=0.5)
    assert time.monotonic() - begin < 20
    assert worker.call("echo", 1, timeout_s=60) == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("memory", "MemoryError"),
        ("long", "longer than 1048576 bytes"),
        ("die", "the process died"),
        ("raise", "RuntimeError: bad answer"),
    ],
)
def test_what_fails_says_why_and_the_next_call_works(worker, how, message):
    with pytest.raises(CallFailed, match=message):
        worker.call(how, timeout_s=60)
    assert worker.call("echo", 1, timeout_s=60) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "open('{file}', 'w').write('owned')",
        "__import__('pathlib').Path('{file}').write_text('owned')",
        "__import__('os').open('{file}', 65)",
        "__import__('os').system('touch {file}')",
        "__import__('subprocess').run(['touch', '{file}'])",
        "__import__('os').fork()",
        "__import__('os').posix_spawn('/usr/bin/touch', ['touch', '{file}'], dict())",
        "__import__('os').mkdir('{file}')",
        "__import__('os').kill(1, 9)",
        "__import__('socket').socket()",
        "__import__('ctypes').CDLL(None).system(b'touch {file}')",
        "__import__('multiprocessing').Process(target=print).start()",
    ],
)
def test_an_answer_that_is_run_as_code_can_write_nothing_and_start_nothing(worker, tmp_path, answer):
    file = tmp_path / "owned"
    with pytest.raises(CallFailed):
        worker.call("eval", answer.format(file=file), timeout_s=60)
    assert not file.exists()


def test_a_function_that_is_not_there_is_refused():
    for target, message in (("curbench.no_such:f", "No module named"), ("math:pi", "TypeError: 'pi' is not callable")):
        with Worker(target) as one, pytest.raises(ValueError, match=f"{target} cannot be used: .*{message}"):
            one.call(timeout_s=60)


def test_a_closed_worker_leaves_no_process_and_no_folder(worker):
    with Worker("os:getcwd") as one:
        folder = Path(one.call(timeout_s=60))
        child = one._child.pid
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_failures_are_rewards_of_zero_and_counted():
    with Judge("tests.suites.test_worker:scorer", timeout_s=1.0) as judge:
        assert judge.score("1+1", "2") == (1.0, True)
        assert judge.score("1+2", "2") == (0.0, False)
        assert judge.score("1+", "2") == (0.0, False)
        assert judge.score("9**9**9**9", "2") == (0.0, False)
        assert judge.metrics() == {"scorer_calls": 4.0, "scorer_failed": 2.0, "scorer_timeouts": 1.0}
        assert judge.metrics() == {"scorer_calls": 0.0, "scorer_failed": 0.0, "scorer_timeouts": 0.0}


def test_a_scorer_that_always_fails_is_an_error():
    with Judge("tests.suites.test_worker:broken") as judge:
        with pytest.raises(ValueError, match=r"broken fails on a right answer: KeyError: '1'"):
            judge.try_out("1", "1")
        for _ in range(FAILURES_IN_A_ROW - 1):
            assert judge.score("1", "1") == (0.0, False)
        with pytest.raises(ValueError, match=r"failed on each of its first 64 calls; the last time: KeyError: '1'"):
            judge.score("1", "1")


def test_mathematical_texts_are_compared_by_value():
    pytest.importorskip("math_verify")
    with Judge("curbench.suites.judge:math", imports=["math_verify"]) as judge:
        assert judge.score(r"$\frac{2}{4}$", "0.5") == (1.0, True)
        assert judge.score("so it is 7", "$8$") == (0.0, False)
        assert judge.score("$9^{9^{9^{9}}}$", "1") == (0.0, False)
        assert judge.score("__import__('os').abort()", "1") == (0.0, False)
