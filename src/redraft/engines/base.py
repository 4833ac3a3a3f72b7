"""The contract between rollout and the engines.

An engine continues conversations. One that knows tokens (a local model, a serving engine with token
ids) has a chat template, returns ids and log-probabilities, and can continue a conversation in
the same sequence. One that knows only text (an endpoint, a script) gets messages and returns text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, Protocol

from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.registry import Registry
from redraft.types import Message


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 switch those off.

    `max_tokens` bounds each response. A response ends at one of the template's stop tokens (kept as
    its last token) or as soon as its text contains one of the `stop` strings or the template's (the
    token that completed it is kept; the string is cut from the text).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            UserError: names the value.
        """
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off)")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it must be 0 (off) or more")
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not all(self.stop):
            raise UserError("an empty stop string, which every text contains; remove it")


@dataclass(frozen=True)
class Request:
    """A conversation to be continued.

    `tokens` is the conversation with the generation prompt in the engine's own tokens; left empty,
    an engine that knows tokens renders `messages`. The random numbers of the response are a
    function of the sampling seed, `problem`, `sample` and `turn` (0-based number of the response in
    its episode), and of nothing else: neither of the batch nor of its order.
    """

    messages: Sequence[Message]
    tokens: Sequence[int] = ()
    problem: str = ""
    sample: int = 0
    turn: int = 0

    def stream(self, seed: int, turn: int | None = None) -> tuple[int, int]:
        """Two 64-bit numbers that name the random stream of response `turn` under `seed`."""
        problem = blake2b(f"{seed}/{self.problem}".encode(), digest_size=8).digest()
        number = self.turn if turn is None else turn
        return int.from_bytes(problem, "little"), (self.sample << 32) + number


@dataclass(frozen=True)
class Response:
    """What a model wrote: text, and where the engine knows them token ids and the log-probability
    of each under the sampling distribution.

    An engine that knows only text may say in `completion_tokens` how many tokens there were.
    """

    text: str
    finish: Literal["stop", "length"]
    tokens: list[int]
    logprobs: list[float]
    completion_tokens: int | None = None


class WeightsLostError(UserError):
    """An engine that keeps weights of its own has got others while it was generating.

    Nothing of the call may be used. The call may be repeated: the engine takes up the learner's
    weights again first.
    """


@dataclass(frozen=True)
class Failed:
    """A request that got no response, and why.

    `context_full`: the conversation does not fit the model's context window, so that asking again
    does not help.
    """

    reason: str
    context_full: bool = False


Reply = Callable[[int, Response], Sequence[int] | None]
"""Called by an engine that knows tokens when a request has its response, with the request's index.
Returns the tokens to append before the next response, or None when the row is done."""

Watch = Callable[[int, int], None]
"""Called while responses are under way with the tokens and the responses since the last call."""

Follow = Callable[[int, Callable[[], str]], bool]
"""Called about ten times a second for each response under way, with the request's index and a
function that reads the text so far, less what more tokens may still change of it. Returns whether
the response is still wanted; one that is not ends as `Failed` and makes room for others."""


class Engine(Protocol):
    """Anything that can continue many conversations at once."""

    @property
    def template(self) -> ChatTemplate | None:
        """How messages become the engine's tokens; None for an engine that knows only text."""
        ...

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        reply: Reply | None = None,
        watch: Watch | None = None,
        follow: Follow | None = None,
    ) -> list[list[Response | Failed]]:
        """The responses to each request: one, or with `reply` as many as it asks for.

        Rows are independent: a row's next response starts as soon as `reply` has answered its last
        one. A row that fails, or outgrows the model's context window (with `max_tokens` more
        tokens), ends with `Failed` and does not stop the others. Engines that know only text
        ignore `reply`. Those that have whole responses only never call `follow`, which is left out
        where nobody follows.

        Raises:
            UserError: what makes every response impossible, such as a sampling parameter out of
                range or weights that have diverged.
            WeightsLostError: see there.
        """
        ...

    def sync_weights(self, version: str) -> None:
        """Take up the learner's weights, named `version`, for all responses from now on.

        An engine that shares memory with the learner has nothing to do; one whose model never
        changes neither. One with weights of its own may wait for the next response, but where the
        settings say `overlap`: the learner is at work then.
        """
        ...


@dataclass(frozen=True)
class EngineEntry:
    """An engine as it is registered, for `--engine`."""

    name: str
    summary: str
    open: Callable[..., Engine]
    """(model, template, *, max_rows, dtype, settings, processes) to an `Engine`; `settings` are the
    command's, `processes` those that share the run."""
    own_weights: bool = False
    """Whether it responds with a copy of the model's weights, which `sync_weights` brings up to
    date, and not with the model."""


ENGINES: Registry[EngineEntry] = Registry("engine", "redraft.engines")
