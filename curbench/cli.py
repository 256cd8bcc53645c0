"""The command line: verbs only. Heavy imports live inside the verbs, so that --help answers at once."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from curbench.sim.axes import Unit

app = typer.Typer(
    help="Compare curriculum-selection methods for RL post-training: simulate, bench, train.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

EXTRA_OF = {
    "transformers": "train",
    "tensorboard": "train",
    "reasoning_gym": "tasks",
    "peft": "lora",
    "wandb": "wandb",
    "vllm": "vllm",
    "ray": "ray",
    "msgspec": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
}
"""Optional modules, and the extra that brings each."""

SET_ELSEWHERE = {
    "suite": "SUITE/CURATOR",
    "suite_set": "suite.NAME=VALUE",
    "curator": "SUITE/CURATOR",
    "seed": "--seeds",
    "curator_set": "CURATOR.NAME=VALUE",
}
"""Parts of a training spec that --set does not take, and where they are given."""

GO_ON = "the others are kept as far as they came: --resume goes on, and curbench report shows what is comparable"

LOCAL = "127.0.0.1"

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout, for machines.")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="A setting; CURATOR.NAME=VALUE for one curator only.")
]
Features = Annotated[
    str | None,
    typer.Option(metavar="SOURCE[+SOURCE...]", help="What neural curators see: bank, strata, ngram[:N], hidden[:N]."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Where to keep the results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what --out already holds.")]


def main() -> None:
    """Entry point: what went wrong is one sentence on stderr (CURBENCH_DEBUG=1 shows the traceback).

    Exit code 2 is bad input, 1 a run that the machine or its numbers stopped.
    """
    sys.path.append(os.getcwd())  # where ``module:name`` of the user is looked for last
    try:
        app()
    except (FloatingPointError, MemoryError) as error:
        if os.environ.get("CURBENCH_DEBUG"):
            raise
        print(f"{_who()}: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sentence = str(error)
        if isinstance(error, ModuleNotFoundError):
            extra = EXTRA_OF.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            sentence = f'{error.name} is not installed; run: pip install -e ".[{extra}]"'
        if os.environ.get("CURBENCH_DEBUG"):
            raise
        print(f"{_who()}: {sentence}", file=sys.stderr)
        sys.exit(2)


def _who() -> str:
    """Who speaks: of several processes, which."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return f"curbench process {os.environ['RANK']}" if several else "curbench"


def emit(row: dict[str, Any]) -> None:
    """One JSON object on one line; NaN is not JSON and would be a bug."""
    print(json.dumps(row, allow_nan=False), flush=True)


