"""The simulated learner takes true policy-gradient steps, its oracle is exact, every curator trains it unchanged."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from curbench import kernels
from curbench.advantage import group_advantage
from curbench.averaging import Averaging
from curbench.curators import CURATORS, curator_class
from curbench.loop import Budget, run, step
from curbench.schedules import Schedule
from curbench.signals import SIGNALS
from curbench.sim.alignment import ALIGNMENT, RULES, alignment_competence
from curbench.sim.learner import LEARNERS, LearnerActor, make_learner, teaching
from curbench.sim.simulate_learner import describe, simulate_learner
from curbench.types import Guidance, Selection, Target

KINDS = ("uniform", "osmd", "sec", "osmd_candidates", "actor_curator", "ucb1", "dapo", "sfl")
QUICK = {"actor_curator": {"dormant": 1, "warmup": 1, "candidates": 64}, "osmd_candidates": {"candidates": 64}}


def fixed(problem, group=8, propensity=None):
    problem = np.asarray(problem)
    propensity = np.ones(problem.size) if propensity is None else propensity
    return Selection(0, 0, problem, propensity, np.full(problem.size, group), "fixed")


def practise(actor, problem, steps=1, group=8, admitted=True, estimator="grpo"):
    """Steps on the same problems; returns the last (rollouts, reward, stats, report)."""
    for _ in range(steps):
        rollouts = actor.rollout(fixed(problem, group))
        reward = actor.reward(rollouts)
        advantage, stats = group_advantage(rollouts, reward, estimator=estimator)
        report = actor.update(rollouts, advantage, np.full(len(problem), admitted))
    return rollouts, reward, stats, report


def of_stratum(actor, stratum):
    return np.flatnonzero(actor.learner.train.stratum == stratum)


# --- How fast a group teaches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "group", "abs_advantage"),
    [(0.01, 8, 0.048), (0.05, 4, 0.141), (0.1, 16, 0.496), (0.25, 8, 0.711), (0.5, 4, 0.700), (0.5, 64, 0.984)],
)
def test_teaching_is_half_the_known_mean_absolute_advantage(rate, group, abs_advantage):
    assert 2 * teaching(rate, group) == pytest.approx(abs_advantage, abs=6e-4)


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo"])
def test_teaching_is_the_average_over_all_groups(estimator):
    group, rate, total = 4, 0.3, 0.0
    for r in itertools.product([0.0, 1.0], repeat=group):
        advantage = kernels.group_advantage(np.array(r), group, estimator=estimator).advantage
        total += rate ** sum(r) * (1 - rate) ** (group - sum(r)) * np.mean(advantage * r)
    assert teaching(rate, group, estimator) == pytest.approx(total, rel=1e-5)  # the kernel adds 1e-6 to the deviation


@given(rate=st.floats(0, 1), group=st.integers(2, 32))
def test_teaching_is_symmetric_and_below_its_limit(rate, group):
    value = teaching(rate, group)
    assert value == pytest.approx(teaching(1 - rate, group), abs=1e-9)
    assert -1e-12 <= value <= np.sqrt(rate * (1 - rate)) + 1e-12


def test_the_gradient_is_that_of_the_log_probabilities():
    actor = LearnerActor(make_learner("plain"), 1)
    problem = np.array([10, 150, 310])
    rollouts = actor.rollout(fixed(problem))
    advantage, _ = group_advantage(rollouts, actor.reward(rollouts))
    flat = np.repeat(problem, 8)

    def objective(skill):
        z = actor.learner.train.logit(skill, flat)
        return (-advantage * np.logaddexp(0, np.where(rollouts.right, -z, z))).reshape(3, 8).mean(axis=1)

    start, eye = actor.skill.copy(), 1e-6 * np.eye(32)
    numeric = np.array([(objective(start + e) - objective(start - e)) / 2e-6 for e in eye]).T
    for b in range(3):
        actor.update(rollouts, advantage, np.zeros(3, bool), follow(np.eye(3)[b]))
        np.testing.assert_allclose(actor.target, numeric[b], atol=1e-8)
    actor.update(rollouts, advantage, np.ones(3, bool))
    np.testing.assert_allclose(actor.skill, start + 0.25 * numeric.mean(axis=0), atol=1e-8)


def test_gradient_norms_are_those_of_the_log_probabilities():
    actor = LearnerActor(make_learner("plain"), 1)
    actor.skill = np.random.default_rng(0).normal(size=32)
    rollouts = actor.rollout(fixed([10, 310], group=3))
    train, flat = actor.learner.train, np.repeat([10, 310], 3)
    p = expit(train.logit(actor.skill, flat))
    score = train.discrimination[flat] * (rollouts.right - p)
    np.testing.assert_allclose(rollouts.gradient_sq, np.square(score[:, None] * train.feature[flat]).sum(axis=1))
    assert practise(actor, [10, 310], steps=3, estimator="oblr")[3].policy_step > 0


def test_the_schedule_multiplies_the_step_by_the_progress_of_the_budget():
    late, half = (
        LearnerActor(make_learner("plain"), 1, schedule=s)
        for s in (Schedule(name="linear"), Schedule(name="linear", final=1))
    )
    late.progress = 0.5
    practise(late, [10, 310])
    practise(half, [10, 310])
    np.testing.assert_allclose(late.skill, 0.5 * half.skill)


def test_the_last_skills_are_averaged():
    actor = LearnerActor(make_learner("plain"), 1, averaging=Averaging(every=2, count=2, kind="mean"))
    assert actor.evaluate().averaged is None
    kept = []
    for _ in range(3):
        practise(actor, [10, 310], steps=2)
        kept.append(actor.skill)
    practise(actor, [10, 310])
    np.testing.assert_allclose(actor.averaged_skill, (kept[1] + kept[2]) / 2)
    assert actor.evaluate().averaged.pass_rate != actor.evaluate().pass_rate == pytest.approx(actor.competence)


def test_degenerate_groups_and_rejected_groups_teach_nothing():
    actor = LearnerActor(make_learner("unlearnable"), 1)
    _, _, stats, report = practise(actor, of_stratum(actor, 4)[:8], steps=20)
    assert stats.degenerate.all()
    practise(actor, of_stratum(actor, 1)[:8], admitted=False)
    assert report.policy_step == actor.policy_step == 0
    assert not actor.skill.any()


def follow(weight, memory=1.0):
    return Guidance(target=Target(weight, memory))


def test_what_is_rejected_or_weighs_nothing_leaves_the_mean_and_other_weights_scale_it():
    first, fourth = np.arange(16) < 8, np.arange(16) % 8 < 4
    cases = {
        "all": (1, 1, None),
        "one": (1, 0, None),
        "kept": (1, 1, 1.0 * first),
        "double": (1, 0, 2.0 * np.ones(16)),
        "half": (1, 0, 1.0 * fourth),
        "tokens": (1, 0, fourth[:, None] * np.array([1.0])),
    }
    change, gradient = {}, None
    for name, (a, b, weight) in cases.items():
        actor = LearnerActor(make_learner("plain"), 1)
        rollouts = actor.rollout(fixed([150, 250]))
        advantage, _ = group_advantage(rollouts, actor.reward(rollouts))
        actor.update(rollouts, advantage, np.array([a, b], bool), Guidance(weight))
        change[name] = actor.skill
        z = actor.learner.train.logit(np.zeros(32), np.repeat([150, 250], 8))
        scale = advantage * (rollouts.right - expit(z))
        slope = (actor.learner.train.discrimination[:, None] * actor.learner.train.feature)[[150, 250]]
    gradient = scale.reshape(2, 8).mean(axis=1)[:, None] * slope
    assert gradient.any(axis=1).all()
    np.testing.assert_allclose(change["all"], 0.25 * gradient.mean(axis=0))
    np.testing.assert_allclose(change["one"], 0.25 * gradient[0])
    np.testing.assert_allclose(change["kept"], change["one"])
    np.testing.assert_allclose(change["double"], 2 * change["one"])
    np.testing.assert_allclose(change["half"], 0.25 * scale[:4].mean() * slope[0])
    np.testing.assert_allclose(change["tokens"], change["half"])


# --- The oracle -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mislabelled", "noisy_tv"])
@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo"])
def test_the_value_of_a_problem_is_the_mean_gain_of_training_on_it(name, estimator):
    learner = make_learner(name)
    learner = replace(learner, recipe=replace(learner.recipe, learning_rate=1e-4))
    actor = LearnerActor(learner, 3)
    actor.skill = np.full(32, 0.3)
    train = learner.train
    kind = [np.flatnonzero((train.paid == paid).all(axis=1)) for paid in np.unique(train.paid, axis=0)]
    value, start = actor.value(8, estimator), actor.skill
    for problem in (k[i] for k in kind for i in (k.size // 9, k.size // 2)):
        gain = []
        for _ in range(300):
            actor.skill = start
            before = actor.competence
            practise(actor, np.full(8, problem), estimator=estimator)
            gain.append(actor.competence - before)
        error = np.std(gain) / len(gain) ** 0.5
        assert abs(np.mean(gain) - value[problem]) < 4 * error + 1e-12


def test_coins_are_worth_nothing_wrong_labels_less_and_both_look_lively():
    noisy, mislabelled = (LearnerActor(make_learner(name), 1) for name in ("noisy_tv", "mislabelled"))
    coin = of_stratum(noisy, 3)
    assert np.abs(noisy.value(8)[coin]).max() < 1e-15
    wrong = np.flatnonzero((mislabelled.learner.train.paid == (0.5, 0.0)).all(axis=1))
    assert 120 < wrong.size < 200
    assert mislabelled.value(8)[wrong].max() < 0
    _, _, stats, _ = practise(noisy, coin, steps=3)
    assert stats.abs_advantage.mean() == pytest.approx(0.868, abs=0.1)


def test_value_first_rises_and_then_vanishes():
    actor = LearnerActor(make_learner("plain"), 1)
    own = of_stratum(actor, 3)
    values = []
    for _ in range(120):
        values.append(actor.value(8)[own].mean())
        practise(actor, own[:32])
    assert max(values) > 1.5 * values[0]
    assert values[-1] < 0.3 * max(values)
    assert 5 < int(np.argmax(values)) < 80


# --- What a learner does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sign"), [("transfer_positive", 1), ("plain", 0), ("transfer_negative", -1)])
def test_practice_moves_the_neighbours_as_the_setting_says(name, sign):
    actor = LearnerActor(make_learner(name), 1)
    held_out = actor.learner.test

    def rate(stratum):
        return expit(held_out.logit(actor.skill))[held_out.stratum == stratum].mean()

    before = [rate(c) for c in range(8)]
    practise(actor, of_stratum(actor, 3)[:32], steps=60)
    change = np.array([rate(c) for c in range(8)]) - before
    assert change[3] > 0.2
    assert (np.sign(change[[2, 4]]) == sign).all()
    assert not change[[0, 1, 5, 6, 7]].any()


def test_skills_fade_without_practice():
    actor = LearnerActor(make_learner("forgetting"), 1)
    practise(actor, of_stratum(actor, 1)[:32], steps=30)
    skill = actor.skill
    practise(actor, of_stratum(actor, 1)[:2], steps=10, admitted=False)
    np.testing.assert_allclose(actor.skill, skill * 0.99**10, rtol=1e-12)


def test_log_ratios_are_exact_and_asked_for_in_time():
    actor = LearnerActor(make_learner("plain"), 1)
    old = actor.skill
    rollouts, reward, stats, report = practise(actor, np.arange(100, 132))
    utility = SIGNALS["policy_improvement"](rollouts, reward, stats, report)
    p = [expit(actor.learner.train.logit(s, np.arange(100, 132))) for s in (old, actor.skill)]
    ratio = np.where(rollouts.right.reshape(32, 8), (p[1] / p[0])[:, None], ((1 - p[1]) / (1 - p[0]))[:, None])
    r = reward.reward.reshape(32, 8)
    np.testing.assert_allclose(utility, ((ratio - 1) * (r - r.mean(axis=1, keepdims=True))).mean(axis=1), atol=1e-6)
    practise(actor, [150, 151, 152])
    with pytest.raises(ValueError, match="ask before the next update"):
        report.new_logprob()


def test_luck_belongs_to_the_visit_of_a_problem_not_to_the_curator():
    one, other = (LearnerActor(make_learner("noisy_tv"), 5) for _ in range(2))
    one.rollout(fixed([3, 120]))
    first, second = one.rollout(fixed([120])), (other.rollout(fixed([120])), other.rollout(fixed([120])))[1]
    np.testing.assert_array_equal(first.right, second.right)
    np.testing.assert_array_equal(one.reward(first).reward, other.reward(second).reward)


def test_measuring_on_the_other_half_is_unbiased_and_in_sample_is_not():
    """The true change of a problem's expected reward is known here, and every answer is one token."""
    learner = make_learner("plain")
    learner = replace(learner, recipe=replace(learner.recipe, learning_rate=1.0))
    actor = LearnerActor(learner, 1)
    curator = curator_class("uniform")(learner.bank(), seed=1, batch=2, horizon=800, group=8)
    excess = {"policy_improvement_cross_fit": [], "policy_improvement_loo": []}
    for name, found in excess.items():
        for _ in range(800):
            actor.skill = np.full(32, 0.8)
            result = step(curator, actor, batch=2, signal=SIGNALS[name], estimator="dr_grpo")
            x = result.selection.problem
            gain = expit(learner.train.logit(actor.skill, x)) - expit(learner.train.logit(np.full(32, 0.8), x))
            found.append((result.feedback.utility - gain).mean())
    score = {name: np.mean(e) / (np.std(e) / np.sqrt(len(e))) for name, e in excess.items()}
    assert abs(score["policy_improvement_cross_fit"]) < 4
    assert score["policy_improvement_loo"] > 8


