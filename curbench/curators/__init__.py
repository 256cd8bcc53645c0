"""Curators by name. The dict maps to import paths, so that a tabular run never imports torch."""

from __future__ import annotations

import importlib

from curbench.curators.base import ADMISSIONS, Curator

CURATORS: dict[str, str] = {
    "uniform": "curbench.curators.uniform:Uniform",
    "osmd": "curbench.curators.osmd:Osmd",
    "osmd_mset": "curbench.curators.osmd_mset:OsmdMset",
    "osmd_candidates": "curbench.curators.osmd_candidates:OsmdCandidates",
    "exp3": "curbench.curators.exp3:Exp3",
    "exp3_ix": "curbench.curators.exp3_ix:Exp3Ix",
    "exp3_p": "curbench.curators.exp3_p:Exp3P",
    "exp3_s": "curbench.curators.exp3_s:Exp3S",
    "exp3_m": "curbench.curators.exp3_m:Exp3M",
    "rexp3": "curbench.curators.rexp3:Rexp3",
    "tsallis_inf": "curbench.curators.tsallis_inf:TsallisInf",
    "sec": "curbench.curators.sec:Sec",
    "ucb1": "curbench.curators.ucb1:Ucb1",
    "sw_ucb": "curbench.curators.sw_ucb:SwUcb",
    "d_ucb": "curbench.curators.d_ucb:DUcb",
    "cusum_ucb": "curbench.curators.cusum_ucb:CusumUcb",
    "m_ucb": "curbench.curators.m_ucb:MUcb",
    "glr_klucb": "curbench.curators.glr_klucb:GlrKlUcb",
    "thompson": "curbench.curators.thompson:Thompson",
    "d_thompson": "curbench.curators.d_thompson:DThompson",
    "sw_thompson": "curbench.curators.sw_thompson:SwThompson",
    "raw_ucb": "curbench.curators.raw_ucb:RawUcb",
    "r_ed_ucb": "curbench.curators.r_ed_ucb:REdUcb",
    "comb_ucb1": "curbench.curators.comb_ucb1:CombUcb1",
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
