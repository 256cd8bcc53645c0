"""The ledger is the loop seen from outside: same selections, same feedback, each ticket once, and an exact state."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbench.curators import CURATORS, curator_class
from curbench.integrations.core import Ledger
from curbench.loop import step
from curbench.record import flatten
from curbench.signals import SIGNALS
from curbench.sim.learner import LearnerActor, make_learner
from curbench.types import Bank

BATCH, GROUP, STEPS = 6, 4, 5
SMALL = {"candidates": 40}
QUICK = {
    "actor_curator": {"dormant": 1, "warmup": 1, **SMALL},
    "osmd_candidates": SMALL,
    "plr": SMALL,
    "cyclical": SMALL,
    "mopps": {"pool": 3},
    "pcl": {"pool": 3},
    "cures": {"shards": 3, "iteration": 3},
    "sfl": {"refresh": 3, "sample": 3, "keep": 2},
}
LEARNER = make_learner("long_answers")
BANK = LEARNER.bank()


def make(name, **hyper):
    common = {"seed": 3, "batch": BATCH, "horizon": STEPS, "group": GROUP}
    return curator_class(name)(BANK, **common | QUICK.get(name, {}) | hyper)


def rewards(rollouts, reward):
    own = {"length": rollouts.length, "old_logprob": rollouts.logprob, "entropy": rollouts.entropy}
    return {"reward": reward.reward, "success": reward.success, **own}


def outside_step(ledger, actor):
    """One step of a trainer that only knows the ledger; returns the selection with all rounds, and the feedback."""
    selection = ledger.select(BATCH, view=actor.view)
    rollouts = actor.rollout(selection)
    reward = actor.reward(rollouts)
    outcome = ledger.grade(selection.ticket, **rewards(rollouts, reward))
    while outcome.more is not None:
        extra = actor.rollout(outcome.more)
        verdict = actor.reward(extra)
        outcome = ledger.grade(selection.ticket, **rewards(extra, verdict))
        rollouts, reward = rollouts.join(extra), reward.join(verdict)
    report = actor.update(rollouts, outcome.advantage, outcome.admitted, outcome.guidance)
    new = report.new_logprob if ledger.signal.startswith("policy_improvement") else None
    done = ledger.observe(selection.ticket, new_logprob=new, alignment=report.alignment)
    return rollouts.selection, done.feedback


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def same_state(one, other):
    for a, b in zip(flatten(one), flatten(other), strict=True):
        same(a, b)


@pytest.mark.parametrize("name", CURATORS)
def test_every_curator_selects_and_learns_as_in_the_loop(name):
    curator, ledger = make(name), Ledger(make(name))
    inside, outside = LearnerActor(LEARNER, 5), LearnerActor(LEARNER, 5)
    for _ in range(STEPS):
        result = step(curator, inside, batch=BATCH, signal=SIGNALS[curator.signal])
        selection, feedback = outside_step(ledger, outside)
        same(vars(result.selection), vars(selection))
        np.testing.assert_array_equal(result.feedback.utility, feedback.utility)
        np.testing.assert_array_equal(result.feedback.admitted, feedback.admitted)
    same_state(curator.state(), ledger.curator.state())


@pytest.mark.parametrize("signal", [name for name in SIGNALS if name != "target_alignment"])
def test_every_signal_has_the_value_of_the_loop(signal):
    curator, ledger = make("sec"), Ledger(make("sec"), signal=signal)
    inside, outside = LearnerActor(LEARNER, 5), LearnerActor(LEARNER, 5)
    for _ in range(3):
        result = step(curator, inside, batch=BATCH, signal=SIGNALS[signal])
        np.testing.assert_array_equal(result.feedback.utility, outside_step(ledger, outside)[1].utility)


def told(selection, seed=0, logprobs=False):
    """Rewards of all rollouts of a selection, by chance."""
    rng, r = np.random.default_rng((seed, selection.ticket)), int(selection.rollouts.sum())
    success = rng.random(r) < 0.5
    out = {"reward": success.astype(float), "success": success, "length": rng.integers(1, 9, r)}
    if logprobs:
        old = rng.normal(-1.0, 0.3, (r, 8)).astype(np.float32)
        out |= {"old_logprob": old, "new_logprob": old + rng.normal(0, 0.05, old.shape).astype(np.float32)}
    return out


def piece(whole, slots):
    """Those of the rewards of a whole selection that belong to some of its slots."""
    row = np.concatenate([np.arange(GROUP * b, GROUP * (b + 1)) for b in slots])
    return {name: value[row] for name, value in whole.items()} | {"slot": slots}


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(BATCH)), st.integers(1, BATCH - 1), st.booleans())
def test_parts_in_any_order_equal_the_whole(order, cut, logprobs):
    signal = "policy_improvement" if logprobs else "mean_abs_advantage"
    one, other = (Ledger(make("osmd"), signal=signal) for _ in range(2))
    whole = told(one.select(BATCH), logprobs=logprobs)
    expected = one.observe(0, **whole).feedback
    other.select(BATCH)
    assert other.observe(0, **piece(whole, order[:cut])).feedback is None
    feedback = other.observe(0, **piece(whole, order[cut:])).feedback
    np.testing.assert_array_equal(feedback.utility, expected.utility)
    same_state(one.state(), other.state())


def test_late_feedback_carries_its_own_selection_and_its_staleness():
    ledger = Ledger(make("osmd"))
    selections = [ledger.select(BATCH) for _ in range(3)]
    for ticket, staleness in ((1, 1), (0, 2), (2, 0)):
        feedback = ledger.observe(ticket, **told(selections[ticket])).feedback
        assert feedback.selection is selections[ticket]
        assert (feedback.staleness == staleness).all()
    assert ledger.open == []


def test_sums_of_log_probabilities_say_what_those_of_tokens_say():
    by_token, by_sum = (Ledger(make("sec"), signal="policy_improvement") for _ in range(2))
    whole = told(by_token.select(BATCH), logprobs=True)
    inside = np.arange(8) < whole["length"][:, None]
    by_sum.select(BATCH)
    sums = {name: (whole[name].astype(np.float64) * inside).sum(1) for name in ("old_logprob", "new_logprob")}
    rows = {name: [row[:n].tolist() for row, n in zip(whole[name], whole["length"], strict=True)] for name in sums}
    expected = by_token.observe(0, **whole | rows).feedback.utility
    # Both spread differences of order 0.05 over float32 tokens: errors of 2^-24 per log-probability of order 1.
    np.testing.assert_allclose(by_sum.observe(0, **whole | sums).feedback.utility, expected, atol=1e-6)


def test_log_probabilities_are_asked_for_only_if_the_signal_wants_them():
    asked = []
    ledger = Ledger(make("sec"))
    ledger.observe(ledger.select(BATCH).ticket, **told(ledger.selection(0)), new_logprob=asked.append)
    assert asked == []


def test_the_advantages_of_the_trainer_go_into_the_statistics():
    ledger = Ledger(make("sec"))
    whole = told(ledger.select(BATCH))
    feedback = ledger.observe(0, **whole, advantage=np.full(BATCH * GROUP, -3.0)).feedback
    np.testing.assert_array_equal(feedback.utility, 3.0)


@pytest.mark.parametrize("name", ["osmd", "actor_curator", "target_aligned"])
def test_a_ledger_continues_exactly_from_a_file_with_open_tickets(name, tmp_path):
    signal = "mean_abs_advantage"
    whole = Ledger(make(name), signal=signal)
    view = LearnerActor(LEARNER, 5).view
    for _ in range(3):
        whole.select(BATCH, view=view)
    rows = {t: told(whole.selection(t)) for t in whole.open}
    whole.grade(0, **rows[0])
    whole.grade(1, **piece(rows[1], [4, 0]))
    whole.save(tmp_path / "ledger.safetensors")
    other = Ledger(make(name), signal=signal)
    other.load(tmp_path / "ledger.safetensors")
    same_state(whole.state(), other.state())
    for ledger in (whole, other):
        ledger.observe(0)
        ledger.grade(1, **piece(rows[1], [1, 2, 3, 5]))
        ledger.observe(1)
        ledger.select(BATCH, view=view)
        ledger.grade(2, **rows[2])
        ledger.observe(2)
        ledger.select(BATCH, view=view)
    same(vars(whole.selection(4)), vars(other.selection(4)))
    same_state(whole.state(), other.state())


def test_the_oldest_ticket_expires_when_too_many_are_open():
    ledger = Ledger(make("uniform"), max_open=2)
    selections = [ledger.select(BATCH) for _ in range(3)]
    assert ledger.open == [1, 2]
    with pytest.raises(ValueError, match=r"ticket 0 expired or was dropped: at most 2 wait"):
        ledger.observe(0, **told(selections[0]))
    ledger.drop(2)
    assert {"tickets_open": 1.0, "tickets_expired": 1.0, "tickets_dropped": 1.0}.items() <= ledger.metrics().items()


@pytest.mark.parametrize("name", ["osmd", "actor_curator"])
def test_groups_that_got_lost_are_left_out_of_the_feedback(name):
    ledger = Ledger(make(name), signal="mean_abs_advantage")
    selection = ledger.select(BATCH)
    if name == "actor_curator":  # its first step is dormant
        ledger.drop(0)
        selection = ledger.select(BATCH)
    whole = told(selection)
    ledger.drop(selection.ticket, [2])
    assert ledger.observe(selection.ticket, **piece(whole, [5, 0, 1])).feedback is None
    ledger.drop(selection.ticket, [3])
    assert ledger.missing(selection.ticket).tolist() == [4]
    ledger.drop(selection.ticket, [4])
    feedback = ledger.observe(selection.ticket).feedback
    same(vars(feedback.selection), vars(selection.take([0, 1, 5])))
    np.testing.assert_array_equal(feedback.stats.success, whole["success"].reshape(-1, GROUP).sum(1)[[0, 1, 5]])
    assert ledger.open == []
    ledger.drop(ledger.select(BATCH).ticket, np.arange(BATCH))
    assert ledger.open == []
    ticket = ledger.select(BATCH).ticket
    ledger.drop(ticket, [0])
    with pytest.raises(ValueError, match=f"ticket {ticket} waits for slots 1, 2, 3, 4, 5; got .0."):
        ledger.drop(ticket, [0])


def test_a_curator_with_rounds_has_one_open_ticket():
    ledger = Ledger(make("dapo"))
    assert ledger.rounds
    ledger.select(BATCH)
    with pytest.raises(ValueError, match="Dapo draws a step in rounds and ticket 0 is still open: observe or drop"):
        ledger.select(BATCH)
    equal = {"reward": np.ones(BATCH * GROUP), "success": np.ones(BATCH * GROUP, bool), "length": [3] * BATCH * GROUP}
    more = ledger.observe(0, **equal).more
    assert len(more) == BATCH
    assert ledger.missing(0).tolist() == list(range(BATCH, 2 * BATCH))
    assert not set(more.problem) & set(ledger.selection(0).problem[:BATCH])


@pytest.mark.parametrize("name", ["dapo", "greso", "vcrl", "sfl", "cures"])
def test_a_step_in_rounds_continues_exactly_after_any_of_them(name, tmp_path):
    whole, actor, told_in_all = Ledger(make(name), signal="pass_rate"), LearnerActor(LEARNER, 5), 0
    for _ in range(4):
        selection, more = whole.select(BATCH), True
        rounds = selection
        while more:
            whole.save(tmp_path / "ledger.safetensors")
            other = Ledger(make(name), signal="pass_rate")
            other.load(tmp_path / "ledger.safetensors")
            rollouts = actor.rollout(rounds)
            told_in_all += len(rounds)
            answer = rewards(rollouts, actor.reward(rollouts))
            outcome, again = (ledger.grade(selection.ticket, **answer) for ledger in (whole, other))
            more = rounds = outcome.more
            assert (again.more is None) == (more is None)
            if more is not None:
                same(vars(again.more), vars(more))
        whole.observe(selection.ticket)
    assert told_in_all > 4 * BATCH


def test_a_curator_that_looks_at_the_actor_needs_a_view():
    with pytest.raises(ValueError, match="looks at the actor's hidden states"):
        Ledger(make("gain_rl")).select(BATCH)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"reward": [1.0]}, "reward must have 24 entries here; got 1"),
        ({"reward": [float("nan")] * 24}, "Reward.reward must be finite"),
        ({"success": [1] * 24}, "success must be a list of booleans"),
        ({"length": [2.5] * 24}, "length must be a list of integers"),
        ({"length": [-1] * 24}, "length must be >= 0; rollout 0 has -1"),
        ({"length": None}, "rewards come with success and length"),
        ({"slot": [0, 0]}, "slot 0 of ticket 0 has its rewards already"),
        ({"slot": [6]}, "ticket 0 has slots 0 to 5; got slots 6 to 6"),
        ({"slot": []}, "waits for slots 0, 1, 2, 3, 4, ...; got none"),
        ({"size": [0] * 6}, "a group without a rollout teaches nothing; slot 0 has 0"),
        ({"advantage": [float("inf")] * 24}, "advantage must be finite; entry 0"),
        ({"old_logprob": [[0.0]] * 24}, "old_logprob must cover the . tokens of rollout"),
        ({"old_logprob": 1.0}, "old_logprob must be a list with one entry per rollout; got float"),
        ({"ticket": 7}, "unknown ticket 7: 1 were handed out so far, from 0"),
        ({"ticket": "0"}, "a ticket is an integer; got '0'"),
    ],
)
def test_bad_feedback_is_one_sentence_and_changes_nothing(change, sentence):
    ledger = Ledger(make("osmd"))
    whole = {"ticket": 0} | told(ledger.select(BATCH)) | change
    before = ledger.state()
    for call in (ledger.observe, ledger.grade):
        with pytest.raises(ValueError, match=sentence):
            call(**whole)
    same_state(before, ledger.state())


def test_feedback_is_taken_once():
    ledger = Ledger(make("osmd"))
    whole = told(ledger.select(BATCH))
    with pytest.raises(ValueError, match=r"ticket 0 is not graded: pass reward, success and length of slots 0, 1,"):
        ledger.observe(0)
    ledger.grade(0, **whole)
    for call in (ledger.observe, ledger.grade):
        with pytest.raises(ValueError, match="ticket 0 was graded"):
            call(0, **whole)
    ledger.observe(0)
    for call in (ledger.observe, ledger.grade):
        with pytest.raises(ValueError, match="ticket 0 was observed already"):
            call(0, **whole)


@pytest.mark.parametrize(
    ("signal", "extra", "sentence"),
    [
        ("policy_improvement", {}, "needs an actor that reports new log-probabilities"),
        ("policy_improvement", {"new_logprob": [0.0] * 24}, "needs old_logprob of every rollout"),
        ("policy_improvement", {"old_logprob": [0.0] * 24, "new_logprob": [[0.0] * 8] * 24}, "they must be equal"),
        (
            "policy_improvement_token",
            {"old_logprob": [0.0] * 24, "new_logprob": [0.0] * 24},
            "of every token, not sums",
        ),
        ("policy_improvement_cross_fit", {"old_logprob": [0.0] * 24, "new_logprob": [0.0] * 24}, "call grade before"),
        ("target_alignment", {}, "needs alignment, one number per slot"),
    ],
)
def test_a_signal_says_what_it_lacks(signal, extra, sentence):
    ledger = Ledger(make("osmd"), signal=signal)
    whole = told(ledger.select(BATCH))
    before = ledger.state()
    with pytest.raises(ValueError, match=sentence):
        ledger.observe(0, **whole, **extra)
    same_state(before, ledger.state())


def test_what_no_ledger_can_do_is_refused_at_the_start():
    with pytest.raises(ValueError, match="unknown signal 'luck'"):
        Ledger(make("osmd"), signal="luck")
    with pytest.raises(ValueError, match="unknown estimator 'luck'"):
        Ledger(make("osmd"), estimator="luck")
    with pytest.raises(ValueError, match="take opo"):
        Ledger(make("osmd"), estimator="oblr")
    with pytest.raises(ValueError, match="max_open must be at least 1; got 0"):
        Ledger(make("osmd"), max_open=0)
    with pytest.raises(ValueError, match="batch must be at least 1; got 0"):
        Ledger(make("osmd")).select(0)


def test_the_state_of_another_ledger_is_refused(tmp_path):
    state = Ledger(make("osmd")).state()
    with pytest.raises(ValueError, match="a ledger with curator Osmd, and this has Sec"):
        Ledger(make("sec")).restore(state)
    with pytest.raises(ValueError, match="a ledger with seed 3, and this has 4"):
        Ledger(make("osmd", seed=4)).restore(state)
    other = curator_class("osmd")(Bank(key=["a"], stratum=[0]), seed=3, batch=1, horizon=1)
    with pytest.raises(ValueError, match="a ledger with bank"):
        Ledger(other).restore(state)
    (tmp_path / "damaged").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        Ledger(make("osmd")).load(tmp_path / "damaged")


def test_the_core_imports_neither_torch_nor_transformers():
    code = (
        "import sys, curbench.integrations.core, curbench.curators.osmd;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
