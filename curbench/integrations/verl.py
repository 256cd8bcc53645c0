"""verl: a curator chooses the prompts of its v1 trainer and hears of every group after the update.

    VERL_USE_EXTERNAL_MODULES=curbench.integrations.verl python -m verl.trainer.main_ppo \\
        trainer.v1.trainer_mode=curated_sync +curbench.curator=sec +curbench.stratum=data_source ...

Importing this registers the trainer ``curated_sync``: verl's synchronous one, whose prompts are drawn after the update
of the step before, so that staleness is 0. Written against verl 0.9.1: it overrides ``_init_dataloader``,
``_next_train_batch``, ``_compute_advantage``, ``_step_once``, ``_save_checkpoint`` and ``_load_checkpoint``. For verl
0.5 to 0.7 see ``curbench.integrations.verl_sampler``.
"""

from __future__ import annotations

import uuid
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn
from verl.workers.utils.padding import response_from_nested

from curbench.config import parse_hyper
from curbench.curators import curator_class, split_admission
from curbench.integrations.core import Ledger
from curbench.signals import SIGNALS, CrossFit
from curbench.types import Array, Bank

LEDGER = "curator.safetensors"
"""What a checkpoint folder ``global_step_N`` holds of the curator."""

SETTINGS: dict[str, Any] = {
    "curator": "sec",
    "seed": 0,
    "signal": None,
    "stratum": None,
    "difficulty": None,
    "success": 1.0,
    "set": {},
}
"""Of ``+curbench.NAME=...``, with their defaults; see ``CuratedTrainer``."""


def column(rows: Any, path: str | None) -> Array | None:
    """The values of a column, or of a key inside one, as in ``extra_info.level``; None for no path.

    Raises ValueError if a row has no such entry.

    >>> column([{"extra_info": {"level": 2}}, {"extra_info": {"level": 0}}], "extra_info.level")
    array([2, 0])
    """
    if path is None:
        return None
    value = []
    for number, row in enumerate(rows):
        for key in path.split("."):
            if not isinstance(row, dict) or key not in row:
                raise ValueError(f"row {number} of the training data has no {path}")
            row = row[key]
        value.append(row)
    return np.asarray(value)


