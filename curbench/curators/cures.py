"""CurES: problems by the entropy-regularised bound on the gain of a step, rollouts by their reward deviation."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from curbench.curators.base import Curator
from curbench.curators.estimators import BetaPosterior
from curbench.curators.samplers import Draw, softmax, systematic, uniforms
from curbench.philox import CANDIDATE
from curbench.types import Array, Bank, Feedback, GroupStats, Selection

RELEASED_TEMPERATURE = 100.0
"""The released code divides sqrt(p (1 - p)) by this times (1 + accepted rollouts): odds of at most exp(0.005)."""

NEGLIGIBLE = 1e-9
"""Weight, relative to the largest, below which problems share alike what the others have no room for."""

RELEASED_LARGEST_GROUP = 16
"""The released rollout budget of a shard is this times the batch."""


def largest_remainder(weight: Array, total: int, low: int, high: int) -> Array:
    """i64[B] between ``low`` and ``high`` that sum to ``total``, as near to proportional to weight >= 0 as that allows.

    First the real-valued shares clip(c w, low, high) with c such that they sum to total, then each rounded down, and
    the largest remainders rounded up (equal ones in order). All weights zero: equal shares.
    Raises  ValueError if no such allocation exists.

    >>> largest_remainder(np.array([0.5, 0.4, 0.0]), 8, 2, 4)
    array([3, 3, 2])
    """
    size = weight.size
    if not low * size <= total <= high * size:
        raise ValueError(f"{total} rollouts cannot be given to {size} problems with {low} to {high} each")
    top = weight.max()
    w = np.maximum(weight / top, NEGLIGIBLE) if top > 0 else np.ones(size)  # what is left over goes to the others last
    # Between two consecutive breakpoints c = low / w_i or high / w_i the sum of the clipped shares is linear in c.
    cut = np.unique(np.concatenate([low / w, high / w]))
    sums = np.clip(cut[:, None] * w, low, high).sum(axis=1)
    after = min(int(np.searchsorted(sums, total)), cut.size - 1)
    before = max(after - 1, 0)
    gap = sums[after] - sums[before]
    along = (total - sums[before]) / gap if gap > 0 else 0.0
    share = np.clip((cut[before] + along * (cut[after] - cut[before])) * w, low, high)
    whole = np.floor(share + 1e-9).astype(np.int64)
    remainder = np.where(whole < high, share - whole, -1.0)
    up = np.argsort(-remainder, kind="stable")[: max(total - int(whole.sum()), 0)]
    whole[up] += 1
    return whole


class Cures(Curator):
    """CurES (2025, 2510.01037), its sampling and its allocation of rollouts, each of which can be left out.

    The bank is dealt into ``shards``; an iteration takes the next one, probes every problem of it with ``probes``
    rollouts (paid for, not trained on) and then makes ``iteration`` batches from it. With p the mean of the posterior
    Beta(1 + successes, 1 + failures) of this iteration,
        problems  rho(x) ~ exp(sqrt(p (1 - p)) / tau), without repetition in a batch,
        rollouts  n_i ~ sigma_i = sqrt(p_i (1 - p_i)), B G in all, within [least, most].

    variant      "paper"; or "released": logits sqrt(p (1 - p)) / (100 (1 + accepted)), which is uniform sampling, and
                 n_i = round(16 B sigma_i / sum over the shard of sigma) from the raw frequencies of the probes, so that
                 problems without both a success and a failure there get no rollout for the whole iteration
    sampling     "entropy", or "uniform" inside the shard
    allocation   "deviation", or "equal": ``group`` rollouts of each
    temperature  tau; the published value could not be verified
    least, most  rollouts of a problem; default 2 and 2 G
    probes       rollouts of each problem of a new shard; published 4. 0 starts from the prior
    iteration    batches of an iteration; published 10
    shards       published 15; fewer when a shard would be smaller than a batch

    Raises ValueError for a parameter outside its range. sigma leaves out the norms of the gradients: it is the reward's
    part of sqrt(Tr Var). A group of one rollout has no advantage, so "released" gives two where it would give one.
    """

    oversamples = True
    kept = ("_wanted",)
    allocates = True
    explores = False
    stationary = False

    def __init__(
        self,
        bank: Bank,
        *,
        variant: Literal["paper", "released"] = "paper",
        sampling: Literal["entropy", "uniform"] = "entropy",
        allocation: Literal["deviation", "equal"] = "deviation",
        temperature: float = 0.1,
        least: int | None = None,
        most: int | None = None,
        probes: int = 4,
        iteration: int = 10,
        shards: int = 15,
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        if variant not in ("paper", "released"):
            raise ValueError(f"variant must be paper or released; got {variant!r}")
        if sampling not in ("entropy", "uniform"):
            raise ValueError(f"sampling must be entropy or uniform; got {sampling!r}")
        if allocation not in ("deviation", "equal"):
            raise ValueError(f"allocation must be deviation or equal; got {allocation!r}")
        if temperature <= 0.0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        if probes < 0:
            raise ValueError(f"probes must not be negative; got {probes}")
        for name, count in (("iteration", iteration), ("shards", shards)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        if self.batch > len(bank):
            raise ValueError(f"{self.batch} problems cannot be drawn without repetition from {len(bank)}")
        self.least = min(2, self.group) if least is None else least
        self.most = 2 * self.group if most is None else most
        if not 1 <= self.least <= self.group <= self.most:
            raise ValueError(
                f"rollouts need 1 <= least <= group <= most; got {self.least}, {self.group} and {self.most}"
            )
        self.variant, self.sampling, self.allocation = variant, sampling, allocation
        self.temperature, self.probes, self.iteration = temperature, probes, iteration
        self.shards = min(shards, max(len(bank) // self.batch, 1))
        self.posterior = BetaPosterior(len(bank))
        self.probed = np.zeros(len(bank))
        """f64[N], share of successes among the probes of a problem."""
        self.parts = {"posterior": self.posterior}
        self._wanted = self.batch
        self._dealt: tuple[int, int, Array] | None = None

    def shard(self, step: int) -> Array:
        """i64[n], the problems of the iteration that a step belongs to, in rising order."""
        turn = step // self.iteration
        seed, deal = int(self.seed), turn // self.shards
        if self._dealt is None or self._dealt[:2] != (seed, deal):
            order = np.argsort(uniforms(len(self.bank), self.seed, CANDIDATE, deal), kind="stable")
            self._dealt = seed, deal, order
        return np.sort(np.array_split(self._dealt[2], self.shards)[turn % self.shards])

    def select(self, batch: int) -> Selection:
        shard = self.shard(self.step)
        if self.step % self.iteration == 0:
            self.posterior.reset()
            if self.probes:
                self._wanted = batch
                look = np.full(shard.size, self.probes, np.int32)
                probe = np.ones(shard.size, bool)
                one = np.ones(shard.size)
                return self.selected(shard, one, "systematic", rollouts=look, candidate=shard, probe=probe)
        drawn, rollouts = self._batch(shard, batch, self.step)
        return self.selected(*drawn, rollouts=rollouts, candidate=shard)

    def refill(self, selection: Selection, stats: GroupStats) -> Selection | None:
        if selection.probe is None or not selection.probe.all():
            return None
        self._learn_probes(selection, stats)
        shard = self.shard(selection.step)
        drawn, rollouts = self._batch(shard, self._wanted, selection.step)
        return self.refilled(selection, *drawn, rollouts=rollouts)

    def _batch(self, shard: Array, batch: int, step: int) -> tuple[Draw, Array]:
        """``batch`` problems of the shard, with the rollouts of each."""
        p = self.posterior.mean(shard)
        deviation = np.sqrt(p * (1.0 - p))
        heat: float | Array = self.temperature
        if self.variant == "released":
            heat = RELEASED_TEMPERATURE * self.posterior.a[shard]  # a = 1 + accepted
        score = deviation / heat if self.sampling == "entropy" else np.zeros(shard.size)
        drawn = systematic(softmax(score), batch, seed=self.seed, step=step)
        if self.allocation == "equal":
            rollouts = np.full(batch, self.group)
        elif self.variant == "paper":
            rollouts = largest_remainder(deviation[drawn.place], batch * self.group, self.least, self.most)
        else:
            rollouts = self._released_quota(shard, batch)[drawn.place]
            kept = rollouts > 0
            kept[0] |= not kept.any()  # a step without a single rollout could not be made
            rollouts = np.maximum(rollouts, self.least)[kept]
            drawn = Draw(drawn.place[kept], drawn.propensity[kept], drawn.design)
        return drawn._replace(place=shard[drawn.place]), rollouts

    def _released_quota(self, shard: Array, batch: int) -> Array:
        """i64[n], rollouts of every problem of the shard by the frequencies of its probes."""
        rate = self.probed[shard]
        sigma = np.sqrt(rate * (1.0 - rate))
        if sigma.sum() == 0.0:
            return np.full(shard.size, self.group)
        return np.rint(RELEASED_LARGEST_GROUP * batch * sigma / sigma.sum()).astype(np.int64)

    def _learn_probes(self, selection: Selection, stats: GroupStats) -> None:
        self.posterior.update(selection.problem, stats.success, stats.n)
        self.probed[selection.problem] = stats.success / stats.n

    def update(self, feedback: Feedback) -> None:
        """Probes were learnt from before the batch of their step was drawn."""
        selection, stats = feedback.selection, feedback.stats
        trained = np.ones(len(selection), bool) if selection.probe is None else ~selection.probe
        self.posterior.update(selection.problem[trained], stats.success[trained], stats.n[trained])

    def state(self) -> dict[str, Any]:
        return super().state() | {"probed": self.probed.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.probed = state["probed"].copy()
