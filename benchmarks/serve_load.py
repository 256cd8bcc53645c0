"""Load on ``curbench serve`` over loopback: pairs of select and observe per second, and how long each request takes.

The server runs in a process of its own on a bank of 30,000 problems; this process keeps a number of connections busy,
each selecting, then observing what it selected. Every answer is durable before it is sent.

    python benchmarks/serve_load.py --batch 8 --connections 32
    python benchmarks/serve_load.py --batch 256 --connections 8
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curbench.provenance import environment
from curbench.record import write_atomic


def write_bank(path: Path, problems: int, strata: int = 8) -> None:
    """A bank file."""
    table = {"key": [f"problem {i}" for i in range(problems)], "stratum": [i % strata for i in range(problems)]}
    pq.write_table(pa.table(table), path)


class Connection(asyncio.Protocol):
    """One connection that has one request under way: select, then observe, until ``until``."""

    def __init__(self, header: bytes, batch: int, rest: list[bytes], until: float) -> None:
        self.header, self.rest, self.until = header, rest, until
        self.select = self._request(b"select", b'{"batch":%d}' % batch)
        self.done = asyncio.get_running_loop().create_future()
        self.latency: dict[str, list[float]] = {"select": [], "observe": []}
        self.kind, self.data, self.began, self.pairs = "select", bytearray(), 0.0, 0

    def _request(self, verb: bytes, body: bytes) -> bytes:
        return b"POST /v1/%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (verb, self.header, len(body), body)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._send(self.select)

    def _send(self, request: bytes) -> None:
        self.began = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self.data.index(b"content-length: ") + 16
        size = int(self.data[at : self.data.index(b"\r\n", at)])
        if len(self.data) < end + 4 + size:
            return
        if not self.data.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self.data.decode()))
            return
        self.latency[self.kind].append(time.perf_counter() - self.began)
        if self.kind == "select":
            at = self.data.index(b'"ticket":') + 9
            ticket = bytes(self.data[at : self.data.index(b",", at)])
            self.kind = "observe"
            request = self._request(b"observe", b'{"ticket":%s,%s' % (ticket, self.rest[self.pairs % len(self.rest)]))
        else:
            self.pairs += 1
            self.kind, request = "select", self.select
        self.data.clear()
        if self.kind == "select" and time.perf_counter() >= self.until:
            self.transport.close()
            self.done.set_result(None)
        else:
            self._send(request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))


def observations(batch: int, group: int) -> list[bytes]:
    """What follows the ticket in some bodies of observe."""
    rng, made = np.random.default_rng(0), []
    for _ in range(16):
        success = rng.random(batch * group) < 0.5
        content = {
            "reward": success.astype(float).tolist(),
            "success": success.tolist(),
            "length": rng.integers(1, 500, success.size).tolist(),
        }
        made.append(json.dumps(content, separators=(",", ":")).encode()[1:])
    return made


async def load(address: str, token: str, *, batch: int, group: int, connections: int, seconds: float) -> dict[str, Any]:
    """Keeps the server busy and returns what was measured."""
    host, port = address.removeprefix("http://").split(":")
    header = f"Host: {host}:{port}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n".encode()
    rest, began = observations(batch, group), time.perf_counter()
    made = [Connection(header, batch, rest, began + seconds) for _ in range(connections)]
    for one in made:
        await asyncio.get_running_loop().create_connection(lambda one=one: one, host, int(port))
    await asyncio.gather(*(one.done for one in made))
    took, pairs = time.perf_counter() - began, sum(one.pairs for one in made)
    row: dict[str, Any] = {"pairs": pairs, "seconds": took, "pairs_per_second": pairs / took}
    for kind in ("select", "observe"):
        value = np.concatenate([one.latency[kind] for one in made]) * 1e3
        row[f"{kind}_ms"] = dict(zip(("p50", "p99"), np.percentile(value, [50, 99]).round(3).tolist(), strict=True))
    return row


def start(directory: Path, bank: Path, curator: str, batch: int, group: int) -> tuple[subprocess.Popen[str], dict]:
    """A server on a free port, and what it says of itself."""
    work = [sys.executable, "-m", "curbench", "serve", f"{bank}/{curator}", "--dir", str(directory), "--port", "0"]
    work += ["--batch", str(batch), "--group", str(group), "--max-open", "4096", "--json"]
    server = subprocess.Popen(work, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    said = server.stdout.readline()
    if not said:
        raise RuntimeError("the server did not start")
    return server, json.loads(said)


def measure(
    curator: str, *, problems: int, batch: int, group: int, connections: int, seconds: float, keep: Path | None = None
) -> dict[str, Any]:
    """One row: a fresh server in ``keep`` or a temporary folder, a second to warm up, then the load."""
    with tempfile.TemporaryDirectory(dir=keep) as folder:
        bank = Path(folder) / "bank.parquet"
        write_bank(bank, problems)
        server, facts = start(Path(folder) / "served", bank, curator, batch, group)
        try:
            asked = {"batch": batch, "group": group, "connections": connections}
            asyncio.run(load(facts["address"], facts["token"], seconds=1.0, **asked))
            before = _cpu(server.pid), time.process_time()
            row = asyncio.run(load(facts["address"], facts["token"], seconds=seconds, **asked))
            used = _cpu(server.pid) - before[0], time.process_time() - before[1]
        finally:
            server.terminate()
            server.wait()
    cpu = {"server_cpu": used[0] / row["seconds"], "generator_cpu": used[1] / row["seconds"]}
    return {"curator": curator, "problems": problems, **asked, **row, **cpu}


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    field = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curator", default="sec")
    parser.add_argument("--problems", type=int, default=30_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 256])
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="where the journal goes: its disk counts; default the temporary one"
    )
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    rows = []
    for batch in asked.batch:
        for _ in range(asked.repeat):
            row = measure(
                asked.curator,
                problems=asked.problems,
                batch=batch,
                group=asked.group,
                connections=asked.connections,
                seconds=asked.seconds,
                keep=asked.folder,
            )
            rows.append(row)
            print(json.dumps(row), flush=True)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(asked.out, json.dumps({"environment": environment(), "load": rows}, indent=1).encode())


if __name__ == "__main__":
    main()
