"""Pieces of the page as HTML texts; whoever makes a cell of a table escapes it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from math import isfinite

from curbench.stats import Interval


def note(text: str) -> str:
    """A paragraph that explains what follows."""
    return f'<p class="note">{escape(text)}</p>'


def figure(picture: str) -> str:
    """An <svg> on its own."""
    return f"<figure>{picture}</figure>"


def table(head: Iterable[str], rows: list[list[str]], css: str = "") -> str:
    """A table whose cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{css}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def interval(value: Interval) -> str:
    """A signed mean with its interval, where it has one."""
    text = f"{value.mean:+.3f}"
    return f"{text} [{value.lo:+.3f}, {value.hi:+.3f}]" if isfinite(value.lo) else text
