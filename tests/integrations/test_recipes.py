"""The recipes of docs/trainers, run against stand-ins of the classes that they derive from."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

PAGES = Path(__file__).parents[2] / "docs" / "trainers"


def recipe(monkeypatch, page, **module):
    """What a page's recipe defines; ``module`` are stand-ins by the dotted name that they are imported from."""
    for path, names in module.items():
        path = path.replace("__", ".")
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        vars(sys.modules[path]).update(names)
    code = re.search(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.S)[1]
    space = {}
    exec(compile(code, f"{page}.md", "exec"), space)
    return space


def test_the_page_on_the_core_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    space = recipe(monkeypatch, "index")
    assert space["ledger"].metrics()["tickets_observed"] == 3


def test_prime_rl(monkeypatch):
    class TaskSampler:
        """Stand-in."""

    space = recipe(
        monkeypatch, "prime-rl", prime_rl__orchestrator__curriculum__samplers__base={"TaskSampler": TaskSampler}
    )
    tasks = [SimpleNamespace(key=f"task {i}", level=i % 3) for i in range(12)]
    make = lambda: space["CuratedSampler"](tasks, lambda task: task.level, batch=4, group=2)  # noqa: E731
    sampler = make()
    out = [next(sampler) for _ in range(10)]

    def group(task, rewards):
        agent = SimpleNamespace(trainable=True)
        traces = [SimpleNamespace(has_error=False, agent=agent, reward=r, num_output_tokens=5) for r in rewards]
        return [SimpleNamespace(task=task, traces=traces)]

    for task in reversed(out[1:8]):
        sampler.observe(group(task, [1.0, 0.0]))
    assert sampler.metrics()["tickets_observed"] == 1
    other = make()
    other.load_state_dict(sampler.state_dict())
    sampler.observe(group(out[0], []))
    assert sampler.metrics()["tickets_observed"] == 2
    assert next(other).key == next(sampler).key


def test_slime(monkeypatch, tmp_path):
    class Source:
        def __init__(self, args):
            self.args, self.sample_index, self.sample_group_index = args, 0, 0
            row = lambda i: SimpleNamespace(metadata={"level": i % 2}, reward=None, response_length=4)  # noqa: E731
            self.dataset = SimpleNamespace(samples=[row(i) for i in range(20)])

        def _get_samples_from_buffer(self, count):
            return []

        def save(self, rollout_id):
            (tmp_path / "rollout").mkdir(exist_ok=True)

        def load(self, rollout_id=None):
            """Stand-in."""

    space = recipe(monkeypatch, "slime", slime__rollout__data_source={"RolloutDataSourceWithBuffer": Source})
    args = SimpleNamespace(rollout_batch_size=4, n_samples_per_prompt=2, num_rollout=9, rollout_seed=0)
    args.save = args.load = str(tmp_path)
    source = space["CuratedSource"](args)
    samples = [sample for group in source.get_samples(4) for sample in group]
    for k, sample in enumerate(samples):
        sample.get_reward_value = lambda _, k=k: float(k % 4 == 0)
    raw, advantage = space["tell"](args, samples)
    assert raw == [1.0, 0.0, 0.0, 0.0] * 2
    np.testing.assert_allclose(advantage, [0.7071, -0.7071, 0, 0] * 2, atol=1e-4)
    assert source.ledger.metrics()["tickets_observed"] == 1
    source.save(1)
    drawn = [g[0].index for g in source.get_samples(4)]
    problem = source.ledger.selection(1).problem
    again = space["CuratedSource"](args)
    again.load(1)
    assert len(again.get_samples(4)) == len(drawn) == 4
    np.testing.assert_array_equal(again.ledger.selection(1).problem, problem)