@register_trainer("curated_sync")
class CuratedTrainer(PPOTrainerSync):
    """verl's synchronous v1 trainer with a curator. Settings, all under ``curbench`` of the configuration:

    curator     NAME or NAME+nondegenerate (``curbench list``)
    seed        of its draws
    signal      of its utility; those of policy improvement cost a forward pass over the batch after the update
    stratum, difficulty  columns of the training data, such as data_source or extra_info.level
    success     smallest score of a rollout that counts as exactly right
    set         hyper-parameters of the curator, as in +curbench.set.eta=0.1

    The row number in the training data (after verl's own filtering) is the number of a problem. Advantages of groups
    that are not admitted, and of what the curator gives weight 0, become 0; verl's token count keeps them. Groups that
    fail in generation, or that verl's own filter drops, are dropped from the feedback of their ticket.

    Raises ValueError for an unknown setting or name, or a curator that needs further rollouts, groups of its own sizes
    or a target gradient.
    """

    ledger: Ledger

    def __init__(self, config: DictConfig) -> None:
        given = OmegaConf.to_container(config.get("curbench") or OmegaConf.create({}), resolve=True)
        assert isinstance(given, dict)
        unknown = sorted(set(given) - set(SETTINGS))
        if unknown:
            raise ValueError(f"unknown setting curbench.{unknown[0]}; choose from {', '.join(SETTINGS)}")
        self._settings = SETTINGS | given
        config = deepcopy(config)
        with open_dict(config):  # everything but the choice of prompts is that of the synchronous trainer
            config.trainer.v1.trainer_mode = "sync"
        self._slot: dict[str, tuple[int, int]] = {}
        super().__init__(config)

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        bank, config = self._bank(), self.config
        name, admission = split_admission(self._settings["curator"])
        cls = curator_class(name)
        if cls.oversamples or cls.allocates or cls.signal == "target_alignment":
            raise ValueError(
                f"{name} needs rounds, groups of its own sizes or a target gradient; choose another curator"
            )
        curator = cls(
            bank,
            seed=self._settings["seed"],
            batch=config.data.train_batch_size,
            group=config.actor_rollout_ref.rollout.n,
            horizon=self.total_training_steps,
            admission=admission,
            **parse_hyper(cls, {key: str(value) for key, value in self._settings["set"].items()}),
        )
        self.ledger = Ledger(curator, signal=self._settings["signal"])
        if isinstance(SIGNALS[self.ledger.signal], CrossFit):
            raise ValueError("cross-fitted signals train on half of every group, which verl cannot; take the plain one")

    def _bank(self) -> Bank:
        rows = self.train_dataset.dataframe
        label = column(rows, self._settings["stratum"])
        names, index = np.unique(np.zeros(len(rows), int) if label is None else label, return_inverse=True)
        return Bank(
            key=np.arange(len(rows)).astype(str),
            stratum=index,
            difficulty=column(rows, self._settings["difficulty"]),
            stratum_name=tuple(str(one) for one in names),
        )

    # --- Selection ----------------------------------------------------------------------------------------------------

    def _next_train_batch(self, num_prompts: int | None = None) -> Any:
        """The rows that the curator selects, in place of the dataloader's."""
        selection = self.ledger.select(num_prompts or self.config.data.train_batch_size)
        rows = collate_fn([self.train_dataset[int(i)] for i in selection.problem])
        uids = [str(uuid.uuid4()) for _ in selection.problem]
        self._slot |= {uid: (selection.ticket, slot) for slot, uid in enumerate(uids)}
        batch = tu.get_tensordict({**rows, "uid": np.array(uids, dtype=object)})
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        return batch

    # --- Feedback -----------------------------------------------------------------------------------------------------

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)
        self._grade(batch)
        return batch

    def _grade(self, batch: Any) -> None:
        """Tells the rewards to the curator; advantages of what it leaves out become 0."""
        rows = _final_rows(batch)
        uid = [batch.keys[i].rsplit("_", 2)[0] for i in rows]
        order = sorted(range(len(rows)), key=lambda k: self._slot[uid[k]])
        self._graded = [rows[k] for k in order]
        fields = ["rm_scores", "response_mask", "old_log_probs", "advantages"]
        data = tq.kv_batch_get(
            keys=[batch.keys[i] for i in self._graded], partition_id=batch.partition_id, select_fields=fields
        )
        part = {name: [row.float().numpy() for row in data[name].unbind()] for name in fields}
        inside = [mask > 0 for mask in part["response_mask"]]
        score = np.array([row.sum() for row in part["rm_scores"]], np.float64)
        old = [row[mask] for row, mask in zip(part["old_log_probs"], inside, strict=True)]
        value = [
            float(row[mask][0]) if mask.any() else 0.0 for row, mask in zip(part["advantages"], inside, strict=True)
        ]
        place = np.array([self._slot[uid[k]] for k in order])
        weight: list[Array | None] = [None] * len(self._graded)
        for ticket in np.unique(place[:, 0]):
            mine = np.flatnonzero(place[:, 0] == ticket)
            slot, size = np.unique(place[mine, 1], return_counts=True)
            lost = np.setdiff1d(self.ledger.missing(int(ticket)), slot)
            if lost.size:
                self.ledger.drop(int(ticket), lost)
            outcome = self.ledger.grade(
                int(ticket),
                score[mine],
                score[mine] >= self._settings["success"],
                length=[int(inside[k].sum()) for k in mine],
                slot=slot,
                size=size,
                advantage=[value[k] for k in mine],
                old_logprob=[old[k] for k in mine],
                policy_step=self.global_steps,
            )
            assert outcome.guidance is not None
            assert outcome.admitted is not None
            if not outcome.admitted.all() or outcome.guidance.weight is not None:
                admitted = np.repeat(outcome.admitted, size).astype(float)
                given = outcome.guidance.weight
                for k, row in zip(mine, range(mine.size), strict=True):
                    weight[k] = admitted[row] * (1.0 if given is None else given[row])
        self._tickets = np.unique(place[:, 0]).tolist()
        if any(one is not None for one in weight):
            self._weigh(batch, data["advantages"], weight)

    def _weigh(self, batch: Any, advantage: Any, weight: list[Array | None]) -> None:
        rows = []
        for row, one in zip(advantage.unbind(), weight, strict=True):
            if one is not None:
                row = row * torch.as_tensor(np.broadcast_to(one, row.shape).copy(), dtype=row.dtype)
            rows.append(row)
        nested = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        keys = [batch.keys[i] for i in self._graded]
        tq.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=tu.get_tensordict({"advantages": nested}))

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, Any], sample_batch_size: int) -> Any:
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        new = self._new_logprob(batch) if self.ledger.signal.startswith("policy_improvement") else None
        begin = 0
        for ticket in self._tickets:
            count = self.ledger.rollouts(ticket)
            self.ledger.observe(ticket, new_logprob=None if new is None else new[begin : begin + count])
            begin += count
        # In synchronous mode nothing outlives its step: what did not come back never will.
        for ticket in self.ledger.open:
            self.ledger.drop(ticket)
        self._slot.clear()
        metrics.update({f"curator/{name}": value for name, value in self.ledger.metrics().items()})
        return batch

    def _new_logprob(self, batch: Any) -> list[Array]:
        """One row per graded rollout: log-probabilities of its tokens under the updated actor."""
        batch.extra_info.update(
            calculate_entropy=False,
            compute_loss=False,
            temperature=self.config.actor_rollout_ref.rollout.temperature,
        )
        self.actor_rollout_wg.compute_log_prob(batch)
        keys = [batch.keys[i] for i in self._graded]
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["log_probs", "response_mask"])
        new = response_from_nested(data["log_probs"], data["response_mask"])
        pairs = zip(new.unbind(), data["response_mask"].unbind(), strict=True)
        return [row.float().numpy()[mask.numpy() > 0] for row, mask in pairs]

    # --- Checkpoints --------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        """The curator first: verl marks a checkpoint as the latest at the end of its own."""
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger.save(folder / LEDGER)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        trainer = self.config.trainer
        by_path = trainer.resume_mode == "resume_path"
        name = f"global_step_{self.global_steps}"
        path = Path(trainer.resume_from_path if by_path else Path(trainer.default_local_dir) / name) / LEDGER
        if not path.exists():
            raise ValueError(f"{path} is missing: the checkpoint was made without a curator")
        self.ledger.load(path)


def _final_rows(batch: Any) -> list[int]:
    """Places in the batch of the last output of every session; keys are uid_session_output, padding is left out."""
    last: dict[str, tuple[int, int]] = {}
    for place, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True)):
        if tag.get("is_padding", False):
            continue
        session, _, output = key.rpartition("_")
        if session not in last or last[session][0] < int(output):
            last[session] = int(output), place
    return [place for _, place in last.values()]
