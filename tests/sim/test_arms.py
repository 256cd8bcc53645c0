"""Every test-bed against its published numbers; the reader of files against whatever a file may hold."""

import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from curbench.sim.arms import ARMS, FIXED_ARMS, Arms, Noise, arms_from_file, make_arms
from curbench.sim.arms.files import READERS

SEEDED = [
    "stationary",
    "switching",
    "drifting",
    "hazard",
    "hazard_per_arm",
    "random_walk",
    "m_ucb_random",
    "besson_random",
    "auer_lower",
    "switching_lower",
    "stochastic_adversarial",
    "rested_rising",
    "learning_curves",
]


def count_of(name, open_count=7):
    return None if name in FIXED_ARMS else open_count


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("horizon", [100, 1_000])
def test_every_test_bed_fits_its_horizon_and_hides_its_means_from_the_bank(name, horizon):
    arms = make_arms(name, horizon=horizon, arms=count_of(name))
    assert arms.name == name
    assert arms.start[-1] < horizon
    assert len(arms.bank()) == arms.count == FIXED_ARMS.get(name, 7)
    other = make_arms(name, horizon=horizon, arms=count_of(name), instance_seed=1)
    np.testing.assert_array_equal(arms.bank().feature, other.bank().feature)


def test_a_test_bed_is_random_or_fixed():
    assert set(SEEDED) == set(ARMS) - set(FIXED_ARMS)


@pytest.mark.parametrize("name", SEEDED)
def test_the_instance_seed_reaches_the_means(name):
    one, again, other = (make_arms(name, horizon=500, arms=9, instance_seed=s) for s in (0, 0, 5))
    np.testing.assert_array_equal(one.mean, again.mean)
    np.testing.assert_array_equal(one.start, again.start)
    assert one.mean.shape != other.mean.shape or (one.mean != other.mean).any()


@pytest.mark.parametrize(
    ("name", "horizon", "start", "segments", "variation"),
    [
        ("garivier_moulines", 10_000, [0, 3_000, 5_000], 3, 1.0),
        ("flipping", 9_000, [0, 3_000, 6_000], 3, 1.2),
        ("yahoo_cao", 432_000, list(range(0, 432_000, 48_000)), 5, 0.14),
        ("besson_1", 5_000, [0, 1_000, 2_000, 3_000, 4_000], 2, 1.8),
        ("besson_2", 5_000, [0, 1_000, 2_000, 3_000, 4_000], 2, 0.8),
        ("mukherjee", 4_000, [0, 1_000, 2_000, 3_000], 4, 1.9),
        ("besson_4", 2_000, [0, 1_000, 1_250, 1_500, 1_750], 4, 1.8),
        ("square_wave", 1_000, list(range(0, 1_000, 50)), 20, 3.8),
    ],
)
def test_fixed_test_beds_have_their_published_segments_and_variation(name, horizon, start, segments, variation):
    arms = make_arms(name, horizon=horizon)
    assert arms.start.tolist() == start
    assert arms.segments == segments
    assert arms.variation == pytest.approx(variation)


def test_garivier_moulines_is_the_published_instance():
    mean = make_arms("garivier_moulines", horizon=10_000).mean
    assert mean.tolist() == [[0.5, 0.3, 0.4], [0.5, 0.3, 0.9], [0.5, 0.3, 0.4]]


def test_periodic_swings_from_one_tenth_to_nine_tenths_three_times():
    arms = make_arms("periodic", horizon=10_000)
    assert (arms.mean[:, 0] == 0.5).all()
    assert arms.mean[0, 1] == pytest.approx(0.9)
    assert arms.mean[5_000, 1] == pytest.approx(0.1)
    assert arms.segments == 7
    assert arms.variation == pytest.approx(4.8, abs=1e-5)


@pytest.mark.parametrize("budget", [0.3, 3.0, 6.0])
def test_besbes_sine_has_its_variation_budget_less_the_first_step(budget):
    arms = make_arms("besbes_sine", horizon=30_000, variation=budget)
    first = 0.3 * np.sin(5 * budget * np.pi / (3 * 30_000))
    assert arms.variation == pytest.approx(budget - first, abs=1e-6)
    np.testing.assert_allclose(arms.mean.sum(axis=1), 1.0, atol=1e-15)


