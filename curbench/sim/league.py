"""The league: every curator trains the same simulated learners, under the same luck, for the same number of rollouts.

Every seed draws problems and luck of its own, the same for all curators. A score is the share of what the greedy oracle
gains on the same seed, (competence - start) / (oracle's competence - start): 0 is a learner that learnt nothing, 1 one
that learnt as much as under the oracle, which looks one step ahead and can be beaten. Shares make scenarios comparable;
competences are kept beside them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curbench.config import validate
from curbench.curators import CURATORS, curator_class, split_admission
from curbench.record import write_atomic
from curbench.sim.axes import label
from curbench.sim.learner_grid import RUNS, LearnerGrid, LearnerUnit, expand, read_learner_unit
from curbench.sim.simulate_learner import GREEDY, check
from curbench.stats import Interval, aggregate_iqm, improvement_probability, mean_difference
from curbench.types import Array

SCENARIOS: dict[str, str] = {
    "easy-dominated": "easy_dominated",
    "hard-dominated": "hard_dominated",
    "bimodal": "bimodal",
    "drifting": "forgetting",
    "noisy TV": "noisy_tv",
    "unlearnable half": "unlearnable_half",
    "transfer chain": "transfer_positive",
    "huge bank": "huge_bank",
}
"""Scenarios and the learners (``learner.LEARNERS``) they are."""

BASELINE = "uniform"
ENTRANTS = (*CURATORS, f"{BASELINE}+nondegenerate")
"""Who takes part unless told otherwise, all variants of each; the greedy oracle always does, and is not ranked."""

ABLATIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "actor_curator": (
        *({"deviations": one} for one in ("nucleus", "rank", "log_ratio", "advantage", "no_prior")),
        {"variant": "released"},
        *({"signal": f"policy_improvement_{one}"} for one in ("loo", "standardised", "sequence", "token")),
        *({"signal": f"policy_improvement_{one}"} for one in ("cross_fit", "cross_fit_sequence")),
        *({"floor": one} for one in (0.02, 0.5)),
        *({"clip": one} for one in (0.05, 10.0)),
        {"average": 10},
        *({"candidates": one} for one in (64, 256)),
        {"dormant": 0, "warmup": 0},
        {"temperature": 4.0},
        *({"lr": one} for one in (0.001, 0.1)),
        {"epochs": 1},
        {"history": False},
        *({"head": one} for one in ("tabular", "mlp")),
    ),
    "target_aligned": (
        *({"weights": one} for one in ("exact", "none")),
        *({"eta": one} for one in (0.1, 0.3, 3.0, 10.0)),
        *({"memory": one} for one in (0.01, 0.03, 0.3, 1.0)),
        *({"floor": one} for one in (0.02, 0.3, 0.6)),
        *({"held_out": groups, "every": every} for groups, every in ((32, 10), (32, 2), (8, 2))),
        {"scorer": "problem"},
        *({"signal": one} for one in ("policy_improvement", "mean_abs_advantage")),
    ),
}
"""What is set in place of a curator's defaults, the ``signal`` among it, each by itself."""

ABLATED: dict[str, str] = {
    **{name: SCENARIOS[name] for name in ("hard-dominated", "noisy TV", "transfer chain")},
    "long answers": "long_answers",
}
"""Scenarios of ablations."""

ROLLOUTS, BATCH, GROUP = 51_200, 32, 8
"""Of a run: 200 steps of 32 groups of 8 where every group is kept."""

TEXTS = ("scenario", "curator", "source", "wasted")
CURVE = ("tokens", "mean")
POINTS = 41
"""Points of a learning curve that are kept."""

BLOCK = 20
"""Seeds of a unit at most: a league of more seeds is more units, so that it grows without running anything again."""


@dataclass(frozen=True)
class Entry:
    """One curator in one scenario: what its unit left, without anything that depends on the clock.

    curator      with the variant, where it is not the default
    source       the paper
    wasted       share of rollouts in degenerate groups
    begin, final, early  f64[S], competence before and at the end, and its mean over the tokens of the run, by seed
    curve        f64[POINTS, 2], mean tokens and mean competence along the run, as far as the shortest run goes
    """

    scenario: str
    curator: str
    source: str
    wasted: float
    begin: Array
    final: Array
    early: Array
    curve: Array


