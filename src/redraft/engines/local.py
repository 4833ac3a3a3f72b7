"""The engine for a transformers model in this process, on CPU or GPU.

It shares the model with the learner: weights may change between calls, and nothing but empty
buffers is kept from one call to the next. Prompts are computed once for all their samples, every
attempt continues on the keys and values of the one before, and rows that are done leave the batch
(see `continuous`).
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from redraft.engines.attention import DECODING
from redraft.engines.base import ContextTooLongError, Reply, Sample, Sampling
from redraft.engines.continuous import ContinuousBatch
from redraft.engines.kv_cache import Memory, RowCache, RowMask
from redraft.engines.stopping import StopStrings, cut, text_of
from redraft.errors import UserError

_MOST_ROWS = 1024  # beyond this many a step is bound by arithmetic and more rows gain nothing
_MEMORY_SHARE = 0.4  # of what is free; the rest is for activations and for later turns


class LocalEngine:
    """Samples dialogues from a causal language model in memory.

    Args:
        model: any transformers causal LM with plain or sliding-window attention, on any device and
            in any dtype, with `sdpa` or `eager` attention; PEFT-wrapped models too.
        tokenizer: used for the samples' text and for stop strings only.
        max_rows: how many dialogues may be in the batch at once; derived from free memory and the
            lengths at hand when None. Samples do not depend on it.
        prefill_tokens: how many tokens one forward pass over prompts or replies may hold; bounds
            the memory of activations.

    Raises:
        UserError: the model cannot be continued from a key-value cache, or its attention
            implementation takes no mask.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_rows: int | None = None,
        prefill_tokens: int = 16384,
    ) -> None:
        if max_rows is not None and max_rows < 1:
            raise UserError(f"max_rows is {max_rows}; the local engine needs at least 1")
        self.model, self.tokenizer = model, tokenizer
        self.max_rows, self.prefill_tokens = max_rows, prefill_tokens
        self.config = model.config.get_text_config(decoder=True)
        if model.config.is_encoder_decoder or getattr(model, "_is_stateful", False):
            raise UserError(
                f"model type {model.config.model_type!r} keeps more than keys and values between "
                "tokens, which the local engine cannot continue from; use a decoder-only attention "
                "model, or serve it and give --model http://HOST:PORT/v1#MODEL"
            )
        attention = self.config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise UserError(
                f"attention implementation {attention!r} takes no explicit mask, which the local "
                "engine needs; load the model with attn_implementation='sdpa'"
            )
        self.mask = RowMask(self.config)
        self.memory = Memory()

    def converse(
        self,
        prompts: Sequence[Sequence[int]],
        reply: Reply,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Sample]]:
        """Play one dialogue per prompt; see `Engine.converse`.

        Log-probabilities are those of the sampling distribution: after temperature, top-k and
        top-p. For greedy decoding, whose distribution is a point, they are the model's own.

        Raises:
            UserError: an empty prompt, a sequence that with `max_tokens` more would not fit the
                model's context window, a sampling parameter out of range, or logits that are not
                finite.
        """
        _check(sampling)
        total = [len(prompt) for prompt in prompts]  # tokens of each row's dialogue so far
        for row, length in enumerate(total):
            if not length:
                raise UserError(f"prompt {row} has no tokens; a model needs at least one to go on")
            self._check_window(row, length, sampling.max_tokens)
        if not prompts:
            return []

        def checked_reply(row: int, samples: list[Sample]) -> Sequence[int] | None:
            answer = reply(row, samples)
            if answer is not None:
                total[row] += len(samples[-1].tokens) + len(answer)
                self._check_window(row, total[row], sampling.max_tokens)
            return answer

        def finish(row: int, tokens: list[int], logprobs: list[float]) -> Sample:
            if not all(map(math.isfinite, logprobs)):
                raise UserError(
                    f"the model's logits are not finite (row {row}, token {len(tokens)}): its "
                    "weights have diverged; go back to an earlier checkpoint"
                )
            at_stop = tokens[-1] in sampling.stop_token_ids
            spoken = tokens[:-1] if at_stop else tokens
            text, found = cut(text_of(self.tokenizer, spoken), sampling.stop)
            return Sample(tokens, logprobs, text, "stop" if at_stop or found else "length")

        longest = max(total) + sampling.max_tokens
        slots = min(len(prompts), self.max_rows or self._rows_that_fit(longest))
        cache = RowCache(slots, max(map(len, prompts)), self.memory)
        batch = ContinuousBatch(
            prompts,
            slots,
            sampling,
            forward=lambda *block: self._forward(cache, *block),
            cache=cache,
            device=self.model.device,
            matched=StopStrings(sampling.stop, self.tokenizer).matched if sampling.stop else None,
            prefill_tokens=self.prefill_tokens,
        )
        with _evaluating(self.model), _decoding(self.config), torch.inference_mode():
            samples = batch.run(checked_reply, finish, progress)
        cache.release()  # not after an error: what is in there then may not be finite
        return samples

    def _forward(self, cache: RowCache, tokens: Tensor, positions: Tensor, first: int) -> Tensor:
        """Logits [n, vocabulary] after the last of each row's tokens [n, block]."""
        cache.select(first, positions)
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=self.mask.build(positions, cache.capacity, self.model.dtype),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _check_window(self, row: int, length: int, max_tokens: int) -> None:
        window = getattr(self.config, "max_position_embeddings", None)
        if window is not None and length + max_tokens > window:
            raise ContextTooLongError(
                f"a context of {length} tokens and max_tokens {max_tokens} exceed the model's "
                f"window of {window}; lower max_tokens or the number of turns",
                row,
            )

    def _rows_that_fit(self, longest: int) -> int:
        """How many dialogues of two attempts' length the free memory holds."""
        config, device = self.config, self.model.device
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        cached = 2 * config.num_hidden_layers * heads * width * self.model.dtype.itemsize
        logits = 32 * config.vocab_size  # float32 logits and log-probabilities, float64 sums
        fitting = _free_memory(device) * _MEMORY_SHARE / (2 * longest * cached + logits)
        return max(1, min(_MOST_ROWS, int(fitting)))


def _check(sampling: Sampling) -> None:
    if sampling.temperature < 0:
        raise UserError(f"temperature is {sampling.temperature}; it must be 0 (greedy) or more")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"top_p is {sampling.top_p}; it must be above 0 and at most 1 (off)")
    if sampling.top_k < 0:
        raise UserError(f"top_k is {sampling.top_k}; it must be 0 (off) or more")
    if sampling.max_tokens < 1:
        raise UserError(f"max_tokens is {sampling.max_tokens}; it must be at least 1")
    if not all(sampling.stop):
        raise UserError("one of the stop strings is empty, which every text contains; remove it")


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model without dropout; every module's training flag comes back as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _decoding(config: PretrainedConfig) -> Iterator[None]:
    """Attention suited to single queries in place of `sdpa`; the learner gets back what it had."""
    attention = config._attn_implementation
    if attention == "sdpa":
        config._attn_implementation = DECODING
    try:
        yield
    finally:
        config._attn_implementation = attention


def _free_memory(device: torch.device) -> int:
    """Bytes that may still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
