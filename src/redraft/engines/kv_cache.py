"""A key-value cache of ragged rows, and the attention masks that go with it.

Position p of a row always lives in slot p of that row. Rows therefore need neither left padding nor
equal lengths: a query at position p may attend to slots 0..p of its own row, all of which have been
written by then, and whatever padding a block wrote beyond its end is overwritten before it is seen.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache

from redraft.errors import UserError

_BLOCK = 32  # the capacity is a multiple of this, and follows the longest row this closely
_HEADROOM = 4 * _BLOCK  # positions by which a buffer may grow in place


class Memory:
    """Buffers that caches take and give back.

    On a CPU they outlive a call: mapping fresh pages for a hundred megabytes takes as long as
    several decoding steps of a small model. On a GPU PyTorch's own allocator does that job, and
    the learner may have the memory in between.

    A buffer is never cleared, but holds finite numbers always. That matters because masked slots
    still enter the weighted sum, with weight 0, and 0 * NaN is NaN.
    """

    def __init__(self) -> None:
        self.free: list[Tensor] = []

    def take(self, rows: int, capacity: int, like: Tensor) -> "Stored":
        """A tensor [rows, heads, capacity, dim] for states `like` [any, heads, any, dim]."""
        heads, dim = like.shape[1], like.shape[3]
        shape = (rows, heads, capacity, dim)
        for index, buffer in enumerate(self.free):
            if (buffer.dtype, buffer.device) != (like.dtype, like.device):
                continue
            if buffer.numel() >= math.prod(shape):
                return Stored(self.free.pop(index), shape)
        self.free.clear()  # what is too small now will not be missed
        headroom = _HEADROOM if like.device.type == "cpu" else 0  # there, untouched pages are free
        return Stored(like.new_zeros(rows * heads * (capacity + headroom) * dim), shape)

    def give(self, stored: "Stored") -> None:
        """Take a buffer back; nobody may use its tensor any more."""
        if stored.buffer.device.type == "cpu":
            self.free.append(stored.buffer)


@dataclass
class Stored:
    """The keys or the values of one layer: a tensor of `shape` at the start of a flat buffer."""

    buffer: Tensor
    shape: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        self.tensor = self.buffer[: math.prod(self.shape)].view(self.shape)


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

    def __init__(self, rows: int, capacity: int, memory: Memory) -> None:
        super().__init__(layers=[])
        self.rows, self.memory = rows, memory
        self.capacity = _round_up(capacity, _BLOCK)
        self.stored: dict[tuple[int, str], Stored] = {}  # by layer and "keys" or "values"

    def fit(self, positions: int) -> None:
        """Make the capacity suit sequences of at most `positions` tokens; keeps that many."""
        if self.capacity - 2 * _BLOCK <= positions <= self.capacity:
            return
        capacity = _round_up(positions, _BLOCK)
        kept = min(capacity, self.capacity)
        for name, old in self.stored.items():
            new = self.memory.take(self.rows, capacity, old.tensor)
            new.tensor[:, :, :kept] = old.tensor[:, :, :kept]
            self.stored[name] = new
            self.memory.give(old)
        self.capacity = capacity

    def release(self) -> None:
        """Give all memory back; the cache is empty and of no more use."""
        for stored in self.stored.values():
            self.memory.give(stored)
        self.stored.clear()

    def select(self, first: int, positions: Tensor) -> None:
        """Choose rows `first`, `first + 1`, ... for the next forward pass.

        Args:
            first: first of the rows.
            positions: [rows chosen, block] position of every token of the pass.
        """
        self.first, self.positions = first, positions
        self.lines: dict[tuple[int, torch.device], Tensor] = {}

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
        return (
            self._write((layer_idx, "keys"), key_states),
            self._write((layer_idx, "values"), value_states),
        )

    def _write(self, name: tuple[int, str], states: Tensor) -> Tensor:
        if name not in self.stored:
            self.stored[name] = self.memory.take(self.rows, self.capacity, states)
        rows = self.stored[name].tensor[self.first : self.first + len(states)]
        flat = rows.view(-1, rows.shape[-1])  # [rows chosen * heads * capacity, dim]
        flat.index_copy_(0, self._lines(states), states.reshape(-1, rows.shape[-1]))
        return rows

    def _lines(self, states: Tensor) -> Tensor:
        """Where the states go in the flattened rows, [rows chosen * heads * block]."""
        key = (states.shape[1], states.device)  # layers mostly agree, so it is made once per pass
        if key not in self.lines:
            row = torch.arange(len(states), device=states.device)[:, None, None]
            head = torch.arange(states.shape[1], device=states.device)[:, None]
            position = self.positions.to(states.device)[:, None]
            line = (row * states.shape[1] + head) * self.capacity + position
            self.lines[key] = line.flatten()
        return self.lines[key]

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` to rows `target`; all are read before any is written."""
        for stored in self.stored.values():
            tensor = stored.tensor
            rows = tensor.index_select(0, source.to(tensor.device))
            tensor.index_copy_(0, target.to(tensor.device), rows)

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
                "cannot continue from turn to turn; use a model with plain attention, or serve it "
                "and give --model http://HOST:PORT/v1#MODEL"
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
