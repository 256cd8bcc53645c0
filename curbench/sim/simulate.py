"""One simulation: a curator on a test-bed over many seeds, with regret, bound and certificate."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from curbench.curators import curator_class
from curbench.curators.base import Curator
from curbench.philox import spawn_seeds
from curbench.provenance import environment
from curbench.record import read_json, require_keys, write_atomic
from curbench.regret import SLACK_TOLERANCE, Bound
from curbench.sim.arms import Arms, noise_text
from curbench.sim.coverage import Coverage, Spending, Standard
from curbench.sim.delay import NO_DELAY, Delay, parse_delay
from curbench.sim.driver import NO_PATH, Trajectory, is_compiled, run_compiled, run_loop, time_compiled
from curbench.sim.oracle import ORACLES, Oracle
from curbench.stats import Interval, mean_interval
from curbench.types import Array, Bank

GRID_POINTS = 64
BUDGET_SEEDS = 40
"""The budget of a mirror step, which costs a logarithm per arm and round, is kept for at most this many seeds."""


@dataclass(frozen=True)
class Simulation:
    """Results of one curator on one test-bed.

    standard       the test-bed, and what regret on it is held against
    coverage       the theorem that covers this algorithm here at the parameters that ran, or None; uncovered: why not
    regret         over seeds, of ``kind`` "p_form" (the conditional mean; what bounds are tested on) or "sampled"
    holds          see ``Coverage.holds``; None when nothing is proved
    min_slack      smallest certificate slack over seeds and rounds, relative to its scale; None without a certificate
    spending       what the regret consisted of; None unless the bound has parts and the curator steps on p itself
    grid, curve    rounds [n] and cumulative regret [n, 3] as (mean, lo, hi)
    """

    standard: Standard
    coverage: Coverage | None
    uncovered: str
    curator: str
    hyper: dict[str, Any]
    resolved: dict[str, Any]
    seeds: int
    regret: Interval
    sampled: Interval
    kind: str
    holds: bool | None
    min_slack: float | None
    spending: Spending | None
    capped_rounds: int
    us_per_round: float
    us_per_round_full: float
    driver: str
    curve: Array

    @property
    def arms(self) -> Arms:
        """The test-bed."""
        return self.standard.arms

    @property
    def bound(self) -> Bound | None:
        """The bound of ``coverage``."""
        return None if self.coverage is None else self.coverage.bound

    @property
    def value(self) -> float | None:
        """The bound at the end."""
        return None if self.coverage is None else self.coverage.value

    @property
    def certificate_holds(self) -> bool | None:
        """Whether every step of every seed satisfied the inequality, to rounding; None without a certificate."""
        return None if self.min_slack is None else self.min_slack >= -SLACK_TOLERANCE

    @property
    def failed(self) -> bool:
        """True when a proved bound, a certificate or a part of the budget is violated."""
        return failed(self.row())

    def row(self) -> dict[str, Any]:
        """The machine-readable result: JSON scalars only."""
        bound: dict[str, Any] = dict.fromkeys(("value", "vacuous", "informative_from"))
        bound |= {"name": "none", "status": "none", "source": self.uncovered}
        if self.coverage is not None:
            bound = {
                "name": self.coverage.bound.name,
                "value": self.coverage.value,
                "status": self.coverage.bound.status,
                "source": self.coverage.bound.source,
                "vacuous": self.coverage.informative_from is None,
                "informative_from": self.coverage.informative_from,
            }
        return {
            "arms": self.arms.name,
            "curator": self.curator,
            "arms_count": self.arms.count,
            "horizon": self.arms.horizon,
            "seeds": self.seeds,
            "batch": self.standard.batch,
            "noise": noise_text(self.arms.noise),
            "regret": self.regret.row() | {"kind": self.kind, "comparator": self.standard.comparator},
            "sampled_regret": self.sampled.row(),
            "bound": bound,
            "holds": self.holds,
            "certificate": {"min_slack": self.min_slack, "holds": self.certificate_holds},
            "budget": None if self.spending is None else self.spending.row(),
            "segments": self.arms.segments,
            "variation": self.arms.variation,
            "capped_rounds": self.capped_rounds,
            "hyper": self.hyper,
            "resolved": self.resolved,
            "us_per_round": self.us_per_round,
            "us_per_round_full": self.us_per_round_full,
            "driver": self.driver,
        }


def failed(row: dict[str, Any]) -> bool:
    """True when a proved bound, a certificate or a part of the budget is violated, by the row of a simulation."""
    budget = row["budget"]
    return row["holds"] is False or row["certificate"]["holds"] is False or (budget is not None and not budget["holds"])


def make_curator(arms: Arms, bank: Bank, name: str, *, seed: int, batch: int, hyper: dict[str, Any]) -> Curator:
    """The curator of a simulation, or an oracle; the design defaults to iid, which theorems 1 and 2 assume.

    Raises ValueError for a curator that does not exist or hyper-parameters that it, or the simulator, refuses.
    """
    if name in ORACLES:
        return Oracle(bank, arms=arms, fixed=name == "oracle_static", seed=seed, batch=batch, horizon=arms.horizon)
    if hyper.keys() & {"low", "high"}:
        raise ValueError("rewards of the simulator lie in [0, 1]; leave low and high out")
    cls = curator_class(name)
    design = signature(cls).parameters.get("design")
    default = {"design": "iid"} if design is not None and design.default == "auto" else {}
    return cls(bank, seed=seed, batch=batch, horizon=arms.horizon, **(default | hyper))


def simulate(
    arms: Arms,
    curator: str,
    *,
    seeds: int = 100,
    batch: int = 1,
    hyper: dict[str, Any] | None = None,
    delay: Delay | int | str = NO_DELAY,
    comparator: str | None = None,
    first_seed: int = 0,
    threads: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Simulation:
    """Runs ``seeds`` seeds of a curator on a test-bed and checks what is proved about it.

    batch     m, draws per round
    hyper     hyper-parameters of the curator; the design defaults to iid, which theorems 1 and 2 assume
    delay     when feedback arrives: rounds of lateness, or ROUNDS[:JITTER[:LOSS]]; no bound covers late feedback
    comparator  what regret is measured against, see ``comparator.COMPARATORS``; default that of the test-bed
    threads   seeds run side by side; default all cores
    progress  called after every seed
    Raises    ValueError for a curator that does not exist, fewer than one seed, or hyper-parameters it refuses.

    >>> from curbench.sim.arms import make_arms
    >>> round(simulate(make_arms("stationary", horizon=100), "uniform", seeds=2).regret.mean, 9)  # 0.1 (1 - 1/10) T
    9.0
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1; got {seeds}")
    hyper = dict(hyper or {})
    bank, late = arms.bank(), parse_delay(delay)

    def fresh(seed: int) -> tuple[Any, tuple[int, int]]:
        curator_seed, reward_seed = spawn_seeds(seed, 2)
        return make_curator(arms, bank, curator, seed=curator_seed, batch=batch, hyper=hyper), (
            curator_seed,
            reward_seed,
        )

    example, pair = fresh(first_seed)
    grid = np.unique(np.geomspace(1, arms.horizon, GRID_POINTS).astype(np.int64))
    standard = Standard(arms, comparator or arms.comparator, batch, grid)
    ahead = standard.ahead  # refuses a comparator that does not exist here
    covered, why = standard.cover(example, late=late != NO_DELAY)
    compared = None if covered is None else covered.path(example)
    budgeted = range(0) if compared is None else range(first_seed, first_seed + BUDGET_SEEDS)
    compiled = is_compiled(example)
    timing = time_compiled(lambda: fresh(first_seed)[0], arms, pair, grid, late) if compiled else None

    def run(seed: int) -> Trajectory:
        made, pair = fresh(seed)
        path = compared if compared is not None and seed in budgeted else NO_PATH
        result = (run_compiled if compiled else run_loop)(made, arms, pair, grid, late, path)
        progress()
        return result

    workers = (threads or os.cpu_count() or 1) if compiled else 1
    with ThreadPoolExecutor(workers) as pool:
        trajectory = list(pool.map(run, range(first_seed, first_seed + seeds)))
    p_form = np.array([one.p_form for one in trajectory]) - ahead
    sampled = np.array([one.sampled for one in trajectory]) - ahead
    kind = "sampled" if np.isnan(p_form).any() else "p_form"
    curve = sampled if kind == "sampled" else p_form
    slack = np.array([one.min_slack for one in trajectory])
    spent = [one.spent for one in trajectory if one.spent is not None]
    capped = sum(one.capped for one in trajectory)
    if capped:  # a systematic draw whose cap bound is covered by no theorem
        covered, compared, why = None, None, why or "a cap of the systematic draw binds"
    us = timing or (np.mean([one.us for one in trajectory]), np.mean([one.us_full for one in trajectory]))
    return Simulation(
        standard=standard,
        coverage=covered,
        uncovered=why,
        curator=curator,
        hyper=hyper,
        resolved=example.resolved(),
        seeds=seeds,
        regret=mean_interval(curve[:, -1]),
        sampled=mean_interval(sampled[:, -1]),
        kind=kind,
        holds=None if covered is None else covered.holds(curve[:, -1]),
        min_slack=None if np.isnan(slack).any() else float(slack.min()),
        spending=None if covered is None or compared is None else covered.spending(compared, spent),
        capped_rounds=capped,
        us_per_round=float(us[0]),
        us_per_round_full=float(us[1]),
        driver="compiled" if compiled else "python",
        curve=np.array([mean_interval(column)[:3] for column in curve.T]),
    )


