"""From a question on the command line to a service."""

from __future__ import annotations

import os
import secrets
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from curbench import suites
from curbench.config import parse_hyper
from curbench.curators import curator_class, split_admission
from curbench.integrations.core import Ledger
from curbench.serve.bank import read_bank
from curbench.serve.service import SNAPSHOT_EVERY, Service
from curbench.suites import SUITES
from curbench.types import Bank


@dataclass(frozen=True)
class Question:
    """Everything that the answers of a service depend on.

    source   a suite, or the path of a file (``bank.read_bank``)
    curator  a name, with an admission rule as in ``sec+nondegenerate``
    hyper    hyper-parameters of the curator, as texts
    """

    source: str
    curator: str
    batch: int
    group: int
    horizon: int
    seed: int
    signal: str | None
    estimator: str
    max_open: int
    hyper: dict[str, Any]


def make_service(question: Question, directory: Path, *, snapshot_every: int = SNAPSHOT_EVERY) -> Service:
    """The service of a question, recovered from ``directory`` or begun there.

    Raises ValueError for names and values that do not exist or fit, before anything is written.
    """
    bank = suites.load(question.source).bank if question.source in SUITES else _bank_file(question.source)
    name, admission = split_admission(question.curator)
    cls = curator_class(name)
    hyper = parse_hyper(cls, question.hyper)
    common: dict[str, Any] = {
        "batch": question.batch,
        "horizon": question.horizon,
        "group": question.group,
        "admission": admission,
    }

    def make() -> Ledger:
        curator = cls(bank, seed=question.seed, **common, **hyper)
        return Ledger(curator, signal=question.signal, estimator=question.estimator, max_open=question.max_open)

    _rehearse(make(), min(question.batch, len(bank)))
    about = asdict(question) | {"bank": _fingerprint(bank)}
    return Service(make, directory, about, snapshot_every=snapshot_every)


def _rehearse(ledger: Ledger, batch: int) -> None:
    """One step of a ledger that is thrown away: it compiles what requests would wait for.

    Raises ValueError for a curator or signal that requests cannot serve: one that looks at hidden states, says how
    rollouts train, or wants log-probabilities of single tokens.
    """
    selection = ledger.select(batch)
    count = int(selection.rollouts.sum())
    success = np.arange(count) % 2 == 0
    alignment = np.zeros(batch) if ledger.signal == "target_alignment" else None
    sums: Any = {"old_logprob": np.zeros(count), "new_logprob": np.zeros(count), "alignment": alignment}
    try:
        ledger.observe(selection.ticket, success.astype(float), success, length=np.ones(count, np.int64), **sums)
    except ValueError as error:
        raise ValueError(f"{type(ledger.curator).__name__} cannot be served: {error}") from None


def _bank_file(source: str) -> Bank:
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{source!r} is neither a suite ({', '.join(SUITES)}) nor a file of problems")
    return read_bank(path)


def _fingerprint(bank: Bank) -> str:
    digest = sha256("\n".join(bank.key.tolist()).encode())
    for array in (bank.stratum, bank.difficulty, bank.length, bank.feature):
        if array is not None:
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def token_of(file: Path | None, directory: Path, *, loopback: bool) -> tuple[str, bool]:
    """(the token, whether it is one of ours): from a file, the variable CURBENCH_TOKEN, or made and kept.

    Raises ValueError for a token that is empty or no single word, or none given where others can reach the server.
    """
    if file is not None:
        return _checked(file.read_text().strip(), str(file)), False
    if "CURBENCH_TOKEN" in os.environ:
        return _checked(os.environ["CURBENCH_TOKEN"].strip(), "CURBENCH_TOKEN"), False
    if not loopback:
        raise ValueError("other machines can reach this address: give a token with --token-file or CURBENCH_TOKEN")
    kept = directory / "token"
    if not kept.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_urlsafe(32))
    return _checked(kept.read_text().strip(), str(kept)), True


def _checked(token: str, where: str) -> str:
    if len(token) < 16 or not token.isascii() or len(token.split()) != 1:
        raise ValueError(f"{where} must hold a token: one word of 16 or more ASCII characters")
    return token
