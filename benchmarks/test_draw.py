"""pytest-benchmark view of curbench.bench: pytest benchmarks/test_draw.py --benchmark-enable"""

OP = "draw"


def test_draw(timed):
    timed()
