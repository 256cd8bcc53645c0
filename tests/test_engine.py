"""The two engines give the same results, and stop when told to."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from curbench.engine import each

JOBS = [("pool", 1), ("pool", 2), ("ray", 2)]


@pytest.mark.parametrize(("engine", "jobs"), JOBS)
def test_every_item_is_computed_once_in_another_process(engine, jobs):
    if engine == "ray":
        pytest.importorskip("ray")
    found = dict(each(math.factorial, [3, 5, 8], jobs=jobs, engine=engine))
    assert found == {3: 6, 5: 120, 8: 40320}


@pytest.mark.parametrize("engine", ["pool", "ray"])
def test_what_a_task_raises_arrives_as_it_was(engine):
    if engine == "ray":
        pytest.importorskip("ray")
    with pytest.raises(ValueError, match="expected a nonnegative input|math domain error"):
        list(each(math.sqrt, [-1.0], jobs=1, engine=engine))


def test_workers_have_one_thread_each_and_the_parent_keeps_its_environment():
    before = dict(os.environ)
    assert dict(each(os.getenv, ["OMP_NUM_THREADS"], jobs=1)) == {"OMP_NUM_THREADS": "1"}
    assert dict(os.environ) == before


def test_nothing_to_do_starts_nothing():
    assert list(each(math.sqrt, [], jobs=3)) == []


def test_unknown_engines_and_no_jobs_are_refused():
    with pytest.raises(ValueError, match="unknown engine 'spark'; choose from pool, ray"):
        list(each(math.sqrt, [1.0], jobs=1, engine="spark"))
    with pytest.raises(ValueError, match="jobs must be at least 1; got 0"):
        list(each(math.sqrt, [1.0], jobs=0))


def test_a_dead_worker_is_one_sentence():
    with pytest.raises(OSError, match="a worker process died"):
        list(each(os._exit, [1], jobs=1))


def test_an_interrupt_stops_the_workers_where_they_are():
    code = (
        "import time; from curbench.engine import each; print('go', flush=True); list(each(time.sleep, [60], jobs=1))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "go\n"
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group hears it
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert err.count("KeyboardInterrupt") == 1  # the worker says nothing
