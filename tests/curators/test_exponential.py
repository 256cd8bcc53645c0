"""Exponential-weights curators against plain restatements of their formulas, and their regret against their bounds."""

from math import e, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from curbench.curators import curator_class
from curbench.curators.osmd import effective_arms
from curbench.curators.tabular import TabularCurator
from curbench.curators.uniform import UniformCore, update_core
from curbench.mirror import project_on_box_
from curbench.regret import BOUNDS, Setting, hard_gap, lower_hard
from curbench.sim import simulate as simulate_module
from curbench.sim.arms import Arms, make_arms
from curbench.sim.driver import run_compiled, run_loop
from curbench.sim.simulate import simulate
from curbench.stats import upper_limit
from curbench.types import Bank

K, T, ROUNDS = 5, 400, 30
BANK = Bank(key=[str(i) for i in range(K)], stratum=np.arange(K))
each_batch = pytest.mark.parametrize("m", [1, 3])


def make(name, m, **hyper):
    return curator_class(name)(BANK, seed=0, batch=m, horizon=T, **hyper)


def trajectory(curator, m):
    """(p before, arm, expected, y) of some rounds of made-up feedback; the rewards favour arm 2."""
    rng = np.random.default_rng(m)
    for t in range(ROUNDS):
        p = curator.core.p.copy()
        arm = rng.choice(K, m, p=p / p.sum())
        y = np.clip(rng.uniform(size=m) + 0.3 * (arm == 2), 0, 1)
        yield p, arm, m * p[arm], y
        type(curator).update_core(curator.core, arm, m * p[arm], y, t)
        type(curator).fill_core(curator.core)


def follow(curator, m, expected_p, rtol=1e-9):
    """Compares p in every round with ``expected_p(history)``, history the list of (p, arm, expected, y) so far."""
    history = []
    for p, *feedback in trajectory(curator, m):
        np.testing.assert_allclose(p, expected_p(history), rtol=rtol)
        assert p.sum() == pytest.approx(1.0, rel=1e-12)
        history.append((p, *feedback))


def total(history, value):
    """f64[K], sum over rounds and draws of value(y, expected, m) at the drawn arm."""
    out = np.zeros(K)
    for _, arm, expected, y in history:
        np.add.at(out, arm, value(y, expected))
    return out


def softmax(score):
    weight = np.exp(score - score.max())
    return weight / weight.sum()


@each_batch
def test_exp3_loss_form_is_a_softmax_of_cumulative_losses(m):
    curator = make("exp3", m, eta=0.07)
    follow(curator, m, lambda h: softmax(-0.07 * total(h, lambda y, q: (1 - y) / q)))


@each_batch
def test_exp3_gain_form_mixes_a_softmax_of_cumulative_gains(m):
    curator = make("exp3", m, form="gain", mix=0.2)
    follow(curator, m, lambda h: 0.8 * softmax(0.2 / K * total(h, lambda y, q: y / q)) + 0.2 / K)


@each_batch
def test_exp3_ix_adds_gamma_to_the_probability(m):
    curator = make("exp3_ix", m, eta=0.07, bias=0.1)
    follow(curator, m, lambda h: softmax(-0.07 * total(h, lambda y, q: (1 - y) / (q + m * 0.1))))


@each_batch
def test_exp3_p_gives_every_arm_a_bonus(m):
    curator = make("exp3_p", m, eta=0.02, bias=0.3, mix=0.4)

    def expected(history):
        gain = total(history, lambda y, q: y / q) + sum(0.3 / p for p, *_ in history)
        return 0.6 * softmax(0.02 * gain) + 0.4 / K

    follow(curator, m, expected)


@each_batch
def test_exp3_s_adds_a_share_of_all_weights_to_each(m):
    curator = make("exp3_s", m, mix=0.2, share=0.05)

    def expected(history):
        w = np.ones(K)
        for one in history:
            w = w * np.exp(0.2 / K * total([one], lambda y, q: y / q)) + e * 0.05 / K * w.sum()
        return 0.8 * w / w.sum() + 0.2 / K

    follow(curator, m, expected)


