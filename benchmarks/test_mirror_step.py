"""pytest-benchmark view of curbench.bench: pytest benchmarks/test_mirror_step.py --benchmark-enable"""

OP = "mirror_step"


def test_mirror_step(timed):
    timed()
