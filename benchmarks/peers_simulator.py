"""The simulator against SMPyBandits, river and MABWiser: microseconds per round, and whether the regrets agree.

The peers need an environment of their own, because SMPyBandits 0.9.7 does not import with SciPy 1.14 or newer:

    python3.11 -m venv peers
    peers/bin/pip install SMPyBandits==0.9.7 "scipy<1.14" "numpy<2" river mabwiser
    python benchmarks/peers_simulator.py --peers peers/bin/python --out benchmarks/results/peers_simulator.json

This script runs under curbench and starts itself once more under ``--peers``. For speed both processes are pinned to
one core and take turns; the best repetition counts. A peer is charged processor time only: its seconds are cut up by
whatever else runs, while ours are the best of five short runs on the wall clock.
A round of a peer is: choose an arm, compare a number drawn before with its mean, update. A round of ours is draw,
reward (random number included) and update, without regret and certificate; compilation is not counted.

The agreement plays the same means with the same algorithm and tuning: SMPyBandits' sampled regret against ours.
SMPyBandits plays every arm once before it listens to EXP3, which costs what uniform draws cost on average; "osmd" is
compared with its Exp3 fed with losses y - 1 and without mixing, which is the same mirror step without a floor. Its
TsallisInf is left out: a general minimiser looks for the normalisation, and its probabilities miss the exact ones by
more than 0.05 in a quarter of the rounds (three arms, 2000 rounds), so that its regret is not that of the algorithm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from math import log, sqrt
from pathlib import Path
from time import process_time

import numpy as np

REPETITIONS = 3
PEER_SEEDS, SEEDS = 100, 1000
PEER_S = 0.5  # a peer's timing is cut after this; it is per round anyway


class Smpy:
    """A policy of SMPyBandits."""

    def __init__(self, policy):
        self.policy = policy
        self.choose, self.learn = policy.choice, policy.getReward
        policy.startGame()


def smpy_exp3(arms, gamma):
    from SMPyBandits.Policies import Exp3

    return Smpy(Exp3(arms, gamma=gamma))


def smpy_exp3_loss(arms, eta):
    from SMPyBandits.Policies import Exp3

    class Exp3Loss(Exp3):
        trusts = property(lambda self: self.weights)

        def getReward(self, arm, reward):
            super().getReward(arm, reward - 1.0)

        def choice(self):
            return np.random.choice(self.nbArms, p=self.trusts)  # noqa: NPY002  # as the package does

    return Smpy(Exp3Loss(arms, gamma=eta * arms))


def smpy_tsallis(arms):
    from SMPyBandits.Policies import TsallisInf

    return Smpy(TsallisInf(arms))


def smpy_ucb(arms):
    from SMPyBandits.Policies import UCB

    return Smpy(UCB(arms))


def smpy_sw_ucb(arms, tau, alpha):
    from SMPyBandits.Policies import SWUCB

    return Smpy(SWUCB(arms, tau=tau, alpha=alpha))


class River:
    """A policy of river."""

    def __init__(self, policy, arms):
        names = list(range(arms))
        self.choose, self.learn = lambda: policy.pull(names), policy.update


def river_exp3(arms, gamma):
    from river import bandit

    return River(bandit.Exp3(gamma=gamma, seed=0), arms)


def river_ucb(arms):
    from river import bandit

    return River(bandit.UCB(delta=1, seed=0), arms)


class MabWiser:
    """UCB1 of MABWiser, one decision at a time; it must be fitted once before it can choose."""

    def __init__(self, arms):
        from mabwiser.mab import MAB, LearningPolicy

        mab = MAB(list(range(arms)), LearningPolicy.UCB1(alpha=1.0), seed=0)
        mab.fit([0], [0])
        self.choose = mab.predict
        self.learn = lambda arm, y: mab.partial_fit([arm], [y])


PEERS = {
    "SMPyBandits Exp3": smpy_exp3,
    "SMPyBandits Exp3 on losses": smpy_exp3_loss,
    "SMPyBandits TsallisInf": smpy_tsallis,
    "SMPyBandits UCB": smpy_ucb,
    "SMPyBandits SWUCB": smpy_sw_ucb,
    "river Exp3": river_exp3,
    "river UCB": river_ucb,
    "MABWiser UCB1": MabWiser,
}


def play(policy, start, mean, horizon, seed, limit_s=np.inf):
    """(sampled regret, rounds, processor seconds) of one run; stops some rounds after ``limit_s``."""
    uniform = np.random.default_rng(seed).random(horizon)
    row = np.searchsorted(start, np.arange(horizon), side="right") - 1
    best = mean.max(axis=1)
    choose, learn = policy.choose, policy.learn
    played = np.empty(horizon, np.int64)
    begin = process_time()
    for t in range(horizon):
        arm = choose()
        learn(arm, 1.0 if uniform[t] < mean[row[t], arm] else 0.0)
        played[t] = arm
        if t % 64 == 63 and process_time() - begin > limit_s:
            horizon = t + 1
            break
    seconds = process_time() - begin
    segment, played = row[:horizon], played[:horizon]
    return float((best[segment] - mean[segment, played]).sum()), horizon, seconds


def answer(ask):
    """What the process under ``--peers`` says to one request."""
    if ask["do"] == "versions":
        from importlib.metadata import version

        names = ("SMPyBandits", "river", "mabwiser", "numpy", "scipy")
        return {"python": sys.version.split()[0], **{name: version(name) for name in names}}
    regret, seconds, rounds = [], 0.0, 0
    for seed in range(ask["seeds"]):
        np.random.seed(seed)  # noqa: NPY002  # SMPyBandits draws from the global generator
        policy = PEERS[ask["peer"]](ask["arms"], **ask["setting"])
        limit = ask["limit_s"] or np.inf
        one, played, took = play(policy, np.array(ask["start"]), np.array(ask["mean"]), ask["horizon"], seed, limit)
        regret.append(one)
        rounds, seconds = rounds + played, seconds + took
    return {"regret": regret, "rounds": rounds, "us": seconds / rounds * 1e6}


def serve():
    """One JSON request per line in, one answer per line out; the packages' own prints go to stderr."""
    out = sys.stdout
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            said = answer(json.loads(line))
        print(json.dumps(said), file=out, flush=True)


