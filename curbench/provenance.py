"""Where results come from."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("curbench", "numpy", "numba", "scipy", "torch", "transformers", "reasoning-gym", "faiss-cpu")


def environment() -> dict[str, Any]:
    """Where results come from: commit, package versions, machine and the command that was run."""
    versions: dict[str, str | None] = {}
    for package in VERSIONS:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    name = Path(sys.argv[0]).name
    return {
        "commit": _commit(),
        "versions": versions,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores",
        "command": " ".join(["curbench" if name == "__main__.py" else name, *map(_without_folder, sys.argv[1:])]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def memory_mb() -> float:
    """Peak memory in MB: of the accelerator, once this process has used one, else of the process itself.

    >>> memory_mb() > 1.0
    True
    """
    torch = sys.modules.get("torch")  # not imported for this
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, KiB elsewhere


def _without_folder(argument: str) -> str:
    """An argument of the command, without the folder of an absolute path: it names people and machines.

    >>> _without_folder("--out=/home/me/runs/one"), _without_folder("runs/one"), _without_folder("a/b")
    ('--out=one', 'runs/one', 'a/b')
    """
    option, equals, value = argument.rpartition("=")
    return option + equals + Path(value).name if Path(value).is_absolute() else argument


def _commit() -> str | None:
    """The commit of the source tree that runs, with "+" when it has changes; None outside a git checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty.strip() else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
