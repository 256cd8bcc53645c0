"""Scorers of others: math-verify, reasoning-gym's, and functions of the user, each in a process that can be killed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curbench.suites.worker import CallFailed, CallTimeout, Worker

TIMEOUT_S = 5.0
FIRST_TIMEOUT_S = 60.0
FAILURES_IN_A_ROW = 64


class Judge:
    """Rewards by ``module:function``, called in a child process as ``function(answer, *rest)``.

    The function returns a number in [0, 1], or True or False; 1 is exactly right. A call that raises, takes longer than
    ``timeout_s`` or kills its process is a reward of 0, and counted. ``imports`` as in ``Worker``.

    >>> with Judge("curbench.suites.judge:math") as judge:
    ...     judge.score(r"$\\\\frac{2}{4}$", "0.5")
    (1.0, True)
    """

    def __init__(self, target: str, timeout_s: float = TIMEOUT_S, imports: Sequence[str] = ()) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._worker = Worker(target, imports=imports)
        self._calls = self._failed = self._timeouts = self._in_a_row = 0
        self._answered = False

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.close()

    def try_out(self, *argument: Any) -> None:
        """Raises ValueError if the function fails on a right answer: nothing would ever be rewarded."""
        try:
            reward_of(self._worker.call(*argument, timeout_s=FIRST_TIMEOUT_S))
        except (CallFailed, CallTimeout) as error:
            raise ValueError(f"the scorer {self.target} fails on a right answer: {error}") from None

    def score(self, *argument: Any) -> tuple[float, bool]:
        """The reward, and whether the answer is exactly right.

        Raises ValueError if the function cannot be imported, or has failed on all of its first 64 calls.
        """
        self._calls += 1
        try:
            reward = reward_of(self._worker.call(*argument, timeout_s=self._timeout_s))
        except (CallTimeout, CallFailed) as error:
            self._failed += 1
            self._timeouts += isinstance(error, CallTimeout)
            self._in_a_row += 1
            if not self._answered and self._in_a_row >= FAILURES_IN_A_ROW:
                raise ValueError(
                    f"the scorer {self.target} failed on each of its first {FAILURES_IN_A_ROW} calls; the last time: "
                    f"{error}; it should return 0 for an answer it cannot read"
                ) from None
            return 0.0, False
        self._answered = True
        return reward, reward == 1.0

    def metrics(self) -> dict[str, float]:
        """Calls, failures and timeouts since this was last asked."""
        counted = {
            "scorer_calls": float(self._calls),
            "scorer_failed": float(self._failed),
            "scorer_timeouts": float(self._timeouts),
        }
        self._calls = self._failed = self._timeouts = 0
        return counted


def reward_of(value: Any) -> float:
    """The reward that a scorer's value is; CallFailed if it is no number in [0, 1].

    >>> reward_of(True), reward_of(0.25)
    (1.0, 0.25)
    """
    if not isinstance(value, bool | int | float) or not 0.0 <= value <= 1.0:
        raise CallFailed(f"a reward is a number in [0, 1]; got {value!r}")
    return float(value)


def math(answer: str, right: str) -> float:
    """1.0 if two mathematical texts, in LaTeX or plain, are equal by math-verify (extra ``tasks``), else 0.0."""
    from math_verify import parse, verify

    # Its own time limits are signals that code inside may swallow; this process is killed from outside instead.
    found, expected = (parse(text, parsing_timeout=None) for text in (answer, right))  # type: ignore[arg-type]
    return float(bool(found) and bool(expected) and verify(expected, found, timeout_seconds=None))  # type: ignore[arg-type]