class Peers:
    """The process under ``--peers``."""

    def __init__(self, python):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [python, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peers' environment failed at {request.get('peer')}; run it by hand with --serve")
        return json.loads(line)

    def run(self, peer, arms, setting, *, seeds=1, limit_s=None):
        return self.ask(
            do="run",
            peer=peer,
            arms=arms.count,
            horizon=arms.horizon,
            start=arms.start.tolist(),
            mean=arms.mean.tolist(),
            setting=setting,
            seeds=seeds,
            limit_s=limit_s,
        )


def gamma_of(arms, horizon):
    return min(1.0, sqrt(arms * log(arms) / (1.718281828459045 * horizon)))


def pairs(arms, horizon):
    """(peer, its setting, our curator, its setting) that are compared in speed at K arms and T rounds."""
    gamma = gamma_of(arms, horizon)
    return [
        ("SMPyBandits Exp3", {"gamma": gamma}, "exp3", {}),
        ("SMPyBandits Exp3", {"gamma": gamma}, "osmd", {}),
        ("SMPyBandits TsallisInf", {}, "tsallis_inf", {}),
        ("SMPyBandits UCB", {}, "ucb1", {}),
        ("SMPyBandits SWUCB", {"tau": 1000, "alpha": 0.6}, "sw_ucb", {"window": 1000, "xi": 0.6}),
        ("river Exp3", {"gamma": gamma}, "exp3", {}),
        ("river UCB", {}, "ucb1", {}),
        ("MABWiser UCB1", {}, "ucb1", {}),
    ]


def speed_rows(peers):
    from curbench.sim.arms import make_arms
    from curbench.sim.simulate import simulate

    for count in (10, 100, 1000):
        horizon = 100_000  # so many rounds that what a run costs before its first does not show
        arms = make_arms("stationary", horizon=horizon, arms=count)
        for peer, setting, curator, hyper in pairs(count, horizon):
            ours, theirs, rounds = [], [], []
            for _ in range(REPETITIONS):
                ours.append(simulate(arms, curator, seeds=1, hyper=hyper, threads=1).us_per_round)
                said = peers.run(peer, arms, setting, limit_s=PEER_S)
                theirs.append(said["us"])
                rounds.append(said["rounds"])
            yield {
                "peer": peer,
                "curator": curator,
                "arms_count": count,
                "horizon": horizon,
                "peer_rounds": min(rounds),
                "peer_us_per_round": round(min(theirs), 3),
                "us_per_round": round(min(ours), 5),
                "ratio": round(min(theirs) / min(ours), 1),
                "repetitions": {"peer": np.round(theirs, 3).tolist(), "ours": np.round(ours, 5).tolist()},
                "load": round(os.getloadavg()[0], 2),
            }


BEDS = [("stationary", 10, 1_000), ("garivier_moulines", None, 1_000), ("besson_2", None, 1_000)]


def agreement_rows(peers):
    """Mean regret of both over seeds of their own, its standard errors, and their distance in those."""
    from curbench.sim.arms import make_arms
    from curbench.sim.simulate import simulate

    for name, count, horizon in BEDS:
        arms = make_arms(name, horizon=horizon, arms=count)
        gamma, eta = gamma_of(arms.count, horizon), sqrt(2 * log(arms.count) / (arms.count * horizon))
        for peer, setting, curator, hyper in [
            ("SMPyBandits Exp3", {"gamma": gamma}, "exp3", {"form": "gain", "mix": gamma}),
            ("SMPyBandits Exp3 on losses", {"eta": eta}, "osmd", {"eta": eta, "floor": 0.0}),
            ("SMPyBandits UCB", {}, "ucb1", {}),
            ("SMPyBandits SWUCB", {"tau": 200, "alpha": 0.6}, "sw_ucb", {"window": 200, "xi": 0.6}),
        ]:
            regret = np.array(peers.run(peer, arms, setting, seeds=PEER_SEEDS)["regret"])
            ours = simulate(arms, curator, seeds=SEEDS, hyper=hyper, threads=1).sampled
            error, our_error = regret.std(ddof=1) / sqrt(PEER_SEEDS), (ours.hi - ours.lo) / 2 / 1.962  # t, 999 degrees
            yield {
                "arms": name,
                "arms_count": count,
                "horizon": horizon,
                "peer": peer,
                "peer_setting": setting,
                "curator": curator,
                "hyper": hyper,
                "peer_seeds": PEER_SEEDS,
                "peer_mean": round(float(regret.mean()), 3),
                "peer_standard_error": round(float(error), 4),
                "mean": round(ours.mean, 3),
                "standard_error": round(float(our_error), 4),
                "z": round(float((ours.mean - regret.mean()) / np.hypot(error, our_error)), 2),
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", help="Python of the environment with the peers")
    parser.add_argument("--only", choices=("speed", "agreement"), help="one half; --out keeps the other")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        return serve()
    if not asked.peers:
        parser.error("--peers is needed: the Python of the environment described in this file")
    from curbench.provenance import environment

    content = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    for part, rows in (("agreement", agreement_rows), ("speed", speed_rows)):
        if asked.only not in (None, part):
            continue
        if part == "speed" and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # inherited by the peers
        peers = Peers(asked.peers)
        content[part] = {"environment": environment() | {"peers": peers.ask(do="versions")}, "rows": []}
        for row in rows(peers):
            content[part]["rows"].append(row)
            print(json.dumps(row) if asked.json else describe(row), flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(content, indent=1) + "\n")


def describe(row):
    """One line for people."""
    if "ratio" in row:
        return (
            f"K={row['arms_count']:<5} {row['peer']:24} {row['peer_us_per_round']:9.2f} us   "
            f"{row['curator']:12} {row['us_per_round']:8.4f} us   ratio {row['ratio']:.0f}"
        )
    return (
        f"{row['arms']:18} {row['peer']:27} {row['peer_mean']:7.1f} +- {row['peer_standard_error']:.1f}   "
        f"{row['curator']:12} {row['mean']:7.1f} +- {row['standard_error']:.1f}   z {row['z']:+.1f}"
    )


if __name__ == "__main__":
    main()
