"""Tests marked ``cuda`` run only when asked for with ``-m cuda``, and then say why if they cannot."""

import hypothesis
import pytest

from curbench.kernels import cuda_status

# The first call of a jitted function compiles it: a deadline per example would fail at random.
# The same examples everywhere, so that a failure is about the change at hand; for new ones: --hypothesis-profile=search
hypothesis.settings.register_profile("curbench", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("curbench")


def pytest_collection_modifyitems(config, items):
    expression = config.getoption("-m")
    if "cuda" in expression and "not cuda" not in expression:
        count, reason = cuda_status()
        skip = None if count else pytest.mark.skip(reason=f"no CUDA: {reason}")
    else:
        skip = pytest.mark.skip(reason="needs a GPU; ask with -m cuda")
    for item in items:
        if skip is not None and item.get_closest_marker("cuda"):
            item.add_marker(skip)
