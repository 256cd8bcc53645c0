"""Tests marked ``cuda`` or ``slow`` run only when asked for with ``-m``; those of CUDA then say why if they cannot."""

import hypothesis
import pytest

from curbench.kernels import cuda_status

# The first call of a jitted function compiles it: a deadline per example would fail at random.
# The same examples everywhere, so that a failure is about the change at hand; for new ones: --hypothesis-profile=search
hypothesis.settings.register_profile("curbench", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("curbench")


def asked_for(config, marker):
    expression = config.getoption("-m")
    return marker in expression and f"not {marker}" not in expression


def pytest_collection_modifyitems(config, items):
    skips = {marker: f"not part of every run; ask with -m {marker}" for marker in ("cuda", "slow")}
    if asked_for(config, "slow"):
        del skips["slow"]
    if asked_for(config, "cuda"):
        count, reason = cuda_status()
        skips["cuda"] = "" if count else f"no CUDA: {reason}"
    for item in items:
        for marker, reason in skips.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
