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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curbench.config import validate
from curbench.curators import CURATORS, curator_class, split_admission
from curbench.record import write_atomic
from curbench.sim.axes import label
from curbench.sim.learner_grid import CURVES, RUNS, LearnerGrid, LearnerUnit, expand, read_learner_unit
from curbench.sim.simulate_learner import GREEDY, check
from curbench.stats import Interval, aggregate_iqm, improvement_probability
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

ROLLOUTS, BATCH, GROUP = 51_200, 32, 8
"""Of a run: 200 steps of 32 groups of 8 where every group is kept."""

TEXTS = ("scenario", "curator", "source", "wasted")
POINTS = 41
"""Points of a learning curve that are kept."""


@dataclass(frozen=True)
class Entry:
    """One curator in one scenario: what its unit left, without anything that depends on the clock.

    curator      with the variant, where it is not the default
    source       the paper
    wasted       share of rollouts in degenerate groups
    begin, final, early  f64[S], competence before and at the end, and its mean over the tokens of the run, by seed
    curve        f64[POINTS, 4], tokens and mean competence with its interval (lo, hi) along the run
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
    """All entries by (scenario, curator); every curator took part in every scenario."""

    entry: dict[tuple[str, str], Entry]

    @property
    def scenarios(self) -> list[str]:
        """In the order of ``SCENARIOS``."""
        return [name for name in SCENARIOS if any(name == scenario for scenario, _ in self.entry)]

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
        one, other = self.score(curator), self.score(rival)
        shared = min(task.size for task in one + other)
        return improvement_probability([task[:shared] for task in one], [task[:shared] for task in other])


def league_units(
    curators: Iterable[str] = ENTRANTS, *, seeds: int = 100, neural_seeds: int = 20, rollouts: int = ROLLOUTS
) -> list[LearnerUnit]:
    """The units of a league; the baseline and the oracle take part in any.

    neural_seeds  of curators that train a network, the first of the others' seeds
    Raises        ValueError for an unknown curator, or what a unit refuses.
    """
    found = []
    for curator in dict.fromkeys([GREEDY, BASELINE, *curators]):
        name, _ = split_admission(curator)
        neural = name != GREEDY and curator_class(name).neural
        other = () if name == GREEDY else CURATORS[name].variants[1:]
        question = {
            "learners": list(SCENARIOS.values()),
            "curators": [curator, *([{curator: {"variant": list(other)}}] if other else [])],
            **{"rollouts": rollouts, "batch": BATCH, "group": GROUP, "instance_seed": None},
            "seeds": min(seeds, neural_seeds) if neural else seeds,
        }
        units = expand(validate(LearnerGrid, question))
        check(units[0].learner, curator, **units[0].question)  # what one small bank does not refuse, none does
        found += units
    return found


def gather(units: list[LearnerUnit], out: Path) -> tuple[League, dict[str, Any]]:
    """(league, cost) of units that ``run_sweep`` has finished in ``out``.

    cost  seconds of curation per step by curator, the median over its units, and where the units ran: what differs
          between machines, and is kept apart for that
    """
    scenario = {learner: name for name, learner in SCENARIOS.items()}
    entry: dict[tuple[str, str], Entry] = {}
    second: dict[str, list[float]] = {}
    environment: dict[str, dict[str, Any]] = {}
    for unit in units:
        kept = read_learner_unit(out / unit.path)
        curve = np.array([kept[name] for name in CURVES]).T
        at = np.unique(np.linspace(0, len(curve) - 1, POINTS).astype(int))
        one = Entry(
            scenario=scenario[unit.learner],
            curator=label(unit.curator, unit.hyper),
            source="" if unit.curator == GREEDY else CURATORS[split_admission(unit.curator)[0]].source,
            begin=np.array(kept["begin"]),
            final=np.array(kept["final"]),
            early=np.array(kept["early"]),
            wasted=kept["row"]["wasted"]["mean"],
            curve=curve[at],
        )
        entry[one.scenario, one.curator] = one
        second.setdefault(one.curator, []).append(kept["curation_s"])
        place = {name: value for name, value in kept["environment"].items() if name != "time"}
        environment[json.dumps(place, sort_keys=True)] = place
    cost = {"curation_s": {name: float(np.median(value)) for name, value in second.items()}}
    return League(entry), cost | {"environment": list(environment.values())}


def write_league(path: Path, league: League) -> None:
    """One row per entry; equal leagues give equal bytes."""
    rows = [
        {name: getattr(one, name) for name in TEXTS}
        | {name: getattr(one, name).tolist() for name in RUNS}
        | dict(zip(CURVES, one.curve.T.tolist(), strict=True))
        for one in league.entry.values()
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_league(path: Path) -> League:
    """What ``write_league`` wrote.

    Raises ValueError, with the name of the file, if it is no such file or a curator is missing somewhere.
    """
    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
        entry = {}
        for row in rows:
            run: dict[str, Any] = {name: np.array(row[name], float) for name in RUNS}
            curve = np.array([row[name] for name in CURVES], float).T
            entry[row["scenario"], row["curator"]] = Entry(**{name: row[name] for name in TEXTS}, **run, curve=curve)
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the data of a league ({error}); make it with: curbench league") from None
    league = League(entry)
    complete = len(league.scenarios) * (len(league.curators) + 1)
    if (league.scenarios[:1] and (league.scenarios[0], GREEDY) not in entry) or len(entry) != complete or not entry:
        raise ValueError(f"{path} is not a whole league: {len(entry)} entries; make it with: curbench league")
    return league


def standings(league: League, *, draws: int = 2000) -> list[dict[str, Any]]:
    """One JSON row per curator, best first: interquartile mean of its scores, and probabilities of improvement.

    iqm, early_iqm  of final scores, and of scores over the run, with stratified bootstrap intervals (``draws`` samples)
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
                "improvement": {name: one.row() for name, one in rival.items()},
                "wasted": float(np.mean([league.entry[name, curator].wasted for name in league.scenarios])),
                "score": {name: float(x.mean()) for name, x in zip(league.scenarios, final, strict=True)},
                "competence": {name: float(league.entry[name, curator].final.mean()) for name in league.scenarios},
            }
        )
    return sorted(rows, key=lambda row: (-row["iqm"]["mean"], row["curator"]))


HEAD = ("curator", "seeds", "score", "interval", "P(> uniform)", "beats", "over the run", "wasted", "ms/step")


def cells(row: dict[str, Any], cost: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table under ``HEAD``."""
    iqm, over, second = row["iqm"], row["improvement"].get(BASELINE), cost["curation_s"].get(row["curator"])
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
