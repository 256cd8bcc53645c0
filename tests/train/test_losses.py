"""The losses against slow re-statements in plain Python, and their gradients against finite differences."""

from itertools import product as pairs
from math import exp

import numpy as np
import pytest
import torch

from curbench.train.losses import AGGREGATIONS, KL_ESTIMATORS, RATIOS, divergence, surrogate, token_weight

R, L = 6, 5


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(R, L, generator=generator, dtype=torch.float64) * 3
    new = old + 0.5 * torch.randn(R, L, generator=generator, dtype=torch.float64)
    advantage = torch.randn(R, generator=generator, dtype=torch.float64)
    length = torch.tensor([1, 2, 3, 4, 5, 5])
    return new, old, advantage, length


def slow_loss(new, old, advantage, length, ratio, low, high, aggregation, limit):
    """The loss as the papers write it: loops over rollouts and tokens."""
    rows = []
    for i in range(R):
        n = int(length[i])
        log_ratio = [float(new[i, t] - old[i, t]) for t in range(n)]
        rho = {
            "token": [exp(v) for v in log_ratio],
            "sequence": [exp(sum(log_ratio) / n)] * n,
            "likelihood": [exp(sum(log_ratio))] * n,
        }[ratio]
        a = float(advantage[i])
        rows.append([min(r * a, min(max(r, 1 - low), 1 + high) * a) for r in rho])
    if aggregation == "token_mean":
        return -sum(map(sum, rows)) / sum(map(len, rows))
    if aggregation == "sequence_mean":
        return -sum(sum(row) / len(row) for row in rows) / R
    return -sum(map(sum, rows)) / (R * limit)


def fast_loss(new, old, advantage, length, ratio, low, high, aggregation, limit):
    term = surrogate(new, old, advantage, length, ratio=ratio, clip_low=low, clip_high=high)
    return -(token_weight(length, L, aggregation, limit) * term.value).sum()


@pytest.mark.parametrize(("ratio", "aggregation"), list(pairs(RATIOS, AGGREGATIONS)))
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (3e-4, 4e-4)])
def test_loss_equals_the_loop_over_rollouts_and_tokens(ratio, aggregation, low, high):
    setting = (*batch(), ratio, low, high, aggregation, 8)
    assert float(fast_loss(*setting)) == pytest.approx(slow_loss(*setting), rel=1e-6)


@pytest.mark.parametrize(("ratio", "aggregation"), list(pairs(RATIOS, AGGREGATIONS)))
def test_gradient_equals_finite_differences(ratio, aggregation):
    new, old, advantage, length = batch(seed=3)
    loss = lambda x: fast_loss(x, old, advantage, length, ratio, 0.2, 0.28, aggregation, 8)  # noqa: E731
    assert torch.autograd.gradcheck(loss, new.requires_grad_(), eps=1e-6, atol=1e-5)


