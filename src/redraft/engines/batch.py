"""Continuous batching: many conversations of unequal length in one batch of slots.

Slots are kept in three runs: rows that are decoding, rows that wait for the tokens between two
responses to be computed, and free ones. Decoding thus always works on a leading slice of every
tensor. A row that finishes a response is swapped into the run it belongs to at once; waiting and
new rows join the batch a few at a time, because computing their tokens in one pass costs little
more than computing those of a single row.

Every row that decodes has exactly one *pending* token: the last of its sequence, whose keys and
values are not computed yet. Computing a prompt or the tokens between two responses therefore stops
short of the last one and needs no logits; all sampling happens in one place, the decoding step.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from redraft.engines.attention import RowCache
from redraft.engines.base import Sampling, Watch
from redraft.engines.sampler import draw, uniforms

Forward = Callable[[Tensor, Tensor, int], Tensor]
"""(token ids [n, block], positions [n, block], first row of the cache) to the logits
[n, vocabulary] after the last token of each block."""

Matched = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(sampled tokens [slots, max_tokens], which of its rows [n], how many tokens each has [n]) to
whether each has just completed a stop string, [n] bool."""

Key = Callable[[int, int], tuple[int, int]]
"""(row, number of the response in this call) to the key of its random stream."""

Finish = Callable[[int, list[int], list[float], bool], Sequence[int] | None]
"""(row, tokens, log-probabilities, whether a stop token or string ended it) of a finished response
to the tokens that follow it, or None when the row is done."""

_WATCH_STEPS = 16  # decoding steps between two calls of `watch`
_DECODING, _WAITING, _FREE = 0, 1, 2
_REFILL = 0.25  # waiting and new rows join when they are this many for each decoding row


