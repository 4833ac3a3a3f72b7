"""The accelerate `Accelerator` of a run."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState


def accelerator_on(device: torch.device, *, bf16: bool) -> Accelerator:
    """A new accelerator for this process's device; `bf16` computes in bfloat16 under autocast."""
    if device.index is not None:
        torch.cuda.set_device(device)
    # Accelerate keeps device and precision for the whole process; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=device.type != "cuda")
