"""Engine for a transformers model in this process, on CPU or GPU.

It shares the model with the learner: weights may change between calls, and nothing but empty
buffers and, on request, low-precision copies of the weights is kept from one call to the next.
Prompts are computed once for all their samples, every response continues on the keys and values of
the one before, and rows that are done leave the batch (see `batch`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from redraft.engines.attention import (
    DECODING,
    Memory,
    RowCache,
    RowMask,
    Slots,
    decodes_by_products,
    is_plain_throughout,
)
from redraft.engines.base import Failed, Follow, Reply, Request, Response, Sampling, Watch
from redraft.engines.batch import Batch
from redraft.engines.template import ChatTemplate
from redraft.engines.weights import CastWeights
from redraft.errors import UserError
from redraft.system import free_memory

_MOST_ROWS = 1024  # beyond this many a step is bound by arithmetic and more rows gain nothing
_MEMORY_SHARE = 0.4  # of what is free, for keys, values and logits
_MOST_TOKENS = 16384  # of prompts or replies in one pass
_PASS_BYTES = 2**24
_SHORT_PROMPT = 64  # tokens
_MARGIN = 4  # tokens: the first ones of a slice may decode differently without their neighbours


class LocalEngine:
    """Continues conversations with a causal language model in memory.

    Args:
        model: any transformers causal LM with plain or sliding-window attention, on any device and
            in any dtype, with `sdpa` or `eager` attention; PEFT-wrapped models too.
        template: turns messages into tokens, and says what ends a response.
        max_rows: how many conversations may be in the batch at once; derived from free memory and
            the lengths at hand when None. Responses do not depend on it.
        prefill_tokens: how many tokens one forward pass over prompts or replies may hold; bounds
            the memory of activations. Derived from the model's width when None.
        dtype: compute under autocast in this precision, as a learner with mixed precision does,
            with copies of the linear layers' weights in `dtype` (see `CastWeights`). None: as the
            model is.

    Raises:
        UserError: the model cannot be continued from a key-value cache, or its attention
            implementation takes no mask.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        template: ChatTemplate,
        *,
        max_rows: int | None = None,
        prefill_tokens: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if max_rows is not None and max_rows < 1:
            raise UserError(f"max_rows is {max_rows}; the local engine needs at least 1")
        self.model, self.template = model, template
        self.max_rows, self.prefill_tokens, self.dtype = max_rows, prefill_tokens, dtype
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
        self._mask = RowMask(self.config)
        self._memory = Memory()
        self._plain = is_plain_throughout(model, self.config)
        self._weights = None if dtype is None else CastWeights(model, dtype)

    def sync_weights(self, version: str) -> None:
        """Take up the learner's weights: see `Engine.sync_weights`.

        The model is shared, so there is nothing to do without a `dtype`. With one, this lets the
        engine keep its copies of the weights until the version changes; without it
        the copies are made anew in every call of `generate`.
        """
        if self._weights is not None:
            self._weights.version = version

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        reply: Reply | None = None,
        watch: Watch | None = None,
        follow: Follow | None = None,
    ) -> list[list[Response | Failed]]:
        """The responses to each request; see `Engine.generate`.

        Log-probabilities are those of the sampling distribution: after temperature, top-k and
        top-p. For greedy decoding, whose distribution is a point, they are the model's own. A
        request whose messages the chat template refuses is `Failed`. `watch` counts no `Failed`.

        Raises:
            UserError: a sampling parameter out of range, token ids that the model does not have,
                or logits that are not finite.
        """
        sampling.check()
        started = [self._prompt(request, sampling.max_tokens) for request in requests]
        rows: list[list[Response | Failed]] = [
            [prompt] if isinstance(prompt, Failed) else [] for prompt in started
        ]
        prompts = {row: p for row, p in enumerate(started) if not isinstance(p, Failed)}
        lengths = {row: len(prompt) for row, prompt in prompts.items()}  # tokens so far

        def finish(
            row: int, tokens: list[int], logprobs: list[float], stopped: bool
        ) -> Sequence[int] | None:
            response = self._response(row, tokens, logprobs, stopped, sampling)
            rows[row].append(response)
            answer = reply(row, response) if reply is not None else None
            if answer is None:
                return None
            self._check_ids(answer)
            lengths[row] += len(tokens) + len(answer)
            if (full := self._context_full(lengths[row], sampling.max_tokens)) is not None:
                rows[row].append(full)
                return None
            return answer

        def wanted(row: int, tokens: Callable[[], list[int]]) -> bool:
            assert follow is not None
            if follow(row, lambda: self.template.decode_begun(tokens(), sampling.stop)):
                return True
            rows[row].append(Failed("nobody waits for the response any more"))
            return False

        if prompts:
            with self._model_for_decoding(), self._cache_for(prompts, sampling) as cache:
                self._batch(requests, prompts, sampling, cache).run(
                    finish, watch, wanted if follow else None
                )
        return rows

    def _response(
        self,
        row: int,
        tokens: list[int],
        logprobs: list[float],
        stopped: bool,
        sampling: Sampling,
    ) -> Response:
        if not all(map(math.isfinite, logprobs)):
            raise UserError(
                f"the model's logits are not finite (request {row}, token {len(tokens)}): its "
                "weights have diverged; go back to an earlier checkpoint"
            )
        text = self.template.decode(tokens, sampling.stop)
        return Response(text, "stop" if stopped else "length", tokens, logprobs)

    def _prompt(self, request: Request, max_tokens: int) -> Sequence[int] | Failed:
        tokens = request.tokens
        if not tokens:
            try:
                tokens = self.template.start([m.model_dump() for m in request.messages])
            except UserError as error:
                return Failed(str(error))
        if not tokens:
            return Failed("the prompt has no tokens, and the model needs at least one")
        self._check_ids(tokens)
        return self._context_full(len(tokens), max_tokens) or tokens

    def _check_ids(self, tokens: Sequence[int]) -> None:
        embedding: Any = self.model.get_input_embeddings()
        known = len(embedding.weight)
        if (largest := max(tokens, default=0)) >= known:
            raise UserError(
                f"token {largest} ({self.template.decode([largest])!r}) of the tokenizer "
                f"{self.template.name} is beyond the model's {known} embeddings; use the model's "
                "own tokenizer, or model.resize_token_embeddings(len(tokenizer)) and train the new "
                "ones"
            )

    def _context_full(self, length: int, max_tokens: int) -> Failed | None:
        window = getattr(self.config, "max_position_embeddings", None)
        if window is None or length + max_tokens <= window:
            return None
        return Failed(
            f"a context of {length} tokens and max_tokens {max_tokens} exceed the model's window "
            f"of {window}",
            context_full=True,
        )

    def _batch(
        self,
        requests: Sequence[Request],
        prompts: dict[int, Sequence[int]],
        sampling: Sampling,
        cache: RowCache,
    ) -> Batch:
        def key(row: int, number: int) -> tuple[int, int]:
            return requests[row].stream(sampling.seed, requests[row].turn + number)

        stops = (*self.template.stop, *sampling.stop)
        return Batch(
            prompts,
            cache.own.rows,
            sampling,
            self.template.stop_token_ids,
            forward=partial(self._forward, cache),
            cache=cache,
            device=self.model.device,
            key=key,
            completes_stop_string=StopStrings(stops, self.template).matched if stops else None,
            prefill_tokens=self._tokens_per_pass(),
        )

    def _forward(self, cache: RowCache, tokens: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        """Logits [n, vocabulary] after the last of each row's tokens [n, block]."""
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=self._mask.build(
                positions, seen, self._low_precision() or self.model.dtype
            ),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    @contextmanager
    def _model_for_decoding(self) -> Iterator[None]:
        """The model without dropout, with attention for single queries, in the precision asked for.

        The learner gets it back as it was, each module's training flag included.
        """
        training = [module for module in self.model.modules() if module.training]
        attention = self.config._attn_implementation
        try:
            self.model.eval()
            self.config._attn_implementation = DECODING[attention]
            with ExitStack() as stack:
                if self._weights is not None:
                    stack.enter_context(self._weights.in_place())
                    stack.enter_context(torch.autocast(self.model.device.type, self.dtype))
                stack.enter_context(torch.inference_mode())
                yield
        finally:
            self.config._attn_implementation = attention
            for module in training:
                module.training = True

    @contextmanager
    def _cache_for(
        self, prompts: dict[int, Sequence[int]], sampling: Sampling
    ) -> Iterator[RowCache]:
        """A cache with a row per slot. Its buffers are kept unless there was an error: their
        contents may not be finite then, and would make later responses NaN."""
        low, on_cpu = self._low_precision(), self.model.device.type == "cpu"
        dtype = low or self.model.dtype
        longest, limit = max(map(len, prompts.values())), sampling.max_tokens
        distinct = set(map(tuple, prompts.values()))
        name = self.config._attn_implementation.removeprefix("redraft_")
        sharing = self._plain and decodes_by_products(name, self.model.device, dtype)
        # Reading a long prompt once for all its rows saves more than the steps that it takes.
        sharing &= longest > _SHORT_PROMPT and len(prompts) >= 2 * len(distinct)
        sharing &= min(map(len, distinct)) > 1  # all but a prompt's last token are shared
        if sharing:
            each = 2 * limit + longest * len(distinct) / len(prompts)
        else:
            each = 2 * (limit + longest)
        free = _MEMORY_SHARE * (free_memory(self.model.device) + self._memory.size())
        cached = self._bytes_per_token(dtype)
        logits = 8 * self.config.vocab_size
        fitting = min(_MOST_ROWS, int(free / (each * cached + logits)))
        rows = min(len(prompts), self.max_rows or max(1, fitting))
        shared = Slots(min(len(distinct), rows + 1), longest, self._memory, 0) if sharing else None
        reserve = 2 * limit if on_cpu and dtype == torch.float32 else 0
        own = Slots(rows, 1 if sharing else longest, self._memory, reserve)
        # Later turns may take half as much again before rows have to wait for each other.
        cache = RowCache(own, shared, low, int(1.5 * free / cached))
        try:
            with cache.in_use():
                yield cache
        except BaseException:
            self._memory.clear()
            raise
        cache.release()

    def _low_precision(self) -> torch.dtype | None:
        """What autocast, the engine's or one around the call, multiplies in; None without any."""
        device = self.model.device.type
        if self.dtype is None and torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return self.dtype

    def _bytes_per_token(self, dtype: torch.dtype) -> int:
        """Of keys and values in all layers."""
        config = self.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        return int(2 * config.num_hidden_layers * heads * width * dtype.itemsize)

    def _tokens_per_pass(self) -> int:
        """How many tokens of prompts to compute at once: on a CPU as many as leave the widest
        activations of the model in the processor's cache."""
        if self.prefill_tokens is not None:
            return self.prefill_tokens
        width = getattr(self.config, "intermediate_size", None) or 4 * self.config.hidden_size
        fitting = _PASS_BYTES // (width * self.model.dtype.itemsize)
        return (
            max(512, min(_MOST_TOKENS, fitting))
            if self.model.device.type == "cpu"
            else (_MOST_TOKENS)
        )


class StopStrings:
    """Watches the ends of growing responses for any of a few strings.

    A string that has just been completed lies within the last tokens of a response: every token of
    a match spells at least one byte of it. Only that tail is decoded.
    """

    def __init__(self, strings: Sequence[str], template: ChatTemplate) -> None:
        self.strings, self.template = strings, template
        self.tail = max(len(string.encode()) for string in strings) + _MARGIN

    def matched(self, tokens: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        """Which responses contain a stop string near their end.

        Args:
            tokens: [slots, max_tokens] sampled so far.
            rows: [n] which of these rows to look at.
            count: [n] how many tokens each of them has, at least 1.

        Returns:
            [n] bool.
        """
        index = count.unsqueeze(-1) - self.tail + torch.arange(self.tail, device=tokens.device)
        tails = tokens[rows.unsqueeze(-1), index.clamp(min=0)].tolist()  # [n, tail]
        found = []
        for tail, length in zip(tails, count.tolist(), strict=True):
            text = self.template.text(tail[max(0, self.tail - length) :])
            found.append(any(string in text for string in self.strings))
        return torch.tensor(found, device=tokens.device)
