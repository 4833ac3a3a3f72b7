"""Continuous batching: many conversations of unequal length in one batch of slots.

Slots are kept in three runs: rows that are decoding, rows that wait for the tokens between two
responses to be computed, and free ones. Decoding thus always works on a leading slice of every
tensor. A row that finishes a response is swapped into the run it belongs to at once; waiting and
new rows join the batch a few at a time, because computing their tokens in one pass costs little
more than computing those of a single row.

A conversation may have any number of responses, so what it will take is not known when it begins.
When memory would not hold what the rows may grow to, waiting rows go back to the queue, and are
computed again when there is room.

Every row that decodes has exactly one *pending* token: the last of its sequence, whose keys and
values are not computed yet. Computing a prompt or the tokens between two responses therefore stops
short of the last one and needs no logits; all sampling happens in one place, the decoding step.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from redraft.engines.attention import Groups, RowCache
from redraft.engines.base import Sampling, Watch
from redraft.engines.sampler import draw, uniforms

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(token ids [n, block], their positions [n, block], positions of the slots that the cache was told
to show them) to the logits [n, vocabulary] after the last token of each block."""

Matched = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(sampled tokens [slots, max_tokens], which of its rows [n], how many tokens each has [n]) to
whether each has just completed a stop string, [n] bool."""

Key = Callable[[int, int], tuple[int, int]]
"""(row, number of the response in this call) to the key of its random stream."""

Finish = Callable[[int, list[int], list[float], bool], Sequence[int] | None]
"""(row, tokens, log-probabilities, whether a stop token or string ended it) of a finished response
to the tokens that follow it, or None when the row is done."""

Wanted = Callable[[int, Callable[[], list[int]]], bool]
"""(row, reads the tokens of its response so far) to whether the response is still wanted."""

_FOLLOW_SECONDS = 0.1  # between two calls of `wanted` for a row
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
        cache: keys and values, one row per slot, and of prompts where they are shared.
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
        self.history: dict[int, list[int]] = {row: [] for row in prompts}  # behind the prompt

        self.slots = slots
        self.decoding = self.waiting = 0
        self.row = np.full(slots, -1)  # the row in each slot, or whose prompt is still there
        self.length = np.zeros(slots, dtype=np.int64)  # positions in the cache
        self.start = np.zeros(slots, dtype=np.int64)  # how many of them are a shared prompt's
        self.reply_tokens: dict[int, list[int]] = {}  # what a row has yet to compute
        self.shared: dict[tuple[int, ...], int] = {}  # number of each shared prompt in the cache
        self.groups: Groups | None = None  # of the decoding rows; None: to be made anew
        # The same on the device, as rows of one tensor so that a swap of slots is one operation.
        # `home` is the index where a slot's tokens are written; a swap moves it with the row.
        # `number` is that of the row's shared prompt.
        self.state = torch.zeros((6, slots), dtype=torch.int64, device=device)
        self.home, self.position, self.pending, self.count, self.starts, self.number = self.state
        self.home.copy_(torch.arange(slots))
        shape = (slots, sampling.max_tokens)
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(shape, dtype=torch.float32, device=device)
        self.uniforms = torch.zeros(shape, dtype=torch.float64, device=device)
        self.stop_token_ids = torch.tensor(list(stops), dtype=torch.int64, device=device)

    def run(self, finish: Finish, watch: Watch | None, wanted: Wanted | None = None) -> None:
        """Continue all conversations until `finish` says that they are done, or until they are not
        `wanted`."""
        steps = tokens = responses = 0
        asked = time.monotonic()
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
            if wanted is not None and time.monotonic() - asked >= _FOLLOW_SECONDS:
                self._drop_unwanted(wanted)
                asked = time.monotonic()

    def _drop_unwanted(self, wanted: Wanted) -> None:
        """Free the slots of rows whose response is not wanted any more."""

        def so_far(slot: int) -> list[int]:
            ids: list[int] = self.tokens[self.home[slot], : int(self.count[slot])].tolist()
            return ids

        rows = enumerate(self.row[: self.decoding].tolist())
        if dropped := [slot for slot, row in rows if not wanted(row, partial(so_far, slot))]:
            self._settle(dict.fromkeys(dropped, False), lambda *response: None)

    def _step(self) -> dict[int, bool]:
        """Sample one token in every decoding slot.

        Returns the slots whose response has ended, and whether by a stop token or string.
        """
        n = self.decoding
        home, position = self.home[:n], self.position[:n]
        pending, count = self.pending[:n], self.count[:n]
        self.length[:n] += 1
        self.cache.own.fit(int((self.length - self.start).max()), self._kept())
        if self.groups is None and self.cache.prompts is not None:
            self._forget_prompts()
            self.groups = Groups.of(self.number[:n].cpu().numpy(), self.device)
        places = position.unsqueeze(-1)
        seen = self.cache.select(0, places, self.starts[:n], self.number[:n], self.groups)
        logits = self.forward(pending.unsqueeze(-1), places, seen)
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

    def _kept(self) -> int:
        """How many of the leading slots hold something."""
        return int(np.flatnonzero(self.row >= 0)[-1]) + 1

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
                self.history[row] += [*ids[:count], *answer]
                # The last sampled token is still pending: it goes in front of the reply.
                self.reply_tokens[row] = [ids[count - 1], *answer]
        self._arrange(run)

    def _arrange(self, run: np.ndarray) -> None:
        """Permute the slots, moving the fewest, until `run`, which each belongs to, is sorted."""
        wanted = np.sort(run)
        self.decoding, self.waiting = int((run == _DECODING).sum()), int((run == _WAITING).sum())
        self.groups = None
        if not self.queue or self.cache.prompts is not None:
            # The prompts of freed slots serve no row still to come.
            self.row[run == _FREE] = -1
        target = np.flatnonzero(run != wanted)
        if not len(target):
            return
        source = target[np.argsort(run[target], kind="stable")]
        for values in (self.row, self.length, self.start):
            values[target] = values[source]
        to, of = self._indices(target), self._indices(source)
        self.state[:, to] = self.state[:, of]
        kept = wanted[target] != _FREE
        kept |= self.row[target] >= 0
        if kept.any():
            self.cache.own.move(self._indices(source[kept]), self._indices(target[kept]))

    def _join(self) -> None:
        """Let waiting rows and rows from the queue join those that decode."""
        self._send_back()
        first, used = self.decoding, self.decoding + self.waiting
        self._reply(first, used)
        joining = [self.queue.pop() for _ in range(self._joining(used))]
        known = [row for row in joining if row in self.reply_tokens]  # were sent back
        fresh = [row for row in joining if row not in self.reply_tokens]
        end = used
        for rows in filter(None, (fresh, known)):
            admit = self._admit if self.cache.prompts is None else self._admit_sharing
            admit(end, rows)
            end += len(rows)
        self._reply(end - len(known), end)
        self.decoding, self.waiting, self.groups = end, 0, None
        self._begin_responses(first, end)

    def _reply(self, first: int, end: int) -> None:
        sequences = [self.reply_tokens.pop(int(self.row[slot])) for slot in range(first, end)]
        self._extend(first, sequences)

    def _may_become(self, used: int) -> int:
        """The positions that the longest of the first `used` rows may have at its response's end,
        those of a shared prompt left out."""
        own = (self.length - self.start)[:used]
        replies = [
            self.reply_tokens.get(row, ()) for row in self.row[self.decoding : used].tolist()
        ]
        own[self.decoding :] += np.array(list(map(len, replies)), dtype=np.int64)
        return int(own.max(initial=0)) + self.sampling.max_tokens

    def _room(self) -> int:
        prompts = self.cache.prompts
        return self.cache.most_tokens - (len(self.shared) * prompts.extent if prompts else 0)

    def _send_back(self) -> None:
        """Waiting rows to the queue, until memory holds what the others may become."""
        while self.waiting > (not self.decoding):
            used = self.decoding + self.waiting
            if used * self._may_become(used) <= self._room():
                return
            row = int(self.row[used - 1])
            self.reply_tokens[row] = [self.prompts[row][-1], *self.history[row]]
            self.queue.insert(0, row)
            self.waiting -= 1
            self.row[used - 1 :] = -1
            self.length[used - 1 :] = self.start[used - 1 :] = 0

    def _joining(self, used: int) -> int:
        """How many rows of the queue there is room for, besides the first `used` slots."""
        count = min(self.slots - used, len(self.queue))
        rows = self.queue[len(self.queue) - count :][::-1]
        lengths = [len(self.reply_tokens.get(row, ())) for row in rows]
        if self.cache.prompts is None:
            lengths = [n + len(self.prompts[row]) for n, row in zip(lengths, rows, strict=True)]
        longest = np.maximum.accumulate(np.array(lengths, dtype=np.int64)) if rows else np.zeros(0)
        longest = np.maximum(longest + self.sampling.max_tokens, self._may_become(used))
        fits = (used + 1 + np.arange(count)) * longest <= self._room()
        return max(int(np.cumprod(fits).sum()), min(count, not used))

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
        self.row[first:end] = order
        # What a resident prompt is copied from may be a free slot that the fresh ones will use, so
        # those copies come first.
        self._copy_prompts(resident, order, first)
        self.length[first:end] = 0
        self._extend(first, [list(prompt) for prompt in fresh])
        self._copy_prompts({prompt: first + i for i, prompt in enumerate(fresh)}, order, first)
        self.length[first:end] = [len(self.prompts[row]) - 1 for row in order]
        self.pending[first:end] = self._indices(np.array([self.prompts[row][-1] for row in order]))

    def _admit_sharing(self, first: int, rows: list[int]) -> None:
        """`_admit` where the cache has prompts apart from rows, so that nothing is copied."""
        self._forget_prompts(rows)
        needed = dict.fromkeys(self.prompts[row] for row in rows)
        fresh = sorted((prompt for prompt in needed if prompt not in self.shared), key=len)
        self._extend(len(self.shared), [list(prompt) for prompt in fresh], prompts=True)
        for prompt in fresh:
            self.shared[prompt] = len(self.shared)
        end = first + len(rows)
        prompts = [self.prompts[row] for row in rows]
        self.row[first:end] = rows
        self.length[first:end] = self.start[first:end] = [len(prompt) - 1 for prompt in prompts]
        self.starts[first:end] = self._indices(self.start[first:end])
        self.number[first:end] = self._indices(np.array([self.shared[p] for p in prompts]))
        self.pending[first:end] = self._indices(np.array([prompt[-1] for prompt in prompts]))

    def _forget_prompts(self, joining: Sequence[int] = ()) -> None:
        """Drop shared prompts that no row needs any more, and close the gaps among the others."""
        prompts = self.cache.prompts
        assert prompts is not None
        used = self.row[self.row >= 0].tolist()
        needed = {self.prompts[row] for row in [*used, *joining, *self.queue[-1:]]}
        kept = {prompt: number for prompt, number in self.shared.items() if prompt in needed}
        if len(kept) == len(self.shared):
            return
        source = sorted(number for number in kept.values() if number >= len(kept))
        target = sorted(set(range(len(kept))).difference(kept.values()))
        prompts.move(self._indices(np.array(source)), self._indices(np.array(target)))
        moved = dict(zip(source, target, strict=True))
        self.shared = {prompt: moved.get(number, number) for prompt, number in kept.items()}
        numbers = [self.shared[self.prompts[row]] for row in used]
        self.number[: len(used)] = self._indices(np.array(numbers))

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
            self.cache.own.move(self._indices(source), self._indices(target))

    def _extend(self, first: int, sequences: list[list[int]], prompts: bool = False) -> None:
        """Append tokens to the slots from `first` on; the last of each is left pending. Or compute
        shared prompts with the numbers from `first` on, but for the last token of each."""
        start = 0
        while start < len(sequences):
            stop, width = start + 1, len(sequences[start])
            while stop < len(sequences):
                wider = max(width, len(sequences[stop]))
                if wider * (stop + 1 - start) > self.prefill_tokens:
                    break
                stop, width = stop + 1, wider
            self._extend_block(first + start, sequences[start:stop], width - 1, prompts)
            start = stop

    def _extend_block(
        self, first: int, sequences: list[list[int]], width: int, prompts: bool
    ) -> None:
        end = first + len(sequences)
        block = np.zeros((len(sequences), width), dtype=np.int64)  # padding is computed and unused
        for index, sequence in enumerate(sequences):
            block[index, : len(sequence) - 1] = sequence[:-1]
        done = np.zeros(len(sequences), dtype=np.int64) if prompts else self.length[first:end]
        positions = done[:, None] + np.arange(width)
        if not prompts:
            own = self.length - self.start
            longest = max(int(own.max()), int(own[first:end].max()) + width)
            self.cache.own.fit(longest, self._kept())
        for left in range(0, width, self.prefill_tokens):
            part = slice(left, left + self.prefill_tokens)
            ids, places = self._indices(block[:, part]), self._indices(positions[:, part])
            if prompts:
                seen = self.cache.select_prompts(first, places)
            else:
                chosen = self.starts[first:end], self.number[first:end]
                seen = self.cache.select(first, places, *chosen, None)
            self.forward(ids, places, seen)
        if prompts:
            return
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
        return torch.from_numpy(values.astype(np.int64, copy=False)).to(self.device)