def prepare_suite(name: str, setting: dict[str, Any], bar: Any) -> Any:
    """The training problems of a suite; a bar shows it when they have to be made first."""
    from curbench import suites

    shown: list[Any] = []

    def progress(share: float) -> None:
        if not shown:
            shown.append(bar(f"problems of {name}", 1.0))
        shown[0].update(share)

    return suites.load(name, "train", setting, progress)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Test-beds, curators, suites, kernel ops and bounds, by name."""
    from curbench.console import table
    from curbench.curators import CURATORS
    from curbench.kernels import OPS
    from curbench.regret import BOUNDS
    from curbench.sim.arms import ARMS
    from curbench.sim.learner import LEARNERS
    from curbench.suites import SUITES

    names: dict[str, Any] = {
        "arms": list(ARMS),
        "learners": list(LEARNERS),
        "curators": {name: {"source": one.source, "variants": one.variants} for name, one in CURATORS.items()},
        "suites": list(SUITES),
        "ops": list(OPS),
        "bounds": list(BOUNDS),
    }
    if as_json:
        emit(names)
        return
    for kind, name in names.items():
        if kind != "curators":
            print(f"{kind:9}{'  '.join(name)}")
    print(table(("curator", "variants", "source"), [(n, " ".join(c.variants), c.source) for n, c in CURATORS.items()]))


@app.command()
def sim(
    work: Annotated[
        str | None, typer.Argument(metavar="[ARMS/CURATOR[,CURATOR...]]", help="As listed by: curbench list")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Instead: a shipped grid with its page, e.g. certified: all that is proved.")
    ] = None,
    horizon: Annotated[int, typer.Option(help="T, rounds; segments are rescaled to it.")] = 10_000,
    seeds: Annotated[int, typer.Option(help="Independent runs.")] = 100,
    batch: Annotated[int, typer.Option(help="m, draws per round.")] = 1,
    arms: Annotated[int | None, typer.Option(help="K, where the test-bed leaves it open; default 10.")] = None,
    instance_seed: Annotated[int, typer.Option(help="What is random about the test-bed itself.")] = 0,
    delay: Annotated[str, typer.Option(metavar="ROUNDS[:JITTER[:LOSS]]", help="When feedback arrives.")] = "0",
    comparator: Annotated[str | None, typer.Option(help="static, switching, dynamic or top_m.")] = None,
    noise: Annotated[str | None, typer.Option(metavar="KIND[:SCALE[:shared]]", help="Of rewards.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Instead of all arms, this many at random each round: ARMS alone, no curator.")
    ] = None,
    setting: Set = [],  # noqa: B006  # typer copies it
    out: Out = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Simulate curators on synthetic arms; exit 1 when a proved bound or a certificate fails."""
    from curbench.config import parse_hyper, parse_settings, settings_of, split_work
    from curbench.console import bars
    from curbench.curators import curator_class
    from curbench.sim.arms import make_arms, parse_noise
    from curbench.sim.delay import parse_delay
    from curbench.sim.oracle import ORACLES
    from curbench.sim.simulate import describe, failed, keep, kept, make_curator, simulate

    if suite is not None and work is None:
        _suite(suite, out or Path("runs") / suite, as_json)
    if candidates is not None and work is not None and suite is None:
        bed = make_arms(work, horizon=horizon, arms=arms, instance_seed=instance_seed)
        _candidates(bed, candidates, seeds, batch, parse_settings(setting), as_json)
    if suite is not None or work is None:
        raise ValueError("sim takes either ARMS/CURATOR[,CURATOR...] or --suite NAME")
    arms_name, curators = split_work(work, "ARMS", "CURATOR")
    scatter = {} if noise is None else {"noise": parse_noise(noise)}
    bed = make_arms(arms_name, horizon=horizon, arms=arms, instance_seed=instance_seed, **scatter)
    facing: dict[str, Any] = {"delay": parse_delay(delay), "comparator": comparator or bed.comparator}
    given = parse_settings(setting)
    hyper = {
        name: {} if name in ORACLES else parse_hyper(curator_class(name), settings_of(name, given, curators))
        for name in curators
    }
    spec = {"seeds": seeds, "batch": batch, "instance_seed": instance_seed, "noise": bed.noise} | facing
    rows = {name: kept(out, bed, name, hyper[name], spec, resume=resume) if out else None for name in curators}
    for name in curators:  # every refusal comes before the first simulation
        make_curator(bed, bed.bank(), name, seed=0, batch=batch, hyper=hyper[name])
    broken = False
    with bars() as bar:
        for name, row in rows.items():
            if row is None:
                progress = bar(f"{arms_name}/{name}", seeds)
                result = simulate(
                    bed, name, seeds=seeds, batch=batch, hyper=hyper[name], **facing, progress=progress.advance
                )
                row = result.row()
                if out:
                    keep(out, result, spec)
            broken |= failed(row)
            emit(row) if as_json else print(describe(row))
    raise typer.Exit(1 if broken else 0)


