"""Scoring of untrusted text without ever evaluating it: bounded length, bounded depth, exact rationals.

Published scorers of arithmetic answers run what they are given as Python, directly or through a symbolic parser; some
hang on ``9**9**9**9``. Here an answer is tokens of a four-operator grammar or it is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

MAX_LENGTH = 256
MAX_DEPTH = 16

MAX_NUMBER = 64

_NUMBER = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+|/[0-9]+)?")
_CHOICE = re.compile(r"\(?([A-Za-z])[.)]?")
_ALLOWED = re.compile(r"[0-9+\-*/() ]+")
_TOKEN = re.compile(r"0|[1-9][0-9]*|[+\-*/()]")


def same_letters(answer: str, right: str) -> bool:
    """Whether two texts are equal when their spaces are left out; an answer with more spaces than letters is wrong.

    >>> same_letters("K N K", "KNK"), same_letters("K\\nN K", "KNK")
    (True, False)
    """
    return len(answer) <= 2 * len(right) and answer.replace(" ", "") == right.replace(" ", "")


def number_value(text: str) -> Fraction | None:
    """The exact value of a number written as 12, -3.5, 1,234 or 7/4, in ASCII digits; None for any other text.

    >>> number_value("1,234.50"), number_value("12,34"), number_value("1e9")
    (Fraction(2469, 2), None, None)
    """
    if len(text) > MAX_NUMBER or not _NUMBER.fullmatch(text):
        return None
    over, _, under = text.replace(",", "").partition("/")
    return Fraction(over) / Fraction(under or "1") if under.strip("0") or not under else None


def same_number(answer: str, right: str) -> bool:
    """Whether both are numbers, in the forms of ``number_value``, of exactly the same value.

    >>> same_number("0.50", "1/2"), same_number("9**9**9", "1")
    (True, False)
    """
    value = number_value(answer)
    return value is not None and value == number_value(right)


def same_choice(answer: str, right: str) -> bool:
    """Whether the answer names the right one of lettered choices: B, b, (B), B. and B) are the same.

    >>> same_choice("(b)", "B"), same_choice("B or C", "B")
    (True, False)
    """
    found, wanted = (_CHOICE.fullmatch(one) for one in (answer[:9], right))
    return found is not None and wanted is not None and found[1].upper() == wanted[1].upper() and len(answer) < 9


def reaches_target(answer: str, number: Sequence[int], target: int) -> bool:
    """Whether ``answer`` is arithmetic that uses each given number exactly once and equals the target.

    answer  any text; right answers have at most 256 characters and parentheses at most 16 deep. Grammar:
            expression = ["-"] term {("+" | "-") term}; term = factor {("*" | "/") factor};
            factor = number | "(" expression ")"; digits are ASCII, without leading zeros
    number  positive integers; a number given twice must be used twice

    The numbers are compared before anything is computed, so no intermediate value can exceed the product of the
    given numbers. A wrong, malicious or endless answer costs microseconds.

    >>> reaches_target("(12 - 3) * 2", [2, 3, 12], 18), reaches_target("9**9**9**9", [9, 9, 9, 9], 9)
    (True, False)
    """
    if len(answer) > MAX_LENGTH or not _ALLOWED.fullmatch(answer):
        return False
    token = _TOKEN.findall(answer)
    if sorted(int(t) for t in token if t.isdigit()) != sorted(number):
        return False
    try:
        return evaluate(token) == target
    except (SyntaxError, ZeroDivisionError):
        return False


def evaluate(token: Sequence[str]) -> Fraction:
    """The exact value of a tokenized expression; the grammar is that of ``reaches_target``.

    Raises SyntaxError if the tokens are not one expression or nest deeper than 16, ZeroDivisionError for x / 0.

    >>> evaluate(["7", "/", "(", "1", "+", "3", ")"])
    Fraction(7, 4)
    """
    value, end = _expression(token, 0, 0)
    if end != len(token):
        raise SyntaxError(f"unexpected {token[end]!r}")
    return value


def _expression(token: Sequence[str], at: int, depth: int) -> tuple[Fraction, int]:
    negative = token[at : at + 1] == ["-"]
    value, at = _term(token, at + negative, depth)
    if negative:
        value = -value
    while at < len(token) and token[at] in "+-":
        right, end = _term(token, at + 1, depth)
        value = value + right if token[at] == "+" else value - right
        at = end
    return value, at


def _term(token: Sequence[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _factor(token, at, depth)
    while at < len(token) and token[at] in "*/":
        right, end = _factor(token, at + 1, depth)
        value = value * right if token[at] == "*" else value / right
        at = end
    return value, at


def _factor(token: Sequence[str], at: int, depth: int) -> tuple[Fraction, int]:
    if at >= len(token):
        raise SyntaxError("the expression ends too early")
    if token[at].isdigit():
        return Fraction(int(token[at])), at + 1
    if token[at] != "(" or depth == MAX_DEPTH:
        raise SyntaxError(f"unexpected {token[at]!r}")
    value, at = _expression(token, at + 1, depth + 1)
    if token[at : at + 1] != [")"]:
        raise SyntaxError("a parenthesis is not closed")
    return value, at + 1