@dataclass(frozen=True)
class League:
    """All entries by (scenario, curator); every curator took part in every scenario.

    baseline  the curator that all are compared with: uniform, or what an ablation changes
    """

    entry: dict[tuple[str, str], Entry]
    baseline: str = BASELINE

    @property
    def scenarios(self) -> list[str]:
        """In the order of ``SCENARIOS`` and ``ABLATED``."""
        return [name for name in SCENARIOS | ABLATED if any(name == scenario for scenario, _ in self.entry)]

    @property
    def curators(self) -> list[str]:
        """Those that are ranked, in the order in which they entered."""
        return [name for name in dict.fromkeys(curator for _, curator in self.entry) if name != GREEDY]

    def score(self, curator: str, of: str = "final") -> list[Array]:
        """f64[S] per scenario, the share of the oracle's gain. of: "final" or "early"."""
        share = []
        for scenario in self.scenarios:
            one, oracle = self.entry[scenario, curator], self.entry[scenario, GREEDY]
            gain = getattr(oracle, of) - oracle.begin
            share.append((getattr(one, of) - one.begin) / gain[: one.begin.size])
        return share

    def improvement(self, curator: str, rival: str) -> Interval:
        """P(curator > rival) over the seeds that both ran, see ``stats.improvement_probability``."""
        return improvement_probability(*self._shared(curator, rival))

    def gain(self, curator: str) -> Interval:
        """By how much it scores above the baseline on the same seeds, see ``stats.mean_difference``."""
        return mean_difference(*self._shared(curator, self.baseline))

    def _shared(self, curator: str, rival: str) -> tuple[list[Array], list[Array]]:
        """Scores of both over the seeds that both ran."""
        one, other = self.score(curator), self.score(rival)
        seeds = min(task.size for task in one + other)
        return [task[:seeds] for task in one], [task[:seeds] for task in other]


def league_units(
    curators: Iterable[str] = ENTRANTS, *, seeds: int = 100, neural_seeds: int = 20, rollouts: int = ROLLOUTS
) -> list[LearnerUnit]:
    """The units of a league: all variants of the curators, the baseline and the oracle; first the first seeds of all.

    neural_seeds  of curators that train a network, the first of the others' seeds
    Raises        ValueError for an unknown curator, or what a unit refuses.
    """
    found = []
    for curator in dict.fromkeys([GREEDY, BASELINE, *curators]):
        name, _ = split_admission(curator)
        neural = name != GREEDY and curator_class(name).neural
        other = () if name == GREEDY else CURATORS[name].variants[1:]
        setting = [{}, *({"variant": one} for one in other)]
        found += _units(curator, setting, SCENARIOS, min(seeds, neural_seeds) if neural else seeds, rollouts)
    return sorted(found, key=lambda unit: unit.first_seed)


def ablation_units(curator: str, *, seeds: int = 20, rollouts: int = ROLLOUTS) -> list[LearnerUnit]:
    """The units of an ablation: the curator, and again with each of ``ABLATIONS``; uniform sampling and the oracle.

    Raises ValueError if there is none of that curator.
    """
    if curator not in ABLATIONS:
        raise ValueError(f"there is no ablation of {curator!r}; choose from {', '.join(ABLATIONS)}")
    found = []
    for name, setting in ((GREEDY, [{}]), (BASELINE, [{}]), (curator, [{}, *ABLATIONS[curator]])):
        found += _units(name, setting, ABLATED, seeds, rollouts)
    return sorted(found, key=lambda unit: unit.first_seed)


def _units(
    curator: str, settings: Iterable[dict[str, Any]], scenarios: dict[str, str], seeds: int, rollouts: int
) -> list[LearnerUnit]:
    found = []
    for setting, first in product(settings, range(0, seeds, BLOCK)):
        hyper = {name: [value] for name, value in setting.items() if name != "signal"}
        question = {
            "learners": list(scenarios.values()),
            "curators": [{curator: hyper} if hyper else curator],
            "signal": setting.get("signal"),
            **{"rollouts": rollouts, "batch": BATCH, "group": GROUP, "instance_seed": None},
            **{"seeds": min(BLOCK, seeds - first), "first_seed": first, "measure_regret": False},
        }
        units = expand(validate(LearnerGrid, question))
        if first == 0:
            check(units[0].learner, curator, **units[0].question)  # what one small bank does not refuse, none does
        found += units
    return found


def gather(units: list[LearnerUnit], out: Path, *, baseline: str = BASELINE) -> tuple[League, dict[str, Any]]:
    """(league, cost) of units that ``run_sweep`` has finished in ``out``.

    cost  seconds of curation per step by curator, the median over its units, and where the units ran: what differs
          between machines, and is kept apart for that
    """
    scenario = {learner: name for name, learner in (SCENARIOS | ABLATED).items()}
    block: dict[tuple[str, str], list[dict[str, Any]]] = {}
    source: dict[str, str] = {}
    environment: dict[str, dict[str, Any]] = {}
    for unit in sorted(units, key=lambda unit: unit.first_seed):
        kept = read_learner_unit(out / unit.path)
        name = label(unit.curator, unit.hyper | ({"signal": unit.signal} if unit.signal else {}))
        source[name] = "" if unit.curator == GREEDY else CURATORS[split_admission(unit.curator)[0]].source
        block.setdefault((scenario[unit.learner], name), []).append(kept)
        place = {name: value for name, value in kept["environment"].items() if name != "time"}
        environment[json.dumps(place, sort_keys=True)] = place
    entry = {where: _entry(*where, source[where[1]], kept) for where, kept in block.items()}
    second = {
        name: [kept["curation_s"] for at, one in block.items() if at[1] == name for kept in one] for name in source
    }
    cost = {"curation_s": {name: float(np.median(value)) for name, value in second.items()}}
    return League(entry, baseline), cost | {"environment": list(environment.values())}


