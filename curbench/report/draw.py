"""What all figures share: colours, style, panels, number formats, and figures as SVG texts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from itertools import cycle
from math import floor, log10
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter

COLOUR = (
    *("#3366aa", "#cc5533", "#228855", "#8855aa", "#aa8822", "#dd77aa", "#884455", "#666666"),
    *("#66aadd", "#ee9977", "#77bb66", "#bb99dd"),
)
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.parse_math": False,  # names are the user's: a dollar sign is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def svg(figure: Figure, title: str) -> str:
    """The figure as one <svg> element that says what it shows; identical figures give identical text."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def colours() -> Iterator[str]:
    """The colours of curves, over and over."""
    return cycle(COLOUR)


def wrap(text: str, width: int) -> str:
    """Lines of at most ``width`` characters: a name may be of any length, a figure is not."""
    return "\n".join(fill(line, width) for line in text.split("\n"))


def panels(count: int, width: float, height: float, columns: int = 4, legend_rows: int = 1) -> tuple[Figure, Any]:
    """A figure with ``count`` visible panels in rows of at most ``columns``, and room for a legend below."""
    columns = min(count, columns)
    rows = -(-count // columns)
    size = (width * columns + 0.8, height * rows + 0.4 + 0.2 * legend_rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes


def number(x: float, _: Any = None) -> str:
    """A number as a tick says it.

    >>> number(0.03), number(20000), number(3e8), number(-1e5)
    ('0.03', '20,000', '3·10⁸', '-10⁵')
    """
    if x == 0 or 1e-4 < abs(x) < 1e5:
        return f"{x:,g}"
    power = floor(log10(abs(x)) + 1e-9)
    mantissa = f"{x / 10**power:.3g}·"
    ten = "10" + str(power).translate(SUPERSCRIPT)
    return ten if mantissa == "1·" else f"-{ten}" if mantissa == "-1·" else mantissa + ten


NUMBERS = FuncFormatter(number)


class LogNumbers(LogFormatter):
    """Labels the ticks that matplotlib would on a log axis, with ``number``."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return number(x) if super().__call__(x, pos) else ""
