"""Attention of single queries on a CPU, as two batched matrix products.

PyTorch's fused CPU kernel is made for many queries per row. With one, as in every decoding step, it
takes about one and a half times as long as the plain products.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

DECODING = "redraft_decoding"  # the name under which transformers models find it


def decoding_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in the form transformers calls it; `sdpa` for whatever is not a decoding step.

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
    plain = query.device.type == "cpu" and query.dtype == torch.float32
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
