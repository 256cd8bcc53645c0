"""pytest-benchmark view of curbench.bench: pytest benchmarks/test_group_advantage.py --benchmark-enable"""

OP = "group_advantage"


def test_group_advantage(timed):
    timed()
