"""The curated trainer inside verl's own v1 loop: its dataset, TransferQueue, replay buffer, advantages and logging.

What needs a GPU is stood in for by a small policy over eight tokens: the inference server and the FSDP workers.
"""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("verl")

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
import transfer_queue as tq
import verl
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils import tensordict_utils as tu
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from curbench import kernels
from curbench.curators import curator_class
from curbench.integrations.verl import CuratedTrainer

ROWS, PROMPTS, GROUP, VOCABULARY = 24, 4, 4, 8


@pytest.fixture(scope="module", autouse=True)
def _queue():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    config = OmegaConf.load(Path(verl.__file__).parent / "trainer/config/transfer_queue/transfer_queue.yaml")
    config.backend.SimpleStorage.num_data_storage_units = 1
    config.enable = True
    tq.init(config)
    yield
    tq.close()
    ray.shutdown()


class Policy:
    """Tokens drawn independently from one softmax: what verl's worker group and agent loops do, in small."""

    def __init__(self, seed=0):
        self.logit, self.rng = np.zeros(VOCABULARY), np.random.default_rng(seed)
        self._dispatch_info, self.history = {"actor": [0]}, []

    def logprob(self, token):
        return (self.logit - np.log(np.exp(self.logit).sum()))[token]

    def rows(self, batch, *fields):
        return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(fields))

    def compute_log_prob(self, batch):
        value = [
            torch.tensor(self.logprob(ids.numpy()), dtype=torch.float32)
            for ids in self.rows(batch, "input_ids")["input_ids"].unbind()
        ]
        shifted = [torch.cat([row[1:], row[:1]]) for row in value]  # place t speaks of token t + 1
        nested = torch.nested.as_nested_tensor(shifted, layout=torch.jagged)
        fields = tu.get_tensordict({"log_probs": nested, "entropy": nested.clone()})
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
        return batch

    def update_actor(self, batch):
        data = self.rows(batch, "responses", "advantages")
        pairs = list(zip(data["responses"].unbind(), data["advantages"].unbind(), strict=True))
        self.history.append((self.logit.copy(), pairs))
        for token, advantage in pairs:
            np.add.at(self.logit, token.numpy(), 0.05 * advantage.numpy())
        return tu.get_tensordict({}, non_tensor_dict={"metrics": {"mfu": 0.0}})

    def generate_sequences(self, batch):
        """Answers of two tokens; the score is whether the first is smaller than the level of the problem."""
        keys, rows, tags = [], [], []
        for i, uid in enumerate(batch["uid"]):
            level = batch["extra_info"][i]["level"]
            for session in range(GROUP):
                chance = np.exp(self.logprob(np.arange(VOCABULARY)))
                answer = torch.tensor(self.rng.choice(VOCABULARY, 2, p=chance / chance.sum()))
                prompt, score = torch.tensor([1, 2, 3]), float(answer[0] < 2 * level)
                row = {"prompts": prompt, "responses": answer, "input_ids": torch.cat([prompt, answer]), "uid": uid}
                row |= {
                    "response_mask": torch.ones(2, dtype=torch.int64),
                    "loss_mask": torch.ones(2, dtype=torch.int64),
                }
                row |= {"rollout_log_probs": torch.tensor(self.logprob(answer.numpy()), dtype=torch.float32)}
                row |= {"rm_scores": torch.tensor([0.0, score]), "num_turns": 1, "position_ids": torch.arange(5)}
                keys.append(f"{uid}_{session}_0")
                rows.append(row)
                step = batch["global_steps"]
                tags.append(
                    {"status": "success", "seq_len": 5, "prompt_len": 3, "response_len": 2, "global_steps": step}
                )
                tags[-1] |= {"min_global_steps": step - 1, "max_global_steps": step - 1}
        tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(rows), tags=tags, partition_id="train")
        done = [{"is_prompt": True, "status": "finished", "global_steps": batch["global_steps"]}] * len(batch)
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id="train", tags=done)

    def save_checkpoint(self, path, *_, **__):
        Path(path).mkdir(parents=True)
        np.savez(Path(path) / "policy.npz", logit=self.logit, rng=np.array(json.dumps(self.rng.bit_generator.state)))

    def load_checkpoint(self, local_path, **_):
        with np.load(Path(local_path) / "policy.npz") as file:
            self.logit = file["logit"]
            self.rng.bit_generator.state = json.loads(str(file["rng"]))


class Idle:
    """A manager of replicas, rewards or profiles that there are none of."""

    reward_loop_worker_handles = ()

    def __getattr__(self, name):
        return lambda *_, **__: None


class Small(CuratedTrainer):
    """Everything of verl but the start of its workers."""

    def _setup(self):
        self.tokenizer, self.processor = type("Tokenizer", (), {"eos_token_id": 0, "pad_token_id": 0})(), None
        self._init_dataloader()
        self._init_dump_executor()
        self.actor_rollout_wg = Policy()
        self.reward_loop_manager = self.checkpoint_manager = self.llm_server_manager = Idle()
        self.told = []
        update, curator = self.ledger.curator.update, self.ledger.curator
        curator.update = lambda feedback: (self.told.append(feedback), update(feedback))[1]
        self._load_checkpoint()

    def _get_n_gpus_for_throughput(self):
        return 1

    def _start_profiling(self):
        """There is nothing to profile."""

    _stop_profiling = _start_profiling


