"""Online mirror descent over K arms: one dense step, and a tree in which a step and a draw cost log K."""

from typing import Any

import numpy as np

from curbench.kernels import reference
from curbench.kernels.arrays import no_fault, place_of, runs_reference, through_numpy, vector
from curbench.kernels.contract import (
    DESIGNS,
    NO_FAULT,
    ArmDraw,
    mirror_fault,
    mirror_options,
    outside_fault,
    require,
    tree_draw_options,
    unreachable,
)
from curbench.kernels.extension import load

HEAD = 8  # numbers before the values of the arms in the state of a tree; csrc/cpu/mirror_tree.cpp


def mirror_step(
    probability: Any,
    arm: Any,
    *,
    loss: Any,
    eta: float,
    floor: float = 0.0,
    share: float = 0.0,
    backend: str = "auto",
    threads: int = 1,
) -> Any:
    """The probabilities f64[K] after one exponentiated step, its projection on the floor, and fixed share.

    t_i = p_i exp(-eta * sum of the losses of arm i), then the KL projection p_i = max(floor / K, c t_i) with c such
    that they sum to 1, then (1 - share) p + share / K. Large negative losses do not overflow.

    probability  f64[K], not negative, some positive; its scale does not matter
    arm          i64[m], the arm of every slot; repeats add up
    loss         f64[m], the estimate of every slot, already divided by its propensity
    Returns      f64[K], a new array. On CUDA, waits for the device: the search for c is driven from the host
    Raises       ValueError if an argument breaks its rule; RuntimeError if the back-end is absent.
    Source       entropic mirror descent on the truncated simplex; fixed share: Herbster & Warmuth 1998.

    >>> mirror_step([0.5, 0.5], [0], loss=[-1.0986122886681098], eta=1.0).round(12)
    array([0.75, 0.25])
    """
    place = place_of(probability)
    mirror_options(eta, floor, share)
    on_reference = runs_reference(backend, place, threads)
    probability = vector(place, "probability", probability, "float64")
    arm = vector(place, "arm", arm, "int64")
    loss = vector(place, "loss", loss, "float64", len(arm))
    if on_reference:
        options = {"loss": loss, "eta": eta, "floor": floor, "share": share}
        return through_numpy(place, reference.mirror_step, probability, arm, **options)

    arms = len(probability)
    out = place.full(arms, 0.0, "float64")
    workspace = place.empty(load().mirror_step_workspace(arms), "float64")
    fault = no_fault(place, 3)
    at = place.address
    with place.guard():
        solved = load().mirror_step(
            *(at(probability), arms, at(arm), at(loss), len(arm), eta, floor, share),
            *(at(out), at(workspace), at(fault), place.where(threads)),
        )
    mirror_fault(fault.tolist(), solved, probability, arm, loss)
    return out


