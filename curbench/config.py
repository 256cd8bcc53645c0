"""Settings from the command line: ``--set a.b=value`` texts, seed lists and work names, with clear refusals."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from curbench.curators.base import Curator
from curbench.settings import convert

Spec = TypeVar("Spec", bound=BaseModel)


HARNESS_SETS = frozenset({"self", "bank", "seed", "batch", "horizon", "group", "admission", "common"})
"""Constructor arguments that the harness fills in; everything else is a hyper-parameter of the method."""


def parse_settings(setting: list[str]) -> dict[str, Any]:
    """Nested dict of ``a.b=value`` texts; values stay texts, to be converted by whoever knows their type.

    Raises ValueError for a text without "=" or a name that is set twice, or both as a value and as a group.

    >>> parse_settings(["batch=8", "grpo.learning_rate=1e-4"])
    {'batch': '8', 'grpo': {'learning_rate': '1e-4'}}
    """
    nested: dict[str, Any] = {}
    for text in setting:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes name=value; got {text!r}")
        *parents, last = name.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"--set {name} would put a setting inside the value of {parent!r}")
        if last in node:
            raise ValueError(f"--set {name} is given twice")
        node[last] = value
    return nested


def settings_of(name: str, setting: dict[str, Any], names: list[str]) -> dict[str, str]:
    """The settings of one of ``names``: those for all, and those under its own name, as in ``osmd.eta=0.1``.

    Raises ValueError for a group that is none of ``names``.

    >>> settings_of("osmd", {"design": "iid", "osmd": {"eta": "0.1"}}, ["osmd", "sec"])
    {'design': 'iid', 'eta': '0.1'}
    """
    own = {}
    for key, value in setting.items():
        if not isinstance(value, dict):
            own[key] = value
        elif key not in names:
            raise ValueError(f"--set {key}.*: {key!r} is not among {', '.join(names)}")
    return own | setting.get(name, {})


def parse_seeds(text: str) -> list[int]:
    """Seeds of a text: ``7`` is that one seed, ``0:2`` is 0 and 1.

    Raises ValueError for anything else, or an empty or negative range.

    >>> parse_seeds("7"), parse_seeds("0:3")
    ([7], [0, 1, 2])
    """
    first, colon, last = text.partition(":")
    if not first.isdecimal() or (colon and not last.isdecimal()):
        raise ValueError(f"seeds are a number like 7 or a range like 0:2; got {text!r}")
    seeds = list(range(int(first), int(last))) if colon else [int(first)]
    if not seeds:
        raise ValueError(f"the range of seeds {text!r} is empty; the end is not included")
    return seeds


def split_work(text: str, left: str, right: str) -> tuple[str, list[str]]:
    """(name, names) of a text ``NAME/NAME[,NAME...]``, split at the last slash.

    Raises ValueError if a part is missing or a name appears twice. ``left`` and ``right`` say what the parts are.

    >>> split_work("countdown/uniform,sec", "SUITE", "CURATOR")
    ('countdown', ['uniform', 'sec'])
    """
    before, slash, after = text.rpartition("/")
    names = after.split(",")
    if not slash or not before or not all(names):
        raise ValueError(f"expected {left}/{right}[,{right}...]; got {text!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"a name appears twice in {after!r}")
    return before, names


def validate(model: type[Spec], value: dict[str, Any], *, reserved: Collection[str] = ()) -> Spec:
    """``model(**value)``, with the first thing that is wrong as one ValueError sentence.

    reserved  fields that are not the user's to set: never offered
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        if first["type"] == "extra_forbidden":
            known = ", ".join(name for name in _fields(model, first["loc"][:-1]) if name not in reserved)
            raise ValueError(f"there is no setting {where!r}; choose from {known}") from None
        given = "" if isinstance(first["input"], dict) else f"; got {first['input']!r}"
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}") from None


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model at ``path`` inside ``model``."""
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        inner = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
        models = [one for one in inner if issubclass(one, BaseModel)]  # also of "Model | None"
        if not models:
            break
        model = models[0]
    return list(model.model_fields)


def parse_hyper(cls: type[Curator], setting: dict[str, str]) -> dict[str, Any]:
    """Hyper-parameters of a curator from ``name=value`` texts, see ``convert``.

    >>> from curbench.curators.osmd import Osmd
    >>> parse_hyper(Osmd, {"eta": "0.1", "segments": "3"})
    {'eta': 0.1, 'segments': 3}
    """
    return convert(cls.__init__, setting, reserved=HARNESS_SETS)
