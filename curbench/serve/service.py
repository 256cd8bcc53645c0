"""A ledger whose every change goes through a journal. No web in here: requests in, replies out, or a refusal.

The journal holds commands, not states: a curator is a function of its seed and of what it was told, so doing the same
again gives the same. Checksums of what came of each command prove it at every start.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from curbench.integrations.core import Ledger, Outcome
from curbench.record import read_json, write_atomic
from curbench.serve.journal import Journal
from curbench.serve.messages import (
    Command,
    Observe,
    Observed,
    Record,
    Select,
    Selected,
    Status,
    decode_record,
    encode_command,
)
from curbench.types import Selection

SNAPSHOT_EVERY = 10_000
"""Commands after which a start would take too long without a new snapshot: at most some seconds."""

SNAPSHOT_BYTES = 64 << 20
"""The same for the bytes of the journal."""


class Refused(ValueError):
    """A request that cannot be served as things stand; ``status`` is that of HTTP."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Service:
    """One curator, recovered from ``directory`` or begun there.

    make       a new ledger, always the same
    directory  of the journal
    about      JSON object of everything that the ledger depends on; another one is refused
    snapshot_every  commands between snapshots; a longer journal takes longer to start from

    ``select`` and ``observe`` answer at once, but their answers must not leave before ``journal.commit(take())`` has
    returned. Raises ValueError for a directory of another service, a damaged one, or a journal that this code or
    machine does not repeat exactly.
    """

    def __init__(
        self,
        make: Callable[[], Ledger],
        directory: Path,
        about: dict[str, Any],
        *,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self._make, self.snapshot_every = make, snapshot_every
        self.journal = Journal(directory)
        try:
            self._claim(directory / "service.json", json.loads(json.dumps(about)))
            self._load()
        except BaseException:
            self.journal.close()
            raise

    @staticmethod
    def _claim(path: Path, about: dict[str, Any]) -> None:
        if not path.exists():
            write_atomic(path, json.dumps(about, indent=1).encode())
            return
        before = read_json(path)
        changed = sorted(name for name in about.keys() | before.keys() if about.get(name) != before.get(name))
        if changed:
            raise ValueError(
                f"{path.parent} was served with other settings ({', '.join(changed)}); give those, or another --dir"
            )

    def _load(self) -> None:
        self.ledger = self._make()
        self._bank = self.ledger.curator.bank
        self._applied: dict[int, tuple[int, ...]] = {}
        self._next = 0
        self._since = self._bytes = 0
        state = self.journal.state
        if state is not None:
            self.ledger.restore(state["ledger"])
            self._next = int(state["next"])
            for ticket, digest in zip(state["ticket"].tolist(), state["digest"].tolist(), strict=True):
                self._applied[ticket] = (*self._applied.get(ticket, ()), digest)
        for payload in self.journal.records():
            record = decode_record(payload)
            _, check = self._apply(record.command)
            if check != record.check:
                raise ValueError(
                    f"record {self.journal.number} of {self.journal.directory} gives another result here: it was "
                    "written by another version or on another kind of machine; go on there, or choose another --dir"
                )
            self._count(payload)

    # --- Requests -----------------------------------------------------------------------------------------------------

    def select(self, request: Select) -> Selected:
        """Opens a ticket. Raises ValueError for a batch that cannot be drawn."""
        selection, check = self._apply(request)
        self._keep(request, check)
        return self._shown(selection, keys=request.keys)

    def observe(self, request: Observe) -> Observed:
        """Tells the curator, once: the same content again changes nothing and is no error.

        Raises Refused for a ticket that does not exist (404), expired (410) or was observed with other content (409),
        and ValueError for content that does not fit it.
        """
        ticket, digest = request.ticket, _digest(request)
        before = self._applied.get(ticket, ())
        if digest in before:
            return self._observed(ticket, "already applied")
        if ticket >= self._next:
            raise Refused(404, f"unknown ticket {ticket}: {self._next} were handed out so far, from 0")
        if ticket not in self.ledger.open:
            if before:
                raise Refused(409, f"ticket {ticket} was observed already, with other content")
            raise Refused(410, f"ticket {ticket} expired: at most {self.ledger.max_open} wait for feedback")
        _, check = self._apply(request)
        self._keep(request, check)
        return self._observed(ticket, "applied")

    def selection(self, ticket: int) -> Selected:
        """What an open ticket waits for, for a client that lost the answer. Raises Refused (404) for any other."""
        if ticket not in self.ledger.open:
            raise Refused(404, f"ticket {ticket} is not open")
        return self._shown(self.ledger.selection(ticket).take(self.ledger.missing(ticket)), keys=True)

    def status(self, *, full: bool = False) -> Status:
        """Where the service stands."""
        ledger = self.ledger
        return Status(
            curator=type(ledger.curator).__name__,
            signal=ledger.signal,
            estimator=ledger.estimator,
            problems=len(self._bank),
            sequence=self.journal.number,
            next=self._next,
            open=ledger.open,
            ledger=_listed(ledger.state()) if full else None,
        )

    # --- Durability ---------------------------------------------------------------------------------------------------

    @property
    def snapshot_due(self) -> bool:
        """Whether the journal has grown so long that a snapshot should replace it."""
        return self._since >= self.snapshot_every or self._bytes >= SNAPSHOT_BYTES

    def capture(self) -> dict[str, Any]:
        """The state for ``journal.snapshot``, as of the latest command."""
        pairs = [(ticket, digest) for ticket, digests in self._applied.items() for digest in digests]
        ticket, digest = np.array(pairs, np.int64).reshape(-1, 2).T
        self._since = self._bytes = 0
        return {"ledger": self.ledger.state(), "next": self._next, "ticket": ticket, "digest": digest}

    def _apply(self, command: Command) -> tuple[Any, int]:
        """Does it, and (result, checksum of the result)."""
        if isinstance(command, Select):
            if command.batch > len(self._bank):
                raise ValueError(f"batch {command.batch} is more than the {len(self._bank)} problems of the bank")
            selection = self.ledger.select(command.batch)
            self._next = selection.ticket + 1
            return selection, zlib.crc32(selection.propensity.data, zlib.crc32(selection.problem.data))
        given = {name: getattr(command, name) for name in command.__struct_fields__ if name != "ticket"}
        outcome: Outcome = self.ledger.observe(command.ticket, **given)
        self._applied[command.ticket] = (*self._applied.get(command.ticket, ()), _digest(command))
        feedback = outcome.feedback
        return outcome, 0 if feedback is None else zlib.crc32(feedback.utility.data)

    def _keep(self, command: Command, check: int) -> None:
        payload = encode_command(Record(command, check))
        self.journal.append(payload)
        self._count(payload)

    def _count(self, payload: bytes) -> None:
        self._since += 1
        self._bytes += len(payload)

    # --- Answers ------------------------------------------------------------------------------------------------------

    def _observed(self, ticket: int, status: str) -> Observed:
        waiting = ticket in self.ledger.open
        return Observed(ticket, status, waiting, self.selection(ticket) if waiting else None)

    def _shown(self, selection: Selection, *, keys: bool) -> Selected:
        return Selected(
            ticket=selection.ticket,
            step=selection.step,
            design=selection.design,
            problem=selection.problem.tolist(),
            propensity=selection.propensity.tolist(),
            rollouts=selection.rollouts.tolist(),
            candidate_propensity=selection.candidate_propensity,
            key=self._bank.key[selection.problem].tolist() if keys else None,
        )


def _digest(request: Observe) -> int:
    """Of the content, whatever its encoding was: 63 bits, so that it fits a signed number."""
    return int.from_bytes(blake2b(encode_command(request), digest_size=8).digest(), "little") >> 1


def _listed(state: Any) -> Any:
    """A nested state with lists in place of arrays."""
    if isinstance(state, dict):
        return {name: _listed(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state
