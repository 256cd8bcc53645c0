"""Named losses, the penalty on divergence, overlong completions, precision, adapters, and what stops a run."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from curbench.config import validate
from curbench.record import load_checkpoint
from curbench.suites import load
from curbench.train.grpo import GRPOActor, GRPOConfig
from curbench.train.memory import out_of_memory
from curbench.train.policy import load_policy
from curbench.train.run import TrainSpec, run_directory, train
from curbench.train.settings import PRESETS
from curbench.types import PLAIN, Guidance, Selection

TRAIN, TEST = load("countdown", "train"), load("countdown", "test")
B, G = 4, 3
ADVANTAGE = np.linspace(-1, 1, B * G)
ALL = np.ones(B, bool)


def make_actor(folder, seed=0, **config):
    setting = {"learning_rate": 1e-2, "max_new_tokens": 6, "evaluation_problems": 8, "threads": 1, **config}
    return GRPOActor(load_policy(folder), TRAIN, TEST, seed=seed, config=GRPOConfig(**setting))


def draw(actor):
    return actor.rollout(Selection(0, 0, [5, 600, 5, 3000], np.full(B, 0.5), np.full(B, G), "systematic"))


def step(actor, advantage=ADVANTAGE, admitted=ALL, guidance=PLAIN):
    return actor.update(draw(actor), advantage, admitted, guidance).metrics


def weights(actor):
    return torch.cat([p.detach().flatten() for p in actor.policy.model.parameters()])


def gradient(actor):
    """Of the one update that was made: the first moment is a tenth of it."""
    return np.concatenate([m.ravel() for m in actor.state()["exp_avg"].values()]) / 0.1


# --- Presets ----------------------------------------------------------------------------------------------------------


def spec(**change):
    return validate(TrainSpec, {"suite": "countdown", "curator": "uniform", "budget_steps": 2} | change)


@pytest.mark.parametrize("loss", PRESETS)
def test_a_preset_sets_the_loss_and_the_estimator_and_single_settings_override_it(loss):
    one = spec(grpo={"loss": loss})
    assert one.grpo.model_dump().items() >= PRESETS[loss].setting.items()
    assert one.estimator == PRESETS[loss].estimator
    other = spec(grpo={"loss": loss, "clip_high": "0.5"}, estimator="grpo_batch")
    assert (other.grpo.clip_high, other.grpo.ratio, other.estimator) == (0.5, one.grpo.ratio, "grpo_batch")
    assert validate(TrainSpec, json.loads(json.dumps(one.model_dump()))) == one
    assert validate(TrainSpec, one.model_dump() | {"grpo": one.grpo}) == one


def test_without_a_preset_the_defaults_are_what_they_were():
    one = spec()
    assert (one.estimator, one.grpo.loss, one.grpo.aggregation, one.grpo.overlong) == ("grpo", None, "token_mean", 0.0)
    with pytest.raises(ValueError, match="grpo.loss: Input should be 'grpo', 'dr_grpo', 'gspo', 'dapo' or 'rloo'"):
        spec(grpo={"loss": "ppo"})


@pytest.mark.parametrize("loss", ["gspo", "dapo", "rloo"])
def test_a_run_of_a_preset_records_its_resolved_values(loss, tmp_path):
    one = spec(grpo={"loss": loss, "evaluation_problems": 4, "threads": 1}, batch=4, group=4)
    train(one, tmp_path)
    recorded = json.loads((run_directory(tmp_path, one) / "run.json").read_text())["spec"]
    assert recorded["grpo"].items() >= PRESETS[loss].setting.items()
    assert recorded["estimator"] == PRESETS[loss].estimator


# --- Overlong completions ---------------------------------------------------------------------------------------------


def test_the_reward_falls_over_the_last_tokens_and_success_stays(llama_folder):
    plain, punished = make_actor(llama_folder), make_actor(llama_folder, overlong=0.5)
    rollouts = draw(plain)
    verdict, reward = plain.reward(rollouts), punished.reward(rollouts)
    np.testing.assert_array_equal(verdict.success, reward.success)
    np.testing.assert_allclose(reward.reward - verdict.reward, -np.maximum(rollouts.length - 3, 0) / 3)


def test_cut_completions_leave_the_loss_as_if_their_weight_were_zero(llama_folder):
    dropped, kept = make_actor(None, drop_truncated=True, max_new_tokens=7), make_actor(None, max_new_tokens=7)
    rollouts = draw(dropped)
    ended = np.array([rollouts.completion[i, n - 1].item() in kept.policy.eos for i, n in enumerate(rollouts.length)])
    assert 0 < ended.sum() < ended.size
    assert (rollouts.length[~ended] == 7).all()
    dropped.update(rollouts, ADVANTAGE, ALL)
    kept.update(rollouts, ADVANTAGE, ALL, Guidance(ended.astype(float)))
    assert torch.equal(weights(dropped), weights(kept))


# --- Divergence from the policy before training -----------------------------------------------------------------------


def test_the_penalty_is_zero_at_first_and_then_holds_the_policy_back(llama_folder):
    free, held = make_actor(llama_folder), make_actor(llama_folder, kl=5.0)
    start = weights(free)
    first = step(held)
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)
    step(free)
    assert torch.allclose(weights(free), weights(held), atol=1e-4)  # the divergence has no gradient at its minimum
    for _ in range(3):
        step(free)
        last = step(held)
    assert last["kl"] > 1e-3
    assert (weights(held) - start).norm() < (weights(free) - start).norm()


def test_with_a_penalty_groups_without_an_advantage_train_too(llama_folder):
    actor = make_actor(llama_folder, kl=1.0)
    step(actor)
    moved = weights(actor)
    assert step(actor, advantage=np.zeros(B * G))["kl"] > 0
    assert not torch.equal(weights(actor), moved)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_the_reference_is_the_policy_before_training_and_a_resumed_run_has_the_same(llama_folder, lora):
    if lora:
        pytest.importorskip("peft")
    before = make_actor(llama_folder)
    rollouts = draw(before)
    expected = before._forward.all_logprob(rollouts, np.arange(B * G))
    whole, resumed = (make_actor(llama_folder, kl=0.1, lora=lora) for _ in range(2))
    step(whole)
    moved = weights(whole)
    np.testing.assert_array_equal(whole._reference.logprob(rollouts, np.arange(B * G)), expected)
    assert torch.equal(weights(whole), moved)
    resumed.restore(whole.state())
    assert step(whole) == step(resumed)
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize("loss", PRESETS)
def test_with_a_penalty_too_the_gradient_does_not_depend_on_the_micro_batches(llama_folder, loss):
    found = []
    for micro_batch in (64, 5):
        actor = make_actor(llama_folder, loss=loss, kl=0.5, micro_batch=micro_batch, beta1=0.0, grad_clip=1e9)
        rollouts = draw(actor)
        for _ in range(2):  # the second is off the policy that sampled and away from the reference
            metrics = actor.update(rollouts, ADVANTAGE, ALL).metrics
        found.append(np.concatenate([m.ravel() for m in actor.state()["exp_avg"].values()]))
    assert metrics["kl"] > 0
    np.testing.assert_allclose(*found, atol=1e-4 * np.abs(found[0]).max())


# --- Precision --------------------------------------------------------------------------------------------------------


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(llama_folder):
    full, half = make_actor(llama_folder), make_actor(llama_folder, precision="bfloat16")
    assert all(p.dtype == torch.float32 for p in half.policy.model.parameters())
    rollouts = draw(full)
    rows = np.arange(B * G)
    exact, rounded = (actor._forward.all_logprob(rollouts, rows) for actor in (full, half))
    error = np.abs(exact - rounded).max()
    assert 1e-5 < error < 0.05  # bfloat16 has 8 bits: 2^-8 = 0.004 of logits of size one, some layers deep
    small = {"learning_rate": 1e-6}  # far below what bfloat16 weights could take in
    one, other = (make_actor(llama_folder, precision=p, **small) for p in ("float32", "bfloat16"))
    begin = weights(other)
    step(one)
    step(other)
    assert 0 < (weights(other) - begin).abs().max() < 2e-6
    cosine = np.dot(gradient(one), gradient(other)) / np.linalg.norm(gradient(one)) / np.linalg.norm(gradient(other))
    assert cosine > 0.9  # a few tokens are drawn differently


def test_bfloat16_samples_what_it_recomputes(llama_folder):
    actor = make_actor(llama_folder, precision="bfloat16")
    rollouts = draw(actor)
    again = actor._forward.all_logprob(rollouts, np.arange(B * G))
    np.testing.assert_allclose(again, rollouts.logprob, atol=0.05)
    metrics = actor.update(rollouts, ADVANTAGE, ALL).metrics
    assert metrics["ratio_mean"] == pytest.approx(1.0, abs=0.02)


# --- Adapters ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(llama_folder):
    pytest.importorskip("peft")
    return lambda **config: make_actor(llama_folder, lora={"rank": 2, "alpha": 4}, **config)


def test_only_adapters_are_trained_and_kept(llama_folder, adapted):
    actor, plain = adapted(), make_actor(llama_folder)
    frozen = {name: p.clone() for name, p in actor.policy.model.named_parameters() if "lora" not in name}
    np.testing.assert_array_equal(draw(actor).logprob, draw(plain).logprob)  # they begin as nothing
    step(actor)
    for name, p in actor.policy.model.named_parameters():
        assert torch.equal(p, frozen[name]) if name in frozen else "lora_" in name
    state = actor.state()
    assert all("lora_" in name for name in state["parameter"])
    assert state["parameter"].keys() == state["exp_avg"].keys()
    assert sum(v.size for v in state["parameter"].values()) < 0.2 * weights(plain).numel()
    assert any(v.any() for name, v in state["parameter"].items() if "lora_B" in name)


def test_adapters_follow_the_seed_and_leave_the_global_generator_alone(adapted):
    before = torch.get_rng_state()
    one, two, other = (weights(adapted(seed=s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_continuing_adapters_is_exact_to_the_bit(adapted):
    whole, resumed = adapted(), adapted()
    step(whole)
    resumed.restore(whole.state())
    step(whole)
    step(resumed)
    assert torch.equal(weights(whole), weights(resumed))


def test_a_saved_adapter_is_one_of_peft(llama_folder, adapted, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    actor = adapted()
    step(actor)
    actor.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 60_000
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), tmp_path).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, actor.policy.model(ids).logits)


def test_modules_that_do_not_exist_are_refused(llama_folder):
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="grpo.lora.modules=w_pack: Target modules"):
        make_actor(llama_folder, lora={"modules": "w_pack"})


def test_a_run_writes_the_model_that_it_trained(tmp_path):
    one = spec(save_model=True, grpo={"evaluation_problems": 4, "threads": 1}, batch=4, group=4)
    train(one, tmp_path)
    directory = run_directory(tmp_path, one)
    saved = dict(load_policy(directory / "model").model.named_parameters())
    _, state = load_checkpoint(directory / "checkpoint.safetensors")
    for name, value in state["actor"]["parameter"].items():
        np.testing.assert_array_equal(saved[name].detach(), value)


# --- What stops a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e300, np.nan])
def test_a_step_that_is_not_finite_is_refused_before_the_weights_are_touched(llama_folder, size):
    actor = make_actor(llama_folder)
    before = weights(actor)
    with pytest.raises(FloatingPointError, match="so it was not made; the last checkpoint is whole; run again with a"):
        step(actor, advantage=ADVANTAGE * size)
    assert torch.equal(weights(actor), before)
    assert actor.state()["optimizer_step"] == 0


def test_a_run_whose_gradient_explodes_ends_with_one_sentence_and_a_whole_checkpoint(tmp_path):
    command = [
        *(sys.executable, "-m", "curbench", "train", "countdown/uniform", "--out", str(tmp_path)),
        *("--set", "budget_steps=9", "--set", "batch=4", "--set", "group=4", "--set", "checkpoint_every=1"),
        *("--set", "grpo.evaluation_problems=4", "--set", "grpo.threads=1", "--set", "grpo.kl=1e38"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("curbench: ")
    assert "the last checkpoint is whole" in done.stderr
    assert "Traceback" not in done.stderr
    directory = run_directory(tmp_path, spec())
    spent, _ = load_checkpoint(directory / "checkpoint.safetensors")
    assert spent.steps == 1  # the penalty has no gradient before the first step
    assert json.loads((directory / "run.json").read_text())["status"] == "running"


def test_running_out_of_memory_says_what_to_lower():
    sentence = "out of memory during an update: lower grpo.micro_batch, and continue"
    with pytest.raises(MemoryError, match=sentence), out_of_memory("an update", "lower grpo.micro_batch"):
        torch.empty(2**60)
    with pytest.raises(MemoryError, match="lower batch"), out_of_memory("a rollout", "lower batch"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="size of tensor"), out_of_memory("an update", "lower"):
        torch.zeros(2) + torch.zeros(3)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"kl": -1}, {"kl_estimator": "k4"}, {"overlong": 2}, {"precision": "float16"}, {"lora": {"rank": 0}}),
        {"target": {"form": "head", "layers": 1}},
    ],
)
def test_a_setting_out_of_range_is_refused(wrong):
    with pytest.raises(ValidationError):
        GRPOConfig(**wrong)
