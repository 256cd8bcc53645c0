"""Times the kernels against what people run today, in one process and on one thread, after checking that they agree.

Peers are small restatements of published code: the group loop over uid strings of verl, the view of TRL, eager and
compiled torch, numpy. Calls alternate, so that a busy machine slows all of them alike, and medians are reported. The
ceiling of a row is what one thread reached in the very same alternation: reading as many bytes, from memory or from the
cache that holds them, or multiplying and adding where that is the limit.
"""

from curbench.bench.compare import Comparison, compare, document, read_document
from curbench.bench.measure import OURS, OURS_ON_TENSORS, SUBJECTS, Timing, describe, run, self_check

__all__ = [
    "OURS",
    "OURS_ON_TENSORS",
    "SUBJECTS",
    "Comparison",
    "Timing",
    "compare",
    "describe",
    "document",
    "read_document",
    "run",
    "self_check",
]
