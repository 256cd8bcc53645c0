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
from curbench.record import environment, write_atomic
from curbench.regret import BOUNDS, SLACK_TOLERANCE, Bound, Setting
from curbench.sim.arms import Arms
from curbench.sim.comparator import advantage_over, price
from curbench.sim.delay import NO_DELAY, Delay, parse_delay
from curbench.sim.driver import Trajectory, is_compiled, run_compiled, run_loop, time_compiled
from curbench.sim.oracle import ORACLES, Oracle
from curbench.stats import Interval, mean_interval, upper_limit
from curbench.types import Array, Bank

GRID_POINTS = 64
FEW_SEEDS = 20
"""With fewer, an upper limit above the bound proves nothing and a run is only failed by its mean."""


@dataclass(frozen=True)
class Simulation:
    """Results of one curator on one test-bed.

    regret         over seeds, of ``kind`` "p_form" (the conditional mean; what bounds are tested on) or "sampled"
    bound          the theorem that covers this algorithm here, or None; ``value`` at the parameters that ran
    holds          one-sided 99.9 % upper limit of the mean regret <= value; None when nothing is proved, or when fewer
                   than ``FEW_SEEDS`` seeds leave it open
    min_slack      smallest certificate slack over seeds and rounds, relative to its scale; None without a certificate
    grid, curve    rounds [n] and cumulative regret [n, 3] as (mean, lo, hi); bound_curve [n] or None
    """

    arms: Arms
    comparator: str
    curator: str
    hyper: dict[str, Any]
    resolved: dict[str, Any]
    seeds: int
    batch: int
    regret: Interval
    sampled: Interval
    kind: str
    bound: Bound | None
    value: float | None
    holds: bool | None
    min_slack: float | None
    capped_rounds: int
    us_per_round: float
    us_per_round_full: float
    driver: str
    grid: Array
    curve: Array
    bound_curve: Array | None

    @property
    def certificate_holds(self) -> bool | None:
        """Whether every step of every seed satisfied the inequality, to rounding; None without a certificate."""
        return None if self.min_slack is None else self.min_slack >= -SLACK_TOLERANCE

    @property
    def failed(self) -> bool:
        """True when a proved bound or a certificate is violated."""
        return self.holds is False or self.certificate_holds is False

    def row(self) -> dict[str, Any]:
        """The machine-readable result: JSON scalars only."""
        bound: dict[str, Any] = {"name": "none", "value": None, "status": "none", "source": None, "vacuous": None}
        if self.bound is not None and self.value is not None:
            bound = {
                "name": self.bound.name,
                "value": self.value,
                "status": self.bound.status,
                "source": self.bound.source,
                "vacuous": self.value >= worst_regret(self.arms, self.comparator, self.batch),
            }
        return {
            "arms": self.arms.name,
            "curator": self.curator,
            "arms_count": self.arms.count,
            "horizon": self.arms.horizon,
            "seeds": self.seeds,
            "batch": self.batch,
            "regret": self.regret.row() | {"kind": self.kind, "comparator": self.comparator},
            "sampled_regret": self.sampled.row(),
            "bound": bound,
            "holds": self.holds,
            "certificate": {"min_slack": self.min_slack, "holds": self.certificate_holds},
            "segments": self.arms.segments,
            "variation": self.arms.variation,
            "capped_rounds": self.capped_rounds,
            "hyper": self.hyper,
            "resolved": self.resolved,
            "us_per_round": self.us_per_round,
            "us_per_round_full": self.us_per_round_full,
            "driver": self.driver,
        }


def worst_regret(arms: Arms, comparator: str, batch: int) -> float:
    """Regret of always playing the worst arm; a bound above it says nothing. T for rested arms, whose means move."""
    if arms.rested:
        return float(arms.horizon)
    length = np.diff(np.append(arms.start, arms.horizon))
    worst = length @ (arms.mean.max(axis=1) - arms.mean.min(axis=1))
    return float(worst - advantage_over(arms, comparator, batch, np.array([arms.horizon]))[0])


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

    grid = np.unique(np.geomspace(1, arms.horizon, GRID_POINTS).astype(np.int64))
    example, pair = fresh(first_seed)
    comparator = comparator or arms.comparator
    ahead = advantage_over(arms, comparator, batch, grid)
    covered = None if late != NO_DELAY or arms.rested else _bound(example, arms, comparator)
    compiled = is_compiled(example)
    timing = time_compiled(lambda: fresh(first_seed)[0], arms, pair, grid, late) if compiled else None

    def run(seed: int) -> Trajectory:
        made, pair = fresh(seed)
        result = (run_compiled if compiled else run_loop)(made, arms, pair, grid, late)
        progress()
        return result

    workers = (threads or os.cpu_count() or 1) if compiled else 1
    with ThreadPoolExecutor(workers) as pool:
        trajectory = list(pool.map(run, range(first_seed, first_seed + seeds)))
    us = timing or (np.mean([one.us for one in trajectory]), np.mean([one.us_full for one in trajectory]))
    return _summarise(arms, curator, hyper, example, covered, trajectory, grid, comparator, ahead, us)


