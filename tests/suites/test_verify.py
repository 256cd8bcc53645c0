"""The scorer of untrusted arithmetic: exact on every expression of its grammar, and cheap on everything else."""

import re
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbench.suites.verify import MAX_DEPTH, MAX_LENGTH, evaluate, reaches_target


def join(part):
    (left, left_number), operator, (right, right_number) = part
    return f"({left}{operator}{right})", left_number + right_number


leaf = st.integers(1, 99).map(lambda n: (str(n), [n]))
expression = st.recursive(leaf, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(join), max_leaves=6)


def python_value(text):
    """The value by Python's own parser; the test trusts the text because it wrote it."""
    try:
        return eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


@given(expression)
def test_value_equals_that_of_python(one):
    text, number = one
    value = python_value(text)
    if value is None:
        assert not reaches_target(text, number, 1)
    else:
        assert evaluate(re.findall(r"\d+|.", text)) == value
        assert reaches_target(text, number, int(value)) == (value.denominator == 1)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=5), st.data())
def test_precedence_and_left_association_equal_those_of_python(number, data):
    operator = data.draw(st.lists(st.sampled_from("+-*/"), min_size=len(number) - 1, max_size=len(number) - 1))
    text = str(number[0]) + "".join(o + str(n) for o, n in zip(operator, number[1:], strict=True))
    value = python_value(text)
    assert evaluate(re.findall(r"\d+|.", text)) == value


@given(st.text(max_size=40), st.lists(st.integers(1, 20), min_size=2, max_size=5), st.integers(1, 99))
def test_any_text_is_scored_without_an_exception(text, number, target):
    assert reaches_target(text, number, target) in (True, False)


@given(st.text(alphabet="0123456789+-*/() ", max_size=30))
def test_text_in_the_alphabet_is_right_only_if_python_agrees(text):
    number = [int(n) for n in re.findall(r"\d+", text)]
    if reaches_target(text, number, 7):
        assert python_value(text) == 7


@pytest.mark.parametrize("text", ["7*3", " 7 * 3", "(7)*(3)", "3*7"])
def test_spaces_order_and_redundant_parentheses_do_not_matter(text):
    assert reaches_target(text, [3, 7], 21)


@pytest.mark.parametrize("text", ["-3+7", "7-3", "(-3)+7", "-(3-7)"])
def test_a_leading_minus_is_allowed(text):
    assert reaches_target(text, [3, 7], 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "21",
        "7*3=21",
        "7*3*1",
        "7",
        "7*7",
        "7 3",
        "7**3",
        "7//3",
        "7+-3",
        "7*",
        "*7*3",
        "(7*3",
        "7*3)",
        "()7*3",
        "07*3",
        "7.0*3",
        "7*3\n",
        "7×3",
        "７*3",  # full-width seven
        "٧*3",  # Arabic-Indic seven
        "7*3#",
        "1_0",
        "__import__('os').system('true')",
        "9**9**9**9",
    ],
)
def test_anything_else_is_wrong(text):
    assert not reaches_target(text, [3, 7], 21)


def test_each_number_is_used_exactly_as_often_as_it_is_given():
    assert reaches_target("5*5-5", [5, 5, 5], 20)
    assert not reaches_target("5*5-5", [5, 5], 20)
    assert not reaches_target("5*4", [5, 5, 4], 20)


def test_division_is_exact():
    assert reaches_target("7/2*4", [2, 4, 7], 14)
    assert not reaches_target("7/2", [2, 7], 3)
    assert not reaches_target("3/(7-7)", [3, 7, 7], 1)


def test_depth_is_bounded():
    def nested(depth):
        return "(" * depth + "7" + ")" * depth + "*3"

    assert reaches_target(nested(MAX_DEPTH), [3, 7], 21)
    assert not reaches_target(nested(MAX_DEPTH + 1), [3, 7], 21)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "1" * 1_000_000,
        "(" * 1_000_000,
        "(" * (MAX_LENGTH // 2) + ")" * (MAX_LENGTH // 2),
        "-" * MAX_LENGTH,
        "9" * MAX_LENGTH,
        " " * 1_000_000,
        "1+" * 1_000_000,
    ],
)
def test_hostile_text_costs_microseconds(text):
    begin = time.perf_counter()
    for _ in range(20):
        assert not reaches_target(text, [3, 7], 21)
    assert (time.perf_counter() - begin) / 20 < 2e-3  # ~10 us when the machine is idle
