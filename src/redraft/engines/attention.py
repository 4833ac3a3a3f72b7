"""Attention over rows of unequal length: keys and values, masks, and attention of single queries.

Position p of a row is always slot p of that row. Rows therefore need neither left padding nor equal
lengths: a query at position p may attend to slots 0..p of its own row, all of which have been
written by then, and padding that a block wrote beyond its end is overwritten before it is seen.

Where prompts are shared, the keys and values of a prompt are stored once for all its rows, and a
row's own slots begin behind it: slot s of a row whose prompt has n of them is position n + s.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from redraft.errors import UserError
from redraft.system import has_bf16

DECODING = {"sdpa": "redraft_sdpa", "eager": "redraft_eager"}
"""The names under which transformers models find `decoding_attention`, by the implementation that
computes what is no single query."""

_BLOCK = 32  # passes see a multiple of this many slots, and follow the longest row this closely
_HEADROOM = 4 * _BLOCK  # slots by which a buffer may grow in place


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
        fitting = [
            (buffer.numel(), index)
            for index, buffer in enumerate(self.free)
            if (buffer.dtype, buffer.device) == (like.dtype, like.device)
            and buffer.numel() >= math.prod(shape)
        ]
        if fitting:
            return Stored(self.free.pop(min(fitting)[1]), shape)
        self.clear()  # the free buffers are too small now
        if like.device.type != "cpu":
            return Stored(like.new_zeros(math.prod(shape)), shape)
        # NumPy leaves zeros to the system, which maps a page when it is first written to.
        size = rows * heads * (capacity + _HEADROOM) * dim * like.itemsize
        return Stored(torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(like.dtype), shape)

    def give(self, stored: "Stored") -> None:
        """Take a buffer back; its tensor may not be used any more."""
        if stored.buffer.device.type == "cpu":
            self.free.append(stored.buffer)

    def size(self) -> int:
        """Bytes of the free buffers."""
        return sum(buffer.nbytes for buffer in self.free)

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


class Slots:
    """Keys and values of `rows` sequences, [rows, kv_heads, capacity, head_dim] per layer.

    Layers are allocated when the model first reaches them, on its device. A pass attends to the
    first `extent` slots, which follow the longest row closely.

    With a `reserve` (float32 on a CPU) the capacity has so many slots to spare, untouched pages
    that take no memory, and a pass sees a slice: rows grow without a copy. Without one the capacity
    is the extent, and all is copied whenever it changes: other kernels copy what is not contiguous
    at every token.
    """

    def __init__(self, rows: int, extent: int, memory: Memory, reserve: int) -> None:
        self.rows, self.memory, self.reserve = rows, memory, reserve
        self.extent = _round_up(extent, _BLOCK)
        self.capacity = self.extent + _round_up(reserve, _BLOCK)
        self.stored: dict[tuple[int, str], Stored] = {}  # by layer and "keys" or "values"

    def fit(self, positions: int, rows: int) -> None:
        """Make the extent suit sequences of at most `positions` tokens; keeps that many of the
        first `rows` rows."""
        extent = _round_up(positions, _BLOCK)
        if self.reserve:
            self.extent = extent
            if extent > self.capacity:
                self._resize(extent + self.reserve, rows)
        elif not self.extent - 2 * _BLOCK <= positions <= self.extent:
            self.extent = extent
            self._resize(extent, rows)

    def _resize(self, capacity: int, rows: int) -> None:
        kept = min(capacity, self.capacity)
        for name, old in self.stored.items():
            new = self.memory.take(self.rows, capacity, old.tensor)
            new.tensor[:rows, :, :kept] = old.tensor[:rows, :, :kept]
            self.stored[name] = new
            self.memory.give(old)
        self.capacity = capacity

    def write(self, name: tuple[int, str], states: Tensor, first: int, lines: Tensor) -> Tensor:
        """Store `states` in rows from `first` on; returns a view of all that is visible there."""
        if name not in self.stored:
            self.stored[name] = self.memory.take(self.rows, self.capacity, states)
        rows = self.stored[name].tensor[first : first + len(states)]
        flat = rows.view(-1, rows.shape[-1])  # [rows chosen * heads * capacity, dim]
        flat.index_copy_(0, lines, states.reshape(-1, rows.shape[-1]))
        return rows[:, :, : self.extent]

    def lines(self, places: Tensor, heads: int) -> Tensor:
        """Where states for the slots `places` [rows, block] go in flattened rows, flat."""
        row = torch.arange(len(places), device=places.device)[:, None, None]
        head = torch.arange(heads, device=places.device)[:, None]
        return ((row * heads + head) * self.capacity + places[:, None]).flatten()

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` to rows `target`; all are read before any is written."""
        for stored in self.stored.values():
            seen = stored.tensor[:, :, : self.extent]
            rows = seen.index_select(0, source.to(seen.device))
            seen.index_copy_(0, target.to(seen.device), rows)

    def release(self) -> None:
        """Give all memory back."""
        for stored in self.stored.values():
            self.memory.give(stored)
        self.stored.clear()


