"""Low-precision copies of a model's weights, so that decoding does not cast them for every token.

Under autocast, PyTorch casts the float32 weights of every matrix product. It keeps the result for
the rest of the forward pass only for trainable weights outside inference mode, so that rollout
would cast every weight for every token: for small batches more work than the products themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from transformers.pytorch_utils import Conv1D


@dataclass
class _Copy:
    source: Parameter
    parameter: Parameter
    stamp: Any = None  # of the source when it was last copied


@dataclass
class CastWeights:
    """Copies in `dtype` of the wider weights and biases of all linear layers of `model`.

    These are the parameters that autocast casts. All others (norms, embeddings) stay as they are,
    so that a forward pass under autocast computes with the copies exactly what it computes without
    them. An output layer that is tied to the embedding gets a copy of the shared weights; the
    embedding keeps reading the weights themselves. Frozen weights are copied once, and the base
    and the adapters of a PEFT model are copied separately, without merging.

    Expert weights that are no linear layers (mixture-of-experts models) are left to autocast.
    """

    model: nn.Module
    dtype: torch.dtype
    version: str | None = None
    """Name of the current weights. The copies of trainable weights are made anew when it changes,
    and as long as it is None at every use."""
    copies: dict[int, _Copy] = field(default_factory=dict)  # by id of the source

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the copies, which are up to date, in place of its weights."""
        used: dict[int, _Copy] = {}
        replaced: list[tuple[nn.Module, str, Parameter]] = []
        try:
            for module in self.model.modules():
                if not isinstance(module, nn.Linear | Conv1D):
                    continue
                for name, source in [*module.named_parameters(recurse=False)]:
                    if source.is_floating_point() and source.itemsize > self.dtype.itemsize:
                        copy = used[id(source)] = self._copy_of(source)
                        replaced.append((module, name, source))
                        module._parameters[name] = copy.parameter
            self.copies = used
            yield
        finally:
            for module, name, source in replaced:
                module._parameters[name] = source

    def _copy_of(self, source: Parameter) -> _Copy:
        copy = self.copies.get(id(source))
        if copy is None or copy.source is not source:
            empty = torch.empty_like(source, dtype=self.dtype, requires_grad=False)
            copy = _Copy(source, Parameter(empty, requires_grad=False))
        # PyTorch counts most changes of a tensor, but not those by a fused optimizer.
        changes = (source.data_ptr(), source._version)
        uncounted: Any = self.version if source.requires_grad else ""
        stamp = (*changes, object() if uncounted is None else uncounted)
        if copy.stamp != stamp:
            with torch.no_grad():
                copy.parameter.copy_(source)
            copy.stamp = stamp
        return copy
