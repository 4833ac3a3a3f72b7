"""Drawing tokens: temperature, top-k, top-p, and one random stream per response.

A token is drawn by inverting the distribution function at a uniform random number. The number
depends only on the response's key (seed, problem, sample, turn; see `Request.stream`) and the
token's position in the response, so draws do not change with the batch or the order of rows.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.engines.base import Sampling

_BLOCK = 1024
"""Tokens whose probabilities are first added up; the draw looks into one such block only."""

_AT_ONCE = 2**20
"""Logits of a few rows that stay in the processor's cache while they are worked on: 4 MiB."""


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
    size = max(1, _AT_ONCE // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    parts = [
        _draw(few.float(), numbers, sampling)
        for few, numbers in zip(logits.split(size), uniform.split(size), strict=True)
    ]
    tokens, logprobs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    if sampling.temperature == 0:
        # The probability of the most likely token is the largest, whichever token that is.
        return _first_largest(logits), logits.softmax(dim=-1).amax(dim=-1).log()
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if not sampling.top_k and sampling.top_p >= 1:
        probabilities = logits.softmax(dim=-1)  # [rows, vocabulary]
        tokens = _invert_blocks(probabilities, uniform)
        return tokens, _chosen(probabilities, tokens).log()
    return _draw_filtered(logits, uniform, sampling)


def _draw_filtered(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    count = sampling.top_k or _BLOCK
    if 4 * count > logits.shape[-1]:
        return _draw_ordered(*logits.sort(dim=-1, descending=True, stable=True), uniform, sampling)
    # A few candidates do in place of the whole vocabulary in order, unless some token beyond them
    # is as likely as the last of them, or the nucleus does not end within them.
    values, ids = logits.topk(count, dim=-1)
    ids = ids.sort(dim=-1).values
    ordered, place = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, place)
    total = None if sampling.top_k else logits.logsumexp(dim=-1, keepdim=True).double()
    tokens, logprobs = _draw_ordered(ordered, ids, uniform, sampling, total)
    short = (logits >= values[:, -1:]).sum(dim=-1) > count
    if total is not None:
        short |= (ordered.double() - total).exp().sum(dim=-1) < sampling.top_p
    if short.any():
        whole = logits[short].sort(dim=-1, descending=True, stable=True)
        tokens[short], logprobs[short] = _draw_ordered(*whole, uniform[short], sampling)
    return tokens, logprobs


def _draw_ordered(
    ordered: Tensor,
    ids: Tensor,
    uniform: Tensor,
    sampling: Sampling,
    total: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`draw` from candidates by falling probability, so that every filter keeps a prefix. `total`
    is the logarithm of the sum over all tokens, where these are not all."""
    if sampling.top_k:
        ordered, ids = ordered[:, : sampling.top_k], ids[:, : sampling.top_k]
    if sampling.top_p < 1:
        exact = ordered.double()
        probabilities = exact.softmax(dim=-1) if total is None else (exact - total).exp()
        before = probabilities.cumsum(dim=-1) - probabilities
        outside = before >= sampling.top_p
        outside[:, 0] = False  # the most likely token stays whatever top_p is
        ordered = ordered.masked_fill(outside, -torch.inf)
    logprobs = ordered.log_softmax(dim=-1)  # [rows, candidates]
    chosen = _invert(logprobs.exp(), uniform)
    kept = (logprobs > -torch.inf).sum(dim=-1)
    chosen = torch.minimum(chosen, kept - 1).clamp_(min=0)  # below 0 only for NaN
    return _chosen(ids, chosen), _chosen(logprobs, chosen)


def _first_largest(logits: Tensor) -> Tensor:
    """Index [rows] of the first largest logit of each row; PyTorch's own search for it takes ten
    times as long as for its value."""
    block = _by_block(logits, Tensor.amax).argmax(dim=-1)
    within, start = _block(logits, block, -torch.inf)
    return start + within.argmax(dim=-1)


def _invert_blocks(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """`_invert` in two steps: which block of tokens, and which token in it.

    In exact arithmetic this is the same draw. Only the sums of blocks and one block per row are in
    float64; a vocabulary of one block is drawn from as `_invert` does.
    """
    if probabilities.shape[-1] <= _BLOCK:
        return _invert(probabilities, uniform)
    steps = _by_block(probabilities, Tensor.sum).double().cumsum(dim=-1)  # [rows, blocks]
    target = _below(uniform * steps[:, -1], steps[:, -1])
    block = _first_above(steps, target)
    within, start = _block(probabilities, block, 0.0)
    before = torch.where(block > 0, _chosen(steps, (block - 1).clamp(min=0)), 0.0)
    rest = (target - before) / (_chosen(steps, block) - before)  # [0, 1), but for rounding
    return start + _invert(within, rest)


def _by_block(values: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """[rows, blocks]: each block of [rows, vocabulary] reduced; the last may be shorter."""
    whole = values.shape[-1] // _BLOCK * _BLOCK
    blocks = reduce(values[:, :whole].unflatten(-1, (-1, _BLOCK)), dim=-1)
    if whole == values.shape[-1]:
        return blocks
    return torch.cat([blocks, reduce(values[:, whole:], dim=-1, keepdim=True)], dim=-1)


def _block(values: Tensor, block: Tensor, beyond: float) -> tuple[Tensor, Tensor]:
    """The values [rows, _BLOCK] of one block of each row, filled up with `beyond`, and the index
    [rows] of the first of them."""
    start = block * _BLOCK
    index = start.unsqueeze(-1) + torch.arange(_BLOCK, device=values.device)
    size = values.shape[-1]
    within = values.gather(-1, index.clamp(max=size - 1))
    return within.masked_fill_(index >= size, beyond), start


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """First index [rows] at which the distribution function exceeds the uniform number.

    Tokens of probability 0 are never chosen: the comparison is strict, and the target is kept below
    the total, to which rounding might lift `uniform * total`.
    """
    steps = probabilities.double().cumsum(dim=-1)  # [rows, candidates]; a dtype would be slower
    total = steps[:, -1]
    return _first_above(steps, _below(uniform * total, total))


def _below(target: Tensor, total: Tensor) -> Tensor:
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))


def _first_above(steps: Tensor, target: Tensor) -> Tensor:
    index = torch.searchsorted(steps, target.unsqueeze(-1), right=True).squeeze(-1)
    return index.clamp_(max=steps.shape[-1] - 1)  # above only for NaN, which the engine reports


def _chosen(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