def test_rexp3_is_exp3_with_a_restart():
    curator = make("rexp3", 1, mix=0.2, restart_every=7)
    gain = lambda h: total(h[len(h) - len(h) % 7 :], lambda y, q: y / q)  # noqa: E731
    follow(curator, 1, lambda h: 0.8 * softmax(0.2 / K * gain(h)) + 0.2 / K)


def tsallis(loss, eta):
    mass = lambda x: np.sum(4 / (eta * (loss - x)) ** 2) - 1  # noqa: E731
    x = brentq(mass, loss.min() - 2 * K / eta, loss.min() - 1e-9, xtol=1e-13)
    return 4 / (eta * (loss - x)) ** 2


@each_batch
@pytest.mark.parametrize("estimator", ["iw", "rv"])
def test_tsallis_inf_solves_for_its_normaliser(m, estimator):
    curator = make("tsallis_inf", m, estimator=estimator)
    rate = 4 if estimator == "rv" else 2

    def expected(history):
        loss = np.zeros(K)
        for t, (p, arm, q, y) in enumerate(history, start=1):
            base = 0.5 * (p >= rate**2 / t) if estimator == "rv" else np.zeros(K)
            np.add.at(loss, arm, (1 - y - base[arm]) / q)
            loss += base
        return tsallis(loss, rate / np.sqrt(len(history) + 1))

    follow(curator, m, expected, rtol=1e-7)


@each_batch
def test_osmd_mix_steps_on_the_unmixed_weights(m):
    curator = make("osmd", m, method="mix", mix=0.3, eta=0.1)
    follow(curator, m, lambda h: 0.7 * softmax(-0.1 * total(h, lambda y, q: (1 - y) / q)) + 0.3 / K)


def box(x, floor, cap, total):
    """KL projection by bisection on the multiplier."""
    excess = lambda s: np.clip(np.exp(s) * x, floor, cap).sum() - total  # noqa: E731
    return np.clip(np.exp(brentq(excess, -700, 700, xtol=1e-14)) * x, floor, cap)


def test_osmd_mset_projects_on_the_capped_simplex():
    curator, x, seen = make("osmd_mset", 3, eta=0.3, floor=0.1), np.full(K, 3 / K), 0
    for p, arm, expected, y in trajectory(curator, 3):
        np.testing.assert_allclose(p, x / 3, rtol=1e-9)
        lhat = total([(p, arm, expected, y)], lambda y, q: (1 - y) / q)
        x = box(x * np.exp(-0.3 * lhat), 0.1 * 3 / K, 1.0, 3.0)
        seen += (x > 1 - 1e-12).any()
    assert seen > 3  # the cap did bind


def uchiya(w, m, mix):
    """Inclusion probabilities of Uchiya et al. 2010, algorithm 1, with alpha by bisection."""
    share = (1 / m - mix / K) / (1 - mix)
    if w.max() >= share * w.sum():
        balance = lambda a: a - share * (a * (w >= a).sum() + w[w < a].sum())  # noqa: E731
        w = np.minimum(w, brentq(balance, w.min() * 0.5, w.max(), xtol=1e-14))
    return m * ((1 - mix) * w / w.sum() + mix / K)


def test_exp3_m_caps_heavy_weights_and_leaves_them():
    curator, w, seen = make("exp3_m", 2, mix=0.2), np.ones(K), 0
    for p, arm, expected, y in trajectory(curator, 2):
        x = uchiya(w, 2, 0.2)
        np.testing.assert_allclose(2 * p, x, rtol=1e-8)
        capped = x > 1 - 1e-9
        seen += capped.any()
        ghat = total([(p, arm, expected, y)], lambda y, q: y / q)
        w = w * np.exp(np.where(capped, 0.0, 2 * 0.2 / K * ghat))
        curator.core.weight[2] *= 1.2  # so that the cap binds soon
        w[2] *= 1.2
    assert seen > 3