def _summarise(
    arms: Arms,
    curator: str,
    hyper: dict[str, Any],
    example: Curator,
    covered: tuple[Bound, Setting] | None,
    trajectory: list[Trajectory],
    grid: Array,
    comparator: str,
    ahead: Array,
    us: Any,
) -> Simulation:
    p_form = np.array([one.p_form for one in trajectory]) - ahead
    sampled = np.array([one.sampled for one in trajectory]) - ahead
    kind = "sampled" if np.isnan(p_form).any() else "p_form"
    curve = sampled if kind == "sampled" else p_form
    slack = np.array([one.min_slack for one in trajectory])
    capped = sum(one.capped for one in trajectory)
    if capped:  # a systematic draw whose cap bound is covered by no theorem
        covered = None
    bound, setting = covered or (None, None)
    value = None if bound is None or setting is None else bound.value(setting)
    if value is not None and not np.isfinite(value):  # a condition of the theorem does not hold
        covered, bound, value = None, None, None
    return Simulation(
        arms=arms,
        comparator=comparator,
        curator=curator,
        hyper=hyper,
        resolved=example.resolved(),
        seeds=len(trajectory),
        batch=example.batch,
        regret=mean_interval(curve[:, -1]),
        sampled=mean_interval(sampled[:, -1]),
        kind=kind,
        bound=bound,
        value=value,
        holds=None if bound is None or value is None or bound.status != "proved" else _holds(curve[:, -1], value),
        min_slack=None if np.isnan(slack).any() else float(slack.min()),
        capped_rounds=capped,
        us_per_round=float(us[0]),
        us_per_round_full=float(us[1]),
        driver="compiled" if is_compiled(example) else "python",
        grid=grid,
        curve=np.array([mean_interval(column)[:3] for column in curve.T]),
        bound_curve=covered and _bound_curve(*covered, arms, comparator, grid),
    )


def _holds(regret: Array, value: float) -> bool | None:
    """Whether the mean regret is below a proved bound; None when too few seeds leave it open."""
    if upper_limit(regret) <= value:
        return True
    return None if regret.size < FEW_SEEDS and regret.mean() <= value else False


def _bound(curator: Curator, arms: Arms, comparator: str) -> tuple[Bound, Setting] | None:
    """The bound that covers this curator on these arms, at the parameters that really run."""
    covered = curator.bound(comparator)
    if covered is None:
        return None
    name, used = covered
    setting = Setting(arms=arms.count, batch=curator.batch, horizon=arms.horizon, **used)
    charged = price(arms, comparator, curator.batch)
    return BOUNDS[name], setting._replace(**{key: value[-1].item() for key, value in charged.items()})


def _bound_curve(bound: Bound, setting: Setting, arms: Arms, comparator: str, grid: Array) -> Array:
    """f64[n], the bound after the first t rounds, with the step size and floor of the whole run."""
    charged = price(arms, comparator, setting.batch)
    segment = np.searchsorted(arms.start, grid, side="left") - 1
    return np.array(
        [
            bound.value(setting._replace(horizon=int(t), **{key: value[s].item() for key, value in charged.items()}))
            for t, s in zip(grid, segment, strict=True)
        ]
    )


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
        parts.append("no theorem covers this")
    else:
        vacuous = ", vacuous" if bound["vacuous"] else ""
        standing = verdict[row["holds"]] if bound["status"] == "proved" else "plotted only"
        parts.append(f"bound {bound['name']} {bound['value']:.1f} {standing}{vacuous}")
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
        return json.loads(path.read_text())["row"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is not a kept simulation; delete it to run it again") from error


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
        "round": result.grid.tolist(),
        "curve": _json(result.curve),
        "bound_curve": None if result.bound_curve is None else _json(result.bound_curve),
        "environment": environment(),
    }
    write_atomic(path, json.dumps(content, allow_nan=False).encode())
    return path
