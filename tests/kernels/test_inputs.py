"""Whatever an op is given, it returns what the reference returns or refuses with one sentence, and never crashes.

A table of calls, of ways to spoil an array and of values for options. Every single spoiling is tried on every array of
every call; hypothesis combines several, with other sizes.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curbench import kernels
from curbench.bench.subject import distance
from curbench.kernels import CONVENTIONS, MirrorTree, group_by_id, reference
from curbench.kernels.contract import DESIGNS, ESTIMATORS, RATIOS

REFUSED = (ValueError, TypeError)


def whole(rng, *shape):
    """Small whole numbers: their sums are exact in any type and order, so that draws are the same everywhere."""
    return rng.integers(-2, 3, shape).astype(np.float32)


def rewards(rng, n):
    return {"reward": rng.random(4 * n, dtype=np.float32), "group": np.arange(0, 4 * n + 1, 4)}


def grouped(rng, n):
    extra = {"success": rng.random(4 * n) < 0.5, "std_reward": rng.random(4 * n, dtype=np.float32)}
    return rewards(rng, n) | extra


def padded(rng, n):
    old = -rng.random((2 * n, 5), dtype=np.float32)
    new = old + np.float32(0.01) * rng.standard_normal((2 * n, 5), dtype=np.float32)
    return {"new_logprob": new, "old_logprob": old, "advantage": whole(rng, 2 * n), "group": np.array([0, 2 * n])}


def masked(rng, n):
    return padded(rng, n) | {"mask": rng.random((2 * n, 5)) < 0.7}


def of_length(rng, n):
    return padded(rng, n) | {"length": rng.integers(0, 6, 2 * n)}


def packed(rng, n):
    full = padded(rng, n)
    flat = {name: full[name].ravel() for name in ("new_logprob", "old_logprob")}
    return full | flat | {"cu_seqlens": np.arange(0, 10 * n + 1, 5)}


def linear(rng, n):
    extra = {"prior": whole(rng, 3 * n), "candidate": rng.permutation(3 * n)[: 2 * n]}
    return {"feature": whole(rng, 3 * n, 4), "weight": whole(rng, 4), "count": 2, "seed": 5} | extra


def int8(rng, n):
    scales = {"row_scale": np.full(3 * n, 0.5, np.float32), "feature_scale": np.full(4, 0.25, np.float32)}
    bank = {"feature": rng.integers(-3, 4, (3 * n, 4)).astype(np.int8), "weight": whole(rng, 4)}
    return bank | scales | {"count": 2, "seed": 5}


def mlp(rng, n):
    head = {"layer": whole(rng, 3, 4), "layer_bias": whole(rng, 3), "weight": whole(rng, 3)}
    return {"feature": whole(rng, 3 * n, 4), **head, "count": 1, "design": "systematic", "seed": 5}


def shard_of(make):
    """The same bank as a shard: nothing is drawn from it."""

    def arguments(rng, n):
        return {name: value for name, value in make(rng, n).items() if name not in ("count", "design", "seed")} | {
            "first": 1024
        }

    return arguments


def scores(rng, n):
    return {"score": whole(rng, 3 * n), "candidate": np.arange(3 * n)[::-1].copy(), "count": 2, "seed": 5}


def arms(rng, n):
    step = {"arm": rng.integers(0, 2 * n, n), "loss": whole(rng, n), "eta": 0.5}
    return {"probability": rng.random(2 * n) + 0.1} | step


def tree(module):
    """A tree made, stepped, drawn from and read, as one call."""

    def call(probability, arm, loss, eta, floor=0.0, share=0.0, design="iid", mix=0.1, count=2, seed=5):
        one = module.MirrorTree(probability)
        one.step_(arm, loss=loss, eta=eta, floor=floor, share=share)
        return (*one.draw(count, design=design, mix=mix, seed=seed), one.probability(arm))

    return call


OPS = {
    "group_advantage": (lambda module: module.group_advantage, {"sizes": rewards, "all": grouped}),
    "policy_improvement": (
        lambda module: module.policy_improvement,
        {"mask": masked, "length": of_length, "packed": packed},
    ),
    "score_bank": (lambda module: module.score_bank, {"linear": linear, "int8": int8, "mlp": mlp}),
    "score_shard": (
        lambda _: kernels.score_shard,
        {"linear": shard_of(linear), "int8": shard_of(int8), "mlp": shard_of(mlp)},
    ),
    "draw": (lambda module: module.draw, {"scores": scores}),
    "mirror_step": (lambda module: module.mirror_step, {"arms": arms}),
    "mirror_tree": (tree, {"arms": arms}),
}
CALLS = [(op, kind) for op, (_, kinds) in OPS.items() for kind in kinds]


def spoil_entry(value):
    def change(array):
        out = array.astype(np.float64) if array.dtype.kind == "f" and abs(value) > 1e38 else array.copy()
        if out.size:
            out.flat[out.size // 2] = value
        return out

    return change


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


SPOILT = {
    "empty": lambda a: a[:0],
    "single": lambda a: a[:1],
    "without its last": lambda a: a[:-1],
    "one more": lambda a: np.concatenate([a, a[:1]]),
    "one axis more": lambda a: a[None],
    "no axis": lambda a: a.sum(),
    "backwards": lambda a: a[::-1],
    "strided": strided,
    "in the other order": np.asfortranarray,
    "read only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "a list": lambda a: a.tolist(),
    "a tensor": torch.tensor,
    "on no device": lambda a: torch.tensor(a, device="meta"),
    "bfloat16": lambda a: torch.tensor(a).bfloat16(),
    "sparse": lambda a: torch.tensor(a).to_sparse(),
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "int32": lambda a: a.astype(np.int32),
    "uint64": lambda a: np.abs(a).astype(np.uint64),
    "bool": lambda a: a.astype(bool),
    "complex": lambda a: a.astype(complex),
    "strings": lambda a: a.astype(str),
    "objects": lambda a: a.astype(object),
    "bytes swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "masked": lambda a: np.ma.masked_array(a, a == a),
    "None": lambda a: None,
    "a number": lambda a: 3,
    "a string": lambda a: "abc",
    "a dict": lambda a: {"a": 1},
    "equal entries": lambda a: np.full_like(a, 1),
    "zeros": np.zeros_like,
    "NaN": spoil_entry(math.nan),
    "infinite": spoil_entry(math.inf),
    "minus infinity": spoil_entry(-math.inf),
    "huge": spoil_entry(3e38),
    "huger": spoil_entry(1e300),
    "denormal": spoil_entry(1e-42),
    "far outside": spoil_entry(2**40),
    "negative": spoil_entry(-7),
}

OPTIONS = {
    "group_advantage": {
        "estimator": (*ESTIMATORS, "ppo", 3),
        "convention": (*CONVENTIONS, "mine"),
        "ddof": (0, 1, 2, -1, None),
        "eps": (0.0, 1e-4, -1.0, math.nan, math.inf, "x"),
        "eps_mode": ("add", "floor_variance", "unless_zero", "none"),
        "singleton": ("zero", "raw", "error", "x"),
        "nan": ("error", "skip", "x"),
    },
    "policy_improvement": {
        "ratio": (*RATIOS, "x"),
        "ratio_clip": (1.0, (0.5, 2.0), 0.5, math.nan, (2.0, 0.5), "x", (1.0,)),
        "form": ("gain", "surrogate", "x"),
    },
    "score_bank": {
        "design": (*DESIGNS, "x"),
        "bias": (1.0, math.nan, math.inf, 1e300),
        "temperature": (0.5, 0.0, -1.0, math.nan, math.inf, 1e-300, 1e300),
        "activation": ("gelu", "gelu_tanh", "relu", "none"),
    },
    "mirror_step": {"eta": (0.0, 2.0, -1.0, math.nan, math.inf, 1e300)},
}
OPTIONS["score_bank"] |= {"resident_bytes": (None, 1, 100, 10**9, 0, -1, 1.5, "x")}
OPTIONS["score_shard"] = {"first": (0, 1, 10**9, -1, 1.5, math.nan, None), **OPTIONS["score_bank"]}
del OPTIONS["score_shard"]["design"]
DRAWN = {
    "count": (1, 2, 0, -1, 2000, 1.5, None),
    "seed": (0, 2**64 - 1, 2**64, -1, 1.5, None),
    "floor": (0.0, 0.3, 1.0, 1.1, -0.1, math.nan),
    "nucleus": (1.0, 0.5, 1e-9, 0.0, 1.1, math.nan),
    "step": (0, 2**32 - 1, 2**32, -1),
}
MIRRORED = {"floor": (0.0, 0.5, 1.0, 2.0, math.nan), "share": (0.0, 0.5, 1.0, -1.0, math.nan)}
OPTIONS["score_bank"] |= DRAWN
OPTIONS["draw"] = {"design": (*DESIGNS, "x")} | DRAWN
OPTIONS["mirror_step"] |= MIRRORED
OPTIONS["mirror_tree"] = {"design": (*DESIGNS, "x"), "mix": (0.0, 1.0, 2.0, math.nan), **OPTIONS["mirror_step"]}
OPTIONS["mirror_tree"] |= {name: DRAWN[name] for name in ("count", "seed")}


def outcome(call, arguments, **more):
    """The result, or the sentence with which it was refused."""
    try:
        return call(**arguments, **more)
    except REFUSED as error:
        sentence = str(error)
        assert sentence, "refused without a word"
        assert "\n" not in sentence or "numpy" in sentence or "torch" in sentence, sentence
        assert len(sentence) < 400, sentence
        return sentence


def on_the_way(op, arguments):
    """What ours and the reference make of the same arguments; equal, or refused by both."""
    of_module, _ = OPS[op]
    ours = outcome(of_module(kernels), arguments)
    if op == "mirror_tree":  # which has no back-ends
        return ours, None
    return ours, outcome(of_module(kernels), arguments, backend="reference")


def complain(op, arguments):
    """A sentence about what is wrong with how these arguments are treated, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of casts that the spoiling asks for
        ours, expected = on_the_way(op, arguments)
    if expected is None:
        return None
    if isinstance(ours, str) or isinstance(expected, str):
        both = isinstance(ours, str) and isinstance(expected, str)
        return None if both or beyond_float32(ours, expected) else f"ours {ours!r}, the reference {expected!r}"[:400]
    if op == "score_shard":
        return scores_apart(ours, expected)
    if op == "score_bank":
        return scores_apart(ours, expected) or draws_apart(ours, arguments)
    off = distance(ours, expected, 1e-5, 1e-6)
    return None if off <= 1.0 else f"{off:.3g} tolerances apart"