@dataclass(frozen=True)
class Groups:
    """Which rows share which prompt: queries of one prompt are computed together.

    `members` [prompts, most rows of one] are rows, the shorter groups filled up with any; `places`
    [rows] are theirs in the flattened `members`.
    """

    members: Tensor
    places: Tensor
    indices: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, prompts: np.ndarray, device: torch.device) -> "Groups":
        """The groups of rows by the number of the prompt of each."""
        rows = np.argsort(prompts, kind="stable")
        counts = np.bincount(prompts)
        starts = np.cumsum(counts) - counts
        within = np.arange(len(rows)) - starts[prompts[rows]]
        members = np.zeros((len(counts), counts.max()), dtype=np.int64)
        members[prompts[rows], within] = rows
        places = np.empty(len(rows), dtype=np.int64)
        places[rows] = prompts[rows] * members.shape[1] + within
        return cls(torch.from_numpy(members).to(device), torch.from_numpy(places).to(device))

    def by_head(self, heads: int) -> tuple[Tensor, Tensor]:
        """Indices for states by row and head, [rows * heads, ...]: they order them by prompt, head
        and member, [prompts * heads * most rows], and back."""
        if heads not in self.indices:
            head = torch.arange(heads, device=self.members.device)
            most = self.members.shape[1]
            gather = self.members[:, None] * heads + head[:, None]
            prompt, member = self.places // most, self.places % most
            back = (prompt[:, None] * heads + head) * most + member[:, None]
            self.indices[heads] = gather.flatten(), back.flatten()
        return self.indices[heads]


@dataclass(frozen=True)
class Shared:
    """Keys and values of one layer for prompts, [prompts * kv_heads, slots, head_dim], and the
    indices between rows and prompts (`Groups.by_head`)."""

    keys: Tensor
    values: Tensor
    gather: Tensor
    back: Tensor

    def by_prompt(self, states: Tensor) -> Tensor:
        """[rows * kv_heads, groups, any] to [prompts * kv_heads, most rows * groups, any]."""
        return states.index_select(0, self.gather).view(len(self.keys), -1, states.shape[-1])

    def by_row(self, states: Tensor, groups: int) -> Tensor:
        """The way back."""
        return states.view(len(self.gather), groups, -1).index_select(0, self.back)


