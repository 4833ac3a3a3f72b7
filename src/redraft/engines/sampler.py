"""Drawing tokens: temperature, top-k, top-p, and one random stream per response.

A token is drawn by inverting the distribution function at a uniform random number. The number
depends only on the response's key (seed, problem, sample, turn; see `Request.stream`) and the
token's position in the response, so draws do not change with the batch or the order of rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.engines.base import Sampling


def uniforms(keys: Sequence[tuple[int, int]], count: int) -> NDArray[np.float64]:
    """Uniform random numbers in [0, 1), one stream per key.

    Args:
        keys: two numbers below 2^64 for each stream.
        count: how many numbers each stream gives; a longer stream starts with the shorter one.

    Returns:
        float64 array [len(keys), count], from the counter-based generator Philox 4x64 (Salmon et
        al. 2011).
    """
    numbers = np.empty((len(keys), count))
    philox = np.random.Philox(key=np.zeros(2, dtype=np.uint64))
    # Setting the state of one generator takes a fifth of the time that a new generator takes.
    generator, state = np.random.Generator(philox), philox.state
    for index, key in enumerate(keys):
        state["state"]["key"][:] = key
        philox.state = state
        generator.random(out=numbers[index])
    return numbers


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one token per row; returns the tokens and their log-probabilities.

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

    # Candidates are sorted by falling probability, so every filter keeps a prefix.
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
    chosen = torch.minimum(chosen, kept - 1).clamp_(min=0)  # below 0 only for NaN
    return _chosen(ids, chosen), _chosen(logprobs, chosen)


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """First index [rows] at which the distribution function exceeds the uniform number.

    Tokens of probability 0 are never chosen: the comparison is strict, and the target is kept below
    the total, to which rounding might lift `uniform * total`.
    """
    steps = probabilities.double().cumsum(dim=-1)  # [rows, candidates]; a dtype would be slower
    total = steps[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(steps, target.unsqueeze(-1), right=True).squeeze(-1)
    return index.clamp_(
        max=probabilities.shape[-1] - 1
    )  # above only for NaN, which the engine reports


def _chosen(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
