"""One training run, from a spec to a directory of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curbench import suites
from curbench.advantage import ESTIMATORS
from curbench.config import parse_hyper
from curbench.curators import curator_class, split_admission
from curbench.curators.base import Curator
from curbench.features import file_name, make_sources, parse_sources, write_features
from curbench.loop import Budget, Spent, run
from curbench.philox import spawn_seeds
from curbench.record import RunRecord, previous_run, read_evaluations
from curbench.signals import SIGNALS
from curbench.stats import paired_difference
from curbench.suites import Suite
from curbench.train.grpo import GRPOActor
from curbench.train.policy import Policy, load_policy, prompt_view, shipped_base
from curbench.train.rollout import Engine
from curbench.train.settings import PRESETS, GRPOConfig
from curbench.train.vllm_engine import VLLMEngine, VLLMSetting
from curbench.train.world import Conductor, World, present, serve
from curbench.types import Bank


class TrainSpec(BaseModel):
    """Everything that the numbers of a run depend on; written to run.json and compared on resume.

    suite, curator     names; a curator may carry an admission rule, as in ``uniform+nondegenerate``
    budget_*           stop at the first limit reached; rejected rollouts count
    batch, group       B problems per step, G rollouts of each
    estimator, signal  advantage estimator, default that of ``grpo.loss``; signal of the curator's utility, default the
                       curator's own
    suite_set          settings of the suite, as texts
    model              local Hugging Face folder; None is the base model of the suite
    chat, system_prompt  whether prompts go through the model's chat template, and what the system says there
    evaluate_every     steps between evaluations on the held-out problems
    checkpoint_every   steps between checkpoints
    features           what neural curators are told of a problem (``features.SOURCES``), hidden states being
                       those of the model before training; None: what the suite ships
    curator_set        hyper-parameters of the curator, as texts
    engine, vllm       who samples, and the settings of vLLM's engine, see ``curbench.train.vllm_engine``
    save_model         write the trained model, or its adapter, to ``model`` in the directory of the run
    parallel           of processes that torchrun started: "ddp" has the whole model on each, "fsdp2" a part
    grpo               the actor's own settings
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    curator: str
    seed: int = Field(0, ge=0)
    budget_steps: int | None = Field(None, ge=1)
    budget_rollouts: int | None = Field(None, ge=1)
    budget_tokens: int | None = Field(None, ge=1)
    batch: int = Field(32, ge=1)
    group: int = Field(8, ge=2)
    estimator: str = "grpo"
    signal: str | None = None
    suite_set: dict[str, str] = {}
    model: str | None = None
    chat: bool = False
    system_prompt: str | None = None
    evaluate_every: int = Field(20, ge=1)
    checkpoint_every: int = Field(20, ge=1)
    features: str | None = None
    curator_set: dict[str, str] = {}
    engine: Literal["builtin", "vllm"] = "builtin"
    vllm: VLLMSetting = VLLMSetting()
    save_model: bool = False
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    grpo: GRPOConfig = GRPOConfig()

    @model_validator(mode="before")
    @classmethod
    def _loss_brings_its_estimator(cls, value: Any) -> Any:
        grpo = value.get("grpo") if isinstance(value, dict) else None
        loss = grpo.get("loss") if isinstance(grpo, dict) else getattr(grpo, "loss", None)
        return {"estimator": PRESETS[loss].estimator} | value if loss in PRESETS else value

    @model_validator(mode="after")
    def _names_exist(self) -> TrainSpec:
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"unknown estimator {self.estimator!r}; choose from {', '.join(ESTIMATORS)}")
        if self.signal is not None and self.signal not in SIGNALS:
            raise ValueError(f"unknown signal {self.signal!r}; choose from {', '.join(SIGNALS)}")
        if self.features is not None:
            parse_sources(self.features)
        if self.system_prompt is not None and not self.chat:
            raise ValueError("system_prompt is part of a chat template: set chat=true as well")
        if self.budget_steps is None and self.budget_rollouts is None and self.budget_tokens is None:
            raise ValueError("a run needs a budget: steps, rollouts or tokens")
        if self.engine == "vllm" and self.grpo.lora is not None:
            raise ValueError("engine=vllm takes whole weights, not the adapters of grpo.lora; choose engine=builtin")
        return self

    @property
    def budget(self) -> Budget:
        """The limits of the run."""
        return Budget(self.budget_steps, self.budget_rollouts, self.budget_tokens)

    def load_suite(self, split: str) -> Suite:
        """The problems of one split."""
        return suites.load(self.suite, split, self.suite_set)

    def load_policy(self) -> Policy:
        """The model before training."""
        return load_policy(self.model, self.suite, chat=self.chat, system_prompt=self.system_prompt)

    @property
    def horizon(self) -> int:
        """Planned steps, for default step sizes: exact for steps and rollouts; tokens at their longest otherwise."""
        group = self.batch * self.group
        plan = []
        if self.budget_steps is not None:
            plan.append(self.budget_steps)
        if self.budget_rollouts is not None:
            plan.append(ceil(self.budget_rollouts / group))
        if self.budget_tokens is not None:
            plan.append(ceil(self.budget_tokens / (group * self.grpo.max_new_tokens)))
        return min(plan)