@given(
    x=st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=12),
    m=st.integers(1, 11),
    gamma=st.floats(0.0, 0.95),
)
def test_box_projection_meets_the_optimality_conditions(x, m, gamma):
    """Inside the box all entries keep their ratios; what is on the floor would be lower, what is on the cap higher."""
    x = np.array(x)
    k = x.size
    m = min(m, k - 1)
    z = x.copy()
    floor = gamma * m / k
    project_on_box_(z, floor, 1.0, float(m))
    assert z.sum() == pytest.approx(m, rel=1e-9)
    assert ((z >= floor) & (z <= 1.0)).all()
    np.testing.assert_allclose(z, box(x, floor, 1.0, m), rtol=1e-6, atol=1e-9)


def test_default_parameters_are_the_published_ones():
    k, t = K, T
    assert make("exp3", 1).core.eta == pytest.approx((2 * log(k) / (t * k)) ** 0.5)
    assert make("exp3", 4).core.eta == pytest.approx((2 * log(k) / (t * effective_arms(k, 4))) ** 0.5)
    assert make("exp3", 1, form="gain").core.mix == pytest.approx((k * log(k) / ((e - 1) * t)) ** 0.5)
    assert make("exp3_ix", 1).core.bias == pytest.approx((log(k) / (2 * t * k)) ** 0.5)
    assert make("exp3_p", 1).core.mix == pytest.approx(1.05 * (k * log(k) / t) ** 0.5)
    assert make("exp3_s", 1, segments=3).core.mix == pytest.approx((k * (3 * log(k * t) + e) / ((e - 1) * t)) ** 0.5)
    assert make("rexp3", 1, variation=2.0).core.restart_every == np.ceil((k * log(k)) ** (1 / 3) * (t / 2) ** (2 / 3))
    assert make("exp3_m", 2).core.mix == pytest.approx((k * log(k / 2) / ((e - 1) * 2 * t)) ** 0.5)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("exp3", {"form": "both"}, "form must be loss or gain; got 'both'"),
        ("exp3", {"form": "gain", "eta": 0.1}, "eta belongs to form 'loss'"),
        ("exp3", {"mix": 0.1}, "mix belongs to form 'gain'"),
        ("exp3", {"eta": 0.0}, "eta must be positive; got 0.0"),
        ("exp3", {"low": 1.0}, "low < high"),
        ("exp3_ix", {"bias": -1.0}, "bias must be positive; got -1.0"),
        ("exp3_p", {"mix": 0.1, "eta": 1.0}, r"eta must be in \(0, 0.01"),
        ("exp3_s", {"share": 2.0}, r"share must be in \(0, 1\]; got 2.0"),
        ("exp3_s", {"segments": 0}, "segments must be at least 1; got 0"),
        ("rexp3", {"variation": 0.0}, "variation must be positive; got 0.0"),
        ("rexp3", {"restart_every": 0}, "restart_every must be at least 1; got 0"),
        ("tsallis_inf", {"estimator": "ix"}, "estimator must be iw or rv; got 'ix'"),
        ("osmd_mset", {"batch": 6}, "6 problems needs as many; the bank has 5"),
        ("osmd_mset", {"swaps": -1}, "swaps must be at least 0; got -1"),
        ("exp3_m", {"batch": 6}, "6 problems needs as many; the bank has 5"),
        ("osmd", {"method": "clip", "mix": 0.1}, "mix belongs to another method"),
    ],
)
def test_what_cannot_be_used_is_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        make(name, **({"m": change.pop("batch", 1)} | change))


@pytest.mark.parametrize("batch", [1, 2])
def test_bounds_that_are_proved_for_one_draw_say_nothing_about_more(batch):
    for name, hyper in (("exp3", {"form": "gain"}), ("exp3_p", {}), ("rexp3", {}), ("tsallis_inf", {})):
        bound, used = make(name, batch, **hyper).bound("static")
        value = BOUNDS[bound].value(Setting(arms=K, batch=batch, horizon=T, **used))
        assert (value < inf) == (batch == 1)


# --- regret against bounds --------------------------------------------------------------------------------------------

