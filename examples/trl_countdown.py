"""TRL's GRPO with a curator of curbench, on a CPU: python examples/trl_countdown.py [CURATOR] [STEPS]

About three minutes on two cores for 60 steps of the small base model that ships. Interrupt it and run it again: it
continues from its last checkpoint as if nothing had happened.
"""

import sys
from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig

from curbench import suites
from curbench.integrations.trl import CuratedGRPOTrainer, dataset_bank, make_curator
from curbench.train.policy import load_policy

curator, steps = sys.argv[1] if len(sys.argv) > 1 else "sec", int(sys.argv[2]) if len(sys.argv) > 2 else 60
suite = suites.load("countdown")
rows = range(len(suite.bank))
data = Dataset.from_dict(
    {"prompt": [suite.prompt(i) for i in rows], "problem": list(rows), "level": suite.bank.stratum.tolist()}
)


def verifier(completions, problem, **_):
    return [suite.verify(i, text.strip())[0] for i, text in zip(problem, completions, strict=True)]


args = GRPOConfig(
    output_dir=f"runs/trl_{curator}", max_steps=steps, save_steps=20, logging_steps=10, learning_rate=5e-4,
    per_device_train_batch_size=128, gradient_accumulation_steps=2, num_generations=8, max_completion_length=24,
    use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], lr_scheduler_type="constant",
)  # fmt: skip
policy = load_policy(None, "countdown")
trainer = CuratedGRPOTrainer(
    model=policy.model,
    processing_class=policy.tokenizer,
    reward_funcs=verifier,
    args=args,
    train_dataset=data,
    curator=make_curator(curator, dataset_bank(data, stratum="level"), args),
)
trainer.train(resume_from_checkpoint=any(Path(args.output_dir).glob("checkpoint-*")) or None)
reward = [row["reward"] for row in trainer.state.log_history if "reward" in row]
print(f"{curator}: mean reward {reward[0]:.3f} in the first 10 steps, {reward[-1]:.3f} in the last")
