"""Models whose weights, gradients and optimizer state are shared out over all processes: FSDP2, and
what it has in common with DeepSpeed's ZeRO (`zero.py`).

PyTorch's `fully_shard` does the work (arXiv 2304.11277; ZeRO-3 in arXiv 1910.02054). Each process
keeps a part of every weight; the layer that is being computed is gathered before its forward and
its backward pass and let go after it, and its gradients are added up over the processes as soon as
they are there. accelerate's plugin for it does nothing on CPUs and adds gradients up in bfloat16,
so the calls are made here; the processes are accelerate's as ever.
"""

import copy
import ctypes
import warnings
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from redraft.learning import zero

MOMENTS = "optimizer"
"""Folder of a checkpoint with the optimizer state of a sharded model."""


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of a model, or of the one in a module, are shared out: by `shard`, or by
    `zero.partition`."""
    return any(hasattr(weight, "full_tensor") for weight in model.parameters())


def is_fsdp(model: nn.Module) -> bool:
    """Whether a model, or the one in a module, has been through `shard`."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def bytes_for_each(sharding: str, processes: int) -> tuple[float, float]:
    """Bytes that each process holds for a trained weight: the weight itself, and its gradient with
    what the optimiser keeps (two moments; DeepSpeed also a copy of the weight)."""
    if processes == 1 or sharding == "none":
        return 4.0, 12.0
    share = 1 / processes
    kinds = {"fsdp2": (4 * share, 12 * share), "zero3": (4 * share, 16 * share)}
    return kinds.get(sharding, (4.0, 4.0 + 12 * share))


def shard(model: Any, device: torch.device, dtype: torch.dtype | None) -> None:
    """Share a model's weights out over all processes, in place; all processes must call this.

    Args:
        model: a causal language model or a PEFT model, whole on each process, on the CPU or on
            `device`. Frozen weights are stored in `dtype`, trained ones stay as they are.
        device: where this process computes.
        dtype: what weights are gathered and computed in; None: what they are stored in. Gradients
            are added up in float32.
    """
    if device.type == "cpu":
        _return_memory()
    for weight in model.parameters():
        if dtype is not None and not weight.requires_grad:
            weight.data = weight.data.to(dtype)
    how: Any = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "reshard_after_forward": True,  # the root's too: whatever reads it then finds its own part
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
    }
    layers = set(model._no_split_modules or ())
    for module in [*model.modules()]:
        if type(module).__name__ in layers:
            fully_shard(module, **how)
    fully_shard(model, **how)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums, as the loss is divided by the whole batch
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _return_memory() -> None:
    """Have large blocks of memory go back to the system when they are let go: glibc keeps those
    that it has seen before, and layers that are gathered again and again end up in pieces."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 2**20)


_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of malloc.h."""


def whole(tensor: Any) -> Tensor:
    """A tensor in full, detached; if it is sharded all processes must call this."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()


def part(tensor: Any) -> Tensor:
    """What this process has of a tensor."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return zero.part(tensor) if hasattr(tensor, "ds_tensor") else tensor


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor in full."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def largest_unit(model: nn.Module) -> int:
    """Weights that are gathered at once; 0 if the model is not sharded."""
    if is_sharded(model) and not is_fsdp(model):
        return max(prod(shape_of(weight)) for weight in model.parameters())
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    sizes = {unit: sum(p.numel() for p in unit.parameters()) for unit in units}
    if units:  # the root holds the others
        sizes[units[0]] -= sum(sizes[unit] for unit in units[1:])
    return max(sizes.values(), default=0)


def whole_copy(model: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """A frozen copy of a model that is not sharded yet, in `dtype` (None: as it is), to decode
    with."""
    copies: dict[int, Any] = {
        id(weight): nn.Parameter(
            weight.detach().to(device, dtype or weight.dtype, copy=True), requires_grad=False
        )
        for weight in model.parameters()
    }
    return copy.deepcopy(model, copies).to(device)


def copy_of_trained(model: Any) -> Any:
    """A copy of a model, to decode with while the model is trained; what is frozen they share."""
    kept: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach().clone(), requires_grad=False)
        if tensor.requires_grad
        else tensor
        for tensor in model.parameters()
    }
    return copy.deepcopy(model, kept)


@torch.no_grad()
def copy_trained(model: nn.Module, target: nn.Module) -> None:
    """Bring a copy to decode with up to date with its model, sharded or not, one weight at a time;
    all processes must call this."""
    targets = dict(target.named_parameters())
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            targets[name].copy_(whole(weight))


def load_whole(model: nn.Module, weights: dict[str, Any]) -> None:
    """Give a model, sharded or not, the weights of another one that is not; all processes must call
    this."""
    if is_sharded(model) and not is_fsdp(model):
        for name, weight in model.state_dict(keep_vars=True).items():
            zero.set_full(weight, weights[name])
        return
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))


def write_model(model: Any, folder: Path, *, main: bool) -> None:
    """Write a model, or a PEFT model's adapter, in Hugging Face format: the main process does, and
    all must call this if the model is sharded."""
    if not is_sharded(model):
        if main:
            model.save_pretrained(folder)
        return
    gathered: dict[int, Tensor] = {}  # tied weights once
    state = model.state_dict(keep_vars=True)
    adapter = hasattr(model, "peft_config")
    for weight in state.values():
        if id(weight) not in gathered and (weight.requires_grad or not adapter):
            full = whole(weight)
            gathered[id(weight)] = full.cpu() if main else full[:0]
    if main:
        named = {n: gathered[id(w)] for n, w in state.items() if id(w) in gathered}
        model.save_pretrained(folder, state_dict=named)


def write_moments(model: nn.Module, optimizer: Any, folder: Path) -> None:
    """Write AdamW's moments of a sharded model, each process its part, as safetensors; all
    processes must call this.

    Raises:
        OSError: they cannot be written.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(_moments(model, optimizer), storage_writer=writer)
    except CheckpointException as error:  # no Exception of Python's
        raise OSError(_first_failure(error)) from None


def load_moments(model: nn.Module, optimizer: Any, folder: Path, step: Tensor) -> None:
    """Read what `write_moments` wrote, on as many processes as there are now; all must call this.

    Args:
        model: sharded or not.
        optimizer: its AdamW, which has taken no step yet.
        folder: where the moments are.
        step: how many steps the optimizer had taken.

    Raises:
        ValueError: they are another model's, or damaged.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            empty = {name: torch.zeros_like(weight) for name in _MOMENTS}
            optimizer.state[weight] = {"step": step.clone(), **empty}
    reader = HuggingFaceStorageReader(str(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process: fine
            load(_moments(model, optimizer), storage_reader=reader)
    except CheckpointException as error:
        raise ValueError(_first_failure(error)) from None


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _moments(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    return {
        f"{name}.{moment}": optimizer.state[weight][moment]
        for name, weight in model.named_parameters()
        if weight.requires_grad
        for moment in _MOMENTS
    }


def _first_failure(error: CheckpointException) -> str:
    process, (cause, _) = next(iter(error.failures.items()))
    return f"process {process}: {cause}"
