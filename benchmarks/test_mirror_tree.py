"""pytest-benchmark view of curbench.bench: pytest benchmarks --benchmark-enable"""

import pytest

from curbench import bench

OP = "mirror_tree"


@pytest.fixture(scope="module", params=bench.SUBJECTS[OP].shapes[:2], ids=str)
def calls(request):
    with bench.one_torch_thread():
        arrays = bench.SUBJECTS[OP].make(*request.param)
        calls = bench.runners(OP, arrays)
        assert not bench.disagreements(OP, arrays, calls)
        yield calls


@pytest.mark.parametrize("who", [bench.OURS, bench.OURS_ON_TENSORS, *bench.SUBJECTS[OP].peers])
def test_mirror_tree(benchmark, calls, who):
    benchmark.group = f"{OP} {benchmark.name.partition('[')[2].rpartition('-')[0]}"
    benchmark(calls[who])
