"""The contract between rollout and every engine: tokens in, samples with log-probabilities out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 switch those off.

    `max_tokens` bounds each attempt. An attempt ends at one of `stop_token_ids` (kept as its last
    token) or as soon as its text contains one of the `stop` strings (the token that completed it is
    kept; the string is cut from `Sample.text`). The same `seed` and prompts give the same samples,
    whatever the batch size.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """One attempt: ids, log-probability of each under the sampling distribution, and text."""

    tokens: list[int]
    logprobs: list[float]
    text: str
    finish: Literal["stop", "length"]


Reply = Callable[[int, list[Sample]], Sequence[int] | None]
"""Called when a row has finished an attempt, with the row's index and all its samples so far.
Returns the tokens to append before the next attempt, or None when the row is done."""


class Engine(Protocol):
    """Anything that can play many dialogues at once."""

    def converse(
        self,
        prompts: Sequence[Sequence[int]],
        reply: Reply,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Sample]]:
        """Play one dialogue per prompt and return each row's samples, one per attempt.

        Rows are independent: a row's next attempt starts as soon as `reply` has answered its last
        one. Equal prompts (the G samples of one problem) are computed once. `progress` is called
        with the number of attempts that have just finished.
        """
        ...
