import numpy as np
import pytest

from curbench.advantage import group_advantage
from curbench.curators import curator_class
from curbench.loop import Budget, Spent, run, step
from curbench.signals import SIGNALS
from curbench.sim.actor import BanditActor
from curbench.sim.arms import make_arms
from curbench.types import GroupStats, Reward, Rollouts, Selection, UpdateReport


class Memory:
    """A recorder that keeps what it is given."""

    def __init__(self):
        self.steps, self.evaluations, self.checkpoints = [], [], []

    def step(self, result, spent, metrics):
        self.steps.append((result, spent, metrics))

    def evaluation(self, evaluation, spent):
        self.evaluations.append(spent.steps)

    def checkpoint(self, state, spent):
        self.checkpoints.append((spent, state))


def parts(name="osmd", horizon=50, batch=2, group=3, seed=1, **hyper):
    arms = make_arms("switching", horizon=horizon, arms=4)
    curator = curator_class(name)(
        arms.bank(), seed=seed, batch=batch, horizon=horizon, group=group, design="iid", **hyper
    )
    return curator, BanditActor(arms, 7)


def go(curator, actor, budget, record, spent=None, **every):
    return run(
        curator, actor, batch=2, budget=budget, signal=SIGNALS["mean_reward"], record=record, spent=spent, **every
    )


def test_a_run_stops_at_the_first_limit_and_counts_everything():
    spent = go(*parts(), Budget(steps=40, rollouts=31), Memory())
    assert spent == Spent(steps=6, rollouts=36, tokens=36)


def test_rejected_rollouts_count_towards_the_budget():
    curator, actor = parts(admission="nondegenerate")
    record = Memory()
    spent = go(curator, actor, Budget(steps=20), record)
    rejected = sum((~result.feedback.admitted).sum() for result, _, _ in record.steps)
    assert rejected > 0
    assert spent.rollouts == 20 * 2 * 3


def test_a_step_goes_on_until_the_curator_has_enough():
    """dapo in rounds: they are one step, one selection, and all of them are paid for."""
    curator, actor = parts("uniform", group=3)[0], parts()[1]
    dapo = curator_class("dapo")(curator.bank, seed=1, batch=2, horizon=50, group=3)
    record = Memory()
    spent = go(dapo, actor, Budget(steps=12), record)
    sizes = [len(result.selection) for result, _, _ in record.steps]
    assert spent.rollouts == 3 * sum(sizes) > 12 * 2 * 3
    for result, _, _ in record.steps:
        assert result.rollouts.selection is result.selection is result.feedback.selection
        assert result.feedback.admitted.sum() == min((~result.feedback.stats.degenerate).sum(), 2)
        assert len(result.selection) == 4 or result.feedback.admitted.sum() == 2
    assert max(sizes) == 4  # the bank has no more problems


def test_rounds_that_cannot_be_one_selection_are_refused():
    one = Selection(0, 0, [0], [0.5], [2], "iid")
    with pytest.raises(ValueError, match="both be iid or neither; got iid and systematic"):
        one.join(Selection(0, 0, [1], [0.5], [2], "systematic"))
    with pytest.raises(ValueError, match="candidate sets of equal size"):
        one.join(Selection(0, 0, [1], [0.5], [2], "iid", np.arange(3), 0.1))


def test_evaluations_and_checkpoints_happen_when_asked_and_at_both_ends():
    record = Memory()
    go(*parts(), Budget(steps=7), record, evaluate_every=3, checkpoint_every=2)
    assert record.evaluations == [0, 3, 6, 7]
    assert [spent.steps for spent, _ in record.checkpoints] == [0, 2, 4, 6, 7]


def test_continuing_from_any_checkpoint_gives_the_same_run():
    whole = Memory()
    go(*parts(), Budget(steps=8), whole, checkpoint_every=1)
    for spent, state in whole.checkpoints[:-1]:
        curator, actor = parts(seed=99)  # the state brings everything but the seed of the draws
        curator.seed = parts()[0].seed
        curator.restore(state["curator"])
        actor.restore(state["actor"])
        rest = Memory()
        go(curator, actor, Budget(steps=8), rest, spent=spent)
        for (a, _, _), (b, _, _) in zip(whole.steps[spent.steps :], rest.steps, strict=True):
            np.testing.assert_array_equal(a.selection.problem, b.selection.problem)
            np.testing.assert_array_equal(a.feedback.utility, b.feedback.utility)


def test_feedback_carries_its_selection_and_staleness():
    curator, actor = parts()
    result = step(curator, actor, batch=2, signal=SIGNALS["mean_reward"])
    assert result.feedback.selection is result.selection
    assert (result.feedback.staleness == 0).all()
    assert set(result.seconds) == {"select", "rollout", "reward", "update", "signal", "curator_update"}


@pytest.mark.parametrize("limit", [{}, {"steps": 0}, {"tokens": -1}])
def test_budgets_without_a_positive_limit_are_refused(limit):
    with pytest.raises(ValueError, match="limit|positive"):
        Budget(**limit)


def test_budget_fraction_follows_the_tightest_limit():
    assert Budget(steps=10, tokens=100).fraction(Spent(steps=2, tokens=50)) == 0.5


# --- Signals ----------------------------------------------------------------------------------------------------------

