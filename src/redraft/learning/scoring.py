"""Log-probabilities of rows without a gradient, in micro-batches, on all processes together."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from redraft.learning.batching import microbatch, split
from redraft.learning.memory import OutOfMemory, is_out_of_memory, out_of_memory_alone
from redraft.learning.parallel import largest
from redraft.learning.rows import BoolArray, FloatArray, TrainingRow
from redraft.learning.sharding import is_sharded


@torch.no_grad()
def score(
    scorer: Any,
    rows: Sequence[TrainingRow],
    select: Callable[[TrainingRow], BoolArray],
    budget: int,
    accelerator: Accelerator,
) -> list[FloatArray]:
    """Log-probability of the selected tokens of each row, in nats, shape [selected] each.

    Args:
        scorer: a (wrapped) `TokenScorer`; it is left in evaluation mode.
        rows: this process's rows, any number.
        select: which tokens of a row to score, shape [time].
        budget: padded tokens that go through the model at once.
        accelerator: all its processes must call this.

    Raises:
        OutOfMemory: on all processes, if an allocation failed on one.
    """
    plan = split([len(row) for row in rows], budget)
    found: list[FloatArray] = [np.zeros(0, dtype=np.float32) for _ in rows]
    scorer.eval()
    passes = largest(accelerator, len(plan))
    failed = False
    for k in range(passes):
        group = plan[k] if k < len(plan) else []
        try:
            batch = microbatch([rows[i] for i in group], select, accelerator.device)
            logprob, _ = scorer(batch.tokens, batch.positions, batch.targets)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if is_sharded(scorer):
                raise out_of_memory_alone(accelerator) from None
            failed = True
            break
        counts = [int(select(rows[i]).sum()) for i in group]
        parts = np.split(logprob.cpu().numpy(), np.cumsum(counts))
        for i, part in zip(group, parts, strict=False):
            found[i] = part
    if largest(accelerator, failed):
        raise OutOfMemory
    return found
