"""Settings given as texts, converted by the annotations of the function that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError


def convert(
    function: Callable[..., Any],
    setting: dict[str, Any],
    *,
    reserved: frozenset[str] = frozenset(),
    owner: str | None = None,
) -> dict[str, Any]:
    """Keyword arguments of a function or class from texts, converted by its own annotations.

    reserved  parameters that are not the user's to set
    owner     who is named in an error; default the function or class
    Raises    ValueError for a name the function does not have or a text that does not fit, naming what would.

    >>> from curbench.suites.arc_1d import Arc1D
    >>> convert(Arc1D, {"max_size": "12"})
    {'max_size': 12}
    """
    parameters = [name for name in inspect.signature(function).parameters if name not in reserved]
    made_by = getattr(function, "__init__") if isinstance(function, type) else function  # noqa: B009  # mypy: unsound
    hints = get_type_hints(made_by)
    owner = owner or function.__qualname__.removesuffix(".__init__")
    value = {}
    for name, text in setting.items():
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"{owner} has no setting {name!r}; its settings: {known}")
        try:
            value[name] = TypeAdapter(hints[name], config=ConfigDict(allow_inf_nan=False)).validate_python(text)
        except ValidationError as error:
            raise ValueError(f"{name}={text}: {error.errors()[0]['msg'].lower()}") from None
    return value