@pytest.mark.parametrize("budget", [0.6, 3.0])
def test_besbes_thirds_spends_the_same_budget_outside_the_middle(budget):
    arms = make_arms("besbes_thirds", horizon=30_000, variation=budget)
    first = 0.3 * np.sin(5 * budget * np.pi / (2 * 30_000))
    assert arms.variation == pytest.approx(budget - first, abs=1e-4)
    assert np.ptp(arms.mean[10_000:20_000], axis=0).max() < 1e-12
    assert np.abs(np.diff(arms.mean[:, 0])).max() == pytest.approx(first, rel=1e-3)  # one step's worth: it joins
    if budget == 3.0:
        np.testing.assert_allclose(arms.mean[15_000], [0.8, 0.2], atol=1e-12)


@pytest.mark.parametrize("gap", [0.02, 0.3])
def test_flipping_has_its_gap_in_the_middle_third(gap):
    assert make_arms("flipping", horizon=99, gap=gap).mean.tolist() == [[0.5, 0.8], [0.5, 0.5 - gap], [0.5, 0.8]]


def test_hazard_redraws_all_means_at_the_published_rate():
    arms = make_arms("hazard", horizon=1_000_000)
    assert abs(arms.start.size - 101) < 50  # binomial with mean 100: five standard deviations
    assert (np.diff(arms.mean, axis=0) != 0).all()


def test_hazard_per_arm_redraws_each_mean_at_the_published_rate():
    arms = make_arms("hazard_per_arm", horizon=1_000_000)
    changes = (np.diff(arms.mean, axis=0) != 0).sum(axis=0)
    assert (np.abs(changes - 100) < 50).all()
    assert changes.sum() >= arms.start.size - 1  # two arms may change in one round


def test_hazard_may_change_never_or_always():
    for name in ("hazard", "hazard_per_arm"):
        assert make_arms(name, horizon=50, changes=0).start.tolist() == [0]
        assert make_arms(name, horizon=50, changes=50).start.tolist() == list(range(50))


def test_random_walk_steps_are_those_of_a_truncated_normal():
    arms = make_arms("random_walk", horizon=20_000, arms=5)
    assert 0 <= arms.mean.min() <= arms.mean.max() <= 1
    inside = np.abs(arms.mean[:-1] - 0.5) < 0.02
    step = np.diff(arms.mean, axis=0)[inside]
    assert step.var() == pytest.approx(0.0284, abs=0.002)  # N(0, 0.03) given |x| < 1/2 has variance 0.0284
    assert np.abs(step).max() <= 0.52


def test_m_ucb_random_alternates_means_of_wide_range():
    for seed in range(10):
        arms = make_arms("m_ucb_random", horizon=200_000, instance_seed=seed)
        assert (np.diff(arms.start) == 20_000).all()
        np.testing.assert_array_equal(arms.mean[1], 1 - arms.mean[0])
        assert np.ptp(arms.mean[0]) > 0.6
        assert arms.segments == 10


def test_yahoo_cao_lies_in_its_published_range():
    arms = make_arms("yahoo_cao", horizon=432_000)
    assert (arms.mean.min(), arms.mean.max()) == (0.008, 0.071)


def test_wei_srivastava_is_the_published_table():
    arms = make_arms("wei_srivastava", horizon=82_000)
    assert arms.mean.shape == (82, 5)
    assert (np.diff(arms.start) == 1_000).all()
    assert arms.mean[0].tolist() == [0.070, 0.044, 0.043, 0.029, 0.039]
    assert arms.mean[-1].tolist() == [0.049, 0.032, 0.033, 0.027, 0.039]
    assert (arms.mean.min(), arms.mean.max()) == (0.012, 0.07)


def test_besson_random_keeps_its_distances_and_its_sizes_of_change():
    for seed in range(30):
        arms = make_arms("besson_random", horizon=20_000, instance_seed=seed)
        assert arms.count == 5
        assert arms.start.size == 7
        assert np.diff([*arms.start, 20_000]).min() >= 1_000
        step = np.abs(np.diff(arms.mean, axis=0))
        assert ((step == 0) | ((step > 0.05 - 1e-12) & (step < 0.3 + 1e-12))).all()


