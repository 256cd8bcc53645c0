"""pytest-benchmark view of curbench.bench: pytest benchmarks/test_score_bank.py --benchmark-enable"""

OP = "score_bank"


def test_score_bank(timed):
    timed()
