"""The contracts between rollout and the engines.

An `Engine` takes tokens and gives samples with log-probabilities; a `ChatEngine` takes messages and
gives text, which is all that a model behind an endpoint offers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from redraft.errors import UserError


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
    """One attempt: ids, log-probability of each under the sampling distribution, and text.

    An endpoint that answers with text alone leaves `tokens` and `logprobs` empty and says in
    `completion_tokens` how many there were.
    """

    tokens: list[int]
    logprobs: list[float]
    text: str
    finish: Literal["stop", "length"]
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Failed:
    """An attempt that an engine could not get, and why; nothing is known about the model by it."""

    reason: str


Reply = Callable[[int, list[Sample]], Sequence[int] | None]
"""Called when a row has finished an attempt, with the row's index and all its samples so far.
Returns the tokens to append before the next attempt, or None when the row is done."""


class ContextTooLongError(UserError):
    """A row's dialogue has outgrown the model's window. `row` is its index in the call."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


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


Messages = Sequence[Mapping[str, str]]
"""A dialogue as chat templates and chat endpoints take it: `role` and `content` of each message."""


class ChatEngine(Protocol):
    """Anything that can answer many dialogues at once."""

    def chat(
        self,
        dialogues: Sequence[Messages],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample | Failed]:
        """The next message of each dialogue, in order; equal dialogues are answered separately.

        One that cannot be had is `Failed` and does not keep the others. `progress` is called with
        the number of dialogues that have just been answered.
        """
        ...