def test_auer_lower_has_the_gap_of_the_theorem():
    arms = make_arms("auer_lower", horizon=10_000, arms=4)
    assert sorted(arms.mean[0]) == [0.5, 0.5, 0.5, 0.505]
    assert make_arms("auer_lower", horizon=2, arms=4).mean.max() == 0.75


def test_auer_lower_makes_every_arm_the_best_alike():
    best = [make_arms("auer_lower", horizon=9, arms=4, instance_seed=s).mean.argmax() for s in range(400)]
    assert np.bincount(best, minlength=4).min() > 60  # 100 expected, standard deviation 8.7


def test_switching_lower_is_one_auer_instance_per_segment():
    arms = make_arms("switching_lower", horizon=10_000, arms=10, segments=4)
    assert arms.start.tolist() == [0, 2_500, 5_000, 7_500]
    np.testing.assert_allclose(np.sort(arms.mean, axis=1)[:, -1], 0.5 + 0.25 * (40 / 10_000) ** 0.5)
    assert arms.segments <= 4


def test_stochastic_adversarial_never_changes_its_best_arm():
    arms = make_arms("stochastic_adversarial", horizon=10_000, arms=8)
    assert arms.segments == 1
    best = arms.mean[0].argmax()
    assert arms.mean[:2, best].tolist() == [1.0, 0.125]
    gap = arms.mean[:, [best]] - np.delete(arms.mean, best, axis=1)
    assert (gap == 0.125).all()
    assert arms.variation == pytest.approx(0.875 * (arms.start.size - 1))
    assert np.diff(arms.start)[:6].tolist() == [1, 2, 4, 6, 10, 16]  # floor(1.6^n)


def test_rested_rotting_is_the_published_instance_after_its_map():
    arms = make_arms("rested_rotting", horizon=10_000, index=29)
    mu = 0.01 * 1.25**29
    scale = 1 / arms.noise.scale
    assert arms.rested
    assert arms.start.tolist() == [0, 2_500]
    np.testing.assert_allclose((arms.mean - 0.5) * scale, [[mu, 0], [-mu, 0]], atol=1e-12)
    assert np.minimum(arms.mean, 1 - arms.mean).min() / arms.noise.scale >= 4 - 1e-12


@pytest.mark.parametrize("count", [2, 10, 200])
def test_rested_rising_is_concave_and_its_slowest_arm_is_best_in_the_long_run(count):
    arms = make_arms("rested_rising", horizon=20_000, arms=count)
    slope = np.diff(arms.mean, axis=0) / np.diff(arms.start)[:, None]
    assert (slope > 0).any()
    assert (slope >= 0).all()
    assert (np.diff(slope, axis=0) < 1e-12).all()
    held = np.diff([*arms.start, 20_000])
    assert (held @ arms.mean).argmax() == arms.mean[1].argmin()


def test_learning_curves_rise_to_one_fall_and_solve_their_equation():
    arms = make_arms("learning_curves", horizon=5_000, arms=3)
    rate = 100 * 3 / 5_000
    for mean in arms.mean.T:
        peak = mean.argmax()
        x = np.where(np.arange(mean.size) < peak, -2.0, 2.0) * np.arccosh(mean**-0.5)  # mean = 1 / cosh(x / 2)^2
        clear = np.abs(np.arange(mean.size) - peak) > 1
        slope = np.diff((x + np.sinh(x))[clear]) / np.diff(arms.start[clear])
        np.testing.assert_allclose(slope, slope[0], rtol=1e-3)
        assert 0.5 * rate <= 2 * slope[0] <= 2 * rate


def test_the_horizon_rescales_segments():
    assert make_arms("garivier_moulines", horizon=100).start.tolist() == [0, 30, 50]
    assert make_arms("switching", horizon=50).start.tolist() == list(range(0, 50, 5))


def test_switching_changes_its_best_arm_at_every_segment():
    for seed in range(20):
        arms = make_arms("switching", horizon=1_000, arms=3, instance_seed=seed)
        assert arms.segments == 10


def test_drifting_has_exactly_its_variation_and_never_leaves_the_interval():
    arms = make_arms("drifting", horizon=2_000, arms=5)
    step = np.abs(np.diff(arms.mean, axis=0))
    np.testing.assert_allclose(step, 10 / 1_999, atol=1e-15)
    assert arms.variation == pytest.approx(10.0, rel=1e-12)
    assert arms.mean.min() >= 0
    assert arms.mean.max() <= 1


