"""Drawing tokens: temperature, top-k, top-p, and random numbers that belong to a row.

A token is drawn by inverting the distribution function at a uniform random number. The number
depends only on (seed, row, attempt, position), so a row's samples do not change when it shares the
batch with other rows, waits for a free place, or runs alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.engines.base import Sampling


def uniforms(
    seed: int, rows: Sequence[int], attempts: Sequence[int], count: int
) -> NDArray[np.float64]:
    """Uniform random numbers in [0, 1), one stream per (seed, row, attempt).

    Args:
        seed: any integer; taken modulo 2^64.
        rows: index of each row, below 2^32.
        attempts: index of the attempt of each of the rows, below 2^32.
        count: how many numbers each stream gives; a longer stream starts with the shorter one.

    Returns:
        float64 array [len(rows), count], from the counter-based generator Philox 4x64 (Salmon et
        al. 2011) under the key (seed, row * 2^32 + attempt).
    """
    numbers = np.empty((len(rows), count))
    philox = np.random.Philox(key=np.zeros(2, dtype=np.uint64))
    generator, state = np.random.Generator(philox), philox.state  # new ones are slow
    key: NDArray[np.uint64] = state["state"]["key"]
    key[0] = seed % 2**64
    for index, (row, attempt) in enumerate(zip(rows, attempts, strict=True)):
        key[1] = (row << 32) + attempt
        philox.state = state
        generator.random(out=numbers[index])
    return numbers


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one token per row, and tell how likely it was.

    Filters apply in the usual order: temperature, then the `top_k` most likely tokens (of equals,
    the lower id), then the smallest set of the most likely ones whose probabilities reach `top_p`.

    Args:
        logits: [rows, vocabulary], any float dtype; computed on in float32.
        uniform: [rows] float64 in [0, 1); not read when greedy.
        sampling: its `temperature`, `top_k` and `top_p`.

    Returns:
        Token ids [rows] int64, and the log-probability [rows] float32 of each under the
        distribution it was drawn from, renormalised after the filters. At temperature 0 the token
        is the most likely one and the log-probability is the model's own, at temperature 1.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        tokens = logits.argmax(dim=-1)
        return tokens, _chosen(logits.log_softmax(dim=-1), tokens)
    logits = logits / sampling.temperature
    if not sampling.top_k and sampling.top_p >= 1:
        probabilities = logits.softmax(dim=-1)  # [rows, vocabulary]
        tokens = _invert(probabilities, uniform)
        return tokens, _chosen(probabilities, tokens).log()

    # Candidates stand in order of falling probability, so every filter keeps a prefix.
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)  # [rows, vocabulary] each
    if sampling.top_k:
        ordered, ids = ordered[:, : sampling.top_k], ids[:, : sampling.top_k]
    if sampling.top_p < 1:
        probabilities = ordered.double().softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        outside = before >= sampling.top_p
        outside[:, 0] = False  # the most likely token stays whatever top_p is
        ordered = ordered.masked_fill(outside, -torch.inf)
    logprobs = ordered.log_softmax(dim=-1)  # [rows, candidates]
    chosen = _invert(logprobs.exp(), uniform)
    kept = (logprobs > -torch.inf).sum(dim=-1)
    chosen = torch.minimum(chosen, kept - 1).clamp_(min=0)  # below 0 only for NaN, as above
    return _chosen(ids, chosen), _chosen(logprobs, chosen)


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """First index [rows] at which the distribution function exceeds the uniform number.

    The comparison is strict on both sides, so a token of probability zero, whose step has no
    height, cannot be the first: neither at 0 nor at the upper end, where rounding might lift
    `uniform * total` to the total itself.
    """
    steps = probabilities.double().cumsum(dim=-1)  # [rows, candidates]; a dtype would be slower
    total = steps[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(steps, target.unsqueeze(-1), right=True).squeeze(-1)
    return index.clamp_(max=probabilities.shape[-1] - 1)  # above only for NaN, reported later


def _chosen(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
