"""Actor-Curator against restatements of its loss, its released deviations one at a time, its language model."""

import json

import numpy as np
import pytest
import torch

from curbench.curators.actor_curator import ActorCurator, LastVisits
from curbench.curators.samplers import softmax
from curbench.record import flatten, unflatten
from curbench.types import ActorView, Bank, Feedback, GroupStats

STRATUM = np.repeat([0, 1, 2], [2, 6, 4])
COMMON = {"seed": 0, "batch": 4, "horizon": 100, "group": 4}


def feedback(selection, utility, abs_advantage=None):
    one = np.ones(len(selection), np.int64)
    size = np.array(utility) if abs_advantage is None else np.array(abs_advantage)
    stats = GroupStats(4 * one, 2 * one, 0.5 * one, 0.3 * one, size, one > 1, 5.0 * one)
    return Feedback(selection, stats, utility, one > 0, 0 * one, 20 * one)


def randomise(curator, scale=1.0):
    for p in curator.head.module.parameters():
        p.data.normal_(std=scale, generator=torch.Generator().manual_seed(3))


FEATURED = Bank(key=[str(i) for i in range(12)], stratum=STRATUM, feature=np.random.default_rng(0).normal(size=(12, 3)))


def test_actor_curator_selects_uniformly_until_it_is_warm():
    curator = ActorCurator(FEATURED, dormant=2, warmup=2, candidates=8, **COMMON)
    for step in range(5):
        selection = curator.select(4)
        learns_from = selection.ticket in curator.pending
        curator.update(feedback(selection, np.array([0.9, 0.1, 0.0, 0.3])))
        uniform = np.allclose(selection.propensity, 4 / 8, rtol=1e-12)
        assert uniform == (step < 4)
        assert learns_from == (step >= 2)
        moved = any(p.abs().max() > 0 for p in curator.head.module.parameters())
        assert moved == (step >= 2)


def test_actor_curator_survives_probabilities_that_underflow():
    curator = ActorCurator(FEATURED, dormant=0, warmup=0, temperature=1e-3, candidates=12, **COMMON)
    randomise(curator)
    selection = curator.select(4)
    _, _, old_log = curator.pending[0]
    curator.update(feedback(selection, np.array([0.9, -0.4, 0.2, 0.0])))
    assert np.isfinite(old_log).all()
    assert np.exp(old_log).min() == 0.0
    assert all(torch.isfinite(p).all() for p in curator.head.module.parameters())


VIEW = ActorView(hidden=lambda problem, depth: np.outer(problem + 1.0, [1.0, -2.0]).astype("f4"), angle=None)
HEADS = ["tabular", "linear", "mlp", "model"]
TEXT = Bank(key=FEATURED.key, stratum=STRATUM, feature=FEATURED.feature, prompt=lambda i: "ab" * i)


def gradients(curator, inputs, loss):
    parameter = list(curator.head.module.parameters())
    score = curator.head.module(torch.from_numpy(inputs))
    return [g.to_dense() for g in torch.autograd.grad(loss(score), parameter)]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("design", ["iid", "systematic"])
