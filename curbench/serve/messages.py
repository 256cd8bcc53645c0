"""What goes over the wire and into the journal: the same in JSON and msgpack, checked as it is decoded."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

MOST = 2**31 - 1
Count = Annotated[int, Meta(ge=1, le=MOST)]
Ticket = Annotated[int, Meta(ge=0, le=MOST)]
Tokens = Annotated[int, Meta(ge=0, le=MOST)]


class Select(Struct, tag="select", tag_field="op", forbid_unknown_fields=True):
    """Asks for a selection of ``batch`` problems; ``keys``: with their keys beside their indices."""

    batch: Count
    keys: bool = False


class Observe(Struct, tag="observe", tag_field="op", forbid_unknown_fields=True, omit_defaults=True):
    """How all rollouts of a ticket went, slot after slot in the order of the selection.

    ticket        of the selection
    reward        one number per rollout
    success       whether each was exactly correct
    length        generated tokens of each
    size          rollouts of each slot; default those of the selection
    advantage     of each rollout; default those of the server's estimator
    old_logprob   sum over the tokens of each rollout, under the policy that generated it
    new_logprob   the same under the updated policy
    alignment     one number per slot, for the signal target_alignment
    policy_step   version of the policy that generated
    """

    ticket: Ticket
    reward: list[float]
    success: list[bool]
    length: list[Tokens]
    size: list[Count] | None = None
    advantage: list[float] | None = None
    old_logprob: list[float] | None = None
    new_logprob: list[float] | None = None
    alignment: list[float] | None = None
    policy_step: Annotated[int, Meta(ge=0, le=2**62)] | None = None


Command = Select | Observe


class Record(Struct, array_like=True):
    """One line of the journal: what was done, and a checksum of what came of it."""

    command: Command
    check: int


class Selected(Struct):
    """A selection, or what of it waits for rewards; indices count the problems of the bank from 0."""

    ticket: int
    step: int
    design: str
    problem: list[int]
    propensity: list[float]
    rollouts: list[int]
    candidate_propensity: float = 1.0
    key: list[str] | None = None


class Observed(Struct):
    """What an observation did.

    status  "applied", or "already applied": the same content was there before and nothing changed
    open    whether the ticket still waits for the rewards of ``more``, a further round of the same step
    """

    ticket: int
    status: str
    open: bool = False
    more: Selected | None = None


class Status(Struct):
    """Where the server stands.

    sequence  commands applied since it first started
    next      the ticket of the next selection
    open      tickets that wait for feedback, oldest first
    ledger    the whole state, arrays as lists, if it was asked for
    """

    curator: str
    signal: str
    estimator: str
    problems: int
    sequence: int
    next: int
    open: list[int]
    ledger: dict[str, Any] | None = None


class Problem(Struct):
    """Why a request was refused; it changed nothing."""

    error: str


encode_command = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(Record).decode