class MirrorTree:
    """The state of online mirror descent over K arms, of which a step changes few: m slots cost m log K, not K.

    The same arithmetic as ``mirror_step``, with the projection on the floor included, in a 16-ary sum tree; draws too
    cost log K. 1e8 arms take 1 GB. Lives on the CPU: a step takes less time there than a GPU needs to start.

    probability  f64[K], not negative, some positive; its scale does not matter. It is copied
    threads      for the passes over all arms: building, ``probability()``, ``state()``, and a rescaling that comes once
                 in thousands of steps
    Raises       ValueError if an argument breaks its rule; RuntimeError if the kernels are not compiled.
    Source       Ji 2016, "segment tree beats", for the projection; see csrc/cpu/mirror_tree.cpp.

    >>> tree = MirrorTree([0.5, 0.5])
    >>> tree.step_([0], loss=[-1.0986122886681098], eta=1.0)
    >>> tree.probability().round(12)
    array([0.75, 0.25])
    >>> tree.draw(2, design="race", seed=0).arm
    array([0, 1])
    """

    def __init__(self, probability: Any, *, threads: int = 1) -> None:
        place = place_of(probability)
        require(not place.on_cuda, f"a MirrorTree lives on the CPU, not on {place.name}: pass probability.cpu()")
        runs_reference("cpu", place, threads)
        probability = vector(place, "probability", probability, "float64")
        self.arms = len(probability)
        self._place, self._threads = place, threads
        require(1 <= self.arms <= 2**40, f"a MirrorTree needs 1 to 2^40 arms; got {self.arms}")
        self._state = _aligned(load().mirror_tree_size(self.arms))
        fault = np.full(1, NO_FAULT)
        at = place.address
        solved = load().mirror_tree_build(self._state, self.arms, at(probability), fault, threads)
        mirror_fault([NO_FAULT, NO_FAULT, int(fault[0])], solved, probability, None, None)

    def step_(self, arm: Any, *, loss: Any, eta: float, floor: float = 0.0, share: float = 0.0) -> None:
        """Takes the step of ``mirror_step``. With wrong arguments it raises ValueError, and nothing has changed."""
        mirror_options(eta, floor, share)
        place = self._place
        arm = vector(place, "arm", arm, "int64")
        slots = len(arm)
        loss = vector(place, "loss", loss, "float64", slots)
        fault = np.full(2, NO_FAULT)
        at = place.address
        solved = load().mirror_tree_step(
            *(self._state, self.arms, at(arm), at(loss), slots, eta, floor, share),
            *(np.empty(slots, np.int64), np.empty(3 * slots), fault, self._threads),
        )
        mirror_fault([*fault.tolist(), NO_FAULT], solved, range(self.arms), arm, loss)

    def draw(self, count: int, *, design: str = "iid", mix: float = 0.0, seed: int, step: int = 0) -> ArmDraw:
        """``count`` arms drawn from q = (1 - mix) p + mix / K, with their exact propensities.

        design      "iid": with replacement, propensity q. "race": without, in the order in which exponential clocks of
                    rates q ring; the propensity 1 - exp(-q T) of ringing before T, the time of the first clock that
                    is not drawn, makes 1 / propensity an unbiased weight. "systematic": without, propensity
                    min(1, c q) with sum ``count``, as in ``score_bank``
        mix         share of uniform exploration, in [0, 1]
        seed, step  the key and the counter of the draws: same pair, same draw
        Returns     ArmDraw
        Raises      ValueError if an argument breaks its rule, or fewer than ``count`` arms can be drawn.
        Source      race: Efraimidis & Spirakis 2006; its weights: Duffield, Lund & Thorup 2007. Madow 1949.
        """
        tree_draw_options(self.arms, count, design, mix, seed, step)
        place = self._place
        draw = ArmDraw(place.empty(count, "int64"), place.empty(count, "float64"), place.empty(count, "float64"))
        reachable = load().mirror_tree_draw(
            *(self._state, self.arms, count, DESIGNS.index(design), mix, seed, step),
            *(place.address(field) for field in draw),
            *(np.empty(count, np.int64), np.empty(2 * count)),
        )
        if reachable >= 0:
            raise unreachable(count, reachable, design, "mix > 0")
        return draw

    def probability(self, arm: Any = None) -> Any:
        """The probabilities f64[m] of the arms i64[m]; of all of them, which is a pass over K, when None."""
        if arm is None:
            value = self.state()
            return value / value.sum()
        place = self._place
        arm = vector(place, "arm", arm, "int64")
        result, fault = place.empty(len(arm), "float64"), np.full(1, NO_FAULT)
        at = place.address
        load().mirror_tree_read(self._state, self.arms, at(arm), len(arm), at(result), fault)
        outside_fault(int(fault[0]), self.arms, arm)
        return result

    def state(self) -> Any:
        """Values f64[K] proportional to the probabilities. A tree made of them continues with the bits of this one."""
        load().mirror_tree_settle(self._state, self.arms, self._threads)
        return self._place.from_numpy(self._state[HEAD : HEAD + self.arms].copy())


def _aligned(n: int) -> Any:
    """f64[n], not filled, from where a cache line starts."""
    room = np.empty(n + 8)
    return room[(-room.ctypes.data % 64) // 8 :][:n]