def trainer(folder, steps, *, curator="sec", **curbench):
    data = folder / "data.parquet"
    level = [{"index": i, "level": i % 4} for i in range(ROWS)]
    prompt = [[{"role": "user", "content": f"question {i}"}] for i in range(ROWS)]
    table = {"prompt": prompt, "extra_info": level, "data_source": ["toy"] * ROWS}
    pq.write_table(pa.table(table | {"reward_model": [{"ground_truth": str(i)} for i in range(ROWS)]}), data)
    config = OmegaConf.load(Path(verl.__file__).parent / "trainer/config/_generated_ppo_trainer.yaml")
    change = {
        "data": {"train_files": [str(data)], "val_files": [str(data)], "train_batch_size": PROMPTS},
        "algorithm": {"adv_estimator": "grpo"},
        "actor_rollout_ref": {"rollout": {"n": GROUP}, "actor": {"ppo_mini_batch_size": PROMPTS, "use_kl_loss": False}},
        "trainer": {"total_training_steps": steps, "logger": [], "default_local_dir": str(folder / "out")},
        "curbench": {"curator": curator, "stratum": "extra_info.level", **curbench},
    }
    config = OmegaConf.merge(config, OmegaConf.create(change))
    config.data.filter_overlong_prompts = False
    config.data.dataloader_num_workers = 0
    config.data.cache_dir = str(folder / "cache")
    config.trainer.val_before_train, config.trainer.test_freq, config.trainer.save_freq = False, -1, 2
    config.trainer.v1.trainer_mode = "curated_sync"
    made = Small(config)
    made.init()
    return made


def fit(made):
    made.fit(made.actor_rollout_wg)
    return made.told


def test_the_trainer_is_registered_under_its_name():
    assert get_trainer_cls("curated_sync") is CuratedTrainer


def test_verl_trains_on_what_the_curator_selects_and_the_curator_on_what_verl_saw(tmp_path):
    told = fit(trainer(tmp_path, 5))
    assert len(told) == 5
    assert all((feedback.staleness == 0).all() for feedback in told)
    curator = curator_class("sec")(made_bank(told), seed=0, batch=PROMPTS, group=GROUP, horizon=5)
    for feedback in told:
        np.testing.assert_array_equal(curator.select(PROMPTS).problem, feedback.selection.problem)
        assert not feedback.stats.success[feedback.selection.problem % 4 == 0].any(), "level 0 is never solved"
        curator.update(feedback)
    assert sum(feedback.stats.success.sum() for feedback in told) > 0


def made_bank(told):
    from curbench.types import Bank

    return Bank(key=np.arange(ROWS).astype(str), stratum=np.arange(ROWS) % 4)


def test_policy_improvement_is_that_of_the_actors_before_and_after_the_update(tmp_path):
    made = trainer(tmp_path, 1, signal="policy_improvement")
    (feedback,) = fit(made)
    policy, (before, _) = made.actor_rollout_wg, made.actor_rollout_wg.history[0]
    assert not np.array_equal(policy.logit, before)
    assert np.any(feedback.utility)
    again = Policy()
    again.generate_sequences = Policy.generate_sequences.__get__(again)
    answer = np.array([again.rng.choice(VOCABULARY, 2, p=np.full(VOCABULARY, 1 / 8)) for _ in range(PROMPTS * GROUP)])
    reward = (answer[:, 0] < 2 * np.repeat(feedback.selection.problem % 4, GROUP)).astype(float)
    expected = kernels.policy_improvement(
        policy.logprob(answer).astype(np.float32),
        again.logprob(answer).astype(np.float32),
        kernels.group_advantage(reward, GROUP, estimator="dr_grpo").advantage,
        GROUP,
        length=np.full(len(answer), 2),
    ).utility
    np.testing.assert_allclose(feedback.utility, expected, atol=1e-6)  # float32 log-probabilities


def test_groups_that_are_not_admitted_have_no_advantage(tmp_path):
    made = trainer(tmp_path, 2, curator="d3s")
    fit(made)
    for _, pairs in made.actor_rollout_wg.history:
        assert sum(bool(advantage.any()) for _, advantage in pairs) <= 10


def test_a_resumed_run_selects_as_one_that_was_not_interrupted(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = trainer(tmp_path / "whole", 5)
    expected = fit(whole)
    (tmp_path / "half").mkdir()
    half = trainer(tmp_path / "half", 5)
    half.on_step_begin = lambda: (_ for _ in ()).throw(KeyboardInterrupt) if half.global_steps == 4 else None
    with pytest.raises(KeyboardInterrupt):
        fit(half)
    resumed = trainer(tmp_path / "half", 5)
    assert resumed.global_steps == 2
    for one, other in zip(fit(resumed), expected[2:], strict=True):
        np.testing.assert_array_equal(one.selection.problem, other.selection.problem)
        np.testing.assert_array_equal(one.utility, other.utility)
    np.testing.assert_array_equal(resumed.actor_rollout_wg.logit, whole.actor_rollout_wg.logit)


def test_what_verl_cannot_do_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dapo needs rounds"):
        trainer(tmp_path, 1, curator="dapo")
    with pytest.raises(ValueError, match=r"unknown setting curbench.sed; choose from curator, seed"):
        trainer(tmp_path, 1, sed=1)
    with pytest.raises(ValueError, match=r"row 0 of the training data has no extra_info.hardness"):
        trainer(tmp_path, 1, difficulty="extra_info.hardness")
    with pytest.raises(ValueError, match="cross-fitted signals"):
        trainer(tmp_path, 1, signal="policy_improvement_cross_fit")
