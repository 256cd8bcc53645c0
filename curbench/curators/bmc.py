"""Manifold bandits: hierarchical Thompson sampling down a tree of problems that lie close to one another."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.base import Curator
from curbench.curators.samplers import TINY
from curbench.features import EMBEDDED_AT_ONCE, column_moments
from curbench.philox import POSTERIOR, uniform_pair
from curbench.types import BLOCK, ActorView, Array, Bank, Feedback, Selection

DEPTH = 0.75
"""Share of the actor's layers below the hidden state that places a problem; published."""

ROUNDS = 20
"""Rounds of k-means at every node of the tree."""

WEAKEST, STRONGEST, NARROWEST = 0.2, 10.0, 0.05
"""Bounds of a belief's strength and of its variance; published."""


class Tree(NamedTuple):
    """Nodes in breadth-first order, the root first: internal ones, then the N problems (node ``inner + problem``).

    child   i64[], children of node v are child[start[v] : start[v + 1]]
    start   i64[inner + 1]
    parent  i64[inner + N], -1 for the root
    """

    child: Array
    start: Array
    parent: Array

    @property
    def inner(self) -> int:
        """Number of nodes that are no problems."""
        return self.start.size - 1


class Bmc(Curator):
    """Bandits on a manifold of tasks (BMC 2026, 2606.19750): beliefs about problems, pooled up a tree.

    A problem's value v = 4 p (1 - p) of its success rate (mean |advantage| for rewards of -1 and 1), cut to [eps, 1 -
    eps], is tracked on the logit scale, r = logit v, by a mean m, a variance s2 and a strength l:
        z2 = (r - m)^2 / s2,   l_e = clip(l exp(-z2), 0.2, 10),   l' = clip(l_e + 1, 0.2, 10),
        m' = (l_e m + r) / l',   s2' = clip(s2 l_e / l' + ln(1 + z2 + stale) / l', 0.05, (logit(1 - eps) / 3)^2),
    so that surprise and neglect widen a belief. A node's belief pools its children's with weights 1 / (s2 + t2), t2 =
    max(Var m - mean s2, 0) over the children. Each slot of a batch walks down from the root to the child with the
    largest sample of N(m, s2 + t2), never twice to one problem; children that are nodes are first visited in turn.

    states      what the tree is made from: "bank" features, or the "actor"'s hidden states at 3/4 of its depth, once
    components  principal components that are kept
    branching, leaf  children of a node, and the most problems of a node without further nodes
    eps         0.01
    stale_after steps without a visit that add 1 to ``stale``; default ``horizon``
    duplicates  slots may choose the same problem. Published: no

    Published: PCA, UMAP and HDBSCAN make the tree; here PCA and k-means from the farthest points, node by node, which
    is deterministic and needs no further package. eps, the scale of staleness, the first beliefs (m = 0, the largest
    variance, l = 1) and what the first round-robin pass covers are UNVERIFIED. The target-overlap bonus of BMC-T is
    left out.

    Propensities: without duplicates, conditional on the posterior samples, hence 1. With duplicates they are exact: a
    slot states the probability of its walk given the samples of all nodes beside it, a product of normal tails, and
    dividing by that is unbiased, with weights that may be very large.

    Raises ValueError for a parameter outside its range or a bank without features.
    """

    needs: ClassVar[tuple[str, ...]] = ("feature",)
    explores: ClassVar[bool] = False
    conditional: ClassVar[bool] = True

    def __init__(
        self,
        bank: Bank,
        *,
        states: Literal["bank", "actor"] = "bank",
        components: int = 8,
        branching: int = 8,
        leaf: int = 32,
        eps: float = 0.01,
        stale_after: int | None = None,
        duplicates: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        stale_after = self.horizon if stale_after is None else stale_after
        for name, count in (("components", components), ("leaf", leaf), ("stale_after", stale_after)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        if branching < 2:
            raise ValueError(f"branching must be at least 2; got {branching}")
        if not 0.0 < eps < 0.5:
            raise ValueError(f"eps must be in (0, 0.5); got {eps}")
        if states not in ("bank", "actor"):
            raise ValueError(f"states must be bank or actor; got {states!r}")
        if self.batch > len(bank) and not duplicates:
            raise ValueError(f"{self.batch} problems cannot be drawn without repetition from {len(bank)}")
        self.states, self.shape, self.eps, self.stale_after = states, (components, branching, leaf), eps, stale_after
        self.duplicates = duplicates
        self.widest = float((np.log(1 / eps - 1) / 3) ** 2)
        n = len(bank)
        self.mean, self.variance, self.strength = np.zeros(n), np.full(n, self.widest), np.ones(n)
        self.last_visit = np.full(n, -1, np.int64)
        self.looked = False
        assert bank.feature is not None, "needed"
        self._grow(principal(bank.feature, components))

    def _grow(self, position: Array) -> None:
        """Makes the tree and the beliefs of its nodes."""
        self.position = position
        self.tree = make_tree(position, self.shape[1], self.shape[2])
        count = self.tree.inner
        self.belief, self.visits, self.size = np.zeros((3, count)), np.zeros(count, np.int64), subtree_size(self.tree)
        pool_(self.belief, np.arange(count)[::-1], self.mean, self.variance, *self.tree[:2])

    def inspect(self, view: ActorView) -> None:
        if self.states != "actor" or self.looked:
            return
        state = [
            view.hidden(np.arange(begin, min(begin + EMBEDDED_AT_ONCE, len(self.bank))), DEPTH)
            for begin in range(0, len(self.bank), EMBEDDED_AT_ONCE)
        ]
        self.looked = True
        self._grow(principal(np.concatenate(state), self.shape[0]))

    def select(self, batch: int) -> Selection:
        problem, chance, taken = np.empty(batch, np.int64), np.empty(batch), np.zeros_like(self.size)
        beliefs = (self.belief, self.mean, self.variance)
        size = np.full_like(self.size, -1) if self.duplicates else self.size  # -1: no node is ever exhausted
        walk_(problem, chance, taken, size, self.visits, *beliefs, *self.tree, self.seed, self.step)
        if self.duplicates:
            return self.selected(problem, np.clip(chance, TINY, 1.0), "iid")
        return self.selected(problem, np.ones(batch), "fixed")

    def update(self, feedback: Feedback) -> None:
        selection, stats = feedback.selection, feedback.stats
        rate = stats.success / stats.n
        value = np.clip(4.0 * rate * (1.0 - rate), self.eps, 1.0 - self.eps)
        for i, logit in zip(selection.problem, np.log(value / (1.0 - value)), strict=True):
            last = int(self.last_visit[i])
            stale = max(selection.step - last, 0) / self.stale_after if last >= 0 else 0.0
            self.mean[i], self.variance[i], self.strength[i] = revise(
                self.mean[i], self.variance[i], self.strength[i], logit, stale, self.widest
            )
            self.last_visit[i] = max(last, selection.step)
        pool_(self.belief, ancestors(self.tree, selection.problem), self.mean, self.variance, *self.tree[:2])

    def resolved(self) -> dict[str, float]:
        return {"nodes": float(self.tree.inner)}

    def state(self) -> dict[str, Any]:
        own = {name: getattr(self, name).copy() for name in ("mean", "variance", "strength", "last_visit", "visits")}
        return {**super().state(), **own, "looked": self.looked, "position": self.position.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        for name in ("mean", "variance", "strength", "last_visit"):
            setattr(self, name, state[name].copy())
        self.looked = bool(state["looked"])
        self._grow(state["position"].copy())
        self.visits = state["visits"].copy()

    def metrics(self) -> dict[str, float]:
        """Beside the draw: the share of problems that were visited, and the belief at the root as a value in [0, 1]."""
        root = 1.0 / (1.0 + np.exp(-self.belief[0, 0]))
        return {**super().metrics(), "visited": float((self.last_visit >= 0).mean()), "root_value": float(root)}


# --- Beliefs ----------------------------------------------------------------------------------------------------------


@nb.njit
def revise(mean, variance, strength, logit, stale, widest):
    """The belief (mean, variance, strength) of a problem after one observation on the logit scale.

    >>> [round(x, 3) for x in revise(0.0, 1.0, 1.0, 0.0, 0.0, 2.0)]
    [0.0, 0.5, 2.0]
    """
    surprise = (logit - mean) ** 2 / variance
    kept = min(max(strength * np.exp(-surprise), WEAKEST), STRONGEST)
    total = min(max(kept + 1.0, WEAKEST), STRONGEST)
    spread = variance * kept / total + np.log(1.0 + surprise + stale) / total
    return (kept * mean + logit) / total, min(max(spread, NARROWEST), widest), total


@nb.njit
def pool_(belief, node, mean, variance, child, start):
    """Recomputes the beliefs f64[3, inner] (mean, variance, spread t2 of the children) of nodes, children first."""
    inner = start.size - 1
    for v in node:
        count = start[v + 1] - start[v]
        total, square, width = 0.0, 0.0, 0.0
        for c in child[start[v] : start[v + 1]]:
            m, s = (belief[0, c], belief[1, c]) if c < inner else (mean[c - inner], variance[c - inner])
            total += m
            square += m * m
            width += s
        spread = max(square / count - (total / count) ** 2 - width / count, 0.0)
        weight, pooled = 0.0, 0.0
        for c in child[start[v] : start[v + 1]]:
            m, s = (belief[0, c], belief[1, c]) if c < inner else (mean[c - inner], variance[c - inner])
            weight += 1.0 / (s + spread)
            pooled += m / (s + spread)
        belief[0, v], belief[1, v], belief[2, v] = pooled / weight, 1.0 / weight, spread


@nb.njit
def walk_(problem, chance, taken, size, visits, belief, mean, variance, child, start, parent, seed, step):
    """Fills problem i64[B], one walk from the root per slot, and chance f64[B], the walk's probability.

    That is the probability over the samples of the nodes on the way, given the samples of their siblings.

    taken, size  i64[inner + N], problems at or below each node: how many are drawn, and how many there are
    visits       i64[inner], how often each node was passed through
    """
    inner = start.size - 1
    for slot in range(problem.size):
        v, chance[slot] = 0, 1.0
        while v < inner:
            best, second, chosen, unvisited = -np.inf, -np.inf, -1, -1
            for c in child[start[v] : start[v + 1]]:
                if taken[c] == size[c]:
                    continue
                if c < inner and visits[c] == 0 and unvisited < 0:
                    unvisited = c
                m, s = (belief[0, c], belief[1, c]) if c < inner else (mean[c - inner], variance[c - inner])
                u, w = uniform_pair(seed, POSTERIOR, step, slot * parent.size + c)
                normal = np.sqrt(-2.0 * np.log(1.0 - u)) * np.cos(2.0 * np.pi * w)
                sample = m + np.sqrt(s + belief[2, v]) * normal
                if sample > best:
                    best, second, chosen = sample, best, c
                elif sample > second:
                    second = sample
            if unvisited >= 0:
                chosen = unvisited
            else:
                c = chosen
                m, s = (belief[0, c], belief[1, c]) if c < inner else (mean[c - inner], variance[c - inner])
                chance[slot] *= 0.5 * math.erfc((second - m) / math.sqrt(2.0 * (s + belief[2, v])))
            v = chosen
            if v < inner:
                visits[v] += 1
        problem[slot] = v - inner
        while v >= 0:
            taken[v] += 1
            v = parent[v]


# --- The tree ---------------------------------------------------------------------------------------------------------


def principal(feature: Array, components: int) -> Array:
    """f64[N, C], the first C <= F principal components of f32[N, F], its columns scaled to unit variance.

    The sign makes the largest entry of a direction positive. The rows are walked through in blocks: only the F x F
    covariance and the result are held.
    """
    mean, spread = column_moments(feature)
    blocks = [slice(b, b + BLOCK) for b in range(0, len(feature), BLOCK)]
    covariance = sum(((feature[b] - mean) / spread).T @ ((feature[b] - mean) / spread) for b in blocks)
    _, vector = np.linalg.eigh(covariance)
    vector = vector[:, ::-1][:, :components]
    vector = vector * np.sign(vector[np.abs(vector).argmax(axis=0), np.arange(vector.shape[1])])
    return np.concatenate([((feature[b] - mean) / spread) @ vector for b in blocks])


def make_tree(position: Array, branching: int, leaf: int) -> Tree:
    """The tree of k-means splits of f64[N, C]: more than ``leaf`` problems are split into up to ``branching`` nodes."""
    problems: list[Array] = [np.arange(len(position))]
    children: list[list[int]] = []
    parent = [-1]
    for v, own in enumerate(problems):
        parts = [] if own.size <= leaf else split(position[own], branching)
        children.append([])
        for part in parts if len(parts) > 1 else []:
            children[v].append(len(problems))
            problems.append(own[part])
            parent.append(v)
    inner = len(problems)
    child = [one or [*(inner + problems[v])] for v, one in enumerate(children)]
    above = np.empty(inner + len(position), np.int64)
    above[:inner] = parent
    for v, one in enumerate(child):
        above[one] = v
    above[0] = -1
    return Tree(np.concatenate(child).astype(np.int64), np.concatenate([[0], np.cumsum([*map(len, child)])]), above)


def split(position: Array, count: int) -> list[Array]:
    """Places i64[] of up to ``count`` non-empty clusters of f64[n, C]: Lloyd's rounds from farthest points.

    Source  Lloyd 1982; Gonzalez 1985 for the start: first the point farthest from the mean, then always the one
            farthest from all that were taken.
    """
    centre = [position[np.argmax(((position - position.mean(axis=0)) ** 2).sum(axis=1))]]
    nearest = ((position - centre[0]) ** 2).sum(axis=1)
    while len(centre) < count and nearest.max() > 0:
        centre.append(position[np.argmax(nearest)])
        nearest = np.minimum(nearest, ((position - centre[-1]) ** 2).sum(axis=1))
    middle, label = np.array(centre), np.empty(len(position), np.int64)
    lloyd_(label, middle, np.ascontiguousarray(position), ROUNDS)
    return [place for place in (np.flatnonzero(label == c) for c in range(len(middle))) if place.size]


@nb.njit
def lloyd_(label, middle, position, rounds):
    """Fills label i64[n] with the nearest of middle f64[K, C], which moves to the means, until nothing moves."""
    count, width = middle.shape
    total, size = np.empty_like(middle), np.empty(count, np.int64)
    for _ in range(rounds):
        total[:], size[:] = 0.0, 0
        for i in range(label.size):
            best = np.inf
            for c in range(count):
                distance = 0.0
                for d in range(width):
                    distance += (position[i, d] - middle[c, d]) ** 2
                if distance < best:
                    best, label[i] = distance, c
            size[label[i]] += 1
            total[label[i]] += position[i]
        moved = False
        for c in range(count):
            for d in range(width):
                if size[c] and total[c, d] / size[c] != middle[c, d]:
                    middle[c, d], moved = total[c, d] / size[c], True
        if not moved:
            return


def ancestors(tree: Tree, problem: Array) -> Array:
    """i64[], the nodes above the problems, children before parents, each once."""
    found, level = [], np.unique(tree.parent[tree.inner + problem])
    while level.size and level[0] >= 0:
        found.append(level)
        level = np.unique(tree.parent[level])
        level = level[level >= 0]
    return np.unique(np.concatenate(found))[::-1]  # breadth first: a child has a larger number than its parent


def subtree_size(tree: Tree) -> Array:
    """i64[inner + N], the number of problems at or below each node."""
    size = np.ones(tree.parent.size, np.int64)
    size[: tree.inner] = 0
    for v in range(tree.inner - 1, -1, -1):
        size[v] = size[tree.child[tree.start[v] : tree.start[v + 1]]].sum()
    return size
