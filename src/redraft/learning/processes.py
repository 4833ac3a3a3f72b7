"""Numbers that all processes of a training run must agree on."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor


def gather_numbers(accelerator: Accelerator, local: Sequence[float]) -> Tensor:
    """Every process's numbers, float64 [processes, numbers] on the CPU; all must call this."""
    numbers = torch.tensor([list(local)], dtype=torch.float64, device=accelerator.device)
    return accelerator.gather(numbers).cpu()


def largest(accelerator: Accelerator, value: int) -> int:
    """The largest of all processes' values; all must call this."""
    return int(gather_numbers(accelerator, [value]).max())
