"""A simulated actor that really improves: latent skills, two-parameter item response, exact policy gradients.

Right and wrong are the two actions of a policy pi(right | x) = sigma(a_x (<skill, f_x> - d_x)), the multidimensional
two-parameter item-response model (Birnbaum 1968; Reckase 2009), and the actor takes the trainer's policy-gradient step
on it. How fast a group teaches is therefore not assumed but follows: the gradient of a group with k of G successes is
    a f sqrt(k (G - k)) sqrt(G (G - 1)) / G^2      under standardised advantages (``grpo``), near a f sqrt(p (1 - p)),
    a f k (G - k) / G^2                            under centred ones (``dr_grpo``),
and nothing for k = 0 or G. Log-ratios, utilities and the value of a problem to the held-out set are exact.
Settings, results and what a simulated learner cannot say: docs/learner.md.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from math import comb
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from scipy.special import expit

from curbench.averaging import Averaging, CheckpointAverage
from curbench.loop import State
from curbench.philox import REWARD, VERDICT, uniform
from curbench.schedules import Schedule
from curbench.types import (
    PLAIN,
    ActorView,
    Array,
    Bank,
    Evaluation,
    Guidance,
    Reward,
    Rollouts,
    Selection,
    UpdateReport,
)


class Problems(NamedTuple):
    """The latent truth about N problems over D skills; only the simulator may look.

    stratum         i64[N]
    feature         f64[N, D], which skills a problem needs
    difficulty      f64[N], d
    discrimination  f64[N], a > 0
    paid            f64[N, 2], probability that the verifier rewards (a wrong, a right) answer: (0, 1) is honest
    length          i32[N], tokens of an answer
    """

    stratum: Array
    feature: Array
    difficulty: Array
    discrimination: Array
    paid: Array
    length: Array

    def logit(self, skill: Array, index: Any = slice(None)) -> Array:
        """f64[N], log-odds of a right answer at ``skill`` f64[D]."""
        return self.discrimination[index] * (self.feature[index] @ skill - self.difficulty[index])


HONEST, COIN, IMPOSSIBLE, WRONG_LABEL = (0.0, 1.0), (0.5, 0.5), (0.0, 0.0), (0.5, 0.0)


@dataclass(frozen=True)
class Recipe:
    """A setting as data.

    source        what it is for
    problems      problems of each stratum in the bank, or one number for all
    easiest, hardest  difficulty of the first and the last stratum; the others lie evenly between
    spread        standard deviation of the difficulty inside a stratum, and of the logarithm of the discrimination
    scatter       standard deviation of a loading around its mean of 0.5: how unlike the problems of a stratum are
    transfer      loading of a stratum on the skills of the one before it: what practice of c does to c - 1, and back
    noisy         strata whose reward is a coin flip for ever (noisy television)
    impossible    strata that are never rewarded
    mislabelled   share of the problems of every stratum whose label is wrong: a wrong answer is paid half of the time
    forgetting    share of every skill that is lost per update
    longest       tokens of an answer in the hardest stratum; 1 in the easiest
    learning_rate step of the actor
    """

    source: str
    problems: int | tuple[int, ...] = 100
    easiest: float = -1.0
    hardest: float = 4.0
    spread: float = 0.3
    scatter: float = 0.25
    transfer: float = 0.0
    noisy: tuple[int, ...] = ()
    impossible: tuple[int, ...] = ()
    mislabelled: float = 0.0
    forgetting: float = 0.0
    longest: int = 1
    learning_rate: float = 0.25


STRATA, SKILLS, HELD_OUT = 8, 4, 64
"""Strata of every setting; skills of each stratum; held-out problems of each honest stratum."""

LEARNERS: dict[str, Recipe] = {
    "plain": Recipe("eight independent strata, from mostly solved to hardly ever solved"),
    "noisy_tv": Recipe("three of eight strata pay coin flips: largest |advantage| for ever", noisy=(1, 3, 5)),
    "unlearnable": Recipe("three of eight strata are never rewarded", impossible=(2, 4, 6)),
    "mislabelled": Recipe("every fifth problem rewards wrong answers", mislabelled=0.2),
    "transfer_positive": Recipe("practice of a stratum helps its neighbours", transfer=0.3),
    "transfer_negative": Recipe("practice of a stratum harms its neighbours", transfer=-0.3),
    "forgetting": Recipe("skills decay by a hundredth per update unless practised", forgetting=0.01),
    "long_answers": Recipe("hard problems cost eight times the tokens of easy ones", longest=8),
    "easy_dominated": Recipe("seven problems of ten in the two easiest strata", problems=(280, 280, *[40] * 6)),
    "hard_dominated": Recipe("seven problems of ten in the two hardest strata", problems=(*[40] * 6, 280, 280)),
    "bimodal": Recipe("nine problems of ten very easy or very hard", problems=(360, *[14] * 6, 356)),
    "unlearnable_half": Recipe("every second stratum is never rewarded", impossible=(1, 3, 5, 7)),
    "huge_bank": Recipe("24,000 problems: more than a run can visit", problems=3000),
}


@dataclass(frozen=True)
class Learner:
    """A setting that has been drawn: the problems of the bank, the held-out ones, and how the actor learns."""

    name: str
    recipe: Recipe
    train: Problems
    test: Problems

    def bank(self) -> Bank:
        """What curators may know: strata, features, and the difficulty up to noise of standard deviation 0.5."""
        train = self.train
        blur = np.random.default_rng((zlib.crc32(self.name.encode()), 1)).normal(0.0, 0.5, train.difficulty.size)
        return Bank(
            key=np.array([f"{self.name} {i}" for i in range(train.stratum.size)]),
            stratum=train.stratum,
            feature=train.feature,
            difficulty=train.difficulty + blur,
            length=self._prompt_length(),
            prompt=self.prompt,
        )

    def _prompt_length(self) -> Array:
        """i64[N], characters of every prompt: 32, and one for each minus sign."""
        own = self.train.feature.reshape(-1, STRATA, SKILLS)[np.arange(len(self.train.stratum)), self.train.stratum]
        return 32 + np.signbit(own).sum(axis=1)

    def prompt(self, problem: int) -> str:
        """A text for curators that read: the stratum, and how much the problem needs each skill of it, rounded.

        >>> make_learner("plain").prompt(150)
        'stratum 1: needs 0.3 0.5 0.2 0.4'
        """
        stratum = int(self.train.stratum[problem])
        own = self.train.feature[problem, SKILLS * stratum : SKILLS * (stratum + 1)]
        return f"stratum {stratum}: needs {' '.join(f'{x:.1f}' for x in own)}"


def make_learner(name: str, recipe: Recipe | None = None, *, instance_seed: int = 0) -> Learner:
    """The named setting, or ``recipe`` under a new name; held-out problems are honest ones of the learnable strata.

    Raises ValueError for an unknown name.

    >>> learner = make_learner("noisy_tv")
    >>> len(learner.bank()), np.unique(learner.test.stratum).tolist()
    (800, [0, 2, 4, 6, 7])
    """
    if recipe is None:
        if name not in LEARNERS:
            raise ValueError(f"unknown learner {name!r}; choose from {', '.join(LEARNERS)}")
        recipe = LEARNERS[name]
    rng = np.random.default_rng((instance_seed, zlib.crc32(name.encode())))
    train = _problems(recipe, np.repeat(np.arange(STRATA), recipe.problems), rng)
    train.paid[rng.uniform(size=train.stratum.size) < recipe.mislabelled] = WRONG_LABEL
    train.paid[np.isin(train.stratum, recipe.noisy)] = COIN
    train.paid[np.isin(train.stratum, recipe.impossible)] = IMPOSSIBLE
    honest = np.setdiff1d(np.arange(STRATA), recipe.noisy + recipe.impossible)
    return Learner(name, recipe, train, _problems(recipe, np.repeat(honest, HELD_OUT), rng))


def _problems(recipe: Recipe, stratum: Array, rng: np.random.Generator) -> Problems:
    """Honest problems of the given strata; each needs the skills of its own stratum, with a norm of about 1."""
    n = stratum.size
    feature = np.zeros((n, STRATA, SKILLS))
    row = np.arange(n)
    feature[row, stratum] = rng.normal(0.5, recipe.scatter, (n, SKILLS))
    linked = recipe.transfer * rng.normal(0.5, recipe.scatter, (n, SKILLS))
    feature[row, stratum - 1] += np.where(stratum[:, None] > 0, linked, 0.0)
    level = np.linspace(recipe.easiest, recipe.hardest, STRATA)
    length = np.rint(np.linspace(1, recipe.longest, STRATA)).astype(np.int32)
    return Problems(
        stratum=stratum,
        feature=feature.reshape(n, -1),
        difficulty=level[stratum] + recipe.spread * rng.normal(size=n),
        discrimination=np.exp(recipe.spread * rng.normal(size=n)),
        paid=np.tile(HONEST, (n, 1)),
        length=length[stratum],
    )


TAUGHT = ("grpo", "dr_grpo", "rloo")
"""Estimators whose weight depends on the group alone, and so has a closed form."""


def teaching(rate: Array, group: int, estimator: str = "grpo") -> Array:
    """Expected gradient weight (1/G) sum_i A_i r_i of a group of G binary rewards with mean ``rate`` f64[N].

    It is half the expected mean |A|: sqrt(p (1 - p)) for "grpo" and p (1 - p) for the others as G grows.

    Raises  ValueError if a group has one rollout or the estimator is unknown.
    Source  elementary; the weight 1 / sqrt(p (1 - p)) of "grpo" is the difficulty bias of Liu et al. 2025 (2503.20783).

    >>> teaching(np.array([0.0, 0.5]), 2, "dr_grpo")
    array([0.   , 0.125])
    """
    if group < 2:
        raise ValueError(f"a group needs at least 2 rollouts to have an advantage; got {group}")
    if estimator not in TAUGHT:
        raise ValueError(f"unknown estimator {estimator!r}; choose from {', '.join(TAUGHT)}")
    k = np.arange(1, group)
    weight = k * (group - k) / group**2
    if estimator == "grpo":
        weight = weight / np.sqrt(k * (group - k) / (group * (group - 1)))
    elif estimator == "rloo":
        weight = weight * group / (group - 1)
    rate = np.asarray(rate, float)
    ways = weight * [comb(group, int(i)) for i in k]
    # sum_k ways_k p^k (1 - p)^(G - k) as a Horner scheme in both: the watch asks for a whole bank at every step.
    fail = 1.0 - rate
    total, power = np.full_like(rate, ways[-1]), fail.copy()
    for one in ways[-2::-1]:
        total *= rate
        total += one * power
        power *= fail
    return total * rate * fail


@nb.njit
def count_visits_(nth, problem, visit):
    """Fills nth i64[R] with how often each rollout's problem was visited before; advances visit i64[N]."""
    for j in range(problem.size):
        nth[j] = visit[problem[j]]
        visit[problem[j]] += 1


