"""Causal attention for training on a CPU, with memory linear in the length of rows.

Scores exist for a block of queries at a time, small enough for the cache of a core, and are
computed again in the backward pass. Blocks end at the diagonal, so that nearly half of the scores
are never computed. The arithmetic is that of plain (`eager`) attention: matrix products in the
precision of autocast, softmax in float32. PyTorch's fused kernel for CPUs needs as little memory
and is as fast in float32, but its backward pass is slow in bfloat16.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

BLOCKWISE = "redraft_blockwise"
"""The name under which transformers models find `blockwise_attention`."""

_QUERIES = 128  # of each head in a block
_SCORES = 2**17  # in a block: 512 KiB in float32


def is_plain(config: PretrainedConfig) -> bool:
    """Whether a text model's layers attend to all earlier tokens, without windows and soft-caps."""
    if kinds := getattr(config, "layer_types", None):
        windows = set(kinds) != {"full_attention"}
    else:
        windows = getattr(config, "sliding_window", None) is not None
    return not windows and getattr(config, "attn_logit_softcapping", None) is None


@contextmanager
def attention_of(config: PretrainedConfig, name: str) -> Iterator[None]:
    """Have the model with this configuration use another attention implementation for a while."""
    own = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = own


def blockwise_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of whole rows that are padded on the right, block by block.

    Args:
        module: the attention layer.
        query: [rows, heads, time, head_dim].
        key: [rows, kv_heads, time, head_dim]; each serves heads / kv_heads queries.
        value: [rows, kv_heads, time, value_dim].
        attention_mask: not read; transformers gives None under this name.
        scaling: of the scores; 1 / sqrt(head_dim) when None.
        **kwargs: not read.

    Returns:
        [rows, time, heads, value_dim], and no attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(low), key.to(low), value.to(low)
    with torch.autocast("cpu", enabled=False):
        return _Blockwise.apply(query, key, value, scale).transpose(1, 2), None


AttentionInterface.register(BLOCKWISE, blockwise_attention)


class _Blockwise(torch.autograd.Function):
    """[rows, heads, time, value_dim] from queries, keys and values, which are all that is kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        q, k, v = _grouped(query, key), key.flatten(0, 1), value.flatten(0, 1)
        output = q.new_empty(*q.shape[:-1], v.shape[-1])
        for part, first, last in _blocks(q):
            p = _weights(q[part, :, first:last], k[part, :last], scale)
            o = torch.bmm(p, v[part, :last])
            output[part, :, first:last] = o.unflatten(1, (-1, last - first))
        return output.view(*query.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        q, k, v = _grouped(query, key), key.flatten(0, 1), value.flatten(0, 1)
        g = _grouped(gradient, key)
        dq, dk, dv = q.new_empty(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)
        for part, first, last in _blocks(q):
            do = g[part, :, first:last].flatten(1, 2)
            p = _weights(q[part, :, first:last], k[part, :last], ctx.scale)
            dv[part, :last].baddbmm_(p.transpose(1, 2), do)
            dp = torch.bmm(do, v[part, :last].transpose(1, 2))
            ds = torch._softmax_backward_data(dp.float(), p.float(), -1, torch.float32)
            ds = ds.mul_(ctx.scale).to(q.dtype)
            dq[part, :, first:last] = torch.bmm(ds, k[part, :last]).unflatten(1, (-1, last - first))
            dk[part, :last].baddbmm_(ds.transpose(1, 2), q[part, :, first:last].flatten(1, 2))
        return dq.view(query.shape), dk.view(key.shape), dv.view(value.shape), None


def _grouped(states: Tensor, key: Tensor) -> Tensor:
    """States [rows, heads, time, dim] as [rows · kv_heads, heads / kv_heads, time, dim]."""
    return states.unflatten(1, (key.shape[1], -1)).flatten(0, 1)


def _blocks(grouped: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Blocks: which of the rows · kv_heads, and the first and the end of their queries."""
    count, group, time, _ = grouped.shape
    for first in range(0, time, _QUERIES):
        last = min(first + _QUERIES, time)
        at_once = max(1, _SCORES // (group * (last - first) * last))
        for start in range(0, count, at_once):
            yield slice(start, start + at_once), first, last


def _weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention weights [n, group · queries, positions] of queries [n, group, queries, dim], which
    are the last of the positions that keys [n, positions, dim] are of."""
    queries = query.shape[2]
    scores = torch.bmm(query.flatten(1, 2), key.transpose(1, 2)).mul_(scale)
    corner = scores.unflatten(1, (-1, queries))[..., -queries:]
    corner.masked_fill_(torch.ones(queries, queries, dtype=torch.bool).triu_(1), float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype)