def _entry(scenario: str, curator: str, source: str, block: list[dict[str, Any]]) -> Entry:
    """One entry of its blocks of seeds."""
    size = [len(one["final"]) for one in block]
    length = min(len(one["mean"]) for one in block)
    curve = [np.array([one["tokens"][:length], one["mean"][:length]]).T for one in block]
    at = np.unique(np.linspace(0, length - 1, POINTS).astype(int))
    return Entry(
        scenario=scenario,
        curator=curator,
        source=source,
        wasted=float(np.average([one["row"]["wasted"]["mean"] for one in block], weights=size)),
        curve=np.average(curve, axis=0, weights=size)[at],
        **{name: np.concatenate([one[name] for one in block]) for name in RUNS},
    )


def write_league(path: Path, league: League) -> None:
    """One row per entry; equal leagues give equal bytes."""
    rows = [
        {name: getattr(one, name) for name in TEXTS}
        | {name: getattr(one, name).tolist() for name in RUNS}
        | dict(zip(CURVE, one.curve.T.tolist(), strict=True))
        for one in league.entry.values()
    ]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"baseline": league.baseline})
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_league(path: Path) -> League:
    """What ``write_league`` wrote.

    Raises ValueError, with the name of the file, if it is no such file or a curator is missing somewhere.
    """
    try:
        table = pq.read_table(path, partitioning=None)
        baseline = table.schema.metadata[b"baseline"].decode()
        entry = {}
        for row in table.to_pylist():
            run: dict[str, Any] = {name: np.array(row[name], float) for name in RUNS}
            curve = np.array([row[name] for name in CURVE], float).T
            entry[row["scenario"], row["curator"]] = Entry(**{name: row[name] for name in TEXTS}, **run, curve=curve)
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the data of a league ({error}); make it with: curbench league") from None
    league = League(entry, baseline)
    complete = len(league.scenarios) * (len(league.curators) + 1)
    if (league.scenarios[:1] and (league.scenarios[0], GREEDY) not in entry) or len(entry) != complete or not entry:
        raise ValueError(f"{path} is not a whole league: {len(entry)} entries; make it with: curbench league")
    return league


def standings(league: League, *, draws: int = 2000) -> list[dict[str, Any]]:
    """One JSON row per curator, best first: interquartile mean of its scores, and probabilities of improvement.

    iqm, early_iqm  of final scores, and of scores over the run, with stratified bootstrap intervals (``draws`` samples)
    gain            score above the baseline's on the same seeds, see ``League.gain``
    improvement     by rival: P(this > rival) with an interval, see ``League.improvement``
    beats           rivals, the baseline included, whose interval lies above one half: not corrected for their number
    score           mean score by scenario; competence: mean competence by scenario
    """
    rows = []
    for curator in league.curators:
        generator = np.random.Generator(np.random.Philox(key=zlib.crc32(curator.encode())))
        rival = {name: league.improvement(curator, name) for name in league.curators if name != curator}
        final = league.score(curator)
        rows.append(
            {
                "curator": curator,
                "source": league.entry[league.scenarios[0], curator].source,
                "seeds": final[0].size,
                "iqm": aggregate_iqm(final, generator=generator, draws=draws).row(),
                "early_iqm": aggregate_iqm(league.score(curator, "early"), generator=generator, draws=draws).row(),
                "beats": sum(one.lo > 0.5 for one in rival.values()),
                "gain": league.gain(curator).row(),
                "improvement": {name: one.row() for name, one in rival.items()},
                "wasted": float(np.mean([league.entry[name, curator].wasted for name in league.scenarios])),
                "score": {name: float(x.mean()) for name, x in zip(league.scenarios, final, strict=True)},
                "competence": {name: float(league.entry[name, curator].final.mean()) for name in league.scenarios},
            }
        )
    return sorted(rows, key=lambda row: (-row["iqm"]["mean"], row["curator"]))


def head(league: League) -> tuple[str, ...]:
    """Of the table that ``cells`` are the lines of."""
    over = f"P(> {league.baseline})"
    return ("curator", "seeds", "score", "interval", over, "beats", "over the run", "wasted", "ms/step")


def cells(row: dict[str, Any], league: League, cost: dict[str, Any]) -> tuple[str, ...]:
    """One line of a table, a row of ``standings``."""
    iqm, over, second = row["iqm"], row["improvement"].get(league.baseline), cost["curation_s"].get(row["curator"])
    return (
        row["curator"],
        str(row["seeds"]),
        f"{iqm['mean']:.3f}",
        "" if iqm["lo"] is None else f"[{iqm['lo']:.3f}, {iqm['hi']:.3f}]",
        "" if over is None else f"{over['mean']:.2f}",
        str(row["beats"]),
        f"{row['early_iqm']['mean']:.3f}",
        f"{row['wasted']:.2f}",
        "" if second is None else f"{1e3 * second:.2f}",
    )
