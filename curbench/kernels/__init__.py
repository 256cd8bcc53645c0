"""Compiled ops with a numpy reference beside them: the only package that knows the extension.

Every op takes ``backend="auto" | "reference" | "cpu" | "cuda"`` and ``threads``. "auto" is "cuda" for CUDA tensors and
"cpu" for the rest; a back-end that is absent is an error, never a slower path. Results have the same bits for every
number of threads. Arrays are numpy's, torch's, or whatever exports DLPack, and are read where they lie; results are
tensors for tensors, and for what lies on a GPU, else numpy arrays.
"""

from curbench.kernels.advantage import group_advantage
from curbench.kernels.bank import score_bank
from curbench.kernels.contract import ArmDraw, BankDraw, BankShard, GroupAdvantage, Grouping, PolicyImprovement
from curbench.kernels.convention import CONVENTIONS
from curbench.kernels.draw import draw
from curbench.kernels.extension import build_info, cuda_status
from curbench.kernels.grouping import group_by_id
from curbench.kernels.improvement import policy_improvement
from curbench.kernels.mirror import MirrorTree, mirror_step
from curbench.kernels.shard import merge_shards, score_shard

OPS = {op.__name__: op for op in (group_advantage, policy_improvement, score_bank, draw, mirror_step)}

__all__ = [
    "CONVENTIONS",
    "OPS",
    "ArmDraw",
    "BankDraw",
    "BankShard",
    "GroupAdvantage",
    "Grouping",
    "MirrorTree",
    "PolicyImprovement",
    "build_info",
    "cuda_status",
    "draw",
    "group_advantage",
    "group_by_id",
    "merge_shards",
    "mirror_step",
    "policy_improvement",
    "score_bank",
    "score_shard",
]
