"""The curriculum sampler of verl 0.5 to 0.7, in the StatefulDataLoader that those versions put it in."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("verl.experimental.dataset.sampler", reason="verl has the sampler interface up to 0.7.1 only")

import torch
from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from verl import DataProto

from curbench.curators import curator_class
from curbench.integrations.verl_sampler import CuratedSampler

ROWS, BATCH, GROUP = 20, 4, 2


def sampler(**change):
    data = SimpleNamespace(dataframe=[{"level": i % 2, "extra_info": {"index": 100 + i}} for i in range(ROWS)])
    curator = {"name": "sec", "group": GROUP, "horizon": 9, "stratum": "level"} | change
    return CuratedSampler(data, OmegaConf.create({"train_batch_size": BATCH, "curator": curator}))


def loader(made):
    return StatefulDataLoader(range(ROWS), batch_size=BATCH, sampler=made, num_workers=0, collate_fn=list)


def trained(rows, shuffled):
    """What verl hands over: the rollouts of a batch in the order in which they were balanced."""
    problem = np.repeat(rows, GROUP)[shuffled]
    uid = np.repeat([f"uid {i}" for i in range(BATCH)], GROUP)[shuffled]
    score = torch.tensor((problem % 3 == 0) | (shuffled % 2 == 0)).float()
    tensors = {"token_level_scores": torch.stack([0 * score, score], 1), "response_mask": torch.ones(len(problem), 2)}
    tensors["advantages"] = (score - 0.5)[:, None].expand(-1, 2)
    return DataProto.from_dict(
        tensors, non_tensors={"uid": uid.astype(object), "index": (100 + problem).astype(object)}
    )


def run(made, batches, steps, seed=0):
    rows, rng = [], np.random.default_rng(seed)
    for _ in range(steps):
        rows.append(next(batches))
        made.update(trained(rows[-1], rng.permutation(BATCH * GROUP)))
    return rows


def test_draws_wait_for_the_update_and_feedback_finds_its_slot():
    made, told = sampler(), []
    update = made.ledger.curator.update
    made.ledger.curator.update = lambda feedback: (told.append(feedback), update(feedback))[1]
    rows = run(made, iter(loader(made)), 5)
    again = curator_class("sec")(made.ledger.curator.bank, seed=0, batch=BATCH, group=GROUP, horizon=9)
    for drawn, feedback in zip(rows, told, strict=True):
        assert again.select(BATCH).problem.tolist() == drawn == feedback.selection.problem.tolist()
        assert (feedback.staleness == 0).all()
        assert (feedback.stats.success[np.array(drawn) % 3 == 0] == GROUP).all()
        np.testing.assert_allclose(feedback.stats.abs_advantage, 0.5)
        again.update(feedback)


def test_a_restored_sampler_goes_on_and_drops_what_was_not_fed_back():
    whole = sampler()
    batches = loader(whole)
    it = iter(batches)
    run(whole, it, 2)
    state = batches.state_dict()
    expected = run(whole, it, 2, seed=5)
    other = sampler()
    restored = loader(other)
    restored.load_state_dict(state)
    assert run(other, iter(restored), 2, seed=5) == expected
    made = sampler()
    next(iter(made))
    fresh = sampler()
    fresh.load_state_dict(made.state_dict())
    assert fresh.ledger.open == []


def test_what_the_sampler_cannot_do_is_refused():
    with pytest.raises(ValueError, match="dapo needs rounds"):
        sampler(name="dapo")
    with pytest.raises(ValueError, match="which policy_improvement needs; set curator.signal"):
        sampler(name="actor_curator")
    twice = SimpleNamespace(dataframe=[{"extra_info": {"index": 0}}] * 2)
    config = OmegaConf.create({"train_batch_size": 1, "curator": {"name": "sec", "group": 1, "horizon": 1}})
    with pytest.raises(ValueError, match="must be unique"):
        CuratedSampler(twice, config)
