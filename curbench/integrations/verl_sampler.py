"""verl 0.5 to 0.7: a curator as the curriculum sampler of the dataset, an interface that verl 0.8 removed.

    data.sampler.class_path=pkg://curbench.integrations.verl_sampler data.sampler.class_name=CuratedSampler \\
        data.dataloader_num_workers=0 +data.curator.name=sec +data.curator.group=8 +data.curator.horizon=500

verl calls ``update`` once the step is over and its checkpoint written. A resumed run therefore lacks the feedback of
the very step that it resumes from; its ticket is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from verl.experimental.dataset.sampler import AbstractCurriculumSampler

from curbench.config import parse_hyper
from curbench.curators import curator_class, split_admission
from curbench.integrations.core import Ledger
from curbench.types import Array, Bank


class CuratedSampler(AbstractCurriculumSampler):
    """Draws a batch when its first row is asked for, which with zero workers is after the update of the one before.

    data_source  verl's RLHFDataset; ``extra_info.index`` must be unique: it comes back with the feedback
    data_config  the configuration ``data``; under ``data.curator``: name, group (rollout.n), horizon (training steps);
                 optional seed, stratum (a column such as data_source), success (smallest score that counts), set

    The signal must get by without log-probabilities: verl reports no new ones. Raises ValueError for a curator that
    needs rounds, groups of its own sizes, new log-probabilities or a target gradient, and for indices that repeat.
    """

    def __init__(self, data_source: Any, data_config: Any) -> None:
        given = data_config.curator
        name, admission = split_admission(given.name)
        cls = curator_class(name)
        signal = given.get("signal") or cls.signal
        if cls.oversamples or cls.allocates or admission != "all":
            raise ValueError(
                f"{given.name} needs rounds, other group sizes or a filter; verl's sampler only orders rows"
            )
        if signal.startswith("policy_improvement") or signal == "target_alignment":
            raise ValueError(
                f"verl's sampler is told no new log-probabilities, which {signal} needs; set curator.signal"
            )
        rows = data_source.dataframe
        index = np.array([row["extra_info"]["index"] for row in rows])
        if np.unique(index).size < index.size:
            raise ValueError("extra_info.index must be unique: it is how feedback finds its problem")
        self._row = {int(one): row for row, one in enumerate(index)}
        stratum = given.get("stratum")
        label = np.zeros(len(rows), int) if stratum is None else np.array([row[stratum] for row in rows])
        names, which = np.unique(label, return_inverse=True)
        bank = Bank(key=index.astype(str), stratum=which, stratum_name=tuple(str(one) for one in names))
        self._batch = int(data_config.get("gen_batch_size") or data_config.train_batch_size)
        self._steps = len(rows) // self._batch
        self._success = float(given.get("success", 1.0))
        self.ledger = Ledger(
            cls(
                bank,
                seed=int(given.get("seed", 0)),
                batch=self._batch,
                group=int(given.group),
                horizon=int(given.horizon),
                **parse_hyper(cls, {key: str(value) for key, value in (given.get("set") or {}).items()}),
            ),
            signal=signal,
        )

    def __len__(self) -> int:
        return self._steps * self._batch

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._steps):
            yield from self.ledger.select(self._batch).problem.tolist()

    def update(self, batch: Any) -> None:
        """The feedback of the step: a DataProto with token_level_scores, response_mask, advantages, uid and index."""
        ticket = self.ledger.open[-1]
        selection = self.ledger.selection(ticket)
        uid = np.asarray(batch.non_tensor_batch["uid"])
        row = np.array([self._row[int(one)] for one in batch.non_tensor_batch["index"]])
        score = batch.batch["token_level_scores"].sum(-1).double().cpu().numpy()
        inside = batch.batch["response_mask"].bool().cpu()
        advantage = (batch.batch["advantages"].cpu() * inside).sum(-1) / inside.sum(-1).clamp(min=1)
        slot = _slots(selection.problem, uid, row)
        order = np.argsort(slot, kind="stable")
        order = order[slot[order] >= 0]
        present, size = np.unique(slot[order], return_counts=True)
        lost = np.setdiff1d(np.arange(len(selection)), present)
        if lost.size:
            self.ledger.drop(ticket, lost)
        self.ledger.observe(
            ticket,
            score[order],
            score[order] >= self._success,
            length=inside.sum(-1).numpy()[order],
            slot=present,
            size=size,
            advantage=advantage.double().numpy()[order],
        )

    def state_dict(self) -> dict[str, Any]:
        return self.ledger.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ledger.restore(state)
        for ticket in self.ledger.open:
            self.ledger.drop(ticket)


def _slots(problem: Array, uid: Array, row: Array) -> Array:
    """i64[R], the slot of each rollout: groups (equal uid) of one problem take its slots in turn; -1 for a surplus.

    >>> _slots(np.array([5, 3, 5]), np.array(["a", "b", "a", "c"]), np.array([5, 5, 5, 3]))
    array([0, 2, 0, 1])
    """
    free: dict[int, list[int]] = {}
    for slot, one in enumerate(problem.tolist()):
        free.setdefault(one, []).append(slot)
    taken: dict[Any, int] = {}
    for one, which in zip(uid.tolist(), row.tolist(), strict=True):
        if one not in taken:
            taken[one] = free[which].pop(0) if free.get(which) else -1
    return np.array([taken[one] for one in uid.tolist()])