def result_curves(result: Simulation) -> dict[str, list[Any] | None]:
    """round [n], curve [n, 3], and bound_curve and lower_curve [n] or None, with None where a number is not finite."""
    bound = None if result.coverage is None else _json(result.coverage.curve)
    lower = None if result.standard.lower is None else _json(result.standard.lower[1])
    curve = _json(result.curve)
    return {"round": result.standard.grid.tolist(), "curve": curve, "bound_curve": bound, "lower_curve": lower}


def describe(row: dict[str, Any]) -> str:
    """One line for people: regret with interval, bound and certificate with their verdicts, cost of a round."""
    regret, bound, slack = row["regret"], row["bound"], row["certificate"]["min_slack"]
    verdict = {True: "holds", False: "VIOLATED", None: "open: too few seeds"}
    parts = [
        f"{row['arms']}/{row['curator']}  K={row['arms_count']} T={row['horizon']} m={row['batch']}",
        f"regret {regret['mean']:.1f}"
        + ("" if regret["lo"] is None else f" [{regret['lo']:.1f}, {regret['hi']:.1f}]")
        + f" ({regret['comparator']}, {regret['kind']}, {row['seeds']} seeds)",
    ]
    if bound["value"] is None:
        parts.append(f"no theorem: {bound['source']}")
    else:
        vacuous = ", vacuous" if bound["vacuous"] else ""
        standing = verdict[row["holds"]] if bound["status"] == "proved" else "plotted only"
        parts.append(f"bound {bound['name']} {bound['value']:.1f} {standing}{vacuous}")
    if row["budget"] is not None and not row["budget"]["holds"]:
        parts.append("budget VIOLATED")
    if slack is not None:
        parts.append(f"certificate {verdict[row['certificate']['holds']]} (min slack {slack:.1e})")
    parts.append(f"{row['us_per_round']:.2f} us/round {row['driver']}")
    return "  ".join(parts)


