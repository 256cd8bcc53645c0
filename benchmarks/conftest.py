"""What the files per op share: pytest benchmarks --benchmark-enable

Each times ours and every peer at the smaller cases of ``curbench bench``, one group of the table per case. Targets,
large cases and files are for the command.
"""

import pytest

from curbench import bench
from curbench.bench.clock import one_torch_thread
from curbench.bench.measure import disagreement, expectation, runners

LARGEST = 1 << 25  # entries of the largest array


def pytest_generate_tests(metafunc):
    if "calls" in metafunc.fixturenames:
        cases = [case for case in bench.SUBJECTS[metafunc.module.OP].cases if case.size <= LARGEST]
        names = [(case, who) for case in cases for who in (bench.OURS, bench.OURS_ON_TENSORS, *case.peers)]
        label = [" ".join(filter(None, (case.text, case.variant, case.dtype, who))) for case, who in names]
        metafunc.parametrize(("calls", "who"), names, indirect=["calls"], ids=label, scope="module")


@pytest.fixture(scope="module")
def calls(request):
    """A call, or why there is none, by the name of who is called; all were compared with the reference."""
    op, case = request.module.OP, request.param
    with one_torch_thread():
        arrays = bench.SUBJECTS[op].make(*case.shape)
        expected = expectation(op, arrays)
        calls = runners(op, arrays, peers=case.peers)
        wrong = {name: why for name, call in calls.items() if (why := disagreement(op, name, call, expected))}
        yield calls | wrong


@pytest.fixture
def timed(benchmark, request, calls, who):
    """A function without arguments that times ``who``."""
    call = calls.get(who, "not compared with anyone here")
    if isinstance(call, str):
        assert who.split()[0] != "ours" or who not in calls, call
        pytest.skip(f"{who} is {call}")
    benchmark.group = request.node.name.removesuffix(f"{who}]").rstrip()
    return lambda: benchmark(call)