def test_a_bank_knows_the_lengths_of_its_prompts():
    learner = make_learner("transfer_negative")
    assert learner.bank().length.tolist() == [len(learner.prompt(i)) for i in range(800)]


# --- Under the loop ---------------------------------------------------------------------------------------------------


class Memory:
    def __init__(self):
        self.steps, self.states = [], []

    def step(self, result, spent, metrics):
        self.steps.append(result)

    def evaluation(self, evaluation, spent):
        pass

    def checkpoint(self, state, spent):
        self.states.append((spent, state))


# One of each kind: problems, strata, candidate sets, a neural head, an index; compiling all of them takes too long.
@pytest.mark.parametrize("name", [name for name in KINDS if name in CURATORS])
def test_every_kind_of_curator_trains_it_and_continues_exactly(name):
    learner = make_learner("mislabelled")

    def parts():
        common = {"seed": 1, "batch": 6, "horizon": 6, "group": 4, "admission": "nondegenerate"}
        late = {"schedule": Schedule(name="cosine", warmup=0.4), "averaging": Averaging(every=1, count=3)}
        return curator_class(name)(learner.bank(), **common, **QUICK.get(name, {})), LearnerActor(learner, 7, **late)

    def go(curator, actor, **since):
        record = Memory()
        signal = SIGNALS[curator.signal]
        run(curator, actor, batch=6, budget=Budget(steps=6), signal=signal, record=record, checkpoint_every=2, **since)
        return record

    curator, actor = parts()
    whole = go(curator, actor)
    spent, state = whole.states[2]
    again, resumed = parts()
    again.restore(state["curator"])
    resumed.restore(state["actor"])
    rest = go(again, resumed, spent=spent)
    assert actor.policy_step > 0
    np.testing.assert_array_equal(actor.skill, resumed.skill)
    np.testing.assert_array_equal(actor.averaged_skill, resumed.averaged_skill)
    for a, b in zip(whole.steps[spent.steps :], rest.steps, strict=True):
        np.testing.assert_array_equal(a.selection.problem, b.selection.problem)
        np.testing.assert_array_equal(a.feedback.utility, b.feedback.utility)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_setting_learns_under_uniform_selection_and_better_under_the_oracle(name):
    result = {c: simulate_learner(name, c, seeds=2, budget=Budget(steps=40)) for c in ("uniform", "greedy")}
    assert result["uniform"].competence.mean > result["uniform"].start
    assert result["greedy"].competence.mean > result["uniform"].competence.mean
    assert 0 < result["greedy"].regret.mean < result["uniform"].regret.mean
    assert 0 < result["uniform"].wasted.mean < 1