def run_directory(out: Path, spec: TrainSpec) -> Path:
    """Where the run of a spec lives: OUT / suite / curator / seed; a file of problems is called by its stem."""
    return Path(out) / suites.label(spec.suite) / spec.curator.replace(":", "-") / str(spec.seed)


def make_curator(spec: TrainSpec, bank: Any, seed: int) -> Curator:
    """The curator of a spec on a bank.

    Raises ValueError for an unknown name, hyper-parameter or admission rule, or a value out of range.
    """
    name, admission = split_admission(spec.curator)
    cls = curator_class(name)
    hyper = parse_hyper(cls, spec.curator_set)
    common: dict[str, Any] = {"batch": spec.batch, "horizon": spec.horizon, "group": spec.group, "admission": admission}
    return cls(bank, seed=seed, **common, **hyper)


def featured_bank(
    spec: TrainSpec, suite: Suite, policy: Policy, out: Path, progress: Callable[[int], None] = lambda done: None
) -> Bank:
    """The bank of a suite with the features of the spec, from the file in ``out`` that all its runs share.

    policy  before training
    Raises  ValueError for sources that the suite cannot serve.
    """
    if spec.features is None:
        return suite.bank
    source = make_sources(spec.features, suite.bank, prompt_view(policy, suite.prompt))
    name = file_name(suites.label(spec.suite), f"{spec.features} {spec.model}", suite.bank)
    table = write_features(Path(out) / ".features" / name, source, len(suite.bank), progress)
    return replace(suite.bank, feature=table)


def prepare(specs: list[TrainSpec], out: Path, progress: Callable[[TrainSpec, int, int], None]) -> None:
    """Makes the features that the runs will share, once, before any of them begins.

    progress  called with a spec, the number of its problems and how many are done
    """
    for spec in {(spec.suite, spec.features, spec.model): spec for spec in specs if spec.features}.values():
        suite = spec.load_suite("train")
        policy = spec.load_policy()
        featured_bank(spec, suite, policy, out, partial(progress, spec, len(suite.bank)))


def check(specs: list[TrainSpec], out: Path, *, resume: bool = False) -> None:
    """Raises what ``train`` would for a curator's settings or for what ``out`` holds: nothing runs before all can."""
    bank = {name: spec.load_suite("train").bank for name, spec in {spec.suite: spec for spec in specs}.items()}
    for spec in specs:
        previous_run(run_directory(out, spec), spec.model_dump(), resume=resume)
        make_curator(spec, bank[spec.suite], seed=0)


def make_engine(spec: TrainSpec, policy: Policy) -> Engine | None:
    """The engine of a spec for a policy; None is the actor's own.

    Raises ModuleNotFoundError without vLLM, ValueError for a model that it cannot run.
    """
    if spec.engine == "builtin":
        return None
    folder = shipped_base(spec.suite) if spec.model is None else spec.model
    parallel = present().size > 1
    return VLLMEngine(policy, spec.grpo.sampling, folder, spec.vllm, rows=spec.grpo.rollout_batch, parallel=parallel)


def make_actor(spec: TrainSpec, policy: Policy, suite: Suite) -> GRPOActor:
    """The actor of a spec, or one process's part of it."""
    return GRPOActor(
        policy,
        suite,
        spec.load_suite("test"),
        seed=spawn_seeds(spec.seed, 2)[1],
        config=spec.grpo,
        engine=make_engine(spec, policy),
        world=present(),
        sharded=spec.parallel == "fsdp2" and present().size > 1,
    )