def test_on_policy_gradient_is_that_of_the_advantage_weighted_log_likelihood():
    new, _, advantage, length = batch()
    new.requires_grad_()
    weight = token_weight(length, L, "token_mean", L)
    (grad,) = torch.autograd.grad((weight * surrogate(new, new.detach(), advantage, length).value).sum(), new)
    np.testing.assert_allclose(grad, weight * advantage[:, None], rtol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_clipped_token_has_no_gradient_and_is_counted(ratio):
    old = torch.zeros(2, 2, dtype=torch.float64)
    new = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    term = surrogate(new, old, torch.tensor([1.0, -1.0]), torch.tensor([2, 2]), ratio=ratio)
    term.value.sum().backward()
    assert term.clipped.tolist() == [[1, 1], [0, 0]]
    assert new.grad[0].tolist() == [0, 0]
    assert (new.grad[1] < 0).all()


def test_padding_has_no_influence_even_when_it_is_not_finite():
    new, old, advantage, length = batch()
    beyond = torch.arange(L) >= length[:, None]
    clean = surrogate(new, old, advantage, length)
    dirty_new = new.masked_fill(beyond, float("nan")).requires_grad_()
    dirty = surrogate(dirty_new, old.masked_fill(beyond, -float("inf")), advantage, length)
    assert torch.equal(dirty.value, clean.value)
    (grad,) = torch.autograd.grad(dirty.value.sum(), dirty_new)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weights_sum_to_one_when_every_rollout_has_the_limit(aggregation):
    assert float(token_weight(torch.full((R,), L), L, aggregation, L).sum()) == pytest.approx(1.0, rel=1e-6)


def test_a_constant_normaliser_does_not_favour_short_rollouts():
    weight = token_weight(torch.tensor([1, 4]), 4, "constant", 4)
    assert weight[0, 0] == weight[1, 0]
    assert token_weight(torch.tensor([1, 4]), 4, "sequence_mean", 4)[0, 0] > weight[0, 0]


def test_unknown_names_are_refused_with_the_choices():
    new, old, advantage, length = batch()
    with pytest.raises(ValueError, match="ratio must be one of token, sequence, likelihood; got 'word'"):
        surrogate(new, old, advantage, length, ratio="word")
    with pytest.raises(ValueError, match="aggregation must be one of token_mean, sequence_mean, constant; got 'sum'"):
        token_weight(length, L, "sum", L)


# --- Divergence -------------------------------------------------------------------------------------------------------


def slow_divergence(new, ref, estimator):
    d = new - ref
    return {"k1": d, "k2": d**2 / 2, "k3": exp(-d) - 1 + d}[estimator]


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
def test_divergence_equals_its_formula_and_ignores_padding(estimator):
    new, ref, _, length = batch(1)
    beyond = torch.arange(L) >= length[:, None]
    found = divergence(new.masked_fill(beyond, float("nan")), ref, length, estimator)
    for i, t in pairs(range(R), range(L)):
        expected = slow_divergence(float(new[i, t]), float(ref[i, t]), estimator) if t < length[i] else 0.0
        assert float(found[i, t]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def expected_over_a_vocabulary(estimator, corrected):
    """(expectation under the policy, its gradient as a loss, KL(pi | ref), its gradient), over four tokens, exactly."""
    logit = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.0, 0.5, -0.2, 0.4], dtype=torch.float64).log_softmax(0)
    logprob = logit.log_softmax(0)
    sampled = logprob.detach().exp()
    term = divergence(logprob[:, None], reference[:, None], torch.ones(4, dtype=torch.int64), estimator)[:, 0]
    if corrected:
        term = term * (logprob - logprob.detach()).exp()
    (gradient,) = torch.autograd.grad((sampled * term).sum(), logit, retain_graph=True)
    kl = (logprob.exp() * (logprob - reference)).sum()
    return (sampled * term).sum(), gradient, kl, torch.autograd.grad(kl, logit)[0]


@pytest.mark.parametrize(
    ("estimator", "corrected", "unbiased", "gradient"),
    [
        ("k1", False, True, "zero"),
        ("k2", False, False, "own"),
        ("k3", False, True, "other"),
        ("k1", True, True, "own"),
        ("k3", True, True, "own"),
    ],
)
def test_what_the_estimators_are_unbiased_for(estimator, corrected, unbiased, gradient):
    value, found, kl, own = expected_over_a_vocabulary(estimator, corrected)
    assert torch.allclose(value, kl) == unbiased
    assert torch.allclose(found, own, atol=1e-12) == (gradient == "own")
    assert torch.allclose(found, torch.zeros_like(found), atol=1e-12) == (gradient == "zero")


def test_an_unknown_estimator_is_refused_with_the_choices():
    new, old, _, length = batch()
    with pytest.raises(ValueError, match="kl_estimator must be one of k1, k2, k3; got 'k4'"):
        divergence(new, old, length, "k4")


def test_the_likelihood_ratio_on_policy_is_reinforce():
    new, _, advantage, length = batch()
    new.requires_grad_()
    term = surrogate(new, new.detach(), advantage, length, ratio="likelihood")
    weight = token_weight(length, L, "sequence_mean", L)
    (grad,) = torch.autograd.grad((weight * term.value).sum(), new)
    inside = torch.arange(L) < length[:, None]
    np.testing.assert_allclose(grad, inside * advantage[:, None] / R, rtol=1e-6)
