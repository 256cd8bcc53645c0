"""Curators by name. They are imported when asked for, so that a tabular run never imports torch."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from curbench.curators.base import ADMISSIONS, Curator


class Listing(NamedTuple):
    """Where a curator lives and what it reproduces.

    path      ``module:class``, imported when it is asked for
    source    the paper, with its arXiv number where it has one
    variants  values of its argument ``variant``, the default first; empty when there is one version only
    """

    path: str
    source: str
    variants: tuple[str, ...] = ()


CURATORS: dict[str, Listing] = {
    "uniform": Listing("curbench.curators.uniform:Uniform", "the baseline"),
    "osmd": Listing("curbench.curators.osmd:Osmd", "Bubeck & Cesa-Bianchi 2012, section 5"),
    "osmd_mset": Listing("curbench.curators.osmd_mset:OsmdMset", "docs/maths.md, theorem 3"),
    "osmd_candidates": Listing("curbench.curators.osmd_candidates:OsmdCandidates", "docs/maths.md, candidate sets"),
    "exp3": Listing("curbench.curators.exp3:Exp3", "Auer et al. 2002; Bubeck & Cesa-Bianchi 2012"),
    "exp3_ix": Listing("curbench.curators.exp3_ix:Exp3Ix", "Neu 2015"),
    "exp3_p": Listing("curbench.curators.exp3_p:Exp3P", "Bubeck & Cesa-Bianchi 2012"),
    "exp3_s": Listing("curbench.curators.exp3_s:Exp3S", "Auer et al. 2002"),
    "exp3_m": Listing("curbench.curators.exp3_m:Exp3M", "Uchiya et al. 2010"),
    "rexp3": Listing("curbench.curators.rexp3:Rexp3", "Besbes et al. 2014"),
    "tsallis_inf": Listing("curbench.curators.tsallis_inf:TsallisInf", "Zimmert & Seldin 2021"),
    "ucb1": Listing("curbench.curators.ucb1:Ucb1", "Auer et al. 2002"),
    "sw_ucb": Listing("curbench.curators.sw_ucb:SwUcb", "Garivier & Moulines 2011"),
    "d_ucb": Listing("curbench.curators.d_ucb:DUcb", "Garivier & Moulines 2011"),
    "cusum_ucb": Listing("curbench.curators.cusum_ucb:CusumUcb", "Liu et al. 2018"),
    "m_ucb": Listing("curbench.curators.m_ucb:MUcb", "Cao et al. 2019"),
    "glr_klucb": Listing("curbench.curators.glr_klucb:GlrKlUcb", "Besson et al. 2022"),
    "thompson": Listing("curbench.curators.thompson:Thompson", "Agrawal & Goyal 2012"),
    "d_thompson": Listing("curbench.curators.d_thompson:DThompson", "Raj & Kalyani 2017"),
    "sw_thompson": Listing("curbench.curators.sw_thompson:SwThompson", "Trovò et al. 2020"),
    "raw_ucb": Listing("curbench.curators.raw_ucb:RawUcb", "Seznec et al. 2020"),
    "r_ed_ucb": Listing("curbench.curators.r_ed_ucb:REdUcb", "Metelli et al. 2022"),
    "comb_ucb1": Listing("curbench.curators.comb_ucb1:CombUcb1", "Kveton et al. 2015"),
    "actor_curator": Listing(
        "curbench.curators.actor_curator:ActorCurator", "Gu et al. 2026, 2602.20532", ("paper", "released")
    ),
    "target_aligned": Listing(
        "curbench.curators.target_aligned:TargetAligned", "our own: docs/methods/target_aligned.md"
    ),
    "pcl": Listing("curbench.curators.pcl:Pcl", "PCL 2025, 2510.01135"),
    "gain_rl": Listing("curbench.curators.gain_rl:GainRl", "GAIN-RL 2025, 2506.02281", ("paper", "released")),
    "d3s": Listing("curbench.curators.d3s:D3s", "D3S 2025, 2509.22115"),
    "dots": Listing("curbench.curators.dots:Dots", "DOTS 2025, 2506.05316"),
    "bmc": Listing("curbench.curators.bmc:Bmc", "BMC 2026, 2606.19750"),
    "sec": Listing("curbench.curators.sec:Sec", "Chen et al. 2025, 2505.14970", ("paper", "released")),
    "dump": Listing("curbench.curators.dump:Dump", "Wang et al. 2025, 2504.09710"),
    "procurl": Listing("curbench.curators.procurl:Procurl", "Tzannetos et al. 2023, 2304.12877"),
    "cures": Listing("curbench.curators.cures:Cures", "CurES 2025, 2510.01037", ("paper", "released")),
    "dapo": Listing("curbench.curators.dapo:Dapo", "Yu et al. 2025, 2503.14476", ("paper", "released")),
    "greso": Listing("curbench.curators.greso:Greso", "Zheng et al. 2025, 2506.02177", ("paper", "released")),
    "vcrl": Listing("curbench.curators.vcrl:Vcrl", "Jiang et al. 2025, 2509.19803"),
    "sfl": Listing("curbench.curators.sfl:Sfl", "Rutherford et al. 2024, 2408.15099", ("paper", "lilo")),
    "mopps": Listing("curbench.curators.mopps:Mopps", "Qu et al. 2025, 2507.04632"),
    "adarft": Listing("curbench.curators.adarft:Adarft", "Shi et al. 2025, 2504.05520"),
    "plr": Listing("curbench.curators.plr:Plr", "Jiang et al. 2021, 2010.03934"),
    "pudf": Listing("curbench.curators.pudf:Pudf", "Meng et al. 2024, 2408.05326"),
    "length_sorted": Listing("curbench.curators.length_sorted:LengthSorted", "a control"),
    "easy_to_hard": Listing("curbench.curators.easy_to_hard:EasyToHard", "Parashar et al. 2025, 2506.06632"),
    "rmt": Listing("curbench.curators.rmt:Rmt", "RMT 2025, 2509.24375"),
    "cyclical": Listing("curbench.curators.cyclical:Cyclical", "Kesgin & Amasyali 2022, 2202.05531"),
}


def curator_class(name: str) -> type[Curator]:
    """The class of a curator: one of ``CURATORS``, or a class of the user's own by ``module:Class``.

    Raises ValueError for an unknown name, listing the known ones, or for what is not a ``Curator``.

    >>> curator_class("osmd").__name__
    'Osmd'
    """
    if name not in CURATORS and ":" not in name:
        raise ValueError(f"unknown curator {name!r}; choose from {', '.join(CURATORS)}, or give module:Class")
    module, _, attribute = (CURATORS[name].path if name in CURATORS else name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        if name in CURATORS:
            raise
        raise ValueError(f"there is no curator {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Curator)):
        raise ValueError(f"{name} is not a class derived from curbench.curators.base.Curator")
    return found


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
