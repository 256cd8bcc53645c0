"""Features of a training run: made once for all runs of a suite, kept beside them, part of the spec."""

import numpy as np
import pytest

from curbench.sweep import run_grid
from curbench.train.run import TrainSpec

SMALL = {"batch": 4, "group": 2, "budget_steps": 2, "grpo": {"evaluation_problems": 4, "threads": 1}}


def spec(**change):
    return TrainSpec(**(SMALL | {"suite": "countdown", "curator": "actor_curator"} | change))


def test_runs_share_the_hidden_states_of_the_model_before_training(tmp_path):
    told = []
    specs = [spec(seed=seed, features="hidden:8+strata") for seed in (0, 1)]
    rows = list(run_grid(specs, tmp_path, progress=lambda *_: None, preparing=lambda *one: told.append(one[1:])))
    assert len(rows) == 2
    assert told[-1] == (told[-1][0],) * 2
    [file] = (tmp_path / ".features").iterdir()
    assert np.load(file).shape == (told[-1][0], 8 + 4)


def test_a_spec_names_sources_that_exist():
    with pytest.raises(ValueError, match="unknown source of features 'words'"):
        spec(features="words")
