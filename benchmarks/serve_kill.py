"""Kills ``curbench serve`` with SIGKILL at random moments: what it acknowledged may not be lost, nor be done twice.

Every round forks a server on the same folder, lets clients select and observe, and kills it. The next server must know
every acknowledged observation (the same again is "already applied") and every acknowledged selection (open, the same
problems). With one client the order is known, so that a ledger beside the server, told the same, must have the same
state to the last bit, after every kill.

    python benchmarks/serve_kill.py --rounds 100
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from curbench.integrations.client import Client
from curbench.integrations.core import Ledger
from curbench.provenance import environment
from curbench.record import write_atomic
from curbench.serve.messages import Observe, Select
from curbench.serve.service import Service
from curbench.serve.start import Question, make_service
from curbench.serve.web import Server

TOKEN = "a-token-of-the-kill-test"
BATCH, GROUP, SNAPSHOT_EVERY = 8, 4, 40


def question(bank: Path) -> Question:
    return Question(str(bank), "sec", BATCH, GROUP, 1000, 0, None, "grpo", 64, {"temperature": "0.3"})


def open_service(folder: Path) -> Service:
    return make_service(question(folder / "bank.jsonl"), folder / "served", snapshot_every=SNAPSHOT_EVERY)


def child(folder: Path, pipe: Any) -> None:
    """A server, from its start to its kill."""
    Server(open_service(folder), TOKEN, ready=pipe.send).serve_until_stopped()


def outcome(ticket: int, selected: dict[str, Any]) -> dict[str, Any]:
    """Rewards that follow from the ticket and the problems, so that everybody can know them."""
    count = sum(selected["rollouts"])
    success = np.random.default_rng([ticket, *selected["problem"]]).random(count) < 0.5
    return {"reward": success.astype(float).tolist(), "success": success.tolist(), "length": [7] * count}


class Worker(threading.Thread):
    """A client that selects and observes until the server is gone.

    observed, selected  what was acknowledged, by ticket;  doubtful  what was asked for last, without an answer
    """

    def __init__(self, address: str, begin: dict[str, Any] | None) -> None:
        super().__init__()
        self.client = Client(address, TOKEN)
        self.observed: dict[int, dict[str, Any]] = {}
        self.selected: dict[int, dict[str, Any]] = {}
        self.order: list[Any] = []
        self.doubtful: Any = None
        self.begin = begin

    def run(self) -> None:
        selected = self.begin
        try:
            while True:
                if selected is None:
                    self.doubtful = Select(BATCH)
                    selected = self.client.select(BATCH)
                    self.selected[selected["ticket"]] = selected
                    self.order.append(self.doubtful)
                ticket = selected["ticket"]
                said = outcome(ticket, selected)
                self.doubtful = Observe(ticket, **said)
                self.client.observe(ticket, **said)
                self.observed[ticket] = said
                self.order.append(self.doubtful)
                selected = None
        except OSError:
            pass


def plain(state: Any) -> Any:
    """A state as JSON has it."""
    if isinstance(state, dict):
        return {name: plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def rounds(folder: Path, *, count: int, clients: int, luck: random.Random) -> dict[str, int]:
    """Kills a server ``count`` times and returns how much was acknowledged and found again."""
    lines = (json.dumps({"key": f"problem {i}", "stratum": i % 5}) for i in range(200))
    (folder / "bank.jsonl").write_text("\n".join(lines))
    reference: Ledger = make_service(question(folder / "bank.jsonl"), folder / "reference").ledger  # and compiles
    context = multiprocessing.get_context("fork")
    total = dict.fromkeys(("kills", "selections", "observations", "doubtful_applied", "lost", "different"), 0)
    sequence, last = 0, list[Worker]()
    for turn in range(count + 1):
        mine, its = context.Pipe()
        server = context.Process(target=child, args=(folder, its))
        server.start()
        address = mine.recv()
        client = Client(address, TOKEN)
        state = client.state(full=clients == 1)
        open_now = {ticket: client.selection(ticket) for ticket in state["open"]}
        for worker in last:
            for ticket, said in worker.observed.items():
                total["lost"] += client.observe(ticket, **said)["status"] != "already applied"
            for ticket, selected in worker.selected.items():
                if ticket not in worker.observed:
                    if ticket not in open_now:  # then its observation was applied, though nobody was told
                        total["lost"] += not isinstance(worker.doubtful, Observe)
                        total["doubtful_applied"] += 1
                    else:
                        total["lost"] += open_now[ticket]["problem"] != selected["problem"]
        if clients == 1:
            done = [*last[0].order, last[0].doubtful] if last else []
            for command in done[: state["sequence"] - sequence]:
                if isinstance(command, Select):
                    reference.select(command.batch)
                else:
                    reference.observe(command.ticket, command.reward, command.success, length=command.length)
            total["different"] += plain(reference.state()) != state["ledger"]
        sequence = state["sequence"]
        again = [client.selection(ticket) for ticket in state["open"]]
        if turn == count:
            server.kill()
            server.join()
            break
        last = [Worker(address, again[i] if i < len(again) else None) for i in range(clients)]
        for worker in last:
            worker.start()
        time.sleep(luck.uniform(0.0, 0.25))
        server.kill()
        server.join()
        for worker in last:
            worker.join()
        total["kills"] += 1
        total["selections"] += sum(len(worker.selected) for worker in last)
        total["observations"] += sum(len(worker.observed) for worker in last)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="half with one client, half with four")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    luck, rows = random.Random(asked.seed), []
    for clients, count in ((1, (asked.rounds + 1) // 2), (4, asked.rounds // 2)):
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"clients": clients, **rounds(Path(folder), count=count, clients=clients, luck=luck)})
        print(json.dumps(rows[-1]), flush=True)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(asked.out, json.dumps({"environment": environment(), "kills": rows}, indent=1).encode())
    if any(row["lost"] or row["different"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