class Batch:
    """The conversations of one call.

    Args:
        prompts: token ids by row, none empty.
        slots: how many rows may be in the batch at once.
        sampling: how tokens are drawn.
        stops: ids of the tokens that end a response.
        forward: the model on top of `cache`.
        cache: keys and values, one row per slot.
        device: where token ids and logits live.
        key: names the random stream of a response.
        completes_stop_string: which rows have just completed one; None where there are none to
            find.
        prefill_tokens: how many tokens one pass over prompts or replies may hold.
    """

    def __init__(
        self,
        prompts: Mapping[int, Sequence[int]],
        slots: int,
        sampling: Sampling,
        stops: Sequence[int],
        forward: Forward,
        cache: RowCache,
        device: torch.device,
        key: Key,
        completes_stop_string: Matched | None,
        prefill_tokens: int,
    ) -> None:
        self.sampling, self.forward, self.cache = sampling, forward, cache
        self.device, self.key = device, key
        self.completes_stop_string = completes_stop_string
        self.prefill_tokens = prefill_tokens
        self.prompts = {row: tuple(prompt) for row, prompt in prompts.items()}
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in self.prompts.items():
            groups.setdefault(prompt, []).append(row)
        # Rows of one prompt enter side by side, so the later ones find its keys still in the cache.
        self.queue = [row for group in groups.values() for row in group][::-1]
        self.finished = dict.fromkeys(prompts, 0)  # responses of each row

        self.slots = slots
        self.decoding = self.waiting = 0
        self.row = np.full(slots, -1)  # which row is, or last was, in each slot
        self.length = np.zeros(slots, dtype=np.int64)  # positions in the cache
        self.reply_tokens: dict[int, list[int]] = {}  # what a waiting row has yet to compute
        # The same on the device, as rows of one tensor so that a swap of slots is one operation.
        # `home` is the index where a slot's tokens are written; a swap moves it with the row.
        self.state = torch.zeros((4, slots), dtype=torch.int64, device=device)
        self.home, self.position, self.pending, self.count = self.state.unbind()
        self.home.copy_(torch.arange(slots))
        shape = (slots, sampling.max_tokens)
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(shape, dtype=torch.float32, device=device)
        self.uniforms = torch.zeros(shape, dtype=torch.float64, device=device)
        self.stop_token_ids = torch.tensor(list(stops), dtype=torch.int64, device=device)

    def run(self, finish: Finish, watch: Watch | None) -> None:
        """Continue all conversations until `finish` says that they are done."""
        steps = tokens = responses = 0
        while True:
            free = self.slots - self.decoding - self.waiting
            joining = self.waiting + min(free, len(self.queue))
            if joining and joining >= self.decoding * _REFILL:
                self._join()
            if not self.decoding:
                return
            steps, tokens = steps + 1, tokens + self.decoding
            ended = self._step()
            if ended:
                self._settle(ended, finish)
                responses += len(ended)
            if watch is not None and (ended or steps % _WATCH_STEPS == 0):
                watch(tokens, responses)
                tokens = responses = 0

    def _step(self) -> dict[int, bool]:
        """Sample one token in every decoding slot.

        Returns the slots whose response has ended, and whether by a stop token or string.
        """
        n = self.decoding
        home, position = self.home[:n], self.position[:n]
        pending, count = self.pending[:n], self.count[:n]
        self.length[:n] += 1
        self.cache.fit(int(self.length.max()))
        logits = self.forward(pending.unsqueeze(-1), position.unsqueeze(-1), 0)
        tokens, logprobs = draw(logits, self.uniforms[home, count], self.sampling)
        self.tokens[home, count] = tokens
        self.logprobs[home, count] = logprobs
        pending.copy_(tokens)
        position += 1
        count += 1
        stopped = torch.isin(tokens, self.stop_token_ids)
        if self.completes_stop_string is not None:
            stopped |= self.completes_stop_string(self.tokens, home, count)
        ended = (stopped | (count >= self.sampling.max_tokens)).nonzero().squeeze(-1)
        return dict(zip(ended.tolist(), stopped[ended].tolist(), strict=True))

    def _settle(self, ended: dict[int, bool], finish: Finish) -> None:
        """Hand over finished responses and put their slots back into the runs they belong to."""
        used = self.decoding + self.waiting
        run = np.full(self.slots, _FREE)
        run[: self.decoding], run[self.decoding : used] = _DECODING, _WAITING
        index = torch.tensor(list(ended), device=self.device)
        home, counts = self.home[index], self.count[index].tolist()
        tokens, logprobs = self.tokens[home].tolist(), self.logprobs[home].tolist()
        for slot, count, ids, values in zip(ended, counts, tokens, logprobs, strict=True):
            row = int(self.row[slot])
            answer = finish(row, ids[:count], values[:count], ended[slot])
            self.finished[row] += 1
            if answer is None:
                run[slot] = _FREE
                self.length[slot] = len(self.prompts[row]) - 1  # all that another row may need
            else:
                run[slot] = _WAITING
                # The last sampled token is still pending: it goes in front of the reply.
                self.reply_tokens[row] = [ids[count - 1], *answer]
        self._arrange(run)

    def _arrange(self, run: np.ndarray) -> None:
        """Permute the slots, moving the fewest, until `run`, which each belongs to, is sorted."""
        wanted = np.sort(run)
        self.decoding, self.waiting = int((run == _DECODING).sum()), int((run == _WAITING).sum())
        target = np.flatnonzero(run != wanted)
        if not len(target):
            return
        source = target[np.argsort(run[target], kind="stable")]
        self.row[target], self.length[target] = self.row[source], self.length[source]
        to, of = self._indices(target), self._indices(source)
        self.state[:, to] = self.state[:, of]
        # A freed slot's prompt may serve a row still to come; without such rows it may be lost.
        kept = np.ones(len(target), dtype=bool) if self.queue else wanted[target] != _FREE
        if kept.any():
            self.cache.move(self._indices(source[kept]), self._indices(target[kept]))

    def _join(self) -> None:
        """Let waiting rows and rows from the queue join those that decode."""
        first, used = self.decoding, self.decoding + self.waiting
        sequences = [self.reply_tokens.pop(int(self.row[slot])) for slot in range(first, used)]
        self._extend(first, sequences)
        count = min(self.slots - used, len(self.queue))
        if count:
            self._admit(used, [self.queue.pop() for _ in range(count)])
        self.decoding, self.waiting = used + count, 0
        self._begin_responses(first, self.decoding)

    def _admit(self, first: int, rows: list[int]) -> None:
        """Put rows into the slots from `first` on, computing each prompt that is new once."""
        resident = {self.prompts[row]: slot for slot, row in enumerate(self.row) if row >= 0}
        leaders: dict[tuple[int, ...], int] = {}  # the first row of each new prompt
        for row in rows:
            if self.prompts[row] not in resident:
                leaders.setdefault(self.prompts[row], row)
        fresh = sorted(leaders, key=len)  # neighbours of like length waste little on padding
        leading = set(leaders.values())
        order = [leaders[prompt] for prompt in fresh] + [row for row in rows if row not in leading]
        end = first + len(order)
        # What a resident prompt is copied from may be a free slot that the fresh ones will use, so
        # those copies come first.
        self._copy_prompts(resident, order, first)
        self.length[first:end] = 0
        self._extend(first, [list(prompt) for prompt in fresh])
        self._copy_prompts({prompt: first + i for i, prompt in enumerate(fresh)}, order, first)
        self.row[first:end] = order
        self.length[first:end] = [len(self.prompts[row]) - 1 for row in order]
        self.pending[first:end] = self._indices(np.array([self.prompts[row][-1] for row in order]))

    def _copy_prompts(
        self, known: dict[tuple[int, ...], int], order: list[int], first: int
    ) -> None:
        """Copy prompts from the slots that know them to those (from `first`) that need them."""
        moves = [
            (known[self.prompts[row]], slot)
            for slot, row in enumerate(order, start=first)
            if known.get(self.prompts[row], slot) != slot
        ]
        if moves:
            source, target = np.array(moves).T
            self.cache.move(self._indices(source), self._indices(target))

    def _extend(self, first: int, sequences: list[list[int]]) -> None:
        """Append tokens to the slots from `first` on; the last of each is left pending."""
        start = 0
        while start < len(sequences):
            stop, width = start + 1, len(sequences[start])
            while stop < len(sequences):
                wider = max(width, len(sequences[stop]))
                if wider * (stop + 1 - start) > self.prefill_tokens:
                    break
                stop, width = stop + 1, wider
            self._extend_block(first + start, sequences[start:stop], width - 1)
            start = stop

    def _extend_block(self, first: int, sequences: list[list[int]], width: int) -> None:
        end = first + len(sequences)
        block = np.zeros((len(sequences), width), dtype=np.int64)  # padding is computed and unused
        for index, sequence in enumerate(sequences):
            block[index, : len(sequence) - 1] = sequence[:-1]
        positions = self.length[first:end, None] + np.arange(width)
        self.cache.fit(max(int(self.length.max()), int(positions.max(initial=0)) + 1))
        for left in range(0, width, self.prefill_tokens):
            part = slice(left, left + self.prefill_tokens)
            ids, places = self._indices(block[:, part]), self._indices(positions[:, part])
            self.forward(ids, places, first)
        self.length[first:end] += [len(sequence) - 1 for sequence in sequences]
        self.pending[first:end] = self._indices(np.array([row[-1] for row in sequences]))

    def _begin_responses(self, first: int, end: int) -> None:
        """Reset the counters of slots that start a response and lay out their random numbers."""
        self.position[first:end] = self._indices(self.length[first:end])
        self.count[first:end] = 0
        if self.sampling.temperature > 0:
            keys = [self.key(row, self.finished[row]) for row in self.row[first:end].tolist()]
            numbers = uniforms(keys, self.sampling.max_tokens)
            self.uniforms[self.home[first:end]] = torch.from_numpy(numbers).to(self.device)

    def _indices(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)