def test_leaving_out_the_regret_changes_nothing_else():
    full, lean = (
        simulate_learner("plain", "sec", seeds=2, budget=Budget(steps=5), measure_regret=measured)
        for measured in (True, False)
    )
    assert full.row() | {"regret": None} == lean.row()
    np.testing.assert_array_equal(full.curve, lean.curve)
    assert "regret" in describe(full.row())
    assert "regret" not in describe(lean.row())


def test_a_size_signal_is_trapped_by_coin_flips():
    label = {"sec": {"temperature": 0.1}, "uniform": {}}
    trapped, uniform = (
        simulate_learner("noisy_tv", name, seeds=3, budget=Budget(steps=150), hyper=hyper)
        for name, hyper in label.items()
    )
    assert trapped.competence.hi < uniform.competence.lo
    assert trapped.wasted.hi < uniform.wasted.lo  # fewer degenerate groups, and yet nothing learnt


def test_results_are_json_reproducible_and_count_tokens():
    options = {"seeds": 2, "batch": 8, "group": 4, "budget": Budget(tokens=2_000), "target": 0.29}
    row, again, other = (simulate_learner("long_answers", "sec", first_seed=s, **options).row() for s in (0, 0, 2))
    assert json.loads(json.dumps(row, allow_nan=False)) == row == again
    assert row["competence"] != other["competence"]
    assert row["tokens"] >= 2_000 > row["rollouts"]
    assert row["reached"] == 2
    assert 0 < row["tokens_to_target"] <= row["tokens"]
    assert describe(row).startswith("long_answers/sec  competence 0.")


