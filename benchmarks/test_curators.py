"""Selection and update of every curator, beside the dictionaries that trainers keep for the same job.

pytest benchmarks/test_curators.py --benchmark-enable
N = 30,000 problems in 8 strata, up to 2,048 candidates, B = 256, G = 8; one thread. The peers are written as the
released trainers are: Python dictionaries keyed by category or problem, one pass over the rollouts, one random draw per
slot or candidate. They are compared with the curator of the same rule before anything is timed. Last, a whole bank of
N = 1e6 scored and drawn from by the kernel.
"""

import random
from collections import defaultdict
from inspect import signature
from math import log, sqrt

import numpy as np
import pytest

from curbench.bench.clock import one_torch_thread
from curbench.curators import CURATORS, curator_class
from curbench.types import Bank, Feedback, GroupStats

N, STRATA, BATCH, GROUP, HORIZON = 30_000, 8, 256, 8, 500
WARM = 12


@pytest.fixture(scope="module")
def bank():
    rng = np.random.default_rng(0)
    return Bank(
        key=np.arange(N).astype(str),
        stratum=np.arange(N) % STRATA,
        feature=rng.normal(size=(N, 64)),
        difficulty=rng.uniform(size=N),
        length=rng.integers(20, 400, N),
    )


def answer(selection, rng):
    """Feedback of a batch whose pass rates depend on the stratum."""
    n = selection.rollouts.astype(np.int64)
    success = rng.binomial(n, 0.1 + 0.1 * (selection.problem % STRATA))
    rate, one = success / n, np.ones(len(selection))
    stats = GroupStats(
        n, success, rate, rate * (1 - rate), 2 * rate * (1 - rate), (success == 0) | (success == n), 50 * one
    )
    return Feedback(selection, stats, stats.abs_advantage, one > 0, 0 * one, 50 * n)


@pytest.mark.parametrize("name", [*CURATORS, "actor_curator mlp"])
def test_step_of_a_curator(benchmark, bank, name):
    name, _, head = name.partition(" ")
    settings = {"dormant": 0, "warmup": 0} if "dormant" in signature(curator_class(name)).parameters else {}
    settings |= {"head": head} if head else {}
    rng = np.random.default_rng(1)
    with one_torch_thread():
        curator = curator_class(name)(bank, seed=1, batch=BATCH, horizon=HORIZON, group=GROUP, **settings)
        for _ in range(WARM):
            curator.update(answer(curator.select(BATCH), rng))

        def step():
            curator.update(answer(curator.select(BATCH), rng))  # the answer takes 0.03 ms of it

        benchmark.group = "curators"
        benchmark(step)


# --- Dictionaries -----------------------------------------------------------------------------------------------------


class CategoryDictionary:
    """DUMP as a trainer keeps it: a list of |advantages| per category, one draw per slot."""

    def __init__(self, bank, window=300, temperature=0.1):
        self.window, self.temperature = window, temperature
        self.problems = defaultdict(list)
        for problem, stratum in enumerate(bank.stratum.tolist()):
            self.problems[stratum].append(problem)
        self.recent = {c: [] for c in self.problems}
        self.count = dict.fromkeys(self.problems, 0)
        self.weight = {c: 1 / len(self.problems) for c in self.problems}
        self.rng = random.Random(0)

    def select(self):
        categories = list(self.weight)
        weight = [self.weight[c] for c in categories]
        return [self.rng.choice(self.problems[self.rng.choices(categories, weight)[0]]) for _ in range(BATCH)]

    def update(self, category, advantage):
        for c, a in zip(category, advantage, strict=True):
            self.recent[c].append(abs(a))
            self.count[c] += 1
        total = sum(self.count.values())
        score = {}
        for c in self.recent:
            self.recent[c] = self.recent[c][-self.window :]
            mean = sum(self.recent[c]) / len(self.recent[c]) if self.recent[c] else 0.0
            score[c] = mean + sqrt(2 * log(total + 1) / (self.count[c] + 1))
        top = max(score.values())
        mass = {c: np.exp((value - top) / self.temperature) for c, value in score.items()}
        self.weight = {c: float(value / sum(mass.values())) for c, value in mass.items()}