@app.command()
def learn(
    work: Annotated[
        str, typer.Argument(metavar="LEARNER/CURATOR[,CURATOR...]", help="A learner of: curbench list; greedy too.")
    ],
    seeds: Annotated[int, typer.Option(help="Independent runs.")] = 20,
    batch: Annotated[int, typer.Option(help="B, problems per step.")] = 32,
    group: Annotated[int, typer.Option(help="G, rollouts per problem.")] = 8,
    steps: Annotated[int | None, typer.Option(help="Stop after this many steps; default 200 without a budget.")] = None,
    budget_rollouts: Annotated[int | None, typer.Option(help="Stop after this many rollouts.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Stop after this many generated tokens.")] = None,
    instance_seed: Annotated[int, typer.Option(help="Which problems are drawn.")] = 0,
    delay: Annotated[str, typer.Option(metavar="STEPS[:JITTER[:LOSS]]", help="When feedback arrives.")] = "0",
    features: Features = None,
    setting: Set = [],  # noqa: B006  # typer copies it
    out: Annotated[Path | None, typer.Option("--out", help="Where results are kept; what is there is kept.")] = None,
    log: Annotated[bool, typer.Option("--log", help="With --out: keep every step too, for curbench replay.")] = False,
    jobs: Annotated[int | None, typer.Option(help="With --out, curators side by side; default one per core.")] = None,
    as_json: Json = False,
) -> None:
    """Train a simulated learner, whose skills really improve, with curators: competence, waste, oracle regret."""
    from curbench.config import parse_settings, settings_of, split_work
    from curbench.console import bars
    from curbench.curators import split_admission
    from curbench.sim.learner_grid import read
    from curbench.sim.simulate_learner import GREEDY, describe

    learner, curators = split_work(work, "LEARNER", "CURATOR")
    given, named = parse_settings(setting), {label: split_admission(label)[0] for label in curators}
    own = {
        label: {} if name == GREEDY else settings_of(name, given, list(named.values())) for label, name in named.items()
    }
    budget = {"steps": steps, "rollouts": budget_rollouts, "tokens": budget_tokens, "features": features}
    if log and out is None:
        raise ValueError("--log keeps steps beside the results: give --out DIR as well")
    asked = {"batch": batch, "group": group, "instance_seed": instance_seed, "delay": delay, "seeds": seeds} | budget
    asked["log"] = log
    units = read({"learners": learner, "curators": own} | asked)
    if out:
        _run_units([*units], out, jobs, "pool", as_json)
        return
    with bars() as bar:
        for unit in units:
            row = unit.row(unit.simulate(bar(f"{learner}/{unit.curator}", seeds).advance))
            emit(row) if as_json else print(describe(row))


@app.command()
def sweep(
    grid: Annotated[
        Path, typer.Argument(metavar="GRID.yaml", help="A file, or a shipped grid: small, standard, large, certified.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where results are kept; what is there is not run again.")],
    jobs: Annotated[int | None, typer.Option(help="Units side by side; default one per core.")] = None,
    engine: Annotated[str, typer.Option(help="pool or ray.")] = "pool",
    as_json: Json = False,
) -> None:
    """Simulate a grid of test-beds or learners, curators and settings; exit 1 when something proved is violated."""
    from curbench.sim.grid import read_grid

    result = _run_units(read_grid(grid), out, jobs, engine, as_json)
    raise typer.Exit(1 if any(unit.failed(row) for unit, row in result) else 0)


def _suite(name: str, out: Path, as_json: bool) -> NoReturn:
    """Sweeps a shipped grid and shows it on a page."""
    from curbench.report import write_report
    from curbench.sim.grid import read_grid

    result = _run_units(read_grid(Path(name)), out, None, "pool", as_json)
    summary = write_report([out], out / "report.html")
    broken = sum(unit.failed(row) for unit, row in result)
    if not as_json:
        proved = sum(row.get("bound", {}).get("status") == "proved" for _, row in result)
        print(f"{proved} proved pairs, {broken} violated  report: {summary['report']}")
    raise typer.Exit(1 if broken else 0)


