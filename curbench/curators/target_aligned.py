"""Target alignment: select what moves the actor along the gradient of a stated target. Our own method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numba as nb
import numpy as np

from curbench.curators.base import Curator
from curbench.curators.tabular import Design, TabularCurator, Unit
from curbench.mirror import project_on_floor_
from curbench.philox import PROBE
from curbench.sampling import candidate_set
from curbench.types import ActorView, Array, Bank, Feedback, Guidance, Rollouts, Selection, Target


class GainCore(NamedTuple):
    p: Array
    eta: float
    floor: float  # of one arm


@nb.njit
def update_core(core, arm, expected, utility, step):
    """p <- p exp(eta u / expected), projected on p >= floor; the exponent is clipped at +-5 per slot."""
    for j in range(arm.size):
        core.p[arm[j]] *= np.exp(min(max(core.eta * utility[j] / expected[j], -5.0), 5.0))
    project_on_floor_(core.p, core.floor)


class GainMirror(TabularCurator):
    """Mirror ascent over strata or problems on utilities of either sign and unit scale; no bound is claimed.

    eta    step size
    floor  share of the probability that is spread evenly over the arms
    """

    update_core = staticmethod(update_core)

    def __init__(
        self,
        bank: Bank,
        *,
        eta: float,
        floor: float = 0.1,
        unit: Unit = "stratum",
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, unit=unit, design=design, **common)
        k = self.arm_count
        self.core = GainCore(np.full(k, 1.0 / k), float(eta), float(floor / k))


class TargetAligned(Curator):
    """Follows u(x) = <g_x, v>: g_x the policy gradient of a group, v a running estimate of the target's gradient.

    The target is the mean reward over the bank, or over some of its strata. u is to first order what one more step on x
    does for the target, where the policy-improvement utility of Actor-Curator is what the last step did for x itself:
    <step just taken, g_x>, which favours whatever was selected before. The actor keeps v (``types.Target``) and reports
    u (signal ``target_alignment``). The selection is mirror ascent on u divided by its running mean size, which makes
    step sizes free of scale. Reasoning: docs/methods/target_aligned.md; twelve settings: docs/learner.md.

    scorer          what the ascent moves: a probability per "stratum" or per "problem", or the "linear" or "mlp" head
                    of ``ActorCurator``, without its dormant steps
    eta, floor      step size (tables only) and share of uniform exploration
    weights         of the groups in v. "exact": target share over the expected count of the draw, so that v is unbiased
                    for the target whatever was selected; "normalised": the same, scaled to sum to 1, which trades a
                    bias of order 1 / B for less variance; "none": 1 / B, the gradient of what was selected, for
                    comparison
    memory          step size of v
    preconditioned  align with the optimiser's preconditioned v (actors without such an optimiser ignore it)
    scale_memory    step size of the running mean size of u
    trusted         numbers of the strata that make up the target, as in "0,2"; empty: all. What is left out keeps its
                    place in the bank and weighs 0 in v: a remedy for strata whose reward is known to be noise
    held_out, every every ``every`` steps v moves by ``held_out`` extra groups drawn uniformly from the target, and by
                    nothing else: no importance weights. They cost rollouts and are never trained on
    design          of the draws

    Raises ValueError for a parameter outside its range or a stratum that does not exist.
    """

    signal = "target_alignment"
    on_policy = True

    def __init__(
        self,
        bank: Bank,
        *,
        scorer: Literal["stratum", "problem", "linear", "mlp"] = "stratum",
        eta: float = 1.0,
        floor: float = 0.1,
        weights: Literal["exact", "normalised", "none"] = "normalised",
        memory: float = 0.1,
        preconditioned: bool = True,
        scale_memory: float = 0.1,
        trusted: str = "",
        held_out: int = 0,
        every: int = 10,
        design: Design = "auto",
        **common: Any,
    ) -> None:
        super().__init__(bank, **common)
        for name, share in (("floor", floor), ("memory", memory), ("scale_memory", scale_memory)):
            if not 0.0 < share <= 1.0:
                raise ValueError(f"{name} must be in (0, 1]; got {share}")
        if eta <= 0.0:
            raise ValueError(f"eta must be positive; got {eta}")
        if weights not in ("exact", "normalised", "none"):
            raise ValueError(f"weights must be exact, normalised or none; got {weights!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1; got {every}")
        self.target = _members(bank, trusted)
        if not 0 <= held_out <= self.target.size:
            raise ValueError(f"held_out must be between 0 and the {self.target.size} of the target; got {held_out}")
        self.share = np.zeros(len(bank))
        self.share[self.target] = 1.0 / self.target.size
        self.weights, self.memory, self.preconditioned = weights, memory, preconditioned
        self.scale_memory, self.held_out, self.every = scale_memory, held_out, every
        self.scale = 0.0
        self.inner: Curator
        if scorer in ("stratum", "problem"):
            unit: Unit = "stratum" if scorer == "stratum" else "problem"
            self.inner = GainMirror(bank, eta=eta, floor=floor, unit=unit, design=design, **common)
        elif scorer in ("linear", "mlp"):
            from curbench.curators.actor_curator import ActorCurator  # tables must not need torch

            head: Literal["linear", "mlp"] = "linear" if scorer == "linear" else "mlp"
            self.inner = ActorCurator(bank, head=head, floor=floor, design=design, dormant=0, warmup=1, **common)
        else:
            raise ValueError(f"scorer must be stratum, problem, linear or mlp; got {scorer!r}")

    def inspect(self, view: ActorView) -> None:
        self.inner.inspect(view)

    def select(self, batch: int) -> Selection:
        selection = self.inner.select(batch)
        if self.held_out and self.step % self.every == 0:
            total = self.target.size
            probe = self.target[candidate_set(self.held_out, total, self.seed, self.step, PROBE)]
            selection = selection.with_probes(probe, self.held_out / total, self.group)
        self.step += 1
        return selection

    def guide(self, rollouts: Rollouts, advantage: Array) -> Guidance:
        return Guidance(target=Target(self.weight(rollouts.selection), self.memory, self.preconditioned))

    def weight(self, selection: Selection) -> Array | None:
        """f64[B] or None: what each group weighs in the target gradient this step."""
        if self.held_out:
            return None if selection.probe is None else selection.probe / self.held_out
        share = self.share[selection.problem]
        if self.weights == "none":
            return (share > 0) / len(selection)
        draws = len(selection) if selection.design == "iid" else 1
        weight = share / (selection.propensity * selection.candidate_propensity * draws)
        if self.weights == "normalised" and weight.any():
            weight = weight / weight.sum()
        return weight

    def update(self, feedback: Feedback) -> None:
        if feedback.selection.probe is not None:
            feedback = feedback.take(~feedback.selection.probe)
        size = float(np.abs(feedback.utility).mean())
        self.scale += (self.scale_memory if self.scale else 1.0) * (size - self.scale)
        if self.scale:
            feedback = replace(feedback, utility=feedback.utility / self.scale)
        self.inner.update(feedback)

    def resolved(self) -> dict[str, float]:
        return self.inner.resolved()

    def state(self) -> dict[str, Any]:
        return {**super().state(), "scale": self.scale, "inner": self.inner.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.scale = float(state["scale"])
        self.inner.restore(state["inner"])

    def metrics(self) -> dict[str, float]:
        return {**self.inner.metrics(), "utility_scale": self.scale}


def _members(bank: Bank, trusted: str) -> Array:
    """i64[], the problems of the strata named by their numbers; all problems for an empty text."""
    if not trusted:
        return np.arange(len(bank))
    number = [part.strip() for part in trusted.split(",")]
    known = {str(c) for c in np.unique(bank.stratum)}
    for one in number:
        if one not in known:
            raise ValueError(f"trusted must list strata of the bank ({', '.join(sorted(known))}); got {one!r}")
    return np.flatnonzero(np.isin(bank.stratum, [int(one) for one in number]))
