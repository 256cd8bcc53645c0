"""The torch operators: what torch itself checks, one graph under torch.compile, and gradients."""

import numpy as np
import pytest
import torch

from curbench import kernels
from curbench.kernels import operators


def batch(rows=6, tokens=7, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(rows, tokens, generator=generator)
    new = old + 0.1 * torch.randn(rows, tokens, generator=generator)
    return new.requires_grad_(grad), old, torch.randn(rows, generator=generator)


REWARD = torch.tensor([0.0, 1.0, 1.0, 0.5])
OFFSET = torch.tensor([0, 1, 4])
GROUPS = kernels.group_by_id(torch.tensor([7, 3, 7, 3]))
MIXED = kernels.group_by_id(torch.tensor([1, 0, 1, 1, 0, 5]))
LENGTH = torch.tensor([7, 3, 0, 1, 7, 2])
MASK = torch.arange(7) < LENGTH[:, None]
FEATURE = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
PACKED = (torch.zeros(7, requires_grad=True), torch.linspace(0.0, 0.5, 7), torch.ones(3), torch.tensor([0, 1, 3]))
P = torch.tensor([0.2, 0.3, 0.5])

# Arguments of every operator, as its public function takes them.
CALLS = {
    "group_advantage": [
        ((REWARD, 2), {}),
        ((REWARD.double(), OFFSET), {"estimator": "rloo", "success": REWARD > 0.5}),
        ((REWARD, GROUPS), {"convention": "trl", "std_reward": REWARD + 1.0}),
    ],
    "policy_improvement": [
        ((*batch(), 3), {"mask": MASK}),
        ((*batch(), torch.tensor([0, 1, 6])), {"length": LENGTH, "ratio": "token_mean", "ratio_clip": 1.2}),
        ((*batch(grad=True), 2), {"length": LENGTH, "ratio": "sequence"}),
        ((*batch(grad=True), MIXED), {"mask": MASK, "form": "surrogate", "ratio_clip": (0.9, 1.1)}),
        (PACKED, {"cu_seqlens": torch.tensor([0, 2, 2, 7]), "ratio_clip": (0.5, torch.inf)}),
    ],
    "score_bank": [
        (
            (torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.ones(3)),
            {"count": 4, "seed": 2**64 - 1},
        ),
        (
            (torch.arange(27).reshape(9, 3).to(torch.int8), torch.ones(3)),
            {
                "count": 3,
                "seed": 5,
                "design": "race",
                "row_scale": torch.ones(9),
                "candidate": torch.tensor([1, 4, 7, 2]),
            },
        ),
    ],
    "draw": [((torch.tensor([0.0, 1.0, -torch.inf]),), {"count": 2, "seed": 0, "design": "systematic", "floor": 0.1})],
    "mirror_step": [((P, torch.tensor([1, 1])), {"loss": torch.ones(2), "eta": 1.0, "floor": 0.1})],
}
CASES = [(op, *call) for op, calls in CALLS.items() for call in calls]


def same(result, expected):
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(result, expected, rtol=0.0, atol=0.0, equal_nan=True)
    elif isinstance(expected, tuple):
        assert type(result) is type(expected)
        for a, b in zip(result, expected, strict=True):
            same(a, b)
    else:
        assert result is expected or float(result) == expected


def test_every_operator_is_here():
    assert set(CALLS) == set(kernels.OPS)


@pytest.mark.parametrize(("op", "args", "options"), CASES)
def test_operators_return_what_the_ops_return(op, args, options):
    detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in args]
    same(getattr(operators, op)(*args, **options), getattr(kernels, op)(*detached, **options))


@pytest.mark.parametrize(("op", "args", "options"), CASES)
def test_torch_finds_no_fault_in_the_registration(monkeypatch, op, args, options):
    name = f"_{op}"
    registered, seen = getattr(operators, name), []
    monkeypatch.setattr(operators, name, lambda *args: seen.append(args) or registered(*args))
    getattr(operators, op)(*args, **options)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    [arguments] = seen
    result = torch.library.opcheck(registered, arguments, test_utils=tests, raise_exception=False)
    assert set(result.values()) == {"SUCCESS"}, result


@pytest.mark.parametrize(("op", "args", "options"), CASES)
def test_compiled_code_has_no_graph_break(op, args, options):
    def double(*args):
        result = getattr(operators, op)(*args, **options)
        return 2 * (result[0] if isinstance(result, tuple) else result)

    torch.compiler.reset()  # or these cases, all compiled from the same function, would be too many of one
    same(torch.compile(double, fullgraph=True, backend="aot_eager")(*args), double(*args))


def test_compiled_gradients_are_the_eager_ones():
    new, old, advantage = batch(grad=True)

    def loss(new):
        return operators.policy_improvement(new * 1.5, old, advantage, 3, mask=MASK, ratio="token_mean").utility.sum()

    (eager,) = torch.autograd.grad(loss(new), new)
    (compiled,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(new), new)
    torch.testing.assert_close(compiled, eager)