def _candidates(bed: Any, candidates: int, seeds: int, batch: int, setting: dict[str, Any], as_json: bool) -> NoReturn:
    """Sleeping regret of mirror descent on candidate sets, against its bound."""
    from curbench.config import parse_hyper
    from curbench.console import bars
    from curbench.curators import curator_class
    from curbench.sim.candidates import describe, simulate_candidates

    hyper = parse_hyper(curator_class("osmd_candidates"), setting)
    with bars() as bar:
        progress = bar(f"{bed.name}, {candidates} candidates", seeds).advance
        result = simulate_candidates(
            bed, candidates=candidates, seeds=seeds, batch=batch, hyper=hyper, progress=progress
        )
    emit(result.row()) if as_json else print(describe(result.row()))
    raise typer.Exit(1 if result.failed else 0)


def _run_units(
    units: list[Unit], out: Path, jobs: int | None, engine: str, as_json: bool
) -> list[tuple[Unit, dict[str, Any]]]:
    """Runs those that ``out`` lacks, prints a table of each kind and returns every unit with its row."""
    from curbench.console import table

    result = list(zip(units, _finish(units, out, jobs, engine), strict=True))
    if as_json:
        for _, row in result:
            emit(row)
    else:
        for kind, one in {type(unit): unit for unit in units}.items():
            print(table(one.HEAD, [unit.cells(row) for unit, row in result if type(unit) is kind]))
    return result


