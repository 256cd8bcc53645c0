"""Progress on stderr: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

LINE_EVERY_S = 10.0


class Bar:
    """One task's progress, in units of ``total``."""

    def __init__(self, label: str, total: float) -> None:
        self.label, self.total, self.done = label, total, 0.0

    def advance(self, amount: float = 1.0) -> None:
        """Adds ``amount`` to what is done."""
        self.update(self.done + amount)

    def update(self, done: float) -> None:
        """Sets what is done."""
        self.done = min(done, self.total)


class _RichBar(Bar):
    def __init__(self, label: str, total: float, progress) -> None:
        super().__init__(label, total)
        self._progress = progress
        self._task = progress.add_task(label, total=total)

    def update(self, done: float) -> None:
        super().update(done)
        self._progress.update(self._task, completed=self.done)


class _LineBar(Bar):
    def __init__(self, label: str, total: float) -> None:
        super().__init__(label, total)
        self._start = self._printed = monotonic()

    def update(self, done: float) -> None:
        super().update(done)
        now = monotonic()
        if now - self._printed >= LINE_EVERY_S or self.done >= self.total:
            self._printed = now
            share = 100 * self.done / self.total
            print(f"{self.label}: {share:.0f} % after {now - self._start:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def bars() -> Iterator:
    """Yields ``make(label, total) -> Bar``; bars stay on screen until the block ends."""
    if not sys.stderr.isatty():
        yield _LineBar
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        yield lambda label, total: _RichBar(label, total, progress)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of aligned columns; those that hold only numbers to the right.

    >>> print(table(("name", "n"), [("a", "10"), ("bc", "9")]))
    name   n
    a     10
    bc     9
    """
    columns = list(zip(head, *rows, strict=True))
    padded = []
    for title, *cell in columns:
        width = max(map(len, (title, *cell)))
        numbers = all(text[:1].isdigit() or not text for text in cell)
        padded.append([text.rjust(width) if numbers else text.ljust(width) for text in (title, *cell)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))