COVERED = [
    ("exp3", {}, 1, "exp3_static"),
    ("exp3", {}, 8, "exp3_static"),
    ("exp3", {"form": "gain"}, 1, "exp3_gain"),
    ("exp3_p", {}, 1, "exp3_p"),
    ("tsallis_inf", {}, 1, "tsallis_iw"),
    ("tsallis_inf", {"estimator": "rv"}, 1, "tsallis_rv"),
]


@pytest.mark.parametrize(("name", "hyper", "batch", "bound"), COVERED, ids=str)
def test_proved_bounds_hold(name, hyper, batch, bound):
    result = simulate(make_arms("stationary", horizon=4_000), name, seeds=20, batch=batch, hyper=hyper)
    assert (result.bound.name, result.bound.status) == (bound, "proved")
    assert result.holds is True
    assert result.certificate_holds in (True, None)


@pytest.mark.parametrize(
    ("name", "hyper", "batch"),
    [("exp3", {}, 4), ("exp3_p", {}, 1), ("tsallis_inf", {}, 4), ("osmd_mset", {}, 3)],
    ids=str,
)
def test_compiled_driver_and_python_loop_agree(name, hyper, batch):
    arms, grid = make_arms("switching", horizon=150, arms=6), np.array([10, 150])
    design = "systematic" if name == "osmd_mset" else "iid"
    make_one = lambda: curator_class(name)(arms.bank(), seed=5, batch=batch, horizon=150, design=design, **hyper)  # noqa: E731
    compiled, python = run_compiled(make_one(), arms, (5, 6), grid), run_loop(make_one(), arms, (5, 6), grid)
    np.testing.assert_array_equal(compiled.p_form, python.p_form)
    np.testing.assert_array_equal(compiled.min_slack, python.min_slack)


@pytest.mark.parametrize(
    ("name", "design", "hyper"),
    [("osmd_mset", "iid", {}), ("osmd_mset", "systematic", {}), ("osmd", "iid", {"method": "share"})],
    ids=str,
)
def test_regret_to_the_best_set_stays_below_its_bound(name, design, hyper):
    mean = np.linspace(0.8, 0.2, 10)[None]
    arms = Arms("steps", np.zeros(1, np.int64), mean, 2_000, "static", "ten steps")
    m = 3
    result = simulate(arms, name, seeds=20, batch=m, hyper=hyper | {"design": design}, comparator="top_m")
    assert result.bound.status == "proved"
    assert result.holds is True
    assert result.value < 2_000 * (mean[0, :m].mean() - mean.mean())  # less than uniform draws lose
    assert result.certificate_holds
    assert result.capped_rounds == 0


class Oracle(TabularCurator):
    """Plays the best arm, which it has been told."""

    update_core = staticmethod(update_core)

    def __init__(self, bank, *, best, **common):
        super().__init__(bank, **common)
        self.core = UniformCore(np.eye(self.arm_count)[best])


def hard_instance_regret(name, monkeypatch):
    """f64[seeds], average over the best arm of the p-form regret on the hard instance; K = 4, T = 400."""
    k, t = 4, 400
    gap = hard_gap(k, t)
    total = np.zeros(12)
    for best in range(k):
        arms = Arms("hard", np.zeros(1, np.int64), 0.5 + gap * np.eye(k)[[best]], t, "static", "Auer et al. 2002")
        if name == "oracle":
            monkeypatch.setattr(simulate_module, "curator_class", lambda _: Oracle)
        hyper = {"best": best} if name == "oracle" else {}
        total += [simulate(arms, name, seeds=1, first_seed=s, hyper=hyper).regret.mean for s in range(12)]
    return total / k


@pytest.mark.parametrize("name", ["uniform", "osmd", "exp3"])
def test_no_curator_beats_the_lower_bound_on_the_hard_instance(name, monkeypatch):
    curve = lower_hard(Setting(arms=4, batch=1, horizon=400, eta=inf))
    assert 0 < curve <= upper_limit(hard_instance_regret(name, monkeypatch))


def test_an_oracle_that_leaks_falls_below_it(monkeypatch):
    curve = lower_hard(Setting(arms=4, batch=1, horizon=400, eta=inf))
    assert upper_limit(hard_instance_regret("oracle", monkeypatch)) < curve