class ProblemDictionary:
    """MoPPS as a trainer keeps it: [a, b] per problem, a Beta draw per candidate, a sort by distance."""

    def __init__(self, bank, discount=0.5, pool=8):
        self.discount, self.pool = discount, pool
        self.posterior = {i: [1.0, 1.0] for i in range(len(bank))}
        self.rng = np.random.default_rng(0)

    def select(self):
        candidate = self.rng.choice(len(self.posterior), self.pool * BATCH, replace=False)
        rate = {int(i): self.rng.beta(*self.posterior[int(i)]) for i in candidate}
        return sorted(rate, key=lambda i: abs(rate[i] - 0.5))[:BATCH]

    def update(self, problem, success):
        for i, k in zip(problem, success, strict=True):
            a, b = self.posterior[i]
            self.posterior[i] = [
                self.discount * a + (1 - self.discount) + k,
                self.discount * b + (1 - self.discount) + GROUP - k,
            ]


def told(bank, steps):
    """The same feedback for a curator and a dictionary."""
    rng = np.random.default_rng(2)
    curator = curator_class("uniform")(bank, seed=5, batch=BATCH, horizon=HORIZON, group=GROUP)
    return [answer(curator.select(BATCH), rng) for _ in range(steps)]


def per_rollout(feedback, bank):
    """(category, |advantage|) of every rollout, as Python lists."""
    category = np.repeat(bank.stratum[feedback.selection.problem], feedback.selection.rollouts)
    return category.tolist(), np.repeat(feedback.utility, feedback.selection.rollouts).tolist()


def test_step_of_a_category_dictionary(benchmark, bank):
    news = told(bank, WARM)
    ours = curator_class("dump")(bank, seed=1, batch=BATCH, horizon=HORIZON, group=GROUP)
    theirs = CategoryDictionary(bank)
    for one in news:
        ours.update(one)
        theirs.update(*per_rollout(one, bank))
    np.testing.assert_allclose([theirs.weight[c] for c in range(STRATA)], ours.core.p, rtol=1e-9)
    rollouts = per_rollout(news[-1], bank)

    def step():
        theirs.select()
        theirs.update(*rollouts)

    benchmark.group = "curators"
    benchmark(step)


def test_step_of_a_problem_dictionary(benchmark, bank):
    news = told(bank, WARM)
    ours = curator_class("mopps")(bank, seed=1, batch=BATCH, horizon=HORIZON, group=GROUP)
    theirs = ProblemDictionary(bank)
    for one in news:
        ours.update(one)
        theirs.update(one.selection.problem.tolist(), one.stats.success.tolist())
    np.testing.assert_allclose([theirs.posterior[i][0] for i in range(N)], ours.posterior.a, rtol=1e-12)
    problem, success = news[-1].selection.problem.tolist(), news[-1].stats.success.tolist()

    def step():
        theirs.select()
        theirs.update(problem, success)

    benchmark.group = "curators"
    benchmark(step)


# --- A whole bank -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_draw_from_a_whole_bank_of_a_million(benchmark, head):
    """64 features in bfloat16, a head of 64 hidden units: what a neural curator without candidate sets would pay."""
    torch = pytest.importorskip("torch")
    from curbench import kernels

    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(1_000_000, 64, generator=generator).bfloat16()
    weight, layer = torch.randn(64, generator=generator), torch.randn(64, 64, generator=generator) / 8
    hidden = {"layer": layer, "layer_bias": torch.zeros(64)} if head == "mlp" else {}
    few = kernels.score_bank(feature[:2000], weight, count=BATCH, design="systematic", floor=0.1, seed=1, **hidden)
    with one_torch_thread():
        scored = feature[:2000].float() @ (layer.bfloat16().float().T if hidden else torch.eye(64))
        scored = (torch.nn.functional.gelu(scored) if hidden else scored) @ weight
    torch.testing.assert_close(few.score, scored, rtol=1e-2, atol=5e-2)
    benchmark.group = "curators"
    benchmark(kernels.score_bank, feature, weight, count=BATCH, design="systematic", floor=0.1, seed=1, **hidden)
