"""The policy as it was before training, from which a penalty keeps the trained one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from curbench.train.forward import Forward
from curbench.train.rollout import TokenRollouts
from curbench.types import Array


class Reference:
    """Frozen copies of the trained weights as they are now; with adapters no copy is needed, they are switched off.

    Make it before training. A resumed run makes it from the model it began with, so checkpoints need not hold it.

    adapted  whether the model is one of peft, with adapters that do not change it yet
    """

    def __init__(self, forward: Forward, parameter: dict[str, Tensor], *, adapted: bool) -> None:
        self.forward = forward
        self._parameter = parameter
        self._copy = None if adapted else {name: p.detach().clone() for name, p in parameter.items()}

    def logprob(self, rollouts: TokenRollouts, row: Array) -> Array:
        """f32[R, L], log-probabilities of the rollouts ``row`` under the reference, 0 beyond their lengths."""
        with self._in_place():
            return self.forward.all_logprob(rollouts, row)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        if self._copy is None:
            with self.forward.policy.model.disable_adapter():
                yield
            return
        home = {name: p.data for name, p in self._parameter.items()}
        try:
            for name, p in self._parameter.items():
                p.data = self._copy[name]
            yield
        finally:
            for name, p in self._parameter.items():
                p.data = home[name]
