"""pytest-benchmark view of curbench.bench: pytest benchmarks/test_policy_improvement.py --benchmark-enable"""

OP = "policy_improvement"


def test_policy_improvement(timed):
    timed()