@contextmanager
def acting(spec: TrainSpec, policy: Policy, suite: Suite) -> Iterator[GRPOActor | Conductor]:
    """The actor of a spec for the loop; of several processes, that of all of them."""
    world = present()
    if world.size == 1:
        yield make_actor(spec, policy, suite)
        return
    world.broadcast(spec)
    with world.together():
        actor = make_actor(spec, policy, suite)
    with Conductor(actor, world) as conductor:
        yield conductor


def follow(world: World) -> None:
    """What processes other than the first do: their part of every run that the first begins, until it is done."""
    while (spec := world.broadcast(None)) is not None:
        with world.together():
            actor = make_actor(spec, spec.load_policy(), spec.load_suite("train"))
        serve(actor, world)


def train(
    spec: TrainSpec,
    out: Path,
    *,
    resume: bool = False,
    progress: Callable[[Spent], None] = lambda spent: None,
    pause: Callable[[Spent], bool] = lambda spent: False,
    track: tuple[str, ...] = ("tensorboard",),
) -> dict[str, Any] | None:
    """Runs one spec to the end of its budget and returns its result row; None when it was paused before.

    resume  continue the run of this spec in ``out``; a complete one is only read
    pause   asked after every step whether to stop there; ``resume`` goes on to the same bits
    track   where the numbers can be watched, see ``curbench.track``
    Raises  ValueError for a spec that does not fit, a model that cannot be loaded, or an existing run without resume;
            nothing is written before everything has been checked.
    """
    suite = spec.load_suite("train")
    policy = spec.load_policy()
    curator = make_curator(spec, featured_bank(spec, suite, policy, out), spawn_seeds(spec.seed, 2)[0])
    with acting(spec, policy, suite) as actor:
        record = RunRecord(run_directory(out, spec), spec.model_dump(), resume=resume, bank=suite.bank, track=track)
        if not record.complete:
            if record.state is not None:
                assert record.spent is not None
                if pause(record.spent) and not spec.budget.reached(record.spent):
                    record.close(complete=False)
                    return None
                curator.restore(record.state["curator"])
                actor.restore(record.state["actor"])
            spent = run(
                curator,
                actor,
                batch=spec.batch,
                budget=spec.budget,
                signal=SIGNALS[spec.signal or curator.signal],
                record=record,
                estimator=spec.estimator,
                evaluate_every=spec.evaluate_every,
                checkpoint_every=spec.checkpoint_every,
                spent=record.spent,
                progress=progress,
                pause=pause,
            )
            complete = spec.budget.reached(spent)
            if complete and spec.save_model:
                actor.save(record.directory / "model")
            record.close(complete=complete)
    return result_row(record.directory) if record.complete else None


def result_row(directory: Path) -> dict[str, Any]:
    """The machine-readable result of a finished run: what was spent, and held-out pass rate before and after.

    Raises ValueError, naming the file, if its evaluations are damaged.
    """
    spec = json.loads((directory / "run.json").read_text())["spec"]
    evals = read_evaluations(directory)
    first, last = evals[0], evals[-1]
    after, before = (np.array(row["success"]) / np.array(row["n"]) for row in (last, first))
    change = paired_difference(after, before)
    averaged = {"pass_rate_averaged": last["averaged"]["pass_rate"]} if "averaged" in last else {}
    return {
        "suite": spec["suite"],
        "curator": spec["curator"],
        "seed": spec["seed"],
        "steps": last["step"],
        "rollouts": last["rollouts"],
        "tokens": last["tokens"],
        "pass_rate_before": first["pass_rate"],
        "pass_rate": last["pass_rate"],
        **averaged,
        "change": {"mean": change.mean, "lo": change.lo, "hi": change.hi, "problems": change.n},
        "directory": str(directory),
    }


def describe(row: dict[str, Any]) -> str:
    """One line for people: held-out pass rate before and after, with the interval of the change."""
    change = row["change"]
    averaged = f" ({row['pass_rate_averaged']:.3f} averaged)" if "pass_rate_averaged" in row else ""
    return (
        f"{row['suite']}/{row['curator']} seed {row['seed']}  {row['steps']} steps, {row['tokens']} tokens  "
        f"pass rate {row['pass_rate_before']:.3f} -> {row['pass_rate']:.3f}{averaged}  "
        f"change {change['mean']:+.3f} [{change['lo']:+.3f}, {change['hi']:+.3f}] over {change['problems']} problems"
    )
