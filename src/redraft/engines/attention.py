"""Attention over rows of unequal length: key-value cache, masks, and a decoding kernel for CPUs.

Position p of a row is always slot p of that row. Rows therefore need neither left padding nor equal
lengths: a query at position p may attend to slots 0..p of its own row, all of which have been
written by then, and padding that a block wrote beyond its end is overwritten before it is seen.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from redraft.errors import UserError

DECODING = "redraft_decoding"
"""The name under which transformers models find `decoding_attention`."""

_BLOCK = 32  # the capacity is a multiple of this, and follows the longest row this closely
_HEADROOM = 4 * _BLOCK  # positions by which a buffer may grow in place


class Memory:
    """Pool of buffers that caches take and give back.

    On a CPU buffers outlive a call: mapping fresh pages for a hundred megabytes takes as long as
    several decoding steps of a small model. On a GPU PyTorch's own allocator does that job, and
    the learner may have the memory in between.

    Buffers are not cleared between uses, so they must hold finite numbers only: masked slots still
    enter the weighted sum, with weight 0, and 0 * NaN is NaN. After an error, which may come from
    weights that have diverged, call `clear`.
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
        self.clear()  # the free buffers are too small now
        headroom = _HEADROOM if like.device.type == "cpu" else 0  # untouched pages cost nothing
        return Stored(like.new_zeros(rows * heads * (capacity + headroom) * dim), shape)

    def give(self, stored: "Stored") -> None:
        """Take a buffer back; its tensor may not be used any more."""
        if stored.buffer.device.type == "cpu":
            self.free.append(stored.buffer)

    def clear(self) -> None:
        """Forget all free buffers."""
        self.free.clear()


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
    allocated when the model first reaches them, on its device. They are stored in `dtype` (None:
    as the model computes them): under autocast that is the precision which attention would cast
    the whole cache to at every token.

    A pass attends to the whole capacity, which follows the longest row. A generous capacity of
    which each pass took a slice would save the copying at each change, but attention over the
    slice, which is not contiguous, takes twice the time on a CPU; a copy every 32 tokens adds a
    tenth.
    """

    def __init__(
        self, rows: int, capacity: int, memory: Memory, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(layers=[])
        self.rows, self.memory, self.dtype = rows, memory, dtype
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
        """Give all memory back; the cache cannot be used any more."""
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
        states = states.to(self.dtype or states.dtype)
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


def decoding_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of single queries on a CPU, as two batched matrix products; otherwise `sdpa`.

    PyTorch's fused CPU kernel is made for many queries per row. With one, as in every decoding
    step, it takes about one and a half times as long as the plain products.

    Args:
        module: the attention layer.
        query: [rows, heads, block, head_dim].
        key: [rows, kv_heads, capacity, head_dim]; each serves heads / kv_heads queries.
        value: [rows, kv_heads, capacity, value_dim].
        attention_mask: additive, [rows, 1, block, capacity].
        scaling: of the scores; 1 / sqrt(head_dim) when None.
        **kwargs: passed on to `sdpa`.

    Returns:
        [rows, block, heads, value_dim], and no attention weights.
    """
    rows, heads, block, width = query.shape
    plain = query.device.type == "cpu" and query.dtype == key.dtype == torch.float32
    plain = plain and not torch.is_autocast_enabled("cpu")
    if not plain or block > 1 or attention_mask is None or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    kv_heads, capacity = key.shape[1:3]
    groups = heads // kv_heads
    queries = query.reshape(rows * kv_heads, groups, width)
    mask = attention_mask.expand(rows, kv_heads, groups, capacity)
    scores = torch.baddbmm(
        mask.reshape(rows * kv_heads, groups, capacity),
        queries,
        key.flatten(0, 1).transpose(1, 2),
        alpha=width**-0.5 if scaling is None else scaling,
    )  # [rows * kv_heads, groups, capacity]
    output = torch.bmm(scores.softmax(dim=-1), value.flatten(0, 1))
    return output.view(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(DECODING, decoding_attention)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
