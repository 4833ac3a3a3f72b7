"""The fields of OpenAI's chat completions: which are read, which are ignored, and what is answered.

Whatever is not named here is refused, so that no client believes in a setting without effect.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from redraft.errors import printable
from redraft.evaluation.solve import as_json
from redraft.evaluation.strategies import Trial
from redraft.types import Message


class RefusedError(Exception):
    """A request that gets an error in place of an answer."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """OpenAI's form of an error."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        message = {"message": printable(str(self)), "type": kind}
        return {"error": {**message, "param": self.param, "code": self.code}}


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Text(_Fields):
    type: Literal["text"]
    text: str


class ChatMessage(_Fields):
    """One message of the conversation; its `name` is ignored."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Text]
    name: Any = None

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        parts = self.content
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)


class _StreamOptions(_Fields):
    include_usage: bool | None = None
    include_obfuscation: Any = None


class _ResponseFormat(_Fields):
    type: Literal["text"]


class Extension(_Fields):
    """`redraft`, the field that is this project's own."""

    attempts: bool = False
    """Whether the answer holds every attempt."""


_Stop = Annotated[str, Field(min_length=1, max_length=200)]


class ChatRequest(_Fields):
    """The body of a request for a chat completion."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    redraft: Extension = Extension()

    # Taken with the one value that changes nothing.
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    response_format: _ResponseFormat | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None

    # Ignored: they have no effect on the text.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a response."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def length(self) -> int | None:
        """The longest response that is asked for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def system(self) -> str:
        """The system messages, joined."""
        told = [one.text for one in self.messages if one.role in ("system", "developer")]
        return "\n\n".join(told)

    @property
    def conversation(self) -> list[Message]:
        """What the user and the assistant said; the last message is the question."""
        roles: dict[str, Literal["user", "assistant"]] = {"user": "user", "assistant": "assistant"}
        said = [one for one in self.messages if one.role in roles]
        return [Message(role=roles[one.role], content=one.text) for one in said]

    @model_validator(mode="after")
    def _is_a_conversation(self) -> Self:
        roles = [one.role for one in self.messages]
        while roles and roles[0] in ("system", "developer"):
            roles.pop(0)
        expected = [("user", "assistant")[place % 2] for place in range(len(roles))]
        if roles != expected or len(roles) % 2 == 0:
            raise ValueError(
                "messages: expected system messages first, then user and assistant in turn, the "
                "last one the user's"
            )
        if not self.messages[-1].text.strip():
            raise ValueError("messages: the last one, which is the question, is empty")
        return self

    @classmethod
    def read(cls, body: bytes) -> "ChatRequest":
        """Read a body.

        Raises:
            RefusedError: not JSON, or a field that is missing, wrong or not supported.
        """
        try:
            parsed = from_json(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, f"the body is not JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise RefusedError(400, "the body is not a JSON object")
        try:
            return cls.model_validate(parsed)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            why = "this endpoint does not know the field"
        where = f"{place}: " if place else ""
        raise RefusedError(422, where + why, param=place or None)


def models(name: str, since: float) -> dict[str, Any]:
    """The one model that there is."""
    return {"id": name, "object": "model", "created": int(since), "owned_by": "redraft"}


def head(identity: str, model: str, stream: bool) -> dict[str, Any]:
    """What every answer, or every chunk of one, begins with."""
    kind = "chat.completion.chunk" if stream else "chat.completion"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def content(trial: Trial) -> str:
    """The text that answers: that of the sample which the strategy chose, or the answer that a
    program printed.

    Raises:
        RefusedError: there is no response at all.
    """
    if trial.failed is not None:
        raise RefusedError(503, f"the model gave no answer: {trial.failed}")
    first = trial.samples[0].episode if trial.samples else None
    if first is not None and not first.responses:
        raise RefusedError(400, first.note, code="context_length_exceeded", param="messages")
    chosen = trial.answered
    if chosen is None:
        raise RefusedError(503, "the strategy's budget left no answer")
    if chosen.kind == "program" and chosen.answer is not None:
        return chosen.answer
    return chosen.turn.text


def finish(trial: Trial) -> str:
    """Why the answer ends."""
    cut = trial.answered is not None and trial.answered.turn.truncated
    return "length" if cut else "stop"


def usage(trial: Trial) -> dict[str, int]:
    """Tokens of all attempts: those that each was shown, and those that were generated. An engine
    that does not count them counts as none."""
    read = written = 0
    for sample in trial.samples:
        responses = sample.episode.responses
        written += sample.tokens
        if responses:
            turn = max(i for i, t in enumerate(sample.episode.turns) if t is responses[-1])
            read += len(sample.episode.context(turn)) + responses[-1].given
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def extension(trial: Trial, config: Any) -> Mapping[str, Any]:
    """`redraft` in an answer: how it came about."""
    said = as_json(trial, config)
    return {name: said[name] for name in ("strategy", "answer", "chosen", "executions", "attempts")}