def _finish(units: list[Unit], out: Path, jobs: int | None, engine: str) -> list[dict[str, Any]]:
    """Runs those that ``out`` lacks and returns the row of every unit; Ctrl-C loses what is being run, and no more."""
    from curbench.console import bars
    from curbench.sweep import run_sweep

    try:
        with bars() as bar:
            progress = bar(f"{len(units)} units", len(units))
            return run_sweep(units, out, jobs=jobs or os.cpu_count() or 1, engine=engine, progress=progress.advance)
    except KeyboardInterrupt:
        done = sum((out / unit.path).exists() for unit in units)
        print(f"curbench: interrupted; {done} of {len(units)} units are kept, run it again to go on", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def league(
    curators: Annotated[
        str | None, typer.Argument(metavar="[CURATOR[,CURATOR...]]", help="Who takes part; default: all.")
    ] = None,
    ablation: Annotated[
        str | None, typer.Option(metavar="CURATOR", help="Instead: one curator, its settings changed one at a time.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where results are kept; default runs/league or runs/ablation-CURATOR.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Paired runs per scenario; default 100, or 20.")] = None,
    neural_seeds: Annotated[int, typer.Option(min=1, help="The same, of curators that train a network.")] = 20,
    rollouts: Annotated[int | None, typer.Option(min=1, help="Of every run; default 51,200: 200 steps.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of running: a league.parquet.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Units side by side; default one per core.")] = None,
    engine: Annotated[str, typer.Option(help="pool or ray.")] = "pool",
    as_json: Json = False,
) -> None:
    """Compare all curators on the same simulated learners, at equal rollouts; writes a table, data and a page."""
    from curbench.console import table
    from curbench.record import read_json, write_atomic
    from curbench.report.league import league_page
    from curbench.sim.league import (
        BASELINE,
        ENTRANTS,
        ROLLOUTS,
        ablation_units,
        cells,
        gather,
        head,
        league_units,
        read_league,
        standings,
        write_league,
    )

    if ablation is not None and curators is not None:
        raise ValueError("an ablation is of one curator; give either CURATOR[,CURATOR...] or --ablation CURATOR")
    out = out or Path("runs") / (f"ablation-{ablation}" if ablation else "league")
    if data is None:
        length = rollouts or ROLLOUTS
        if ablation:
            units = ablation_units(ablation, seeds=seeds or 20, rollouts=length)
        else:
            names = curators.split(",") if curators else ENTRANTS
            units = league_units(names, seeds=seeds or 100, neural_seeds=neural_seeds, rollouts=length)
        _finish([*units], out, jobs, engine)
        found, cost = gather(units, out, baseline=ablation or BASELINE)
    else:
        found, cost = read_league(data), read_json(data.with_name("cost.json"))
    rows = standings(found)
    out.mkdir(parents=True, exist_ok=True)
    if data is None:
        write_league(out / "league.parquet", found)
        write_atomic(out / "cost.json", json.dumps(cost, indent=1).encode())
    write_atomic(out / "league.html", league_page(found, rows, cost).encode())
    if as_json:
        for row in rows:
            emit(row | {"curation_s": cost["curation_s"].get(row["curator"])})
    else:
        print(table(head(found), [cells(row, found, cost) for row in rows]))
        print(f"page: {(out / 'league.html').resolve()}")


@app.command()
def bench(
    op: Annotated[str | None, typer.Argument(help="One op of: curbench list; default all.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Few and small shapes: seconds instead of minutes.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="For bench.json and bench.html.")] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="OLD.json", help="Name what is slower than there; exit 1 if anything is.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of timing: a bench.json.")] = None,
    as_json: Json = False,
) -> None:
    """Time the kernels against what people run today, in the same process, after checking them."""
    from curbench import bench
    from curbench.console import bars
    from curbench.record import write_atomic
    from curbench.report import write_report

    if data and (op or fast):
        raise ValueError("--data is instead of timing: it takes no op and no --fast")
    if out and (out / "bench.json").exists():
        raise ValueError(f"{out / 'bench.json'} exists; results are never overwritten: choose another --out")
    if out and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file and never overwritten; --out takes a folder")
    old = None if compare is None else bench.read_document(compare)
    failed: list[str] = []
    if data:
        new = bench.read_document(data)
    else:
        with bars() as bar:
            progress = bar("bench", 1.0)
            timing = bench.run(None if op is None else [op], fast=fast, progress=progress.update)
        new, failed = bench.document(timing), timing.failed
    for row in new["rows"]:
        emit(row) if as_json else print(bench.describe(row))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "bench.json", json.dumps(new, indent=1).encode())
        if new["rows"]:
            write_report([out / "bench.json"], out / "bench.html")
    for sentence in failed:
        print(f"curbench: {sentence}", file=sys.stderr)
    slower = []
    if compare and old:
        verdict = bench.compare(old, new, part=bool(op or fast))
        slower = verdict.slower
        if as_json:
            emit({"compared_with": compare.name} | verdict._asdict())
        else:
            print(f"compared with {compare}: {len(slower)} slower, {len(verdict.faster)} faster")
            for kind, sentences in verdict._asdict().items():
                for sentence in sentences:
                    print(f"{'note' if kind == 'other' else kind:7}{sentence}")
    raise typer.Exit(1 if failed or slower else 0)


@app.command()
def suite(
    name: Annotated[str, typer.Argument(metavar="SUITE", help="A name, names with commas, rg:DATASET or a file.")],
    setting: Set = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
) -> None:
    """Show a suite's strata and an example of each; make its problems first, where they are not there yet."""
    from curbench import suites
    from curbench.config import parse_settings
    from curbench.console import bars, table

    chosen = parse_settings(setting)
    with bars() as bar:
        train = prepare_suite(name, chosen, bar)
    test = suites.load(name, "test", chosen)
    rows = []
    for stratum, title in enumerate(train.bank.stratum_name):
        inside = (train.bank.stratum == stratum).nonzero()[0].tolist()
        row = {"stratum": title, "train": len(inside), "test": int(test.bank.stratum_size[stratum])}
        shown = {"prompt": train.prompt(inside[0]), "solution": train.solution(inside[0])} if inside else {}
        rows.append(row | {"prompt": "", "solution": ""} | shown)
    if as_json:
        emit({"suite": name, "strata": rows})
        return
    short = [{key: " ".join(str(value).split())[:60] for key, value in row.items()} for row in rows]
    print(table(tuple(short[0]), [tuple(row.values()) for row in short]))


@app.command()
def base(
    out: Annotated[Path, typer.Option("--out", help="Folder of the new model.")],
    suite: Annotated[str, typer.Option(help="Suite, or suites with commas, that it is warmed up on.")] = "countdown",
    size: Annotated[str, typer.Option(help="tiny (0.5 million parameters), small (10) or medium (100).")] = "tiny",
    setting: Set = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
) -> None:
    """Train a small base model from scratch on solved, partly spoilt examples; settings are those of its recipe."""
    from inspect import signature

    from curbench.config import convert, parse_settings
    from curbench.console import bars
    from curbench.train.base import SPREAD, make_base

    given = {"size": size} | parse_settings(setting)
    chosen = convert(make_base, given, reserved=frozenset({"suite_name", "out_dir", "progress"}), owner="base")
    steps = chosen.setdefault("steps", signature(make_base).parameters["steps"].default)
    with bars() as bar:
        for name in suite.split(","):
            prepare_suite(name, {}, bar)
        progress = bar("base", steps)
        recipe = make_base(suite, out, progress=lambda step, loss: progress.update(step), **chosen)
    if as_json:
        emit(recipe)
        return
    for name, one in recipe["pass_rate"].items():
        print(f"{name:24} pass rate {one['rate']:.3f}  n={one['n']}")
    low, high = SPREAD
    reached = "are all" if recipe["spread"] else "are not all"
    made = f"{recipe['parameters']} parameters, {recipe['steps_taken']} steps"
    print(f"{out}: {made}; pass rates {reached} in {low}..{high}")


@app.command()
def train(
    typer_context: typer.Context,
    work: Annotated[
        str, typer.Argument(metavar="SUITE/CURATOR[,CURATOR...]", help="NAME+nondegenerate drops zero-variance groups.")
    ],
    seeds: Annotated[str, typer.Option(help="One seed (7) or a range without its end (0:2).")] = "0",
    budget_rollouts: Annotated[int | None, typer.Option(help="Stop after this many rollouts.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Stop after this many generated tokens.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where runs are kept, as SUITE/CURATOR/SEED.")] = Path("runs"),
    model: Annotated[str | None, typer.Option(help="Local Hugging Face folder; default: a base model of ours.")] = None,
    engine: Annotated[str | None, typer.Option(help="Who samples: builtin or vllm.")] = None,
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Held-out problems, where SUITE is a file.")] = None,
    parallel: Annotated[str | None, typer.Option(help="Of torchrun's processes: ddp or fsdp2.")] = None,
    features: Features = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 1,
    slices: Annotated[
        int, typer.Option(min=1, help="The runs of a seed advance in turns, each by this share of its budget.")
    ] = 4,
    minutes: Annotated[float | None, typer.Option(min=0, help="Put the runs down after this time.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost, from one step.")] = False,
    track: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Where to watch it: tensorboard, wandb (offline), or none.")
    ] = "tensorboard",
    setting: Set = [],  # noqa: B006  # typer copies it
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train with GRPO on problems that curators choose, at equal budgets: a paired comparison, seed by seed."""
    from curbench.config import parse_seeds, parse_settings, split_work, validate
    from curbench.console import bars
    from curbench.curators import split_admission
    from curbench.sweep import run_grid
    from curbench.track import trackers
    from curbench.train.run import TrainSpec, check, describe

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from curbench.train.run import follow
        from curbench.train.world import company

        if jobs > 1:
            raise ValueError("--jobs is for one process, and torchrun started several: give one of them")
        world = typer_context.with_resource(company())
        if world.rank:
            follow(world)
            return
    deadline = None if minutes is None else time() + 60 * minutes
    suite, curators = split_work(work, "SUITE", "CURATOR")
    common = parse_settings(setting)
    suite_set = common.pop("suite", {})
    if not isinstance(suite_set, dict):
        raise ValueError(f"--set suite is not taken; give it in {SET_ELSEWHERE['suite']}")
    if test is not None:
        suite_set["test"] = test
    option = {"budget_rollouts": budget_rollouts, "budget_tokens": budget_tokens, "model": model, "features": features}
    option |= {"engine": engine, "parallel": parallel}
    option = {name: value for name, value in option.items() if value is not None}
    for name in common:
        if name in SET_ELSEWHERE:
            raise ValueError(f"--set {name} is not taken; give it in {SET_ELSEWHERE[name]}")
        if name in option:
            raise ValueError(f"{name} is given twice, as --set {name} and as --{name.replace('_', '-')}")
    common |= option | {"suite": suite, "suite_set": suite_set}
    base_name = {name: split_admission(name)[0].rpartition(":")[2] for name in curators}
    own = {name: common.get(base_name[name], {}) for name in curators}
    common = {name: value for name, value in common.items() if name not in base_name.values()}
    runs = [(name, seed) for name in curators for seed in parse_seeds(seeds)]
    specs = [
        validate(TrainSpec, common | {"curator": name, "curator_set": own[name], "seed": seed}, reserved=SET_ELSEWHERE)
        for name, seed in runs
    ]
    if dry_run:
        from curbench.train.plan import describe_plan, plan

        check(specs, out, resume=True)
        row = plan(specs, out, jobs=jobs)
        emit(row) if as_json else print(describe_plan(row))
        return
    trackers(chosen := () if track == "none" else tuple(track.split(",")))
    turns = slices if len(curators) > 1 else 1
    grid = partial(run_grid, specs, out, jobs=jobs, resume=resume, slices=turns, deadline=deadline, track=chosen)
    with bars() as bar:
        prepare_suite(suite, suite_set, bar)
        shown = {}

        def progress(spec, spent):
            key = (spec.curator, spec.seed)
            if key not in shown:
                shown[key] = bar(f"{spec.curator} seed {spec.seed}", 1.0)
            shown[key].update(spec.budget.fraction(spent))

        def preparing(spec, count, done):
            key = (spec.suite, spec.features)
            if key not in shown:
                shown[key] = bar(f"features {spec.features}", count)
            shown[key].update(done)

        finished = 0
        try:
            for row in grid(progress=progress, preparing=preparing):
                emit(row) if as_json else print(describe(row))
                finished += 1
        except KeyboardInterrupt:
            print(f"curbench: interrupted with {finished} of {len(specs)} runs complete; {GO_ON}", file=sys.stderr)
            raise typer.Exit(130) from None
    if finished < len(specs):
        print(f"curbench: time is up with {finished} of {len(specs)} runs complete; {GO_ON}", file=sys.stderr)


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of one run: of train, or of learn --log.")],
    curator: Annotated[str, typer.Option(metavar="CURATOR[,CURATOR...]", help="Whose selections are to be valued.")],
    signal: Annotated[str | None, typer.Option(help="Utility, if not the logged one.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Simulated selections per step, where needed.")] = 32,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Keep them for curbench report.")
    ] = None,
    setting: Set = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
) -> None:
    """Value other curators' selections, one step at a time, at the actor states that a logged run visited."""
    from curbench.config import parse_settings, settings_of, split_work
    from curbench.console import table
    from curbench.curators import split_admission
    from curbench.provenance import environment
    from curbench.record import write_atomic
    from curbench.replay import read_log, replay_run
    from curbench.replay.replay import HEAD, NOT_A_TRAJECTORY, cells

    _, labels = split_work(f"RUN/{curator}", "RUN", "CURATOR")
    given, named = parse_settings(setting), {label: split_admission(label)[0] for label in labels}
    own = {label: settings_of(name, given, list(named.values())) for label, name in named.items()}
    log = read_log(run, signal=signal)
    if out and out.exists():
        raise ValueError(f"{out} exists; results are never overwritten: choose another --out")
    rows = [replay_run(log, label, hyper=own[label], draws=draws, level=level) for label in labels]
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, json.dumps({"environment": environment(), "replay": rows}, indent=1).encode())
    if as_json:
        for row in rows:
            emit(row)
        return
    print(table(HEAD, [line for row in rows for line in cells(row)]))
    print(f"{rows[0]['signal']}, {level:.0%} intervals over {rows[0]['steps']} steps: {NOT_A_TRAJECTORY}")


@app.command()
def report(
    directory: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders or files that other verbs wrote.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page to write.")] = Path("report.html"),
    pack: Annotated[
        Path | None, typer.Option(metavar="FILE.runs.parquet", help="Also keep the training runs, in one file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make one self-contained HTML page of simulations, kernel timings and training runs."""
    from curbench.report import write_report

    summary = write_report(directory, out, pack=pack)
    emit(summary) if as_json else print(f"report: {out.resolve()}")


@app.command()
def serve(
    work: Annotated[
        str, typer.Argument(metavar="BANK/CURATOR", help="A suite, or a .jsonl or .parquet file of problems.")
    ],
    directory: Annotated[Path, typer.Option("--dir", help="Journal and snapshots; what is there is continued.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
    host: Annotated[str, typer.Option(help="Address to bind; others than loopback need a token of your own.")] = LOCAL,
    token_file: Annotated[
        Path | None, typer.Option(help="Holds the token; default CURBENCH_TOKEN, else one is made and kept in --dir.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="B, planned problems per step, for default step sizes.")] = 32,
    group: Annotated[int, typer.Option(min=1, help="G, rollouts per problem.")] = 8,
    horizon: Annotated[int, typer.Option(min=1, help="T, planned steps, for default step sizes.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    signal: Annotated[str | None, typer.Option(help="Utility of a group; default the curator's own.")] = None,
    estimator: Annotated[str, typer.Option(help="Of the advantages.")] = "grpo",
    max_open: Annotated[int, typer.Option(min=1, help="Tickets that may wait for feedback.")] = 256,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of one request.")] = 16 << 20,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 1024,
    setting: Set = [],  # noqa: B006  # typer copies it
    as_json: Json = False,
) -> None:
    """Serve one curator over HTTP to trainers in other processes or languages; what it acknowledged survives a kill."""
    from curbench.config import parse_settings, split_work
    from curbench.serve.start import Question, make_service, token_of
    from curbench.serve.web import Limits, Server, is_loopback

    source, (curator, *more) = split_work(work, "BANK", "CURATOR")
    if more:
        raise ValueError(f"a server has one curator; got {len(more) + 1}")
    token, made = token_of(token_file, directory, loopback=is_loopback(host))
    question = Question(
        source, curator, batch, group, horizon, seed, signal, estimator, max_open, parse_settings(setting)
    )
    service = make_service(question, directory)

    def ready(address: str) -> None:
        known = {"token": token} if made else {}
        facts = {"address": address, "directory": str(directory), "sequence": service.journal.number, **known}
        if as_json:
            emit(facts)
        else:
            after = f"\ntoken {token}, kept in {directory / 'token'}" if made else ""
            print(f"{curator} for {source} on {address} after {service.journal.number} commands{after}", flush=True)

    limits = Limits(max_body, max_requests)
    failure = Server(service, token, host=host, port=port, limits=limits, ready=ready).serve_until_stopped()
    if failure is not None:
        print(f"curbench: stopped: {failure!r}; start it again, which reads the journal", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, what the kernels were built with, and what is missing."""
    from curbench.doctor import examine

    finding = examine()
    if as_json:
        emit(finding)
        return
    for name, value in finding.items():
        print(f"{name:16}{value if isinstance(value, str) else json.dumps(value)}")


@app.command()
def quickstart(
    fast: Annotated[bool, typer.Option("--fast", help="About two minutes instead of ten.")] = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The tour: simulate, check and time the kernels, compare curators under GRPO, write the report."""
    from curbench.console import bars
    from curbench.quickstart import tour

    out = out or Path("runs/quickstart-fast" if fast else "runs/quickstart")
    with bars() as bar:
        summary = tour(out, fast=fast, bar=bar, say=lambda text: None if as_json else print(text, flush=True))
    for check in summary["failed"]:
        print(f"curbench: {check}", file=sys.stderr)
    emit(summary) if as_json else print(f"report: {summary['report']}")
    raise typer.Exit(1 if summary["failed"] else 0)
