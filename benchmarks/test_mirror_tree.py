"""pytest-benchmark view of curbench.bench: pytest benchmarks/test_mirror_tree.py --benchmark-enable"""

OP = "mirror_tree"


def test_mirror_tree(timed):
    timed()
