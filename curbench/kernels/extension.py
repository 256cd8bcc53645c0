"""The compiled extension: loading it, and saying what it can do."""

import functools
import importlib
from typing import Any

REMEDY = "run `pip install -e .`, or `python setup.py build_ext --inplace` where setuptools and pybind11 are installed"


@functools.cache
def load() -> Any:
    """The module ``curbench.kernels._C``. Raises RuntimeError, with the remedy, if it is missing or does not load."""
    try:
        return importlib.import_module("curbench.kernels._C")
    except ModuleNotFoundError as error:
        raise RuntimeError(f"the kernels of curbench are not compiled: {REMEDY}") from error
    except ImportError as error:
        raise RuntimeError(f"the compiled kernels of curbench do not load ({error}): {REMEDY}") from error


def cuda_status() -> tuple[int, str]:
    """(number of usable CUDA devices, reason when that is 0).

    >>> count, reason = cuda_status()
    >>> (count > 0) != bool(reason)
    True
    """
    try:
        return load().cuda_status()
    except RuntimeError as error:
        return 0, str(error)


def build_info() -> dict[str, str]:
    """What was built and what is here, one sentence each: ``kernels``, ``build`` and ``cuda``.

    >>> list(build_info())
    ['kernels', 'build', 'cuda']
    """
    try:
        info = load().build_info()
    except RuntimeError as error:
        info = {"kernels": f"not available ({error})", "build": "none"}
    count, reason = cuda_status()
    return info | {"cuda": f"{count} device(s)" if count else f"not available ({reason})"}
