"""What is installed and what is missing, with the remedy."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from typing import Any

from curbench import __version__, kernels

EXTRAS = {"tasks": "reasoning_gym", "train": "transformers", "vllm": "vllm", "ray": "ray"}


def examine() -> dict[str, Any]:
    """Findings by name, JSON values only; nothing is imported that is heavy, and nothing raises for what is absent."""
    build = kernels.build_info()
    count, reason = kernels.cuda_status()
    finding: dict[str, Any] = {
        "curbench": __version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "kernels": build,
        "cuda": f"{count} device(s)" if count else f"not available ({reason})",
        "torch": metadata.version("torch"),
        "numba": metadata.version("numba"),
        "numpy": metadata.version("numpy"),
    }
    for extra, module in EXTRAS.items():
        present = util.find_spec(module) is not None
        finding[module] = metadata.version(module) if present else f'missing; pip install -e ".[{extra}]"'
    return finding