def test_ties_do_not_count_as_changes_of_the_comparator():
    mean = np.array([[0.5, 0.5], [0.2, 0.6], [0.6, 0.6], [0.6, 0.2]])
    arms = Arms("x", np.arange(4), mean, 4, "switching", "test")
    assert arms.comparator_pieces.tolist() == [1, 1, 1, 2]


def test_rested_arms_have_no_segments_and_no_variation():
    arms = make_arms("rested_rotting", horizon=100)
    assert arms.segments is None
    assert arms.variation is None
    for name in ("comparator_pieces", "cumulative_variation"):
        with pytest.raises(ValueError, match="rested_rotting: means of rested arms depend on who pulls"):
            getattr(arms, name)


def test_noise_replaces_that_of_the_test_bed():
    noise = Noise("beta", 5.0, shared=True)
    assert make_arms("switching", horizon=100, noise=noise).noise == noise
    assert make_arms("rested_rotting", horizon=100).noise.kind == "gaussian"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "nope"}, "unknown arms 'nope'; choose from stationary"),
        ({"horizon": 0}, "horizon must be at least 1; got 0"),
        ({"arms": 0}, "arms must be at least 1; got 0"),
        ({"name": "garivier_moulines", "arms": 3}, "has 3 arms by definition; leave --arms out"),
        ({"name": "drifting", "horizon": 5}, "horizon of at least 21 rounds; got 5"),
        ({"name": "drifting", "horizon": 10**7, "arms": 100}, "exceeds 2 GiB"),
        ({"name": "m_ucb_random", "arms": 1}, "needs at least 2 arms; got 1"),
        ({"name": "wei_srivastava", "horizon": 81}, "with 82 segments needs a horizon of at least 82; got 81"),
        ({"name": "switching_lower", "segments": 0}, "with 0 segments"),
        ({"name": "hazard", "changes": -1.0}, "changes must be at least 0; got -1.0"),
        ({"name": "besson_random", "breaks": 20}, r"breaks must be in \[0, 19\] at this horizon; got 20"),
        ({"name": "flipping", "gap": 0.6}, r"gap must be in \[0, 0.5\]; got 0.6"),
        ({"noise": Noise("cauchy")}, "unknown noise 'cauchy'; choose from bernoulli"),
        ({"noise": Noise("beta", 0.0)}, "the scale of noise must be positive and finite; got 0.0"),
        ({"noise": Noise("beta", float("nan"))}, "the scale of noise must be positive"),
        ({"name": "json:nope"}, "cannot load the test-bed json:nope"),
        ({"name": "no_such_module:x"}, "cannot load the test-bed no_such_module:x"),
        ({"name": "means.csv", "arms": 3}, "says itself how many arms there are"),
    ],
)
def test_bad_requests_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_arms(**({"name": "stationary", "horizon": 100} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.array([[1.5]])}, r"means must be in \[0, 1\]"),
        ({"mean": np.array([[np.nan]])}, r"means must be in \[0, 1\]"),
        ({"start": np.array([1])}, "segments must start at 0"),
        ({"start": np.array([0, 1])}, "every segment needs one start"),
        ({"comparator": "best"}, "comparator must be one of static, switching, dynamic; got 'best'"),
        ({"name": "../x"}, "a test-bed's name is letters"),
    ],
)
def test_bad_arms_are_refused(change, message):
    good = {"name": "x", "start": np.zeros(1, np.int64), "mean": np.array([[0.5]]), "horizon": 10}
    with pytest.raises(ValueError, match=message):
        Arms(**(good | {"comparator": "static", "source": "test"} | change))


def test_a_function_of_the_users_makes_arms(tmp_path, monkeypatch):
    (tmp_path / "my_beds.py").write_text(
        "import numpy as np\n"
        "from curbench.sim.arms import Arms\n"
        "def steps(arms, horizon, rng, *, level=0.5):\n"
        "    return Arms('steps', np.zeros(1, np.int64), np.full((1, arms), level), horizon, 'static', 'mine')\n"
        "def wrong(arms, horizon, rng):\n"
        "    return 5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_beds", raising=False)
    assert make_arms("my_beds:steps", horizon=20, arms=3, level=0.25).mean.tolist() == [[0.25] * 3]
    with pytest.raises(ValueError, match=r"my_beds:wrong must return curbench.sim.arms.Arms; got int"):
        make_arms("my_beds:wrong", horizon=20)


