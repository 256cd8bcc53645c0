"""Measures the CUDA kernels on this machine's GPU, unattended and offline: python benchmarks/gpu_campaign.py

Builds in place for that GPU, compares CUDA with the CPU, times rows 5, 6 and 12 to 15 of the targets against torch
eager and compiled, and runs compute-sanitizer where there is one. Needs torch, numpy, nvcc and pybind11; pytest and
hypothesis for the parity tests. Every stage is a process of its own with a time limit: one that crashes, hangs or loses
the device is recorded, and the rest goes on. What was measured is written after every row, to campaign.json and
summary.md, with the output of every stage beside them. Exit code 0: all stages passed; 1: some did not; 2: there is no
CUDA device.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURE = str(ROOT / "benchmarks" / "gpu_stages.py")
RESERVE_S = 5.0  # kept from the time limit, to write what there is
PYTEST = ("-m", "pytest", "-m", "cuda", "tests/kernels", "-o", "addopts=--import-mode=importlib", "-ra", "-q")
SIZES = {5: "16384x8x4096", 6: "16384x64", 12: "1e7 and 1e8 x 384", 13: "1e8 x 384", 14: "1e8", 15: "1e8 x 384 x 256"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A command with a time limit. What it prints is logged; lines that are JSON objects are results."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    least_s: float = 5.0  # it is not begun with less left
    environment: dict[str, str] = field(default_factory=dict)
    absent: str = ""  # why it cannot run here; then it is not


def stages(capability: tuple[int, int], sanitizer: str | None, pytest: bool) -> list[Stage]:
    """The plan, cheap and decisive stages first."""

    def own(name: str, limit_s: float, least_s: float = 20.0) -> Stage:
        return Stage(name, (sys.executable, MEASURE, name), limit_s, least_s)

    number = f"{capability[0]}{capability[1]}"
    build = {
        "CURBENCH_CUDA": "1",
        "CURBENCH_CUDA_ARCHS": number,
        "TORCH_CUDA_ARCH_LIST": f"{capability[0]}.{capability[1]}",
    }
    checked = (sys.executable, MEASURE, "small")
    missing = "" if sanitizer else "compute-sanitizer was not found on PATH or beside nvcc"
    return [
        Stage("build", (sys.executable, "setup.py", "build_ext", "--inplace"), 300, 30, build),
        own("self-check", 120),
        own("ceilings", 60),
        own("row 6", 120),
        own("row 14", 150),
        own("row 5", 150),
        own("row 12", 240),
        own("grids", 60),
        own("row 13", 180),
        own("row 15", 240),
        Stage(
            "parity tests", (sys.executable, *PYTEST), 400, 30, absent="" if pytest else "no pytest or no hypothesis"
        ),
        *(
            Stage(tool, (sanitizer or "", "--tool", tool, "--error-exitcode", "9", *checked), 240, 30, absent=missing)
            for tool in ("memcheck", "racecheck")
        ),
    ]


class Campaign:
    """Runs stages and keeps what they find; ``out`` always holds all that is known."""

    def __init__(self, out: Path, limit_s: float, device: Row, clock: Callable[[], float] = monotonic) -> None:
        self.out, self.limit_s, self.device, self._clock = out, limit_s, device, clock
        self._start = clock()
        self.done: list[Row] = []
        self.rows: list[Row] = []
        self.findings: Row = {}
        self.environment: Row = {}
        (out / "logs").mkdir(parents=True, exist_ok=True)

    def left_s(self) -> float:
        return self.limit_s - RESERVE_S - (self._clock() - self._start)

    def run(self, plan: list[Stage]) -> bool:
        """True when every stage passed, except those that cannot run here."""
        for stage in plan:
            print(f"{self._clock() - self._start:6.0f} s  {stage.name}", flush=True)
            self._run(stage)
            self.write()
            said = self.done[-1]
            print(f"{'':10}{said['status']}{': ' + said['why'] if said['why'] else ''}", flush=True)
        return all(one["status"] in ("passed", "absent") for one in self.done)

    def _run(self, stage: Stage) -> None:
        left = self.left_s()
        if stage.absent or left < stage.least_s:
            why = stage.absent or f"{max(0.0, left):.0f} s were left, it needs {stage.least_s:.0f} s"
            self._finish(stage, "absent" if stage.absent else "not run", why, 0.0)
            return
        began, tail = self._clock(), [""]
        with open(self.out / "logs" / f"{stage.name.replace(' ', '-')}.txt", "w") as log:
            try:
                process = subprocess.Popen(
                    stage.command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | stage.environment,
                    start_new_session=True,  # so that its compilers and workers end with it
                )
            except OSError as error:
                self._finish(stage, "failed", str(error), 0.0)
                return
            reader = threading.Thread(target=self._read, args=(process.stdout, log, tail), daemon=True)
            reader.start()
            limit = min(stage.limit_s, left)
            try:
                code = process.wait(timeout=limit)
                status, why = ("passed", "") if code == 0 else ("failed", f"exit status {code}: {tail[0]}")
            except subprocess.TimeoutExpired:
                status, why = "timed out", f"after {limit:.0f} s; what it had measured is kept"
            finally:
                end_group(process)
                reader.join(timeout=5)
        self._finish(stage, status, why, self._clock() - began)

    def _read(self, stream: Any, log: Any, tail: list[str]) -> None:
        for line in stream:
            log.write(line)
            log.flush()
            if line.strip():
                tail[0] = line.strip()[:300]
            if line.startswith("{"):
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            return  # a line of a log that happens to begin with a brace
        if "op" in found:
            self.rows.append(found)
        elif "environment" in found:
            self.environment = found["environment"]
        else:
            self.findings |= found
        self.write()

    def _finish(self, stage: Stage, status: str, why: str, seconds: float) -> None:
        self.done.append({"stage": stage.name, "status": status, "why": why, "seconds": round(seconds, 1)})

    def write(self) -> None:
        """Replaces both files in one step each: whoever ends this process leaves the last whole state."""
        for name, text in (("campaign.json", json.dumps(self.document(), indent=1)), ("summary.md", self.summary())):
            part = self.out / f"{name}.part"
            part.write_text(text)
            os.replace(part, self.out / name)

    def document(self) -> Row:
        found = {"device": self.device, "stages": self.done, "findings": self.findings, "rows": self.rows}
        return {"environment": self.environment} | found

    def summary(self) -> str:
        return "\n".join(summary_lines(self.document())) + "\n"


def end_group(process: subprocess.Popen) -> None:
    """Ends a stage and all that it began; those that ended already are no fault."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def summary_lines(found: Row) -> Iterator[str]:
    device = found["device"]
    yield f"# {device['name']}"
    yield ""
    yield f"{device['memory_gib']:.0f} GiB, {device['multiprocessors']} multiprocessors, CUDA {device['cuda']}."
    for name, value in found["findings"].items():
        yield f"{name}: {value if isinstance(value, str) else f'{value:,.4g}'}."
    yield ""
    yield "| row | op | shape | type | us | target us | met | share of copy | peer | peer us | ratio | note |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in found["rows"]:
        peer = "" if row["peer_us"] is None else f"{row['peer_us']:,.1f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        target = "" if row["target_us"] is None else f"{row['target_us']:,g}"
        met = {True: "yes", False: "no", None: ""}[row["met"]]
        cells = (row["target_row"], row["op"], f"{row['shape']} {row['variant']}".strip(), row["dtype"])
        cells += (f"{row['us']:,.1f}", target, met, f"{100 * row['fraction_of_ceiling']:.0f} %", row["peer"], peer)
        yield "| " + " | ".join(map(str, (*cells, ratio, row["note"] or ""))) + " |"
    yield ""
    yield "| stage | status | seconds | |"
    yield "|---|---|---|---|"
    for one in found["stages"]:
        yield f"| {one['stage']} | {one['status']} | {one['seconds']} | {one['why'].replace('|', '/')} |"