def beyond_float32(ours, expected):
    """Products are summed in float32 by ours, which may then refuse what float64 can hold."""
    return isinstance(ours, str) and "a score must be finite" in ours and np.abs(expected.score).max() > 1e37


def scores_apart(ours, expected):
    score = np.asarray(expected.score, np.float64)
    near = 1e-6 + 1e-6 * np.abs(score).max(initial=0.0)
    off = distance(np.asarray(ours.score, np.float64), score, 1e-5, near)
    return f"scores are {off:.3g} tolerances apart" if off > 1.0 else None


def draws_apart(ours, arguments):
    """Whatever rounding made of the scores, the draw is the reference's from these."""
    names = ("count", "design", "floor", "nucleus", "seed", "step")
    given_ = {name: arguments[name] for name in names if name in arguments}
    candidate = None if arguments.get("candidate") is None else np.asarray(arguments["candidate"]).astype(np.int64)
    expected = reference.draw(np.asarray(ours.score), **given_, candidate=candidate)
    rounding = 4 * np.spacing(abs(expected.log_normaliser))  # the reference's exponents are score - log_normaliser
    off = distance(ours._replace(score=None), expected._replace(score=None), 1e-9 + rounding, 0.0)
    return f"draws are {off:.3g} tolerances from those of the scores" if off > 1.0 else None


