"""A write-ahead journal with snapshots: what was committed is there after a kill, and nothing else is needed to go on.

A directory holds snapshot.safetensors, the state after record number n, and journal-M.log with the records from M on.
A record is its length, a checksum and its number (little endian u32, u32, u64), then the payload. One process at a
time.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curbench.record import load_state, save_state

HEAD = struct.Struct("<IIQ")


class Journal:
    """The journal in a directory, opened for writing; ``state`` and ``number`` are those of its snapshot.

    Raises ValueError if another process has it open, or a file is damaged.

    Records after the snapshot come from ``records``, to be read once before anything is appended. ``append`` only keeps
    a record; ``commit(take())`` makes what was kept durable, in any one thread at a time.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(f"another process serves {directory}; stop it, or choose another --dir") from None
        self.state: dict[str, Any] | None = None
        self.number = 0
        if self._snapshot.exists():
            self.state, note = load_state(self._snapshot)
            self.number = int(note["number"])
        self._kept = bytearray()
        self._file = -1

    @property
    def _snapshot(self) -> Path:
        return self.directory / "snapshot.safetensors"

    @property
    def _segments(self) -> list[Path]:
        return sorted(self.directory.glob("journal-*.log"))

    def records(self) -> Iterator[bytes]:
        """The payloads after the snapshot, in order; a record that a kill cut short, never acknowledged, is cut off."""
        for path in self._segments:
            data, at = path.read_bytes(), 0
            last = path == self._segments[-1]
            while at < len(data):
                size, check, number = HEAD.unpack_from(data, at) if at + HEAD.size <= len(data) else (len(data), 0, 0)
                end = at + HEAD.size + size
                if last and (end > len(data) or not any(memoryview(data)[at:])):
                    os.truncate(path, at)
                    break
                if end > len(data) or zlib.crc32(memoryview(data)[at + 8 : end]) != check:
                    raise ValueError(f"{path} is damaged at byte {at}: restore it from a copy, or choose another --dir")
                if number > self.number:
                    if number != self.number + 1:
                        raise ValueError(f"{path} goes on with record {number} after {self.number}: a file is missing")
                    self.number = number
                    yield data[at + HEAD.size : end]
                at = end
        self._open(self._segments[-1] if self._segments else self._segment(self.number + 1))

    def _segment(self, first: int) -> Path:
        return self.directory / f"journal-{first:016d}.log"

    def _open(self, path: Path) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._sync_directory()

    def _sync_directory(self) -> None:
        """Makes names durable, as fsync of a file does not."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def append(self, payload: bytes) -> None:
        """Keeps one record, to be committed."""
        self.number += 1
        number = self.number.to_bytes(8, "little")
        self._kept += len(payload).to_bytes(4, "little") + zlib.crc32(payload, zlib.crc32(number)).to_bytes(4, "little")
        self._kept += number
        self._kept += payload

    def take(self) -> bytes:
        """What was kept since the last call."""
        kept, self._kept = bytes(self._kept), bytearray()
        return kept

    def commit(self, data: bytes) -> None:
        """Writes and syncs; returns when a power failure would find it again. Raises OSError if it would not."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)

    def snapshot(self, state: dict[str, Any], number: int) -> None:
        """Replaces the snapshot by the state after record ``number``, all of them committed, and begins a new file."""
        save_state(self._snapshot, state, number=number)
        self._sync_directory()
        old = self._segments
        self._open(self._segment(number + 1))
        for path in old:
            if path != self._segment(number + 1):
                path.unlink()

    def close(self) -> None:
        """Lets another process have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.close()