def test_a_target_out_of_reach_is_not_given_a_number():
    row = simulate_learner("plain", "uniform", seeds=2, budget=Budget(steps=3), target=0.99).row()
    assert (row["reached"], row["tokens_to_target"]) == (0, None)
    assert "0.990 not reached" in describe(row)
    assert simulate_learner("plain", "uniform", seeds=1, budget=Budget(steps=1)).row()["competence"]["lo"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "nope"}, "unknown learner 'nope'; choose from plain"),
        ({"curator": "nope"}, "unknown curator 'nope'"),
        ({"curator": "sec+half"}, "unknown admission rule 'half'"),
        ({"signal": "nope"}, "unknown signal 'nope'"),
        ({"seeds": 0}, "seeds must be at least 1; got 0"),
        ({"group": 1}, "a group needs at least 2 rollouts"),
        ({"delay": "-1"}, "a delay is ROUNDS"),
        ({"estimator": "nope"}, "unknown estimator 'nope'"),
    ],
)
def test_bad_requests_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate_learner(**({"name": "plain", "curator": "uniform", "seeds": 1, "budget": Budget(steps=1)} | change))


# --- Target alignment -------------------------------------------------------------------------------------------------


def test_the_weighted_target_estimates_the_gradient_of_the_bank_however_it_is_drawn():
    """Two strata drawn at very different rates: the weights undo the selection, the plain mean does not."""
    learner = make_learner("plain")
    actor = LearnerActor(learner, 1)
    train, rng = learner.train, np.random.default_rng(0)
    p = np.where(train.stratum < 2, 4.0, 0.5)
    p /= p.sum()
    direction = train.feature * (train.discrimination * teaching(expit(train.logit(actor.skill)), 8))[:, None]
    curator = {
        weights: curator_class("target_aligned")(learner.bank(), seed=0, batch=32, horizon=1, weights=weights)
        for weights in ("exact", "none")
    }
    estimate = {"exact": [], "none": []}
    for _ in range(400):
        problem = rng.choice(p.size, 32, p=p)
        selection = Selection(0, 0, problem, p[problem], np.full(32, 8), "iid")
        rollouts = actor.rollout(selection)
        reward = actor.reward(rollouts)
        advantage, _ = group_advantage(rollouts, reward)
        for weights, found in estimate.items():
            actor.update(rollouts, advantage, np.zeros(32, bool), follow(curator[weights].weight(selection)))
            found.append(actor.target)
    error = {}
    for weights, found in estimate.items():
        value = np.array(found)
        error[weights] = np.abs(value.mean(0) - direction.mean(0)) / (value.std(0) / 20 + 1e-12)
    assert error["exact"].max() < 4.5
    assert error["none"].max() > 20


def test_twelve_settings_and_five_rules_run():
    assert len(ALIGNMENT) == 12
    for rule in RULES:
        assert 0 < alignment_competence("hard-0.3", rule, seeds=1, steps=2)[0] < 1


def test_alignment_beats_size_and_needs_its_weights_where_rewards_are_noise():
    final = {rule: alignment_competence("noisy+0.3", rule, seeds=2, steps=200).mean() for rule in RULES}
    assert final["aligned"] > final["uniform"] + 0.03
    assert final["aligned"] > final["published"]
    assert final["aligned"] > final["unweighted"] + 0.03
    assert final["sec"] < final["uniform"]


def test_alignment_needs_a_batch_before_it_says_anything():
    learner = make_learner("plain")
    actor = LearnerActor(learner, 1)
    curator = curator_class("target_aligned")(learner.bank(), seed=1, batch=200, horizon=2, group=4)
    signal = SIGNALS["target_alignment"]
    first, second = (step(curator, actor, batch=200, signal=signal).feedback.utility for _ in range(2))
    assert not first.any()
    assert (second > 0).sum() > 3 * (second < 0).sum()
