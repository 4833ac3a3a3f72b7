"""Frozen weights stored in the precision that they are computed in."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def narrow_frozen(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Store the frozen weights of linear layers in `dtype`, in place, as autocast would cast them.

    A forward pass under autocast computes exactly what it did: what autocast casts is cast once
    here, and norms stay as they are. The embedding follows only where no value of it changes, as
    where the weights on disk are in `dtype`, and its output is widened again. A head that is tied
    to an embedding which stays gets weights of its own.

    Args:
        model: any model; weights that require gradients are left alone.
        dtype: of autocast; None leaves all as it is.
    """
    if dtype is None:
        return
    tied: dict[Tensor, nn.Parameter] = {}  # embeddings, wide and narrow
    for module in model.modules():
        if type(module) is nn.Embedding and _is_wide_and_frozen(module.weight):  # none that scales
            wide, low = module.weight, module.weight.to(dtype)
            if torch.equal(low.float(), wide):
                module.weight = tied[wide] = nn.Parameter(low, requires_grad=False)
                module.register_forward_hook(_widen)
    for module in model.modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        for name, weight in [*module.named_parameters(recurse=False)]:
            if _is_wide_and_frozen(weight):
                narrow = tied.get(weight)
                if narrow is None:
                    narrow = nn.Parameter(weight.to(dtype), requires_grad=False)
                setattr(module, name, narrow)


def _is_wide_and_frozen(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and not weight.requires_grad


def _widen(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()
