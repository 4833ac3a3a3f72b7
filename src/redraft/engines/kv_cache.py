"""A key-value cache of ragged rows, and the attention masks that go with it.

Position p of a row always lives in slot p of that row. Rows therefore need neither left padding nor
equal lengths: a query at position p may attend to slots 0..p of its own row, all of which have been
written by then, and whatever padding a block wrote beyond its end is overwritten before it is seen.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache

from redraft.errors import UserError

_BLOCK = 32  # the capacity is a multiple of this, and follows the longest row this closely


class RowCache(Cache):
    """Keys and values of up to `rows` sequences, [rows, kv_heads, capacity, head_dim] per layer.

    `select` names the rows and positions that the next forward pass computes; the pass then writes
    its keys and values in place and attends to views of the cache, never to copies. Layers are
    allocated when the model first reaches them, on its device and in its dtype.

    A pass attends to the whole capacity, which follows the longest row. A generous capacity of
    which each pass took a slice would save the copying at each change, but attention over the
    slice, which is not contiguous, takes twice the time on a CPU; a copy every 32 tokens adds a
    tenth.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.capacity = _round_up(capacity, _BLOCK)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def fit(self, positions: int) -> None:
        """Make the capacity suit sequences of at most `positions` tokens; keeps that many."""
        if self.capacity - 2 * _BLOCK <= positions <= self.capacity:
            return
        capacity = _round_up(positions, _BLOCK)
        kept = min(capacity, self.capacity)
        for tensors in (self.keys, self.values):
            for layer, old in tensors.items():
                new = old.new_empty((*old.shape[:2], capacity, old.shape[3]))
                new[:, :, :kept] = old[:, :, :kept]
                new[:, :, kept:] = 0
                tensors[layer] = new
        self.capacity = capacity

    def select(self, first: int, positions: Tensor) -> None:
        """Choose rows `first`, `first + 1`, ... for the next forward pass.

        Args:
            first: first of the rows.
            positions: [rows chosen, block] position of every token of the pass.
        """
        self.first, self.positions = first, positions
        self.index = torch.arange(len(positions), device=positions.device).unsqueeze(-1)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store a block's keys and values, [rows chosen, kv_heads, block, head_dim] each.

        Returns:
            Views of all their keys and values, [rows chosen, kv_heads, capacity, head_dim].
        """
        if layer_idx not in self.keys:
            # Zeros rather than empty: a masked slot still enters the weighted sum, with weight 0,
            # and 0 * NaN is NaN.
            for tensors, states in ((self.keys, key_states), (self.values, value_states)):
                shape = (self.rows, states.shape[1], self.capacity, states.shape[3])
                tensors[layer_idx] = states.new_zeros(shape)
        return (
            self._write(self.keys[layer_idx], key_states),
            self._write(self.values[layer_idx], value_states),
        )

    def _write(self, stored: Tensor, states: Tensor) -> Tensor:
        rows = stored[self.first : self.first + len(states)]
        index, positions = self.index.to(states.device), self.positions.to(states.device)
        rows[index, :, positions] = states.transpose(1, 2)  # [rows chosen, block, heads, dim]
        return rows

    def move(self, source: Tensor, target: Tensor, span: int) -> None:
        """Copy the first `span` positions of rows `source` to rows `target`, all read before any
        is written."""
        for tensors in (self.keys, self.values):
            for stored in tensors.values():
                to, of = target.to(stored.device), source.to(stored.device)
                stored[to, :, :span] = stored[of, :, :span]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The capacity; models read a length only where positions or masks are not given."""
        return self.capacity


class RowMask:
    """Causal attention masks over ragged rows, for the kinds of attention layer a model has."""

    def __init__(self, config: PretrainedConfig) -> None:
        """Read from a text model's configuration which layers see only a sliding window.

        Raises:
            UserError: the model has layers that are not plain or sliding-window attention, so that
                a key-value cache alone cannot carry its state from turn to turn.
        """
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None)
        if kinds is None:
            kinds = ["full_attention" if window is None else "sliding_attention"]
        strange = sorted(set(kinds) - {"full_attention", "sliding_attention"})
        if strange:
            raise UserError(
                f"model type {config.model_type!r} has {strange[0]} layers, which the local engine "
                "cannot continue from turn to turn; use a model with plain attention, or vLLM"
            )
        self.windows = {kind: window if "sliding" in kind else None for kind in kinds}

    def build(
        self, positions: Tensor, capacity: int, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """Additive masks [rows, 1, block, capacity] for queries at `positions` [rows, block].

        A model whose layers are all of one kind gets the mask itself, a mixed one a mask by kind.
        """
        slots = torch.arange(capacity, device=positions.device)
        queries = positions[:, None, :, None]
        causal = slots <= queries  # [rows, 1, block, capacity]
        masks = {}
        for kind, window in self.windows.items():
            visible = causal if window is None else causal & (slots > queries - window)
            hidden = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
            masks[kind] = hidden.masked_fill_(~visible, torch.finfo(dtype).min)
        return masks if len(masks) > 1 else next(iter(masks.values()))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