class RowCache(Cache):
    """The keys and values that a model computes, of rows and of the prompts that they share.

    `select` or `select_prompts` names what the next forward pass computes; the pass writes its keys
    and values in place. They are stored in `dtype` (None: as the model computes them): under
    autocast that is the precision which attention would cast the whole cache to at every token.

    Attributes:
        own: the slots of each row.
        prompts: those of each shared prompt; None where every row has its own.
        most_tokens: how many slots, of rows and prompts together, there is memory for.
    """

    def __init__(
        self, own: Slots, prompts: Slots | None, dtype: torch.dtype | None, most_tokens: int
    ) -> None:
        super().__init__(layers=[])
        self.own, self.prompts, self.dtype = own, prompts, dtype
        self.shared: Tensor | None = None
        self.groups: Groups | None = None
        self.most_tokens = most_tokens

    def release(self) -> None:
        """Give all memory back; the cache cannot be used any more."""
        for slots in (self.own, self.prompts):
            if slots is not None:
                slots.release()

    def select_prompts(self, first: int, positions: Tensor) -> Tensor:
        """Choose prompts `first`, `first + 1`, ... for the next forward pass, which computes their
        `positions` [prompts chosen, block]. Returns the position of every slot it sees."""
        assert self.prompts is not None
        self.shared = self.groups = None
        return self._choose(self.prompts, first, positions)

    def select(
        self,
        first: int,
        positions: Tensor,
        starts: Tensor,
        shared: Tensor,
        groups: Groups | None,
    ) -> Tensor:
        """Choose rows `first`, `first + 1`, ... for the next forward pass.

        Args:
            first: first of the rows.
            positions: [rows chosen, block] position of every token of the pass.
            starts: [rows chosen] position of each row's first slot of its own.
            shared: [rows chosen] number of the prompt of each.
            groups: the rows by prompt, where the block is a single token.

        Returns:
            Position of every slot that the pass sees, [slots] or [rows chosen, slots].
        """
        self.shared, self.groups = shared, groups
        if self.prompts is None:
            return self._choose(self.own, first, positions)
        own = self._choose(self.own, first, positions - starts[:, None]) + starts[:, None]
        prompt = torch.arange(self.prompts.extent, device=own.device).expand(len(own), -1)
        nowhere = torch.iinfo(prompt.dtype).max
        return torch.cat([prompt.masked_fill(prompt >= starts[:, None], nowhere), own], dim=-1)

    def _choose(self, slots: Slots, first: int, places: Tensor) -> Tensor:
        self.slots, self.first, self.places = slots, first, places
        self.layer = -1
        self.lines: dict[tuple[int, torch.device], Tensor] = {}
        return torch.arange(slots.extent, device=places.device)

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
            All their keys and values, [rows chosen, kv_heads, slots, head_dim]: views, but for
            blocks of rows that share prompts. Of single tokens that do, the rows' own alone;
            `decoding_attention` adds the prompts.
        """
        self.layer = layer_idx
        return (
            self._write((layer_idx, "keys"), key_states),
            self._write((layer_idx, "values"), value_states),
        )

    def shared_states(self, kv_heads: int) -> Shared | None:
        """The prompts of the rows chosen, in the layer that was written last; None without any."""
        if self.prompts is None or self.groups is None:
            return None
        keys, values = (
            self.prompts.stored[self.layer, name].tensor[: len(self.groups.members)].flatten(0, 1)
            for name in ("keys", "values")
        )
        return Shared(keys, values, *self.groups.by_head(kv_heads))

    def _write(self, name: tuple[int, str], states: Tensor) -> Tensor:
        states = states.to(self.dtype or states.dtype)
        key = (states.shape[1], states.device)  # layers mostly agree, so it is made once per pass
        if key not in self.lines:
            self.lines[key] = self.slots.lines(self.places.to(states.device), states.shape[1])
        own = self.slots.write(name, states, self.first, self.lines[key])
        if self.prompts is None or self.shared is None or self.groups is not None:
            return own
        prompts = self.prompts.stored[name].tensor.index_select(0, self.shared.to(states.device))
        return torch.cat([prompts, own], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The slots of the pass; models read a length only where positions or masks are not
        given."""
        return self.slots.extent

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this, `decoding_attention` finds the prompts that rows share."""
        token = _in_use.set(self)
        try:
            yield
        finally:
            _in_use.reset(token)


_in_use: ContextVar[RowCache | None] = ContextVar("_in_use", default=None)


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
        self, positions: Tensor, slots: Tensor, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """Additive masks [rows, 1, block, slots] for queries at `positions` [rows, block].

        `slots` are the positions of the keys, [slots] or [rows, slots]. A model whose layers are
        all of one kind gets the mask itself, a mixed one a mask by kind.
        """
        queries = positions[:, None, :, None]
        keys = slots if slots.dim() == 1 else slots[:, None, None]
        causal = keys <= queries  # [rows, 1, block, slots]
        masks = {}
        for kind, window in self.windows.items():
            visible = causal if window is None else causal & (keys > queries - window)
            hidden = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
            masks[kind] = hidden.masked_fill_(~visible, torch.finfo(dtype).min)
        return masks if len(masks) > 1 else next(iter(masks.values()))


def decoding_attention(
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of single queries on a CPU, as batched matrix products; else `implementation`.

    The queries of all heads that share keys are one product, so that no keys are repeated; with
    shared prompts so are those of all rows of a prompt, whose keys are then read once for them all.
    Roundings are those of plain attention, whatever the precision. PyTorch's fused CPU kernel is
    made for many queries per row and takes two to three times as long.

    Args:
        implementation: "sdpa" or "eager".
        module: the attention layer.
        query: [rows, heads, block, head_dim].
        key: [rows, kv_heads, slots, head_dim]; each serves heads / kv_heads queries.
        value: [rows, kv_heads, slots, value_dim].
        attention_mask: additive, [rows, 1, block, slots], those of a shared prompt first.
        scaling: of the scores; 1 / sqrt(head_dim) when None.
        **kwargs: passed on to `implementation`.

    Returns:
        [rows, block, heads, value_dim], and no attention weights.
    """
    rows, heads, block, width = query.shape
    ours = _is_plain(module, kwargs) and decodes_by_products(implementation, key.device, key.dtype)
    if block > 1 or attention_mask is None or not ours:
        compute = sdpa_attention_forward
        if implementation == "eager":
            compute = sys.modules[type(module).__module__].eager_attention_forward
        return compute(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    kv_heads = key.shape[1]
    queries = query.to(key.dtype).reshape(rows * kv_heads, heads // kv_heads, width)
    scale = width**-0.5 if scaling is None else scaling
    mask = attention_mask[:, 0]  # [rows, 1, slots]
    cache = _in_use.get()
    shared = None if cache is None else cache.shared_states(kv_heads)
    output = _attend(queries, key.flatten(0, 1), value.flatten(0, 1), mask, scale, shared)
    return output.view(rows, 1, heads, value.shape[-1]), None


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float, shared: Shared | None
) -> Tensor:
    """[rows * kv_heads, groups, value_dim] for `queries` [rows * kv_heads, groups, head_dim], keys
    and values [rows * kv_heads, slots, ...] and a mask [rows, 1, all slots]."""
    groups, split = queries.shape[1], 0
    scores = torch.bmm(queries, keys.transpose(1, 2))
    if shared is not None:
        of_prompts = torch.bmm(shared.by_prompt(queries), shared.keys.transpose(1, 2))
        scores = torch.cat([shared.by_row(of_prompts, groups), scores], dim=-1)
        split = shared.keys.shape[1]
    scores.mul_(scale).view(len(mask), -1, scores.shape[-1]).add_(mask)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
    output = torch.bmm(weights[..., split:], values)
    if shared is not None:
        of_prompts = torch.bmm(shared.by_prompt(weights[..., :split]), shared.values)
        output += shared.by_row(of_prompts, groups)
    return output


def decodes_by_products(implementation: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `decoding_attention` computes single queries itself.

    In low precision the fused kernel rounds less often than plain products do. A learner that
    computes with it under autocast gets the same from decoding, and so does a processor whose
    products are slow in that precision.
    """
    if device.type != "cpu":
        return False
    if implementation == "eager" or dtype == torch.float32:
        return True
    return has_bf16(device) and not torch.is_autocast_enabled("cpu")


def _is_plain(module: nn.Module, options: dict[str, Any]) -> bool:
    """Whether attention is a softmax over scaled and masked products and no more."""
    more = ("softcap", "position_bias", "s_aux")
    return not hasattr(module, "sinks") and all(options.get(name) is None for name in more)


def is_plain_throughout(model: nn.Module, config: PretrainedConfig) -> bool:
    """Whether that is so in every attention layer, and all of them are on a CPU and call what
    `DECODING` names."""
    return (
        all(weights.device.type == "cpu" for weights in model.parameters())
        and any(getattr(m, "_supports_attention_backend", False) for m in model.modules())
        and getattr(config, "attn_logit_softcapping", None) is None
        and not any(hasattr(module, "sinks") for module in model.modules())
    )


for _implementation, _name in DECODING.items():
    AttentionInterface.register(_name, partial(decoding_attention, _implementation))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