def result_path(out: Path, arms: Arms, curator: str, hyper: dict[str, Any], spec: dict[str, Any]) -> Path:
    """Where a simulation is kept: OUT/sim/ARMS/CURATOR-hash.json, the hash over everything that was asked for."""
    asked = {"arms": arms.count, "horizon": arms.horizon, "hyper": hyper} | spec
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    return Path(out) / "sim" / arms.name / f"{curator}-{digest}.json"


def kept(
    out: Path, arms: Arms, curator: str, hyper: dict[str, Any], spec: dict[str, Any], *, resume: bool
) -> dict[str, Any] | None:
    """The row of a simulation that ``out`` already holds, or None.

    Raises ValueError if it holds one and ``resume`` is False.
    """
    path = result_path(out, arms, curator, hyper, spec)
    if not path.exists():
        return None
    if not resume:
        raise ValueError(f"{path} exists; pass --resume to keep it, or choose another --out")
    try:
        content = read_json(path)
        require_keys(path, content, "row")
        require_keys(f"{path}: row", content["row"], "regret", "bound", "holds", "certificate", "budget")
    except ValueError as error:
        raise ValueError(f"{error}; delete it to run it again") from None
    return content["row"]


def _json(value: Array) -> list[Any]:
    """Nested lists with None where a number is not finite: JSON has no infinity."""
    out = value.astype(object)
    out[~np.isfinite(value)] = None
    return out.tolist()


def keep(out: Path, result: Simulation, spec: dict[str, Any]) -> Path:
    """Writes a simulation with its curve and provenance, and returns the file."""
    path = result_path(out, result.arms, result.curator, result.hyper, spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "row": result.row(),
        "spec": spec,
        "environment": environment(),
    } | result_curves(result)
    write_atomic(path, json.dumps(content, allow_nan=False).encode())
    return path