SELECTION = Selection(0, 0, [0, 1], [0.5, 0.5], [2, 2], "iid")


class TokenRollouts(Rollouts):
    logprob = np.log(np.array([[0.5, 0.5], [0.5, 0.5], [0.25, 0.5], [0.5, 0.9]], np.float32))


ROLLOUTS = TokenRollouts(SELECTION, [0, 2, 4], [2, 2, 2, 1], [0, 0, 0, 0])
REWARD = Reward([1.0, 0.0, 1.0, 1.0], [True, False, True, True])
ONE = np.ones(2, np.int64)
STATS = GroupStats(2 * ONE, np.array([1, 2]), ONE, ONE, np.array([0.7, 0.0]), ONE > 1, ONE)


def test_success_variance_is_unbiased_for_bernoulli_variance():
    n, p = 5, 0.3
    from scipy.stats import binom

    k = np.arange(n + 1)
    value = SIGNALS["success_variance"](None, None, GroupStats(*([n] + [k] + [None] * 5)), None)
    assert (binom.pmf(k, n, p) * value).sum() == pytest.approx(p * (1 - p), rel=1e-12)


def test_policy_improvement_is_the_weighted_ratio_of_its_formula():
    new = ROLLOUTS.logprob + np.array([[0.2, 0.4], [-0.1, -0.1], [0.3, 0.3], [0.5, 0.0]], np.float32)
    report = UpdateReport(1, lambda asked: new)
    value = SIGNALS["policy_improvement"](ROLLOUTS, REWARD, STATS, report)
    expected = (np.exp(0.3) * 0.5 - np.exp(-0.1) * 0.5) / 2
    np.testing.assert_allclose(value, [expected, 0.0], rtol=1e-5)
    leave_one_out = SIGNALS["policy_improvement_loo"](ROLLOUTS, REWARD, STATS, report)
    np.testing.assert_allclose(leave_one_out, 2 * value, rtol=1e-6)  # G / (G - 1) = 2
    sequence = SIGNALS["policy_improvement_sequence"](ROLLOUTS, REWARD, STATS, report)
    np.testing.assert_allclose(sequence[0], (np.exp(0.6) - np.exp(-0.2)) / 4, rtol=1e-5)


def test_cross_fit_is_the_measuring_half_against_the_mean_of_the_training_half():
    selection = Selection(0, 1, [0, 1, 2], [0.5, 0.5, 0.5], [4, 3, 1], "iid")  # an odd step: odd places train

    class Ragged(Rollouts):
        logprob = np.full((8, 1), -1.0, np.float32)

    rollouts = Ragged(selection, [0, 4, 7, 8], np.ones(8), np.zeros(8))
    r = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    ratio = np.array([1.1, 0.9, 0.8, 1.3, 1.2, 0.7, 0.6, 2.0])
    report = UpdateReport(1, lambda asked: (rollouts.logprob + np.log(ratio)[:, None]).astype("f4"))
    signal = SIGNALS["policy_improvement_cross_fit"]
    np.testing.assert_array_equal(signal.trains_on(rollouts), np.array([0, 1, 0, 1, 0, 1, 0, 0], bool))
    first = ((1.1 - 1) * (1 - 0.5) + (0.8 - 1) * (0 - 0.5)) / 2
    second = ((1.2 - 1) * (1 - 1) + (0.6 - 1) * (0 - 1)) / 2
    value = signal(rollouts, Reward(r, r > 0), None, report)
    np.testing.assert_allclose(value, [first, second, 0.0], atol=1e-7)


def test_advantages_among_some_rollouts_ignore_the_others():
    among = np.array([True, True, False, True])
    reward = Reward([1.0, 0.0, 1.0, 0.0], [True, False, True, False])
    advantage, stats = group_advantage(ROLLOUTS, reward, estimator="dr_grpo", among=among)
    np.testing.assert_allclose(advantage, [0.5, -0.5, 0.0, 0.0])
    assert stats.n.tolist() == [2, 2]


def test_probe_slots_are_paid_for_and_measured_but_not_trained_on():
    curator, actor = parts("target_aligned", held_out=2, every=2)
    first, second = (step(curator, actor, batch=2, signal=SIGNALS["mean_reward"]) for _ in range(2))
    assert len(first.selection) == 4 == first.feedback.utility.size
    assert first.feedback.admitted.tolist() == [True, True, False, False]
    assert len(second.selection) == 2
    assert second.selection.probe is None


def test_target_alignment_needs_a_curator_that_states_a_target():
    with pytest.raises(ValueError, match="needs a curator that states a target"):
        SIGNALS["target_alignment"](ROLLOUTS, REWARD, STATS, UpdateReport(1))


def test_policy_improvement_needs_new_log_probabilities():
    with pytest.raises(ValueError, match="reports new log-probabilities"):
        SIGNALS["policy_improvement"](ROLLOUTS, REWARD, STATS, UpdateReport(1))


def test_the_extra_forward_pass_runs_only_for_signals_that_need_it():
    def refuse():
        raise AssertionError("asked for log-probabilities")

    report = UpdateReport(1, refuse)
    for name in ("mean_reward", "mean_abs_advantage", "success_variance"):
        assert SIGNALS[name](ROLLOUTS, REWARD, STATS, report).shape == (2,)
