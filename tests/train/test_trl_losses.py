"""Every preset's loss and gradient against TRL's own code, on the same model, completions and advantages."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from curbench.suites import load
from curbench.train.grpo import GRPOActor, GRPOConfig
from curbench.train.objective import Objective
from curbench.train.policy import load_policy
from curbench.types import Selection

trl = pytest.importorskip("trl")

B, G, LIMIT = 3, 4, 6
ADVANTAGE = np.linspace(-1.5, 1, B * G)


@pytest.fixture(scope="module")
def drawn(llama_folder):
    """(actor, rollouts, the same rollouts under a reference): the policy has moved since both."""
    train = load("countdown", "train")
    config = GRPOConfig(max_new_tokens=LIMIT, threads=1, temperature=0.7)
    actor = GRPOActor(load_policy(llama_folder), train, train, seed=0, config=config)
    rollouts = actor.rollout(Selection(0, 0, [5, 600, 3000], np.full(B, 0.5), np.full(B, G), "systematic"))
    generator = torch.Generator().manual_seed(0)

    def move(scale):
        for p in actor.policy.model.parameters():
            p.data += scale * p.data.abs().mean() * torch.randn(p.shape, generator=generator)

    move(0.5)
    reference = actor._forward.all_logprob(rollouts, np.arange(B * G))
    move(1.0)
    return actor, rollouts, reference


def gradient(actor):
    return torch.cat([p.grad.flatten() for p in actor.policy.model.parameters()]).numpy()


def ours(drawn, **config):
    actor, rollouts, reference = drawn
    config = GRPOConfig(max_new_tokens=LIMIT, micro_batch=5, **config)
    actor.policy.model.zero_grad()
    given = reference if config.kl else None
    objective = Objective(actor._forward, config, rollouts, np.arange(B * G), ADVANTAGE, None, given)
    objective.backward(np.arange(B * G))
    return objective.sums, gradient(actor)


def theirs(drawn, compute, clip=(0.2, 0.2), kl=0.0, correction=True, **setting):
    """TRL's ``_compute_loss`` with a stand-in for its trainer, whose forward pass is ours."""
    from accelerate import Accelerator

    actor, rollouts, reference = drawn
    actor.policy.model.zero_grad()
    new, mask = actor._forward.logprob(rollouts, torch.arange(B * G))
    old = torch.tensor(rollouts.logprob)
    this = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False,
        accelerator=Accelerator(cpu=True),
        args=SimpleNamespace(use_bias_correction_kl=correction, delta=None, steps_per_generation=1),
        aux_loss_enabled=False,
        beta=kl,
        current_gradient_accumulation_steps=1,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        max_completion_length=LIMIT,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        **{"importance_sampling_level": "token", **setting},
    )
    nothing = torch.zeros(B * G, 0, dtype=torch.int64)
    given = {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": rollouts.completion,
        "completion_mask": mask.long(),
        "advantages": torch.from_numpy(ADVANTAGE).float(),
        "old_per_token_logps": old,
        "old_logps": (old * mask).sum(1),
        "ref_per_token_logps": torch.from_numpy(reference),
        "num_items_in_batch": mask.sum(),
    }
    loss = compute(this, actor.policy.model, given)
    loss.backward()
    metric = {name: value[-1] for name, value in this._metrics["train"].items()}
    return float(loss.detach()), gradient(actor), metric


def assert_equal(ours, theirs):
    (sums, mine), (loss, other, metric) = ours, theirs
    assert sums["loss"] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
    assert 0.02 < metric["clip_ratio/region_mean"] < 0.98  # otherwise the clip was not tried
    return sums, metric


@pytest.mark.parametrize(
    ("loss", "setting"),
    [
        ("grpo", {"loss_type": "grpo"}),
        ("dr_grpo", {"loss_type": "dr_grpo"}),
        ("dapo", {"loss_type": "dapo", "clip": (0.2, 0.28)}),
        ("gspo", {"loss_type": "grpo", "clip": (3e-4, 4e-4), "importance_sampling_level": "sequence"}),
    ],
)
def test_the_loss_and_its_gradient_are_those_of_trl(drawn, loss, setting):
    sums, metric = assert_equal(ours(drawn, loss=loss), theirs(drawn, trl.GRPOTrainer._compute_loss, **setting))
    if loss != "gspo":  # where TRL counts sequences
        assert sums["clipped"] / sums["tokens"] == pytest.approx(metric["clip_ratio/region_mean"], rel=1e-6)


def test_the_default_is_the_mean_over_tokens_of_trl(drawn):
    assert_equal(ours(drawn), theirs(drawn, trl.GRPOTrainer._compute_loss, loss_type="bnpo"))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("correction", [True, False])
def test_the_penalty_on_the_divergence_is_that_of_trl(drawn, level, correction):
    mine = ours(drawn, loss="grpo", ratio=level, clip_low=0.05, clip_high=0.05, kl=0.3, kl_correction=correction)
    setting = {"importance_sampling_level": level, "kl": 0.3, "correction": correction, "clip": (0.05, 0.05)}
    sums, metric = assert_equal(mine, theirs(drawn, trl.GRPOTrainer._compute_loss, loss_type="grpo", **setting))
    if not correction:  # TRL logs the corrected one
        assert sums["kl"] / sums["tokens"] == pytest.approx(metric["kl"], rel=1e-5)


def test_rloo_is_that_of_trl(drawn):
    assert_equal(ours(drawn, loss="rloo"), theirs(drawn, trl.RLOOTrainer._compute_loss))
