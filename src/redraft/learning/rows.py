"""Training rows: sequences of tokens with per-token weights, all that the learner knows.

A row is one sequence with parallel arrays, one entry per token. Which array a method fills decides
what is learned from a token; the learner never knows which method that was:

- `loss_weight`: imitate this token (cross-entropy);
- `advantage`: reinforce it (policy gradient);
- `kl_weight`: hold it near the reference (the paper's β, per token).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft.types import Episode

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, init=False)
class TrainingRow:
    """One training row; every array is None or has one entry per token, shape [time].

    `turn` is 0 for prompt and environment text, and i >= 1 for the tokens of the policy's own
    response i. Only those may carry `advantage` or `kl_weight`. `old_logprob` is the
    log-probability of each token under the policy that sampled it (None: it is taken to be the
    current policy), and `ref_logprob` that under the reference, filled in by
    `Learner.with_reference`.

    The first token is never learned from, whatever its arrays say: nothing predicts it.
    """

    tokens: IntArray
    turn: IntArray
    loss_weight: FloatArray | None
    advantage: FloatArray | None
    kl_weight: FloatArray | None
    old_logprob: FloatArray | None
    ref_logprob: FloatArray | None

    def __init__(
        self,
        tokens: npt.ArrayLike,
        turn: npt.ArrayLike,
        loss_weight: npt.ArrayLike | None = None,
        advantage: npt.ArrayLike | None = None,
        kl_weight: npt.ArrayLike | None = None,
        old_logprob: npt.ArrayLike | None = None,
        ref_logprob: npt.ArrayLike | None = None,
    ) -> None:
        """Take any array-likes of one length.

        Raises:
            ValueError: lengths differ, there are no tokens, a value is not finite, or a token
                outside the policy's responses carries an advantage or a KL weight.
        """
        put = object.__setattr__
        put(self, "tokens", np.asarray(tokens, dtype=np.int64))
        put(self, "turn", np.asarray(turn, dtype=np.int64))
        for name, values in (
            ("loss_weight", loss_weight),
            ("advantage", advantage),
            ("kl_weight", kl_weight),
            ("old_logprob", old_logprob),
            ("ref_logprob", ref_logprob),
        ):
            put(self, name, None if values is None else np.asarray(values, dtype=np.float32))
        self._check()

    def _check(self) -> None:
        if self.tokens.ndim != 1 or not self.tokens.size:
            raise ValueError(f"tokens must be a non-empty list, got shape {self.tokens.shape}")
        if self.turn.shape != self.tokens.shape:
            raise ValueError(f"turn has {self.turn.size} entries for {self.tokens.size} tokens")
        for name in ("loss_weight", "advantage", "kl_weight", "old_logprob", "ref_logprob"):
            values = getattr(self, name)
            if values is None:
                continue
            if values.shape != self.tokens.shape:
                raise ValueError(f"{name} has {values.size} entries for {self.tokens.size} tokens")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} has a value that is not finite")
            if name in ("advantage", "kl_weight") and values[self.turn == 0].any():
                raise ValueError(f"{name} is not 0 on a token the policy did not write (turn 0)")

    def __len__(self) -> int:
        return self.tokens.size

    @property
    def reinforced(self) -> BoolArray:
        """Response tokens that reinforcement learning sees, shape [time]; advantage 0 counts."""
        if self.advantage is None and self.kl_weight is None:
            return np.zeros(len(self), dtype=np.bool_)
        return _after_first(self.turn >= 1)

    @property
    def imitated(self) -> BoolArray:
        """Tokens with a cross-entropy weight, shape [time]."""
        if self.loss_weight is None:
            return np.zeros(len(self), dtype=np.bool_)
        return _after_first(self.loss_weight != 0)

    @property
    def imitated_by_response(self) -> IntArray:
        """Tokens with a cross-entropy weight in each response that has any, shape [responses]."""
        return np.unique(self.turn[self.imitated], return_counts=True)[1]

    def averaged_by_response(self) -> "TrainingRow":
        """The row with each `loss_weight` divided by the number of imitated tokens of its
        response: a sum over it weighs the response's mean instead of its sum."""
        if self.loss_weight is None:
            return self
        imitated = self.imitated
        _, place, sizes = np.unique(self.turn[imitated], return_inverse=True, return_counts=True)
        averaged = np.zeros_like(self.loss_weight)
        averaged[imitated] = self.loss_weight[imitated] / sizes[place]
        return replace(self, loss_weight=averaged)

    @property
    def learned(self) -> BoolArray:
        """Tokens that some loss applies to, shape [time]."""
        return self.reinforced | self.imitated

    @property
    def needs_reference(self) -> bool:
        """Whether some token is held to the reference and the reference has not been asked yet."""
        return self.ref_logprob is None and self.has_kl

    @property
    def has_kl(self) -> bool:
        """Whether some token has a KL weight other than 0."""
        return self.kl_weight is not None and bool(self.kl_weight[1:].any())

    def as_json(self) -> dict[str, Any]:
        """The row as JSON values, for writing to disk; `TrainingRow(**row.as_json())` reads it."""
        return {name: None if v is None else v.tolist() for name, v in vars(self).items()}


def _after_first(mask: BoolArray) -> BoolArray:
    mask = mask.copy()
    mask[0] = False
    return mask


def sequences(episode: Episode) -> Iterator[tuple[list[int], list[tuple[int, bool]]]]:
    """The token sequences that an episode's responses were written in, in order.

    Responses that were shown the same history share a sequence; an episode that nothing was hidden
    in is one. Each comes as the opening's tokens and the turns after them: the index of each turn
    and whether it is a response that was written in this sequence (another is context).
    """
    by_start: dict[int, list[int]] = {}
    for index, turn in enumerate(episode.turns):
        if turn.author != "environment":
            by_start.setdefault(turn.history, []).append(index)
    for start, written in by_start.items():
        turns = range(start, written[-1] + 1)
        yield episode.prompt_tokens, [(index, index in written) for index in turns]