def call_of(kind, op, n=3, seed=0):
    return OPS[op][1][kind](np.random.default_rng(seed), n)


@pytest.mark.parametrize(("op", "kind"), CALLS)
def test_the_calls_below_are_right_as_they_are(op, kind):
    for n in (1, 2, 3, 50, 700):
        assert complain(op, call_of(kind, op, n)) is None
        assert not isinstance(on_the_way(op, call_of(kind, op, n))[0], str)


@pytest.mark.parametrize(("op", "kind"), CALLS)
def test_every_array_may_be_spoilt_in_every_way(op, kind):
    wrong = []
    arguments = call_of(kind, op)
    for name, array in arguments.items():
        if isinstance(array, np.ndarray):
            for how, change in SPOILT.items():
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        spoilt = change(array)
                except (*REFUSED, OverflowError):
                    continue  # an array of this type cannot be spoilt so
                said = complain(op, arguments | {name: spoilt})
                if said:
                    wrong.append(f"{name} {how}: {said}")
    assert wrong == []


@pytest.mark.parametrize(("op", "kind"), CALLS)
def test_all_arrays_may_be_spoilt_in_the_same_way(op, kind):
    wrong = []
    for how in ("a list", "a tensor", "on no device", "strided", "backwards", "empty", "read only", "float64"):
        arguments = call_of(kind, op)
        arguments |= {name: SPOILT[how](a) for name, a in arguments.items() if isinstance(a, np.ndarray)}
        said = complain(op, arguments)
        if said:
            wrong.append(f"{how}: {said}")
    assert wrong == []