# Files.

MEAN = np.array([[0.5, 0.25], [0.125, 1.0]])


def write(folder, suffix, mean=MEAN, start=None):
    path = folder / f"means{suffix}"
    column = {} if start is None else {"start": np.asarray(start)}
    column |= {f"arm {i}": mean[:, i] for i in range(mean.shape[1])}
    if suffix == ".npy":
        np.save(path, mean)
    elif suffix == ".parquet":
        pq.write_table(pa.table(column), path)
    else:
        rows = np.stack(list(column.values()), axis=1)
        text = io.StringIO()
        np.savetxt(text, rows, delimiter=",", header=",".join(column), comments="", fmt="%r")
        path.write_text(text.getvalue().replace("np.float64(", "").replace(")", ""))
    return path


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_gives_its_means_by_round_or_in_equal_segments(tmp_path, suffix):
    path = write(tmp_path, suffix)
    arms = arms_from_file(path)
    np.testing.assert_array_equal(arms.mean, MEAN)
    assert arms.start.tolist() == [0, 1]
    assert arms.horizon == 2
    assert make_arms(str(path), horizon=10).start.tolist() == [0, 5]
    assert make_arms(str(path), horizon=10, comparator="dynamic", noise=Noise("power")).noise.kind == "power"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_start_gives_the_segments(tmp_path, suffix):
    path = write(tmp_path, suffix, start=[0, 7])
    arms = arms_from_file(path, horizon=10)
    assert arms.start.tolist() == [0, 7]
    np.testing.assert_array_equal(arms.mean, MEAN)
    with pytest.raises(ValueError, match="has a column start, so it needs a horizon"):
        arms_from_file(path)
    with pytest.raises(ValueError, match="last segment starts at 7, but the horizon is 7"):
        arms_from_file(path, horizon=7)


def test_a_csv_needs_no_header_and_may_have_a_byte_order_mark(tmp_path):
    path = tmp_path / "means.csv"
    path.write_bytes(b"\xef\xbb\xbf0.5,0.25\r\n0.125,1\r\n")
    np.testing.assert_array_equal(arms_from_file(path).mean, MEAN)


def test_the_name_of_arms_from_a_file_follows_its_content(tmp_path):
    one = arms_from_file(write(tmp_path, ".csv"))
    same = arms_from_file(write(tmp_path, ".parquet"))
    other = arms_from_file(write(tmp_path, ".csv", MEAN / 2))
    assert one.name == same.name != other.name
    assert one.name.startswith("means-")
    odd = tmp_path / "..a b:c.csv"
    odd.write_text("0.5\n")
    assert arms_from_file(odd).name.startswith("a_b_c-")


CSV_ERRORS = [
    ("a,b\n0.5,1.5\n", r"line 2, column 2: a mean must be in \[0, 1\]; got 1.5"),
    ("a,b\n0.5,nan\n", "line 2, column 2: a mean must be in"),
    ("a,b\n0.5,-0.1\n", "line 2, column 2: a mean must be in"),
    ("a,b\n0.5,\n", "line 2, column 2: a cell is empty"),
    ("0.5,0.5\n0.5,x\n", "line 2, column 2: 'x' is no number"),
    ("a,0.5\n", "line 1, column 1: 'a' is no number"),
    ("a,b\n0.5,0_1\n", "line 2, column 2: '0_1' is no number"),
    ("a,b\n0.5\n", "line 2: 1 cells where 2 are expected"),
    ("0.5,0.5\n0.5,0.5,0.5\n", "line 2: 3 cells where 2 are expected"),
    ("0.5,0.5\n\n0.5,0.5\n", "line 2: 0 cells where 2 are expected"),
    ('0.5,"0.5\n', "not CSV"),
    ("", "no rows of means"),
    ("a,b\n", "no rows of means"),
    ("start,a\n1,0.5\n", "line 2: the first segment must start at 0; got 1"),
    ("start,a\n0,0.5\n5,0.5\n5,0.5\n", "line 4: starts must increase; got 5 after 5"),
    ("start,a\n0,0.5\n2.5,0.5\n", "line 3: start must be a whole number; got 2.5"),
    ("start,a\n0,0.5\ninf,0.5\n", "line 3: start must be a whole number; got inf"),
    ("start\n0\n", "no column of means besides start"),
]