@nb.njit
def visit_uniform_(u, seed, stream, problem, nth):
    """Fills u f64[R] with the uniform of the n-th visit to each problem: the same luck for every curator."""
    for j in range(problem.size):
        u[j] = uniform(seed, stream, problem[j], nth[j])


def _logprob(logit: Array, right: Array) -> Array:
    """Of answers that are right with the given log-odds."""
    return -np.logaddexp(0.0, np.where(right, -logit, logit))


@dataclass(frozen=True)
class LearnerRollouts(Rollouts):
    """Answers of the simulated learner.

    right    bool[R]
    nth      i64[R], earlier visits to the problem: the counter of the verifier's own randomness
    logprob  f32[R, L]; the first token decides, the rest of an answer is forced and has log-probability 0
    entropy  f32[R, L], of the distribution that each token was drawn from
    """

    right: Array
    nth: Array
    logprob: Array
    entropy: Array


class LearnerActor:
    """A learner as an actor: it answers, is rewarded, takes a policy-gradient step and forgets. ``loop.Actor``.

    schedule   what the learning rate is multiplied by over the run; default constant
    averaging  checkpoints of the skill whose average is evaluated next to the last one; steps count updates
    skill      f64[D], what is learnt; it starts at zero
    target     f64[D], the target gradient v, where a curator asks for one
    """

    def __init__(
        self, learner: Learner, seed: int, *, schedule: Schedule | None = None, averaging: Averaging | None = None
    ) -> None:
        self.learner = learner
        self.progress = 0.0
        self.schedule = schedule or Schedule()
        self._average = CheckpointAverage(averaging) if averaging else None
        self._updates = 0
        self.seed = np.uint64(seed)
        self.policy_step = 0
        self.skill = np.zeros(learner.train.feature.shape[1])
        self.visit = np.zeros(learner.train.stratum.size, np.int64)
        self.target = np.zeros(self.skill.size)
        self._feature_sq = np.square(learner.train.feature).sum(axis=1)
        self._longest = int(learner.train.length.max())

    @property
    def competence(self) -> float:
        """Mean probability of a right answer over the held-out problems."""
        return float(expit(self.learner.test.logit(self.skill)).mean())

    @property
    def averaged_skill(self) -> Array | None:
        """f64[D], the average of the kept checkpoints; None while there is none."""
        return self._average.average()["skill"] if self._average is not None and len(self._average) else None

    def rollout(self, selection: Selection) -> LearnerRollouts:
        train = self.learner.train
        problem = np.repeat(selection.problem, selection.rollouts)
        nth, u = np.empty(problem.size, np.int64), np.empty(problem.size)
        count_visits_(nth, problem, self.visit)
        visit_uniform_(u, self.seed, REWARD, problem, nth)
        logit = self._logit(selection)
        rate = expit(logit)
        right = u < rate
        return LearnerRollouts(
            selection=selection,
            offset=np.concatenate([[0], np.cumsum(selection.rollouts)]),
            length=train.length[problem],
            policy_step=np.full(problem.size, self.policy_step),
            gradient_sq=(train.discrimination[problem] * (right - rate)) ** 2 * self._feature_sq[problem],
            right=right,
            nth=nth,
            logprob=self._at_first_token(_logprob(logit, right)),
            entropy=self._at_first_token(np.logaddexp(0.0, logit) - logit * rate),
        )

    def _logit(self, selection: Selection) -> Array:
        """f64[R], log-odds of a right answer, at the present skill."""
        return np.repeat(self.learner.train.logit(self.skill, selection.problem), selection.rollouts)

    def _at_first_token(self, value: Array) -> Array:
        """f32[R, L], where the other tokens have 0."""
        token = np.zeros((value.size, self._longest), np.float32)
        token[:, 0] = value
        return token

    def reward(self, rollouts: Rollouts) -> Reward:
        """The verifier's verdict; where labels are wrong or rewards are coins, so is ``success``."""
        assert isinstance(rollouts, LearnerRollouts)
        problem = np.repeat(rollouts.selection.problem, rollouts.selection.rollouts)
        u = np.empty(problem.size)
        visit_uniform_(u, self.seed, VERDICT, problem, rollouts.nth)
        rewarded = u < self.learner.train.paid[problem, rollouts.right.astype(int)]
        return Reward(rewarded.astype(float), rewarded)

    def update(self, rollouts: Rollouts, advantage: Array, admitted: Array, guidance: Guidance = PLAIN) -> UpdateReport:
        """skill += learning rate x mean over admitted rollouts of w_i A_i grad log pi(y_i); then forgets.

        As in the trainer, what is not admitted or has weight 0 is not in the mean, and without an advantage in it no
        step is made. Of the weights of an answer's tokens the first counts: the others are forced.
        """
        assert isinstance(rollouts, LearnerRollouts)
        train, selection, first = self.learner.train, rollouts.selection, rollouts.offset[:-1]
        score = advantage * (rollouts.right - expit(self._logit(selection)))
        slope = train.discrimination[selection.problem, None] * train.feature[selection.problem]
        alignment = None
        if guidance.target is not None:
            gradient = (np.add.reduceat(score, first) / selection.rollouts)[:, None] * slope
            alignment = gradient @ self.target  # before this batch enters: its own noise must not align with itself
            if guidance.target.weight is not None:
                move = guidance.target.weight @ gradient - self.target
                self.target = self.target + guidance.target.memory * move
        weight = np.repeat(admitted, selection.rollouts).astype(float)
        if guidance.weight is not None:
            weight *= guidance.weight.reshape(weight.size, -1)[:, 0]
        total = np.add.reduceat(weight * score, first)
        if np.any(total):
            rate = self.learner.recipe.learning_rate * self.schedule(self.progress)
            self.skill = self.skill + rate * (total @ slope) / np.count_nonzero(weight)
            self.policy_step += 1
        self.skill = self.skill * (1.0 - self.learner.recipe.forgetting)
        self._updates += 1
        if self._average is not None and self._average.due(self._updates):
            self._average.add({"skill": self.skill})
        skill = self.skill
        return UpdateReport(self.policy_step, lambda asked=None: self._report(rollouts, skill), alignment)

    @property
    def view(self) -> ActorView:
        """A stand-in for hidden states: (f, f * skill), what a problem needs and what the actor brings to each need.

        The angle is the cosine between f and 1 + skill: every skill is known a little, those that were practised more.
        There are no layers, no tokens and no difficulty in it.
        """
        feature, skill = self.learner.train.feature, self.skill
        known = 1.0 + skill

        def hidden(problem: Array, depth: float = 1.0) -> Array:
            return np.concatenate([feature[problem], feature[problem] * skill], axis=1).astype(np.float32)

        def angle(problem: Array) -> Array:
            f = feature[problem]
            return f @ known / np.maximum(np.linalg.norm(f, axis=1) * np.linalg.norm(known), 1e-12)

        return ActorView(hidden, angle)

    def _report(self, rollouts: LearnerRollouts, skill: Array) -> Array:
        if skill is not self.skill:
            raise ValueError("these log-probabilities belong to an earlier policy: ask before the next update")
        return self._at_first_token(_logprob(self._logit(rollouts.selection), rollouts.right))

    def value(self, group: int, estimator: str = "grpo") -> Array:
        """f64[N], first-order change of ``competence`` if a whole step were spent on each problem: the greedy oracle.

            learning rate x teaching(rho) x p (1 - p) (q1 - q0) / (rho (1 - rho)) x a <f, grad competence>

        with p the probability of a right answer, q0 and q1 those that a wrong and a right one is rewarded and
        rho = p q1 + (1 - p) q0. The fraction is what a reward says about the answer: 1 for honest problems, 0 for
        coin flips, negative for wrong labels.
        """
        train, test = self.learner.train, self.learner.test
        held_out = expit(test.logit(self.skill))
        gradient = (held_out * (1 - held_out) * test.discrimination) @ test.feature / held_out.size
        p, (wrong, right) = expit(train.logit(self.skill)), train.paid.T
        rate = p * right + (1 - p) * wrong
        says = p * (1 - p) * (right - wrong) / np.maximum(rate * (1 - rate), 1e-300)
        along = train.discrimination * (train.feature @ gradient)
        return self.learner.recipe.learning_rate * teaching(rate, group, estimator) * says * along

    def evaluate(self) -> Evaluation:
        """Exact expected successes of the held-out problems: no sampling noise, no tokens."""
        averaged = self.averaged_skill
        return self._evaluate(self.skill, None if averaged is None else self._evaluate(averaged))

    def _evaluate(self, skill: Array, averaged: Evaluation | None = None) -> Evaluation:
        test = self.learner.test
        one = np.ones(test.stratum.size, np.int64)
        return Evaluation(expit(test.logit(skill)), one, tokens=0, stratum=test.stratum, averaged=averaged)

    def state(self) -> State:
        own = {
            "policy_step": self.policy_step,
            "skill": self.skill.copy(),
            "visit": self.visit.copy(),
            "target": self.target.copy(),
        }
        return own | ({} if self._average is None else {"updates": self._updates, "average": self._average.state()})

    def restore(self, state: State) -> None:
        self.policy_step = int(state["policy_step"])
        self.skill = state["skill"].copy()
        self.target = state["target"].copy()
        self.visit[:] = state["visit"]
        if self._average is not None:
            self._updates = int(state["updates"])
            self._average.restore(state["average"])