def test_nemo_rl(monkeypatch):
    batches = SimpleNamespace(from_batches=lambda given: given)
    space = recipe(monkeypatch, "nemo-rl", nemo_rl__distributed__batched_data_dict={"BatchedDataDict": batches})
    loaders = {"easy": ["e"] * 3, "hard": ["h"] * 3}
    iterators = {name: iter(loader) for name, loader in loaders.items()}
    for _ in range(5):
        drawn, iterators = space["curated"](iterators, loaders)
        space["tell"](np.repeat([1.0 if one == "h" else 0.0 for one in drawn], 16), np.full(8 * 16, 7))
    assert len(drawn) == 8
    assert space["ledger"].metrics()["tickets_observed"] == 5


def test_openrlhf(monkeypatch):
    class Data:
        datasources = ["math", "code"] * 6

        def __len__(self):
            return 12

        def __getitem__(self, i):
            return self.datasources[i], f"prompt {i}", f"label {i}", None

    class Trainer:
        def __init__(self):
            self.args = SimpleNamespace(rollout=SimpleNamespace(batch_size=4, n_samples_per_prompt=2))
            self.max_steps, self.prompts_dataloader = 9, SimpleNamespace(dataset=Data())
            self.samples_generator = SimpleNamespace()

        def train_step(self, rollout_samples, global_step):
            return {}, global_step + 1

    remote = SimpleNamespace(__ray_metadata__=SimpleNamespace(modified_class=Trainer))
    modules = {"ray": {"remote": lambda cls: cls}, "openrlhf__trainer__ppo_trainer": {"PPOTrainer": remote}}
    trainer = recipe(monkeypatch, "openrlhf", **modules)["CuratedPPOTrainer"]()
    prompts = iter(trainer.samples_generator.prompts_dataloader)
    for step in range(2):
        names = [next(prompts)[1][0] for _ in range(4)]
        sample = lambda name, k: SimpleNamespace(prompts=[name], scores=np.array([k]), response_length=np.array([3]))  # noqa: E731
        assert trainer.train_step([sample(name, k) for k in range(2) for name in names], step) == ({}, step + 1)
    assert trainer.prompts_dataloader.ledger.metrics()["tickets_observed"] == 2
    assert trainer.prompts_dataloader.state_dict()["ledger"]["next"] == 2


def test_skyrl(monkeypatch):
    class Trainer:
        def __init__(self):
            generator, trainer = SimpleNamespace(n_samples_per_prompt=2), SimpleNamespace(train_batch_size=4, seed=0)
            self.cfg = SimpleNamespace(generator=generator, trainer=trainer)
            self.train_dataset = SimpleNamespace(dataframe=[{"level": i % 2} for i in range(12)], collate_fn=list)
            type(self.train_dataset).__len__ = lambda _: 12
            self._build_train_dataloader_and_compute_training_steps()

        def _build_train_dataloader_and_compute_training_steps(self):
            self.train_dataloader, self.total_training_steps = [None] * 3, 3

        def postprocess_generator_output(self, generator_output, uids):
            return generator_output, uids

        def train_critic_and_policy(self, data):
            return {}

    Data = type("Data", (SimpleNamespace,), {"__len__": lambda self: 12})
    monkeypatch.setattr(sys.modules[__name__], "SimpleNamespace", Data)
    loader = {"StatefulDataLoader": lambda data, **rest: Data(**rest)}
    modules = {"skyrl__train__trainer": {"RayPPOTrainer": Trainer}, "torchdata__stateful_dataloader": loader}
    trainer = recipe(monkeypatch, "skyrl", **modules)["CuratedTrainer"]()
    rows = iter(trainer.train_dataloader.sampler)
    for _ in range(2):
        uids = [str(next(rows)) for _ in range(4)]
        uids = [uid for uid in uids[:3] for _ in range(2)]  # the last group is lost
        output = {"rewards": [[0.0, float(k % 2)] for k in range(6)], "response_ids": [[1, 2]] * 6}
        trainer.postprocess_generator_output(output, uids)
        trainer.train_critic_and_policy(None)
    assert trainer.ledger.metrics()["tickets_observed"] == 2
    assert trainer.ledger.metrics()["pass_rate"] == 0.5


@pytest.mark.parametrize("page", ["trl"])
def test_other_pages_are_python(page):
    for code in re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.S):
        compile(code, page, "exec")