def formula(new, old, advantage, group, counts, ratio, clip, form):
    """The utility and the ratio in float64, for autograd to differentiate."""
    log_rho = torch.where(counts, new.double() - old.double(), 0.0)
    n = counts.sum(1).clamp_min(1)
    if ratio == "token_mean":
        value = torch.where(counts, log_rho.exp(), 0.0).sum(1) / n + (counts.sum(1) == 0)
    else:
        value = (log_rho.sum(1) / (n if ratio == "sequence_mean" else 1)).exp()
    if clip is not None:
        value = value.clamp(*clip) if isinstance(clip, tuple) else value.clamp_max(clip)
    gain = (value - (1.0 if form == "gain" else 0.0)) * advantage.double()
    return torch.stack([part.mean() for part in gain[group.order].tensor_split(group.offset[1:-1])]), value


THINNED = MASK & (torch.arange(42).reshape(6, 7) % 3 > 0)
LAYOUTS = {
    "mask": ({"mask": THINNED}, THINNED),
    "length": ({"length": LENGTH}, MASK),
    "packed": ({"cu_seqlens": torch.cat([torch.zeros(1, dtype=torch.int64), LENGTH.cumsum(0)])}, MASK),
}
LAYOUTS["packed mask"] = (LAYOUTS["packed"][0] | {"mask": THINNED[MASK].long()}, THINNED)


@pytest.mark.parametrize("ratio", ["sequence_mean", "sequence", "token_mean"])
@pytest.mark.parametrize("clip", [None, 1.05, (0.97, 1.05)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("form", "mixed"), [("gain", True), ("gain", False), ("surrogate", True)])
def test_gradients_are_those_of_the_formula(ratio, clip, layout, form, mixed):
    new, old, advantage = (x.requires_grad_() for x in batch())
    group = MIXED if mixed else kernels.Grouping(torch.tensor([0, 2, 5, 6]), torch.arange(6), None)
    weight, other = torch.tensor([0.5, -2.0, 1.0]).double(), torch.linspace(-1.0, 1.0, 6).double()

    def gradients(utility, value):
        return torch.autograd.grad((weight * utility).sum() + (other * value).sum(), (new, old, advantage))

    options, counts = LAYOUTS[layout]
    rows = (new[MASK], old[MASK]) if "packed" in layout else (new, old)
    rule = {"ratio": ratio, "ratio_clip": clip, "form": form}
    ours = operators.policy_improvement(*rows, advantage, group, **rule, **options)
    expected = formula(new, old, advantage, group, counts, ratio, clip, form)
    torch.testing.assert_close(ours.utility, expected[0], rtol=1e-5, atol=1e-7)
    for a, b in zip(gradients(*ours[:2]), gradients(*expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_gradients_of_bfloat16_are_rounded_to_it():
    new, old, advantage = batch()
    new, old = (x.bfloat16().requires_grad_() for x in (new, old))
    utility = operators.policy_improvement(new, old, advantage, 3, mask=MASK, ratio="token_mean").utility
    ours = torch.autograd.grad(utility.sum(), (new, old))
    wide = [x.detach().float().requires_grad_() for x in (new, old)]
    utility = operators.policy_improvement(*wide, advantage, 3, mask=MASK, ratio="token_mean").utility
    for a, b in zip(ours, torch.autograd.grad(utility.sum(), wide), strict=True):
        assert torch.equal(a, b.bfloat16())


def test_padding_may_be_nan_and_has_no_gradient():
    new, old, advantage = batch()
    new = torch.where(MASK, new, torch.nan).requires_grad_()
    for ratio in ("sequence_mean", "token_mean"):
        utility = operators.policy_improvement(new, old, advantage, 3, mask=MASK, ratio=ratio).utility
        (gradient,) = torch.autograd.grad(utility.sum(), new)
        assert torch.isfinite(gradient).all()
        assert not gradient[~MASK].any()


def test_a_gradient_through_an_op_without_one_is_an_error():
    reward = REWARD.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="curbench"):
        operators.group_advantage(reward, 2).advantage.sum().backward()


def test_wrong_arguments_are_the_same_sentences():
    with pytest.raises(ValueError, match="reward must be finite; slot 1 has nan"):
        operators.group_advantage(torch.tensor([0.0, torch.nan]), 2)
    with pytest.raises(ValueError, match="a group size must divide the 4 rollouts; got 3"):
        operators.group_advantage(REWARD, 3)


def test_the_ops_have_the_gradients_of_the_operators():
    new, old, advantage = batch(grad=True)
    options = {"mask": MASK, "form": "surrogate", "ratio_clip": (0.9, 1.1)}
    utility = kernels.policy_improvement(new, old, advantage, 3, **options).utility
    expected = operators.policy_improvement(new, old, advantage, 3, **options).utility
    np.testing.assert_array_equal(
        *(torch.autograd.grad(u.sum(), new)[0].numpy() for u in (utility, expected)),
    )