@pytest.mark.parametrize(("text", "message"), CSV_ERRORS)
def test_what_is_wrong_with_a_csv_is_said_with_file_line_and_rule(tmp_path, text, message):
    path = tmp_path / "means.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"means.csv.*{message}"):
        arms_from_file(path, horizon=100)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"a": ["x"]}, "column a: means are numbers, not string"),
        ({"a": [0.5, None]}, "row 2, column a: a cell is empty"),
        ({"a": [0.5, 2.0]}, "row 2, column 1: a mean must be in"),
        ({"a": pa.array([], pa.float64())}, "no rows of means"),
        ({"a": [[0.5]]}, "means are numbers, not list"),
        ({}, "no rows of means"),
    ],
)
def test_what_is_wrong_with_a_parquet_file_is_said(tmp_path, column, message):
    path = tmp_path / "means.parquet"
    pq.write_table(pa.table(column), path)
    with pytest.raises(ValueError, match=f"means.parquet.*{message}"):
        arms_from_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([0.5]), "means are a matrix of numbers; got float64 of shape"),
        (np.zeros((0, 2)), "means are a matrix of numbers"),
        (np.array([["x"]]), "means are a matrix of numbers; got <U1"),
        (np.array([[0.5j]]), "got complex128"),
        (np.array([[0.5], [1.5]]), "row 2, column 1: a mean must be in"),
        (np.array([[{}]], dtype=object), "not a NumPy matrix"),
    ],
)
def test_what_is_wrong_with_a_numpy_file_is_said(tmp_path, content, message):
    path = tmp_path / "means.npy"
    np.save(path, content)
    with pytest.raises(ValueError, match=f"means.npy.*{message}"):
        arms_from_file(path)


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "means.npy"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    with pytest.raises(ValueError, match="not a NumPy matrix"):
        arms_from_file(path)
    assert not (tmp_path / "owned").exists()


def test_a_numpy_file_that_promises_more_than_it_holds_is_refused(tmp_path):
    path = write(tmp_path, ".npy")
    path.write_bytes(path.read_bytes().replace(b"(2, 2)", b"(99999999, 99999999)"))
    with pytest.raises(ValueError, match="not a NumPy matrix"):
        arms_from_file(path)


def test_a_missing_file_and_a_strange_suffix_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.csv does not exist"):
        make_arms(str(tmp_path / "nothing.csv"), horizon=5)
    with pytest.raises(ValueError, match=r"means are read from .csv, .parquet, .npy; got '.txt'"):
        arms_from_file(tmp_path / "x.txt")


def complaint(path, horizon=None):
    try:
        arms_from_file(path, horizon=horizon)
    except ValueError as error:
        return str(error)
    return None


UNIT = st.floats(0, 1)
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@PROPERTY
@given(data=st.data(), rows=st.integers(1, 5), count=st.integers(1, 4), suffix=st.sampled_from(list(READERS)))
def test_every_table_of_means_comes_back_exactly(tmp_path, data, rows, count, suffix):
    flat = data.draw(st.lists(UNIT, min_size=rows * count, max_size=rows * count))
    mean = np.array(flat).reshape(rows, count)
    np.testing.assert_array_equal(arms_from_file(write(tmp_path, suffix, mean)).mean, mean)


@PROPERTY
@given(content=st.binary(max_size=200) | st.text("0123456789.,-e\n\"'start ", max_size=80).map(str.encode))
@example(content=b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'}")
@example(content=b"0.5,\x000.5\n")
@pytest.mark.parametrize("suffix", READERS)
def test_any_bytes_give_arms_or_one_sentence(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    message = complaint(path, horizon=1_000)
    assert message is None or (str(path) in message and "\n" not in message)


@PROPERTY
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_damaged_file_gives_arms_or_one_sentence(tmp_path, at, byte, cut, suffix):
    path = write(tmp_path, suffix)
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at] = byte
    path.write_bytes(content[:at] if cut else content)
    message = complaint(path)
    assert message is None or str(path) in message
