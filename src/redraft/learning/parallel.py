"""Accelerate's part in a run on several processes."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from redraft.processes import PATIENCE, Processes, enter_group


def accelerator_on(device: torch.device, *, bf16: bool) -> Accelerator:
    """A new accelerator for this process's device; `bf16` computes in bfloat16 under autocast."""
    if device.index is not None:
        torch.cuda.set_device(device)
    # Accelerate keeps device and precision for the whole process; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        cpu=device.type != "cuda",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if accelerator.num_processes > 1:
        enter_group()
    return accelerator


def gather_numbers(accelerator: Accelerator, local: Sequence[float]) -> Tensor:
    """Every process's numbers, float64 [processes, numbers] on the CPU; all must call this."""
    numbers = torch.tensor([list(local)], dtype=torch.float64, device=accelerator.device)
    return accelerator.gather(numbers).cpu()


def largest(accelerator: Accelerator, value: int) -> int:
    """The largest of all processes' values; all must call this."""
    return int(gather_numbers(accelerator, [value]).max())


def processes_of(accelerator: Accelerator) -> Processes:
    """The processes that an accelerator knows of."""
    return Processes(accelerator.process_index, accelerator.num_processes)
