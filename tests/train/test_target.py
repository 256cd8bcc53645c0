"""Every form of the target gradient against the gradient of each problem by itself, on a tiny model."""

import numpy as np
import pytest
import torch

from curbench import loop
from curbench.curators import curator_class
from curbench.signals import SIGNALS
from curbench.suites import load
from curbench.train.grpo import GRPOActor, GRPOConfig
from curbench.train.policy import as_policy, load_policy
from curbench.train.target import last_layers
from curbench.types import Guidance, Selection, Target

TRAIN, TEST = load("countdown", "train"), load("countdown", "test")
B, G = 4, 3
ADVANTAGE = np.random.default_rng(0).normal(size=B * G)
NONE = np.zeros(B, bool)
WEIGHT = np.array([0.5, 0.0, 2.0, 1.0])
FORMS = {
    "all": {},
    "last layer": {"target": {"layers": 1}},
    "head": {"target": {"form": "head"}},
    "adapters": {"lora": {"rank": 2, "alpha": 4}},
    "last adapters": {"lora": {"rank": 2, "alpha": 4}, "target": {"layers": 1}},
    "head under adapters": {"lora": {"rank": 2, "alpha": 4}, "target": {"form": "head"}},
    "bfloat16": {"precision": "bfloat16"},
    "head in bfloat16": {"precision": "bfloat16", "target": {"form": "head"}},
}


def make_actor(folder, **config):
    if "lora" in config:
        pytest.importorskip("peft")
    setting = {"learning_rate": 1e-3, "max_new_tokens": 6, "temperature": 0.8, "threads": 1, "micro_batch": 5, **config}
    actor = GRPOActor(load_policy(folder), TRAIN, TEST, seed=0, config=GRPOConfig(**setting))
    generator = torch.Generator().manual_seed(0)
    for name, p in actor.policy.model.named_parameters():
        if "lora_B" in name:  # at zero, A has no gradient
            p.data.copy_(0.01 * torch.randn(p.shape, generator=generator))
    return actor


def draw(actor):
    return actor.rollout(Selection(0, 0, [5, 600, 5, 3000], np.full(B, 0.5), np.full(B, G), "systematic"))


def expected_names(actor, label):
    trained = [name for name, p in actor.policy.model.named_parameters() if p.requires_grad]
    if "head" in label:
        return [name for name, _ in actor.policy.model.named_parameters() if "lm_head.weight" in name]
    if "last" in label:
        return [n for n in trained if "layers.1." in n or n in ("model.norm.weight", "lm_head.weight")]
    return trained


def group_gradients(actor, rollouts, names):
    """f32[B, P]: (1/G) sum_i A_i grad log pi(y_i), one backward pass per problem, in float32."""
    named = dict(actor.policy.model.named_parameters())
    parameter = [named[name].requires_grad_() for name in names]
    logprob, mask = actor._forward.exact().logprob(rollouts, torch.arange(B * G))
    value = (torch.from_numpy(ADVANTAGE).float()[:, None] * logprob * mask).sum(1).reshape(B, G).mean(1)
    each = [torch.autograd.grad(one, parameter, retain_graph=True) for one in value]
    return torch.stack([torch.cat([g.flatten() for g in gradient]) for gradient in each])


def buffer(actor):
    return torch.cat([v.flatten() for v in actor._target.v.values()])