# --- The command ------------------------------------------------------------------------------------------------------


def device() -> Row | None:
    """What the first CUDA device is; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    seen = torch.cuda.get_device_properties(0)
    return {
        "name": seen.name,
        "capability": [seen.major, seen.minor],
        "memory_gib": seen.total_memory / 2**30,
        "multiprocessors": seen.multi_processor_count,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
    }


def find_sanitizer() -> str | None:
    nvcc = os.environ.get("NVCC") or shutil.which("nvcc")
    beside = [str(Path(nvcc).resolve().parent)] if nvcc else []
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(beside) or None)


def slug(name: str) -> str:
    """
    >>> slug("NVIDIA H200")
    'nvidia-h200'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def installed(*names: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) for name in names)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<name of the GPU>")
    parser.add_argument("--limit-s", type=float, default=1500.0, help="seconds for everything; default 1500")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    asked = parser.parse_args(arguments)
    if asked.limit_s <= 0:
        parser.error(f"--limit-s must be positive; got {asked.limit_s:g}")
    found = None if asked.dry_run else device()
    if found is None and not asked.dry_run:
        print("gpu_campaign: torch sees no CUDA device here; run it on a machine with one", file=sys.stderr)
        return 2
    capability = (9, 0) if found is None else tuple(found["capability"])
    plan = stages(capability, find_sanitizer(), installed("pytest", "hypothesis"))
    if found is None:
        for stage in plan:
            why = f"  (not here: {stage.absent})" if stage.absent else ""
            row = int(stage.name[4:]) if stage.name.startswith("row ") else 0
            print(f"{stage.name:14}at most {stage.limit_s:4.0f} s  {SIZES.get(row, '')}{why}")
        print(f"{'in all':14}at most {asked.limit_s:4.0f} s")
        return 0
    out = asked.out or ROOT / "benchmarks" / "results" / slug(found["name"])
    if (out / "campaign.json").exists():
        print(f"gpu_campaign: {out} holds a campaign; results are never overwritten: choose --out", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running stage is ended as well
    return 0 if Campaign(out, asked.limit_s, found).run(plan) else 1


if __name__ == "__main__":
    sys.exit(main())
