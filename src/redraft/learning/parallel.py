"""What the processes of a training run must do together."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor

from redraft.errors import UserError

T = TypeVar("T")


def accelerator_on(device: torch.device, *, bf16: bool) -> Accelerator:
    """A new accelerator for this process's device; `bf16` computes in bfloat16 under autocast."""
    if device.index is not None:
        torch.cuda.set_device(device)
    # Accelerate keeps device and precision for the whole process; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=device.type != "cuda")


def gather_numbers(accelerator: Accelerator, local: Sequence[float]) -> Tensor:
    """Every process's numbers, float64 [processes, numbers] on the CPU; all must call this."""
    numbers = torch.tensor([list(local)], dtype=torch.float64, device=accelerator.device)
    return accelerator.gather(numbers).cpu()


def largest(accelerator: Accelerator, value: int) -> int:
    """The largest of all processes' values; all must call this."""
    return int(gather_numbers(accelerator, [value]).max())


def gather_list(accelerator: Accelerator, items: Sequence[Any]) -> list[Any]:
    """The items of all processes, in the order of the processes, on each of them: for small things
    only, since everything is pickled to everybody. All must call this."""
    if accelerator.num_processes == 1:
        return list(items)
    gathered: list[Any] = gather_object(list(items))
    return gathered


def gather_to_main(accelerator: Accelerator, items: Sequence[Any]) -> list[Any]:
    """The items of all processes on the main process, in the order of the processes; none on the
    others. All must call this."""
    if accelerator.num_processes == 1:
        return list(items)
    main = accelerator.is_main_process
    parts: list[Any] | None = [None] * accelerator.num_processes if main else None
    torch.distributed.gather_object(list(items), parts, dst=0)
    return [item for part in parts or [] for item in part]


def together(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """The result of `work` on this process, once it has succeeded on all of them.

    An error on one process would leave the others waiting in their next collective operation. So
    failures are exchanged first: the process that failed raises its own error, and every other one
    names that process and its reason. All must call this.

    Raises:
        UserError: another process failed.
        Exception: whatever `work` raises here.
    """
    failure: Exception | None = None
    result: Any = None
    try:
        result = work()
    except Exception as error:
        failure = error
    reason = None if failure is None else f"process {accelerator.process_index}: {_reason(failure)}"
    failures = [reason for reason in gather_list(accelerator, [reason]) if reason is not None]
    if failure is not None:
        raise failure
    if failures:
        raise UserError(failures[0])
    return result


def on_main(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Do `work` on the main process; the others wait until it is done, and fail with it as in
    `together`. All must call this."""
    together(accelerator, work if accelerator.is_main_process else lambda: None)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