@pytest.mark.parametrize("label", FORMS)
def test_products_are_those_of_each_problems_own_gradient(label, llama_folder):
    actor = make_actor(llama_folder, **FORMS[label])
    rough = 0.05 if "bfloat16" in label else 2e-3
    rollouts = draw(actor)
    names = expected_names(actor, label)
    gradient = group_gradients(actor, rollouts, names)
    first = actor.update(rollouts, ADVANTAGE, NONE, Guidance(target=Target(WEIGHT, 0.3, preconditioned=False)))
    assert not first.alignment.any()
    assert list(actor._target.v) == names
    v = 0.3 * torch.from_numpy(WEIGHT).float() @ gradient
    assert (buffer(actor) - v).norm() < rough * v.norm()
    before = buffer(actor)
    weights = torch.cat([p.detach().flatten() for p in actor.policy.model.parameters()])
    second = actor.update(rollouts, ADVANTAGE, NONE, Guidance(target=Target(None, 0.3, preconditioned=False)))
    expected = (gradient @ v).numpy()
    np.testing.assert_allclose(second.alignment, expected, rtol=0.02, atol=max(0.01, rough) * np.abs(expected).max())
    assert torch.equal(buffer(actor), before)
    assert torch.equal(torch.cat([p.detach().flatten() for p in actor.policy.model.parameters()]), weights)
    third = actor.update(rollouts, ADVANTAGE, NONE, Guidance(target=Target(WEIGHT, 0.5, preconditioned=False)))
    np.testing.assert_allclose(third.alignment, second.alignment, rtol=1e-6)  # measured before v moves
    moved = 0.5 * v + 0.5 * torch.from_numpy(WEIGHT).float() @ gradient
    assert (buffer(actor) - moved).norm() < rough * moved.norm()


@pytest.mark.parametrize("label", ["last layer", "head", "adapters"])
def test_the_preconditioner_is_that_of_what_v_is_the_gradient_of(label, llama_folder):
    actor = make_actor(llama_folder, **FORMS[label])
    actor.update(draw(actor), ADVANTAGE, ~NONE, Guidance(target=Target(WEIGHT, 1.0)))
    rollouts = draw(actor)
    names = expected_names(actor, label)
    gradient, named = group_gradients(actor, rollouts, names), dict(actor.policy.model.named_parameters())
    moment = torch.cat([actor._optimizer.state[named[name]]["exp_avg_sq"].flatten() for name in names])
    conditioned = buffer(actor) / ((moment / 0.001).sqrt() + 1e-8)
    found = actor.update(rollouts, ADVANTAGE, NONE, Guidance(target=Target(None))).alignment
    expected = (gradient @ conditioned).numpy()
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["probe", "head"])
def test_a_held_out_batch_alone_makes_the_target(form, llama_folder):
    """Every second step the probes, drawn from the target and never trained on, are all that v is made of."""
    actor = make_actor(llama_folder, target={"form": form})
    curator = curator_class("target_aligned")(
        TRAIN.bank, seed=0, batch=2, horizon=4, group=G, held_out=2, every=2, memory=0.5, preconditioned=False
    )
    seen = []

    class Watched:
        """The actor, with rewards that differ within every group."""

        view = actor.view
        rollout = staticmethod(actor.rollout)

        @staticmethod
        def reward(rollouts):
            verdict = actor.reward(rollouts)
            return type(verdict)(np.arange(rollouts.length.size) % G * 1.0, verdict.success)

        @staticmethod
        def update(rollouts, advantage, admitted, guidance):
            probe = rollouts.selection.probe
            if probe is not None:
                names = expected_names(actor, form)
                parameter = [dict(actor.policy.model.named_parameters())[name] for name in names]
                logprob, mask = actor._forward.logprob(rollouts, torch.arange(len(probe) * G))
                term = (torch.from_numpy(advantage).float()[:, None] * logprob * mask).sum(1).reshape(-1, G).mean(1)
                mean = torch.autograd.grad(term[torch.from_numpy(probe)].mean(), parameter)
                seen.append(torch.cat([g.flatten() for g in mean]))
                assert not admitted[probe].any()
            return actor.update(rollouts, advantage, admitted, guidance)

    for step in range(3):
        loop.step(curator, Watched, batch=2, signal=SIGNALS["target_alignment"])
        expected = 0.5 * seen[0] if step < 2 else 0.25 * seen[0] + 0.5 * seen[1]
        torch.testing.assert_close(buffer(actor), expected, rtol=1e-3, atol=1e-6)
    assert len(seen) == 2


@pytest.mark.parametrize("label", ["all", "last layer", "head", "adapters"])
def test_every_form_survives_a_restart_whatever_the_order_of_the_file(label, llama_folder):
    guidance = Guidance(target=Target(WEIGHT))
    whole, resumed = (make_actor(llama_folder, **FORMS[label]) for _ in range(2))
    whole.update(draw(whole), ADVANTAGE, ~NONE, guidance)
    state = whole.state()
    resumed.restore(state | {"target": dict(reversed(state["target"].items()))})
    one, other = (actor.update(draw(actor), ADVANTAGE, ~NONE, guidance) for actor in (whole, resumed))
    assert one.alignment.any()
    np.testing.assert_array_equal(one.alignment, other.alignment)