@pytest.mark.parametrize(("op", "kind"), CALLS)
def test_every_option_may_have_every_value(op, kind):
    wrong = []
    for name, values in OPTIONS[op].items():
        for value in values:
            said = complain(op, call_of(kind, op) | {name: value})
            if said:
                wrong.append(f"{name}={value!r}: {said}")
    assert wrong == []


@pytest.mark.parametrize(("op", "kind"), [call for call in CALLS if call[0] != "mirror_tree"])
def test_a_place_to_run_is_taken_or_refused(op, kind):
    call = OPS[op][0](kernels)
    for threads in (1, 3, 0, -1):
        outcome(call, call_of(kind, op), threads=threads)
    for backend in ("auto", "cpu", "reference", "tpu"):
        outcome(call, call_of(kind, op), backend=backend)
    with pytest.raises((RuntimeError, ValueError), match="'cuda' (is not available: |does not take )"):
        call(**call_of(kind, op), backend="cuda")


# Every way to draw, for every bank, head and option, against the reference.


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("head", ["linear", "gelu", "gelu_tanh"])
def test_every_bank_head_and_option_of_a_draw_go_together(design, dtype, head):
    rng = np.random.default_rng(3)
    arguments = {"feature": torch.from_numpy(whole(rng, 60, 4)).to(getattr(torch, dtype)), "seed": 3, "step": 2}
    weight = torch.from_numpy(whole(rng, 4) / 2)
    options = {"temperature": 2.0, "prior": torch.from_numpy(whole(rng, 60)), "bias": 0.5}
    if head != "linear":
        arguments |= {"layer": torch.from_numpy(whole(rng, 4, 4)), "activation": head}
    if dtype == "int8":
        options |= {"row_scale": torch.full((60,), 0.5), "feature_scale": torch.full((4,), 2.0)}
    for change in (
        {},
        options,
        {"candidate": torch.from_numpy(rng.permutation(60)[:40])},
        {"nucleus": 0.9},
        {"floor": 0.2},
        {"floor": 0.2, "nucleus": 0.9, "candidate": torch.from_numpy(rng.permutation(60)[:40]), **options},
    ):
        given_ = arguments | {"weight": weight, "count": 3, "design": design} | change
        ours, expected = on_the_way("score_bank", given_)
        assert not isinstance(ours, str), ours
        assert scores_apart(ours, expected) is None
        assert draws_apart(ours, given_) is None


@given(st.data())
def test_anything_is_answered_or_refused(data):
    op, kind = data.draw(st.sampled_from(CALLS))
    arguments = call_of(kind, op, data.draw(st.integers(1, 40)), data.draw(st.integers(0, 2**32 - 1)))
    arrays = [name for name, value in arguments.items() if isinstance(value, np.ndarray)]
    for name in data.draw(st.lists(st.sampled_from(arrays), max_size=3, unique=True)):
        how = data.draw(st.sampled_from(list(SPOILT)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                arguments[name] = SPOILT[how](arguments[name])
        except (*REFUSED, OverflowError):
            pass
    for name in data.draw(st.lists(st.sampled_from(list(OPTIONS[op])), max_size=2, unique=True)):
        arguments[name] = data.draw(st.sampled_from(OPTIONS[op][name]))
    assert complain(op, arguments) is None


IDS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.text(max_size=3)),
    st.lists(st.one_of(st.none(), st.binary(max_size=2), st.integers(), st.text(max_size=2), st.tuples(st.integers()))),
    st.lists(st.lists(st.integers(), max_size=2)),
    st.lists(st.floats()),
)


def slots_by_id(ids):
    """The slots of each id, by a dictionary; TypeError for what has no hash."""
    seen = {}
    for slot, one in enumerate(ids):
        seen.setdefault(one, []).append(slot)
    return list(seen.values())


@given(IDS)
def test_any_ids_are_grouped_as_a_dictionary_would_or_refused(ids):
    array = np.empty(len(ids), object)
    array[:] = ids
    if any(isinstance(one, list) for one in ids):
        with pytest.raises(TypeError):
            group_by_id(array)
        return
    found = group_by_id(array)
    order = np.arange(len(ids)) if found.order is None else found.order
    bounds = zip(found.offset[:-1], found.offset[1:], strict=True)
    assert [order[i:j].tolist() for i, j in bounds] == slots_by_id(ids)


def test_a_tree_refuses_what_a_mirror_step_refuses():
    for bad in ([], [0.0, 0.0], [math.nan], [-1.0, 2.0], [math.inf], [1e308, 1e308]):
        with pytest.raises(ValueError):
            MirrorTree(bad)
        with pytest.raises(ValueError):
            kernels.mirror_step(np.array(bad), [], loss=[], eta=1.0)