def test_actor_curator_takes_the_gradient_of_its_stated_loss(head, design):
    """The gradient that is left behind by one step, against autograd on a restatement."""
    curator = ActorCurator(
        TEXT, head=head, hidden=7, dormant=0, warmup=0, candidates=8, epochs=1, design=design, **COMMON
    )
    randomise(curator, 0.3)
    curator.head.chunk = 3 if head == "model" else None  # in chunks, and compared with the whole
    selection = curator.select(4)
    inputs, place, old_log = curator.pending[0]
    old, utility = np.exp(old_log), np.array([0.9, -0.4, 0.2, 0.05])
    draws = 4 if design == "systematic" else 1
    weight = torch.from_numpy(utility * draws * old / selection.propensity).float()

    def loss(score):
        p_new = torch.softmax(score, 0)[torch.from_numpy(place)]
        np.testing.assert_allclose(p_new.detach().numpy(), old, rtol=1e-4)
        ratio = p_new / torch.from_numpy(old).float()
        return -torch.minimum(ratio * weight, torch.clamp(ratio, 0.8, 1.2) * weight).mean()

    expected = gradients(curator, inputs, loss)
    curator.update(feedback(selection, utility))
    for p, g in zip(curator.head.module.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad.to_dense(), g, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_continues_exactly_from_a_state(head):
    def parts():
        return ActorCurator(TEXT, head=head, dormant=0, warmup=1, candidates=8, average=3, refresh=2, **COMMON)

    def go(curator, steps, rng):
        made = []
        for _ in range(steps):
            curator.inspect(VIEW)
            made.append(curator.select(4))
            curator.update(feedback(made[-1], rng.normal(size=4)))
        return made

    whole, begun, resumed = parts(), parts(), parts()
    a, b = np.random.default_rng(0), np.random.default_rng(0)
    expected = go(whole, 7, a)
    go(begun, 3, b)
    array, scalar = flatten(begun.state())
    resumed.restore(unflatten(array | json.loads(json.dumps(scalar))))
    for one, other in zip(expected[3:], go(resumed, 4, b), strict=True):
        np.testing.assert_array_equal(one.problem, other.problem)
        np.testing.assert_array_equal(one.propensity, other.propensity)
    for (name, one), other in zip(
        whole.head.module.state_dict().items(), resumed.head.module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


# --- The released deviations, one at a time ---------------------------------------------------------------------------


def test_a_log_ratio_is_never_positive_and_gives_losses_no_gradient():
    curator = ActorCurator(FEATURED, dormant=0, warmup=0, candidates=8, deviations="log_ratio", epochs=1, **COMMON)
    randomise(curator, 0.3)
    selection = curator.select(4)
    inputs, place, old_log = curator.pending[0]
    utility = np.array([0.9, -0.4, 0.2, -0.1])
    weight = torch.from_numpy(utility * 4 * np.exp(old_log) / selection.propensity).float()

    def loss(score):
        ratio = torch.log_softmax(score[torch.from_numpy(place)], 0) / torch.from_numpy(np.exp(old_log)).float()
        assert (ratio < 0).all()
        return -torch.where(weight > 0, ratio * weight, 0.8 * weight).mean()

    expected = gradients(curator, inputs, loss)
    curator.update(feedback(selection, utility))
    for p, g in zip(curator.head.module.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("deviation", ["advantage", "no_prior"])
def test_what_the_release_learns_from(deviation):
    """The same gradient as the faithful one with the mean |advantage| as utility, or with the prior taken out."""
    found = {}
    for deviations in (deviation, None):
        curator = ActorCurator(FEATURED, dormant=0, warmup=0, candidates=8, deviations=deviations, **COMMON)
        randomise(curator, 0.3)
        selection = curator.select(4)
        _, _, old_log = curator.pending[0]
        utility, size = np.array([0.9, -0.4, 0.2, -0.1]), np.array([0.1, 0.2, 0.3, 0.4])
        prior = 4 * np.exp(old_log) / selection.propensity
        if deviations is None:
            utility = size if deviation == "advantage" else utility / prior
        curator.update(feedback(selection, utility, size))
        found[deviations] = [p.detach().clone() for p in curator.head.module.parameters()]
    torch.testing.assert_close(found[deviation], found[None])


def test_the_nucleus_fills_most_of_the_batch_and_states_single_draw_probabilities():
    bank = Bank(key=[str(i) for i in range(40)], stratum=np.zeros(40), feature=np.eye(40))
    common = {"seed": 0, "batch": 10, "horizon": 100, "dormant": 0, "warmup": 0, "history": False}
    curator = ActorCurator(bank, deviations="nucleus", **common)
    with torch.no_grad():
        curator.head.module[0].weight[0, :12] = 1.0
        curator.head.module[0].weight[0, 12:] = -1.0
    p = softmax(curator.head.score(curator.head.inputs(np.arange(40), 0)))
    assert p[:12].sum() > 0.9
    core = int(np.searchsorted(np.cumsum(np.sort(p)[::-1]), 0.9)) + 1
    drawn, rest = np.zeros(40), 0
    for _ in range(400):
        selection = curator.select(10)
        assert np.unique(selection.problem).size == 10
        np.testing.assert_allclose(selection.propensity, p[selection.problem], rtol=1e-6)
        inside = (selection.problem < 12).sum()
        assert inside + (core < 12) >= 9
        drawn[selection.problem] += 1 / 400
        rest += 10 - inside
    assert core <= 12
    np.testing.assert_allclose(drawn[12:], drawn[12:].mean(), atol=0.08)
    assert drawn[:12].min() > 0.5 > 0.1 > drawn[12:].max()


def test_the_rank_sampler_discounts_by_rank():
    bank = Bank(key=[str(i) for i in range(6)], stratum=np.zeros(6), feature=np.arange(6)[:, None])
    common = {"seed": 0, "batch": 1, "horizon": 100, "dormant": 0, "warmup": 0, "history": False}
    curator = ActorCurator(bank, deviations="rank", **common)
    with torch.no_grad():
        curator.head.module[0].weight[0] = 0.5
    p = softmax(curator.head.score(curator.head.inputs(np.arange(6), 0)))
    weight = p / np.arange(6, 0, -1)
    drawn = np.bincount([int(curator.select(1).problem[0]) for _ in range(4000)], minlength=6) / 4000
    np.testing.assert_allclose(drawn, weight / weight.sum(), atol=4.5 * np.sqrt(0.25 / 4000))


def test_the_release_is_its_deviations_and_averages_ten_visits():
    released = ActorCurator(FEATURED, variant="released", **COMMON)
    assert released.deviations == {"nucleus", "log_ratio", "advantage", "no_prior"}
    assert released.visits.length == 10
    assert ActorCurator(FEATURED, variant="released", deviations="rank", average=2, **COMMON).deviations == {"rank"}


def test_utilities_are_averaged_over_the_last_visits():
    visits = LastVisits(3, 2)
    np.testing.assert_allclose(visits.mean(np.array([0, 1, 0]), np.array([1.0, 5.0, 2.0])), [1.0, 5.0, 1.5])
    np.testing.assert_allclose(visits.mean(np.array([0]), np.array([4.0])), [3.0])
    np.testing.assert_array_equal(LastVisits(3, 1).mean(np.array([0]), np.array([4.0])), [4.0])


# --- Behaviour --------------------------------------------------------------------------------------------------------


def test_actor_curator_stops_at_the_clip():
    """Many epochs on one batch: the clip ends the gradient, and only momentum carries a ratio beyond the range."""
    separable = Bank(key=FEATURED.key, stratum=STRATUM, feature=np.eye(12))
    reach = {}
    for clip in (0.2, 100.0):
        curator = ActorCurator(separable, dormant=0, warmup=0, candidates=12, epochs=400, clip=clip, **COMMON)
        selection = curator.select(4)
        feature, index, old_log = curator.pending[0]
        curator.update(feedback(selection, np.array([0.5, 0.5, -0.5, -0.5])))
        with torch.no_grad():
            ratio = torch.softmax(curator.head.module(torch.from_numpy(feature)), 0).numpy()[index] / np.exp(old_log)
        assert (ratio[:2] > 1.1).all()
        assert (ratio[2:] < 0.9).all()
        reach[clip] = np.abs(np.log(ratio)).max()
    assert reach[0.2] < 1.0 < 3.0 < reach[100.0]


def test_actor_curator_learns_which_feature_pays():
    n = 400
    stratum = np.arange(n) % 2
    bank = Bank(key=[str(i) for i in range(n)], stratum=stratum, feature=stratum[:, None].astype(np.float32))
    curator = ActorCurator(bank, seed=0, batch=16, horizon=60, group=4, dormant=0, warmup=0, candidates=100)
    for _ in range(60):
        selection = curator.select(16)
        curator.update(feedback(selection, 1.0 * stratum[selection.problem]))
    share = np.mean([stratum[curator.select(16).problem].mean() for _ in range(20)])
    assert share > 0.75


def test_actor_curator_floor_bounds_every_propensity():
    curator = ActorCurator(FEATURED, dormant=0, warmup=0, candidates=12, floor=0.3, design="iid", **COMMON)
    randomise(curator, 50.0)
    for _ in range(20):
        assert curator.select(4).propensity.min() >= 0.3 / 12 * (1 - 1e-12)


def test_actor_curator_forgets_selections_that_never_return():
    curator = ActorCurator(FEATURED, dormant=0, warmup=0, **COMMON)
    for _ in range(200):
        curator.select(4)
    assert len(curator.pending) <= 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor": 0.0}, r"floor must be in \(0, 1\]; got 0.0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"dormant": -1}, "dormant must not be negative"),
        ({"head": "gru"}, "head must be one of tabular, linear, mlp, model; got 'gru'"),
        ({"head": "model"}, "reads prompts, and this bank has none"),
        ({"deviations": "rank+nucleus"}, "two samplers"),
        ({"deviations": "none"}, "unknown deviation 'none'"),
        ({"average": 0}, "average must be at least 1; got 0"),
        ({"refresh": -1}, "refresh must not be negative"),
        ({"candidates": 3}, "4 problems cannot be drawn from 3 candidates"),
    ],
)
def test_actor_curator_refuses_what_it_cannot_use(change, message):
    with pytest.raises(ValueError, match=message):
        ActorCurator(FEATURED, **(COMMON | change))
