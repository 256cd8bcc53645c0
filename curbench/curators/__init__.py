"""Curators by name. The dict maps to import paths, so that a tabular run never imports torch."""

from __future__ import annotations

import importlib

from curbench.curators.base import ADMISSIONS, Curator

CURATORS: dict[str, str] = {
    "uniform": "curbench.curators.uniform:Uniform",
    "osmd": "curbench.curators.osmd:Osmd",
    "osmd_candidates": "curbench.curators.osmd_candidates:OsmdCandidates",
    "sec": "curbench.curators.sec:Sec",
    "actor_curator": "curbench.curators.actor_curator:ActorCurator",
}


def curator_class(name: str) -> type[Curator]:
    """The class of a curator.

    Raises ValueError for an unknown name, listing the known ones.

    >>> curator_class("osmd").__name__
    'Osmd'
    """
    if name not in CURATORS:
        raise ValueError(f"unknown curator {name!r}; choose from {', '.join(CURATORS)}")
    module, _, attribute = CURATORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def split_admission(label: str) -> tuple[str, str]:
    """(curator name, admission rule) of a label ``NAME`` or ``NAME+RULE``.

    Raises ValueError for an unknown rule.

    >>> split_admission("uniform+nondegenerate"), split_admission("sec")
    (('uniform', 'nondegenerate'), ('sec', 'all'))
    """
    name, plus, rule = label.partition("+")
    if plus and rule not in ADMISSIONS:
        raise ValueError(f"unknown admission rule {rule!r} in {label!r}; choose from {', '.join(ADMISSIONS)}")
    return name, rule if plus else "all"
