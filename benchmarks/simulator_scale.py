"""How the simulator scales: very many arms, two threads over seeds, and a large grid; no peer is needed.

    python benchmarks/simulator_scale.py --out benchmarks/results/simulator_scale.json

Rows:
arms     nanoseconds per draw of draw, reward and update at K = 1e6 and m = 256, on one thread
threads  seconds of the same seeds on one thread and on two, in turns; compilation is not counted
grid     seconds of ``curbench sweep large`` in a fresh process on all cores, compilation included: six policies on
         eight test-beds, 200 seeds of 100,000 rounds, with regret and certificates
memory   peak resident memory of runs in processes of their own: statistics are kept at 64 rounds, so it does not grow
         with seeds, and with T only by the comparator's arm of every round (8 bytes, and what is computed from it)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

REPETITIONS = 3


def arms_rows():
    from curbench.sim.arms import make_arms
    from curbench.sim.simulate import simulate

    arms = make_arms("stationary", horizon=500, arms=1_000_000)
    for curator in ("exp3", "osmd"):
        round_us = [simulate(arms, curator, seeds=1, batch=256, threads=1).us_per_round for _ in range(REPETITIONS)]
        yield {"row": "arms", "curator": curator, "arms_count": arms.count, "batch": 256} | {
            "ns_per_draw": round(1e3 * min(round_us) / 256, 1)
        }


def threads_rows():
    from curbench.sim.arms import make_arms
    from curbench.sim.simulate import simulate

    arms = make_arms("switching", horizon=100_000, arms=100)
    for curator in ("osmd", "ucb1"):
        simulate(arms, curator, seeds=1, threads=1)  # compiles
        seconds = {1: [], 2: []}
        for _ in range(REPETITIONS):
            for threads, kept in seconds.items():
                begin = perf_counter()
                simulate(arms, curator, seeds=100, threads=threads)
                kept.append(perf_counter() - begin)
        one, two = min(seconds[1]), min(seconds[2])
        yield {"row": "threads", "curator": curator, "seeds": 100, "horizon": arms.horizon} | {
            "one_s": round(one, 2),
            "two_s": round(two, 2),
            "ratio": round(one / two, 2),
        }


def grid_rows():
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "curbench", "sweep", "large", "--out", out, "--jobs", str(os.cpu_count())]
        begin = perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = perf_counter() - begin
        units = len(list((Path(out) / "sweep").glob("*.parquet")))
    yield {"row": "grid", "units": units, "rounds": units * 200 * 100_000, "seconds": round(seconds, 1)}


def memory_rows():
    run = (
        "from curbench.sim.arms import make_arms; from curbench.sim.simulate import simulate\n"
        "simulate(make_arms('switching', horizon={horizon}, arms=10), 'osmd', seeds={seeds}, threads=1)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # getrusage counts who started it too
    )
    for horizon, seeds in ((10_000, 4), (1_000_000, 4), (10_000, 400)):
        code = run.format(horizon=horizon, seeds=seeds)
        said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        yield {"row": "memory", "horizon": horizon, "seeds": seeds, "peak_mib": round(int(said) / 1024)}


ROWS = {"arms": arms_rows, "threads": threads_rows, "grid": grid_rows, "memory": memory_rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=ROWS, help="one kind of row; --out keeps the others")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    from curbench.provenance import environment

    content = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    for part, rows in ROWS.items():
        if asked.only not in (None, part):
            continue
        content[part] = {"environment": environment() | {"load": round(os.getloadavg()[0], 2)}, "rows": []}
        for row in rows():
            content[part]["rows"].append(row)
            print(json.dumps(row), flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
