"""The benchmarks, which the suite does not run, can at least be loaded."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_benchmark_is_collected():
    command = [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-2000:]
    for file in (ROOT / "benchmarks").glob("test_*.py"):
        assert f"benchmarks/{file.name}" in found.stdout


def test_every_script_says_what_it_does():
    for name in ("peers_simulator.py", "simulator_scale.py", "gpu_campaign.py", "gpu_stages.py", "serve_load.py"):
        command = [sys.executable, str(ROOT / "benchmarks" / name), "--help"]
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
