"""Draws every learning-rate schedule at its defaults: ``python docs/plot_schedules.py`` writes docs/schedules.svg."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from curbench.schedules import SCHEDULES, Schedule, refine

Z = np.linspace(0.0, 1.0, 201)
NORM = 1.0 + 3.0 * np.exp(-Z / 0.03) + 0.5 * Z**8
"""Gradient norms for the refined schedule: a fall in the first steps, a small rise at the end."""


def main() -> None:
    plt.rcParams.update({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "schedules"})
    figure, axes = plt.subplots(3, 3, figsize=(7.2, 4.6), sharex=True, sharey=True, layout="constrained")
    for axis, name in zip(axes.flat, SCHEDULES, strict=True):
        if name == "refined":
            value = refine(NORM)
        else:
            value = [Schedule(name=name)(z) for z in Z]
            axis.plot(Z, [Schedule(name=name, warmup=0.1)(z) for z in Z], "--", color="#cc5533", linewidth=0.8)
        axis.plot(Z, value, color="#3366aa", linewidth=1.4)
        axis.set_title(name)
    figure.supxlabel("share of the budget used")
    figure.supylabel("multiplier of the learning rate")
    figure.savefig(Path(__file__).parent / "schedules.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
