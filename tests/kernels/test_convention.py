"""Advantages under the name of a project are what its formula gives, restated here in float64, sample by sample."""

import math

import numpy as np
import pytest

from curbench.kernels import CONVENTIONS, group_advantage, group_by_id


def members(id):
    return {i: [slot for slot, other in enumerate(id) if other == i] for i in id}


def verl(reward, id, estimator):
    """A group of one keeps its score: its mean counts as 0 and its standard deviation as 1."""
    result = np.empty(len(reward))
    for slots in members(id).values():
        r, n = reward[slots], len(slots)
        mean, std = (0.0, 1.0) if n == 1 else (r.mean(), r.std(ddof=1))
        if estimator == "grpo":
            result[slots] = (r - mean) / (std + 1e-6)
        elif estimator == "dr_grpo":
            result[slots] = r - mean
        else:
            result[slots] = r if n == 1 else n / (n - 1) * (r - mean)
    return result


def verl_vectorized(reward, id, estimator):
    """The variance is floored before its root is taken, and rloo gives a group of one nothing."""
    result = np.empty(len(reward))
    for slots in members(id).values():
        r, n = reward[slots], len(slots)
        if estimator == "rloo":
            result[slots] = (n * r - r.sum()) / max(n - 1, 1) * (n > 1)
            continue
        mean, std = (0.0, 1.0) if n == 1 else (r.mean(), math.sqrt(max(r.var(ddof=1), 1e-6)))
        result[slots] = (r - mean) / (std + 1e-6) if estimator == "grpo" else r - mean
    return result


def trl(reward, id, estimator):
    """What cannot be scored is NaN and does not count; whatever comes out as NaN has advantage 0."""

    def std(x):
        x = x[~np.isnan(x)]
        return np.std(x, ddof=1) if len(x) > 1 else np.nan

    result = np.empty(len(reward))
    for slots in members(id).values():
        r = reward[slots]
        scored = r[~np.isnan(r)]
        centred = r - (scored.mean() if len(scored) else np.nan)
        divisor = {"grpo": std(r) + 1e-4, "dr_grpo": 1.0, "grpo_batch": std(reward) + 1e-4}[estimator]
        result[slots] = centred / divisor
    return np.nan_to_num(result, nan=0.0)


def openrlhf(reward, id, estimator):
    """A table of n samples per prompt; a group of one comes out as NaN, and we refuse it."""
    result = np.empty(len(reward))
    for slots in members(id).values():
        r = reward[slots]
        if estimator == "rloo":
            result[slots] = r - (r.sum() - r) / (len(r) - 1)
        else:
            result[slots] = (r - r.mean()) / (1.0 if estimator == "dr_grpo" else r.std(ddof=1) + 1e-9)
    return result


def nemo_rl(reward, id, estimator):
    """Baseline and deviation may leave the rollout out; a deviation of 0, or of one rollout, does not divide."""
    result = np.empty(len(reward))
    for slots in members(id).values():
        for slot in slots:
            kept = [s for s in slots if s != slot or estimator in ("grpo", "dr_grpo")]
            if len(slots) == 1:
                result[slot] = 0.0
                continue
            r = reward[kept]
            std = r.std(ddof=1) if len(r) > 1 and r.min() < r.max() else 0.0
            divide = estimator in ("grpo", "rloo_std") and std > 0.0
            result[slot] = (reward[slot] - r.mean()) / (std + 1e-6 if divide else 1.0)
    return result


def printed(reward, id, estimator):
    result = np.zeros(len(reward))
    for slots in members(id).values():
        r = reward[slots]
        if r.min() < r.max():
            result[slots] = (r - r.mean()) / r.std(ddof=1)
    return result


PEERS = {
    "verl": verl,
    "verl_vectorized": verl_vectorized,
    "trl": trl,
    "openrlhf": openrlhf,
    "nemo_rl": nemo_rl,
    "gspo": printed,
    "dapo": printed,
}
CASES = [(name, estimator) for name in PEERS for estimator in CONVENTIONS[name]]


def test_every_convention_is_restated():
    assert set(CONVENTIONS) == {"curbench", *PEERS}


@pytest.mark.parametrize(("convention", "estimator"), CASES)
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_a_convention_gives_the_numbers_of_its_project(convention, estimator, spread):
    rng = np.random.default_rng(0)
    least = 2 if convention == "openrlhf" else 1
    sizes = rng.integers(least, 12, 30)
    id = rng.permutation(np.repeat([f"problem {i}" for i in range(30)], sizes))
    reward = spread * rng.choice([0.0, 0.25, 1.0], len(id), p=[0.5, 0.3, 0.2])  # equal groups have exact means
    reward[id == "problem 3"] = spread * rng.standard_normal(sizes[3])
    if convention == "trl":
        reward[rng.random(len(id)) < 0.2] = np.nan
        reward[id == "problem 5"] = np.nan
    ours = group_advantage(reward, group_by_id(id), convention=convention, estimator=estimator)
    np.testing.assert_allclose(ours.advantage, PEERS[convention](reward, id, estimator), rtol=1e-9, atol=1e-12)


def test_conventions_differ_where_their_projects_do():
    low, one = np.array([0.5, 0.5 + 1e-5]), np.array([0.7])
    advantage = {name: group_advantage(low, 2, convention=name).advantage[1] for name in PEERS}
    np.testing.assert_allclose(advantage["dapo"], math.sqrt(0.5), rtol=1e-9)
    np.testing.assert_allclose(advantage["verl"], 5e-6 / (1e-5 * math.sqrt(0.5) + 1e-6), rtol=1e-9)
    np.testing.assert_allclose(advantage["verl_vectorized"], 5e-6 / (1e-3 + 1e-6), rtol=1e-9)
    assert group_advantage(one, 1, convention="verl").advantage[0] == 0.7 / (1.0 + 1e-6)
    assert group_advantage(one, 1, convention="trl").advantage[0] == 0.0
    with pytest.raises(ValueError, match="group 0 has one"):
        group_advantage(one, 1, convention="openrlhf")
