"""One step of online mirror descent over K arms."""

from typing import Any

from curbench.kernels import reference
from curbench.kernels.arrays import no_fault, place_of, runs_reference, through_numpy, vector
from curbench.kernels.contract import mirror_fault, mirror_options
from curbench.kernels.extension import load


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
