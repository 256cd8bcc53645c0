"""Feedback that arrives late, out of order or not at all: what trainers do to a curator.

A trainer that draws its next batch while the last one still runs gives feedback one round late; asynchronous rollouts
come back out of order; dropped groups never do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.base import Curator
from curbench.philox import DELAY, uniform
from curbench.types import Feedback


class Delay(NamedTuple):
    """When the feedback of round t arrives: at the end of round t + rounds + U{0..jitter}, lost with probability loss.

    >>> parse_delay("5:2:0.1")
    Delay(rounds=5, jitter=2, loss=0.1)
    """

    rounds: int = 0
    jitter: int = 0
    loss: float = 0.0


NO_DELAY = Delay()


def parse_delay(text: str | int | Delay) -> Delay:
    """A delay from ROUNDS[:JITTER[:LOSS]].

    Raises ValueError if a part is not a number in its range.
    """
    part = list(text) if isinstance(text, Delay) else str(text).split(":")
    try:
        delay = Delay(*(kind(one) for kind, one in zip((int, int, float), part, strict=False)))
        right = len(part) <= 3 and delay.rounds >= 0 and delay.jitter >= 0 and 0.0 <= delay.loss <= 1.0
    except ValueError:
        right = False
    if not right:
        raise ValueError(
            f"a delay is ROUNDS[:JITTER[:LOSS]], whole numbers and a share in [0, 1], like 5:2:0.1; got {text}"
        )
    return delay


def delay_text(delay: Delay) -> int | str:
    """What ``parse_delay`` reads, as short as it gets, so that equal delays are written alike.

    >>> delay_text(Delay(5)), delay_text(Delay(5, 2, 0.1))
    (5, '5:2:0.1')
    """
    return delay.rounds if delay == Delay(delay.rounds) else f"{delay.rounds}:{delay.jitter}:{delay.loss:g}"


@nb.njit
def arrival(seed, step, rounds, jitter, loss):
    """The round at whose end the feedback of round ``step`` arrives, or -1 if it never does."""
    if loss > 0.0 and uniform(seed, DELAY, step, 0) < loss:
        return -1
    return step + rounds + (0 if jitter == 0 else int(uniform(seed, DELAY, step, 1) * (jitter + 1)))


class Proxy:
    """A curator with some verbs replaced; everything else is the curator's."""

    def __init__(self, curator: Curator | Proxy) -> None:
        self.curator = curator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.curator, name)


class Delayed(Proxy):
    """A curator that gets its feedback when ``arrival`` says; what is due in one round comes oldest first.

    Must be given the feedback of every round, in order; losses and lateness are its own doing.
    """

    def __init__(self, curator: Curator | Proxy, delay: Delay, seed: int) -> None:
        super().__init__(curator)
        self.delay = delay
        self.seed = np.uint64(seed)
        self.pending: list[tuple[int, Feedback]] = []

    def update(self, feedback: Feedback) -> None:
        now = feedback.selection.step
        self.pending.append((arrival(self.seed, now, *self.delay), feedback))
        due = [late for at, late in self.pending if at == now]
        self.pending = [(at, late) for at, late in self.pending if at > now]
        for late in due:
            age = now - late.selection.step
            self.curator.update(late if age == 0 else replace(late, staleness=np.full(len(late.selection), age)))
