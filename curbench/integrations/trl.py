"""TRL: a curator chooses the prompts of ``GRPOTrainer``, draws late, learns after every update, resumes exactly.

TRL's dataloader runs ahead: the rows of a generation batch are drawn before the rewards of the batch before it are
known. Here the rows that it draws are not used. The curator selects when completions are about to be generated, after
it has heard of every earlier batch whose update is done. With ``steps_per_generation`` at least
``gradient_accumulation_steps`` (TRL's default) that is all of them, and staleness is 0; with more generations than
optimizer steps, feedback comes after the optimizer step, with its ticket and its staleness.

Written against TRL 1.16: it overrides ``_generate_and_score_completions``, ``_calculate_rewards``, ``_save_checkpoint``
and ``_load_optimizer_and_scheduler``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, send_to_device
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from curbench.curators import curator_class, split_admission
from curbench.curators.base import Curator
from curbench.integrations.core import Ledger, Outcome
from curbench.signals import SIGNALS, CrossFit
from curbench.types import ActorView, Array, Bank

LEDGER = "curator.safetensors"
"""What a checkpoint folder holds of the curator; ``curator_RANK.pt`` beside it is what each process had in hand."""

ESTIMATOR = {"group": "grpo", "batch": "grpo_batch", "none": "dr_grpo"}
"""The advantage estimator that ``GRPOConfig.scale_rewards`` stands for."""


def solved(reward: Array) -> Array:
    """bool[R]: whether the first reward function paid 1 or more. reward: f64[R, number of reward functions].

    >>> solved(np.array([[1.0, 0.2], [0.5, 1.0]]))
    array([ True, False])
    """
    return reward[:, 0] >= 1.0


def dataset_bank(
    dataset: Dataset,
    *,
    stratum: str | None = None,
    difficulty: str | None = None,
    length: str | None = None,
    feature: str | None = None,
) -> Bank:
    """The rows of a dataset as a bank: row i is problem i.

    stratum, difficulty, length, feature  names of columns; without a stratum all rows are in one. Values of the
                                          stratum may be anything that can be sorted
    Raises  ValueError for a column that does not exist, or values that a bank refuses.
    """

    def column(name: str | None) -> Any:
        if name is not None and name not in dataset.column_names:
            raise ValueError(f"the dataset has no column {name!r}; it has {', '.join(dataset.column_names)}")
        return None if name is None else np.asarray(dataset[name])

    label = np.zeros(len(dataset), np.int32) if stratum is None else column(stratum)
    names, index = np.unique(label, return_inverse=True)
    return Bank(
        key=np.arange(len(dataset)).astype(str),
        stratum=index,
        feature=column(feature),
        difficulty=column(difficulty),
        length=column(length),
        stratum_name=tuple(str(name) for name in names),
    )


def make_curator(label: str, bank: Bank, args: GRPOConfig, *, seed: int | None = None, **hyper: Any) -> Curator:
    """The curator ``NAME`` or ``NAME+nondegenerate`` (``curbench list``) with the sizes of a TRL configuration.

    Its batch is the prompts of a generation batch, its group ``num_generations``, its horizon the generation batches of
    ``max_steps``.

    seed    default ``args.seed``
    hyper   hyper-parameters of the curator
    Raises  ValueError without ``max_steps``, for an unknown name, or a value out of range.
    """
    if args.max_steps < 1:
        raise ValueError("a curator needs to know how long a run is: set max_steps in GRPOConfig")
    micro_steps = args.max_steps * args.gradient_accumulation_steps
    name, admission = split_admission(label)
    return curator_class(name)(
        bank,
        seed=args.seed if seed is None else seed,
        batch=args.generation_batch_size // args.num_generations,
        group=args.num_generations,
        horizon=max(1, micro_steps // (args.steps_per_generation * args.num_iterations)),
        admission=admission,
        **hyper,
    )


class _InHand(dict[str, Any]):
    """A generation batch of this process whose update is not done: its ticket, until which micro-step, its tensors."""


class CuratedGRPOTrainer(GRPOTrainer):
    """``GRPOTrainer`` with a curator; for a trainer of your own: ``class Mine(CuratedGRPOTrainer, MyTrainer)``.

    curator   with the batch and group of the configuration, on a bank with one problem per row of the training dataset
              (``make_curator``, ``dataset_bank``)
    signal    of its utility (``signals.SIGNALS``); default its own. Those of policy improvement cost a forward pass
              over the batch after the update, and one before it where TRL makes none
    success   f64[R, number of reward functions] -> bool[R], which rollouts are exactly right
    view      for curators that look at the model's hidden states, see ``types.ActorView``
    all else  as for ``GRPOTrainer``

    Groups that the curator does not admit, and rollouts or tokens to which it gives weight 0, leave the loss and the
    token count that normalises it; other weights multiply the advantages. Advantages are TRL's own, unless the signal
    splits the groups (cross-fit). Only the main process has a curator that is used; draws are broadcast.

    Raises ValueError for a streamed dataset, a bank, batch or group of other size, or a curator that needs further
    rollouts, groups of its own sizes or a target gradient, which a generation batch of fixed size cannot give.
    """

    def __init__(
        self,
        *args: Any,
        curator: Curator,
        signal: str | None = None,
        success: Callable[[Array], Array] = solved,
        view: ActorView | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        config: GRPOConfig = self.args
        self._require_fit(curator)
        self.ledger = Ledger(curator, signal=signal, estimator=ESTIMATOR[config.scale_rewards])
        if self.ledger.signal == "target_alignment":
            raise ValueError("TRL follows no target gradient: choose another curator, or another signal for it")
        self._splits = isinstance(SIGNALS[self.ledger.signal], CrossFit)
        self._success, self._view = success, view
        self._in_hand: list[_InHand] = []
        self._captured: tuple[Array, Array] | None = None
        self.add_callback(CuratorCallback(self))

    def _require_fit(self, curator: Curator) -> None:
        name, dataset, config = type(curator).__name__, self.train_dataset, self.args
        if not isinstance(dataset, Dataset):
            raise ValueError("a curator chooses rows by their number: pass a datasets.Dataset, not a stream")
        if len(curator.bank) != len(dataset):
            raise ValueError(f"the bank has {len(curator.bank)} problems and the training dataset {len(dataset)} rows")
        batch = config.generation_batch_size // config.num_generations
        if (curator.batch, curator.group) != (batch, config.num_generations):
            raise ValueError(
                f"a generation batch has {batch} prompts of {config.num_generations} completions, and the curator is "
                f"made for {curator.batch} of {curator.group}: make it with make_curator"
            )
        if curator.oversamples or curator.allocates:
            raise ValueError(
                f"{name} needs more rollouts or groups of other sizes than one generation batch of TRL has; choose "
                "another, or a zero-variance filter as in sec+nondegenerate"
            )

    # --- Selection and rewards ----------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        ticket, rows = self._choose(len(inputs))
        self._captured = None
        output = super()._generate_and_score_completions(rows)
        self._in_hand.append(self._grade(ticket, output))
        return output

    def _choose(self, count: int) -> tuple[int, list[dict[str, Any]]]:
        """(ticket, the ``count`` rows of this process): each problem ``num_generations`` times, one after the other."""
        group, drawn = self.args.num_generations, [0, [0]]
        if self.accelerator.is_main_process:
            selection = self.ledger.select(self.args.generation_batch_size // group, view=self._view)
            if selection.probe is not None or (selection.rollouts != group).any():
                raise ValueError(
                    f"{type(self.ledger.curator).__name__} drew probes or groups of other sizes than TRL's"
                )
            drawn = [selection.ticket, selection.problem.tolist()]
        ticket, problem = broadcast_object_list(drawn)
        first = self.accelerator.process_index * count
        own = np.repeat(problem, group)[first : first + count].tolist()
        row = {i: self.train_dataset[i] for i in set(own)}
        return ticket, [dict(row[i]) for i in own]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        """Keeps what the curator is to know: the rewards of all processes, and the lengths of this one."""
        reward = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            length = np.array([len(ids) for ids in completion_ids_list], np.int64)
            self._captured = reward.double().cpu().numpy(), length
        return reward

    def _grade(self, ticket: int, output: dict[str, Any]) -> _InHand:
        """Tells the rewards to the curator, uses the batch as it says, and keeps what its signal will need."""
        assert self._captured is not None, "rewards are calculated while completions are scored"
        by_function, own_length = self._captured
        length = self._gather(torch.tensor(own_length, device=self.accelerator.device))
        advantage = self._gather(output["advantages"])
        old = self._logprob(output, before=True) if self._wants_logprob else None
        use, kept = None, None
        if self.accelerator.is_main_process:
            scored = ~np.isnan(by_function).all(axis=1)
            reward = np.nansum(by_function * self.reward_weights.double().cpu().numpy(), axis=1)
            size = scored.reshape(-1, self.args.num_generations).sum(axis=1)
            if size.all():
                kept = np.flatnonzero(scored)
                outcome = self.ledger.grade(
                    ticket,
                    reward[kept],
                    np.asarray(self._success(by_function), bool)[kept],
                    length=length[kept],
                    size=size,
                    advantage=None if self._splits else advantage[kept].astype(np.float64),
                    old_logprob=None if old is None else old[kept],
                    policy_step=self.state.global_step,
                )
                use = self._use(outcome, size, kept, len(scored))
            else:  # a group that no reward function would score teaches nothing, and neither do its slots' neighbours
                self.ledger.drop(ticket)
        use, kept = broadcast_object_list([use, kept])
        if use is not None:
            self._apply(output, *use)
        generate_every = self.args.steps_per_generation * self.num_iterations
        tensors = {name: value for name, value in output.items() if name in _FORWARD and value is not None}
        return _InHand(ticket=ticket, until=self._step + generate_every, kept=kept, tensors=tensors)

    def _use(self, outcome: Outcome, size: Array, kept: Array, rows: int) -> tuple[Array, Array | None] | None:
        """(weight f64[R] or [R, L], advantage f64[R] or None for TRL's), or None where all is as TRL has it."""
        assert outcome.guidance is not None, "all groups are graded at once"
        assert outcome.admitted is not None
        if outcome.guidance.target is not None:
            raise ValueError("TRL follows no target gradient: choose another curator")
        weight, advantage = outcome.guidance.weight, None
        if weight is None and outcome.admitted.all():
            return None
        admitted = np.repeat(outcome.admitted, size).astype(float)
        part = admitted if weight is None else weight * (admitted if weight.ndim == 1 else admitted[:, None])
        whole = np.zeros((rows, *part.shape[1:]))
        whole[kept] = part
        if self._splits:
            advantage = np.zeros(rows)
            advantage[kept] = outcome.advantage
        return whole, advantage

    def _apply(self, output: dict[str, Any], weight: Array, advantage: Array | None) -> None:
        """Weights the advantages of this process, and takes what has weight 0 out of the loss and its normaliser."""
        rows, width = output["completion_ids"].shape
        own = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
        device, dtype = output["advantages"].device, output["advantages"].dtype
        local = torch.zeros((rows, width), device=device, dtype=dtype)
        given = torch.as_tensor(weight[own], device=device, dtype=dtype)
        if given.dim() == 1:
            local[:] = given[:, None]
        else:
            local[:, : given.shape[1]] = given[:, :width]
        if advantage is not None:
            output["advantages"] = torch.as_tensor(advantage[own], device=device, dtype=dtype)
        output["advantages"] = (
            output["advantages"] * given if given.dim() == 1 else output["advantages"][:, None] * local
        )
        # TRL's mask of tokens that others wrote: in the loss and its count, but not in what the model attends to.
        own_tokens = output.get("tool_mask", torch.ones_like(output["completion_mask"]))
        output["tool_mask"] = own_tokens * (local > 0).to(own_tokens.dtype)
        count = (output["completion_mask"] * output["tool_mask"]).sum()
        output["num_items_in_batch"] = self.accelerator.gather(count).sum().clamp(min=1)

    # --- Feedback after the update ------------------------------------------------------------------------------------

    @property
    def _wants_logprob(self) -> bool:
        return self.ledger.signal.startswith("policy_improvement")

    def tell_curator(self) -> None:
        """Feeds back every batch whose micro-steps are done; the callback calls it after each optimizer step."""
        while self._in_hand and self._in_hand[0]["until"] <= self._step:
            batch = self._in_hand.pop(0)
            new = self._logprob(batch["tensors"], before=False) if self._wants_logprob else None
            if self.accelerator.is_main_process and batch["kept"] is not None:
                self.ledger.observe(batch["ticket"], new_logprob=None if new is None else new[batch["kept"]])

    @torch.no_grad()
    def _logprob(self, batch: dict[str, Any], *, before: bool) -> Array:
        """f32[R, L] of all processes, under the model as it is; ``before`` the update TRL may have them already."""
        value = batch.get("old_per_token_logps") if before else None
        if value is None:
            extra = {name: batch[name] for name in _EXTRA if name in batch}
            value, *_ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].shape[1],
                batch_size=self.args.per_device_train_batch_size,
                **extra,
            )
        value = torch.where(batch["completion_mask"].bool(), value, 0.0).float()
        return self._gather(self.accelerator.pad_across_processes(value, dim=1))

    def _gather(self, value: Tensor) -> Array:
        return self.accelerator.gather(value.contiguous()).cpu().numpy()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and self.accelerator.is_main_process:
            logs.update({f"curator/{name}": value for name, value in self.ledger.metrics().items()})
        super().log(logs, start_time)

    # --- Checkpoints --------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The curator first: a checkpoint that is complete for TRL then has it."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            self.ledger.save(folder / LEDGER)
        hand = {"step": self._step, "buffered": self._buffered_inputs, "in_hand": [dict(b) for b in self._in_hand]}
        for batch in hand["in_hand"]:
            batch["kept"] = None if batch["kept"] is None else torch.from_numpy(batch["kept"])
        torch.save(hand, folder / f"curator_{self.accelerator.process_index}.pt")
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        own = Path(checkpoint) / f"curator_{self.accelerator.process_index}.pt"
        for path in (Path(checkpoint) / LEDGER, own):
            if not path.exists():
                raise ValueError(
                    f"{path} is missing: the checkpoint was made without this curator or with fewer processes"
                )
        if self.accelerator.is_main_process:
            self.ledger.load(Path(checkpoint) / LEDGER)
        hand = send_to_device(torch.load(own, map_location="cpu", weights_only=True), self.accelerator.device)
        self._step, self._buffered_inputs = hand["step"], hand["buffered"]
        self._in_hand = [_InHand(batch) for batch in hand["in_hand"]]
        for batch in self._in_hand:
            batch["kept"] = None if batch["kept"] is None else batch["kept"].cpu().numpy()


class CuratorCallback(TrainerCallback):
    """Calls ``tell_curator`` after every optimizer step, before anything is logged or saved."""

    def __init__(self, trainer: CuratedGRPOTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.tell_curator()


_OWN = {"self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"}
_EXTRA = set(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters) - _OWN
"""Inputs of the model beside the tokens, where there are any, such as images."""

_FORWARD = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "old_per_token_logps", *_EXTRA}