@pytest.mark.parametrize("admitted", [[1, 1, 1, 1], [1, 0, 1, 0]])
@pytest.mark.parametrize("config", [{}, {"snr": {"parts": 2}}, {"epochs": 2}, {"kl": 0.1}])
def test_the_head_is_measured_on_the_training_passes(config, admitted, llama_folder):
    """What is trained on is not run once more, what is not is, and the products are the same."""
    alone, on_the_way, plain = (
        make_actor(llama_folder, learning_rate=1e-12, target={"form": "head"}, **config) for _ in range(3)
    )
    admitted = np.array(admitted, bool)
    rollouts = draw(alone)
    guidance = Guidance(target=Target(WEIGHT, 0.5, preconditioned=False))
    for _ in range(2):
        expected = alone.update(rollouts, ADVANTAGE, NONE, guidance).alignment
        found = on_the_way.update(rollouts, ADVANTAGE, admitted, guidance).alignment
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    torch.testing.assert_close(buffer(on_the_way), buffer(alone), rtol=1e-4, atol=1e-6)
    passes = []
    for actor, asked in ((on_the_way, guidance), (plain, Guidance())):
        hook = actor.policy.model.register_forward_hook(lambda *_: passes.append(1))
        actor.update(rollouts, ADVANTAGE, admitted, asked)
        hook.remove()
        passes.append(0)
    followed, without = "".join(map(str, passes)).split("0")[:2]
    assert (len(followed) == len(without)) == admitted.all()


def test_the_head_of_adapters_has_no_preconditioner(llama_folder):
    actor = make_actor(llama_folder, **FORMS["head under adapters"])
    actor.update(draw(actor), ADVANTAGE, ~NONE, Guidance(target=Target(WEIGHT)))
    with pytest.raises(ValueError, match="lm_head.weight is not trained, .*set target_aligned.preconditioned=false"):
        actor.update(draw(actor), ADVANTAGE, ~NONE, Guidance(target=Target(WEIGHT)))


def test_a_model_that_caps_its_logits_has_no_closed_form(llama_folder):
    policy = load_policy(llama_folder)
    policy.model.lm_head.register_forward_hook(lambda module, given, out: 0.1 * torch.tanh(10 * out))
    config = GRPOConfig(max_new_tokens=6, threads=1, target={"form": "head"})
    actor = GRPOActor(as_policy(policy.model, policy.tokenizer), TRAIN, TEST, seed=0, config=config)
    with pytest.raises(ValueError, match="target.form=head needs logits that are the output head's own"):
        actor.update(draw(actor), ADVANTAGE, NONE, Guidance(target=Target(WEIGHT)))


@pytest.mark.parametrize("form", ["probe", "head"])
def test_its_time_is_the_curators_and_not_the_trainings(form, llama_folder):
    actor = make_actor(llama_folder, target={"form": form})
    curator = curator_class("target_aligned")(TRAIN.bank, seed=0, batch=2, horizon=4, group=G)
    result = loop.step(curator, actor, batch=2, signal=SIGNALS["target_alignment"])
    assert result.report.alignment_s > 0
    assert result.seconds["signal"] >= result.report.alignment_s
    assert result.seconds["update"] > 0
    assert actor.update(draw(actor), ADVANTAGE, ~NONE).alignment_s == 0


def test_layers_count_from_the_end_and_must_exist():
    names = ["transformer.wte.weight", "transformer.h.0.a", "transformer.h.1.a", "transformer.h.1.b", "ln_f.weight"]
    assert list(last_layers(dict.fromkeys(names), 1)) == names[2:]
    assert list(last_layers(dict.fromkeys(names), 2)) == names[1:]
    with pytest.raises(ValueError, match="target.layers must be at most the 2 layers of the model; got 3"):
        last_layers(dict.fromkeys(names), 3)
