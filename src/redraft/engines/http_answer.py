"""What an endpoint sent, read with suspicion: an answer, or the reason why it is none."""

import re
from collections.abc import Sequence
from http.client import responses
from typing import Any, Literal

import pydantic_core
from pydantic import BaseModel, NonNegativeInt, ValidationError

_LONGEST_EXCERPT = 200  # characters of a server's own words in a reason


class Answer(BaseModel):
    """The next message of a dialogue, and its tokens where the endpoint counts them."""

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class RequestError(Exception):
    """A request that got no answer, and why.

    Attributes:
        reason: one line; what the server said is in it, the key is not.
        status: of the HTTP response, or None if there was none.
        unreachable: no connection could be made.
        again_in: seconds after which it may be sent again: 0 where the server names no time, None
            where it is of no use.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        unreachable: bool = False,
        again_in: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status
        self.unreachable, self.again_in = unreachable, again_in


class UnusableError(Exception):
    """An answer that holds no message, with the tokens it may have cost all the same."""

    def __init__(self, reason: str, tokens: "Tokens | None" = None) -> None:
        super().__init__(reason)
        self.reason, self.tokens = reason, tokens


class Tokens(BaseModel):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: Tokens | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def read_completion(body: bytes, stop: Sequence[str]) -> Answer:
    """The answer in a response of `/chat/completions`, cut at the first of the `stop` strings.

    A model that came to its end, or was cut off, without a text for the reader has said nothing.

    Raises:
        UnusableError: the body is not JSON, has no choices, no text or wrong types, or the text
            was withheld by a filter.
    """
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise UnusableError(f"the answer is not JSON: {excerpt(body)!r}") from None
        place = ".".join(map(str, first["loc"])) or "the answer"
        raise UnusableError(f"the answer is malformed: {place}: {first['msg']}") from None
    tokens = completion.usage or Tokens()
    if not completion.choices:
        raise UnusableError("the answer has no choices", tokens)
    choice = completion.choices[0]
    reason = f"(finish_reason {excerpt(str(choice.finish_reason).encode())!r})"
    if choice.finish_reason == "content_filter":
        raise UnusableError(f"the endpoint withheld the answer {reason}", tokens)
    text, finish = choice.message.content, choice.finish_reason
    if text is None:
        if finish not in ("stop", "length"):
            raise UnusableError(f"the answer has no text {reason}", tokens)
        text = ""  # all that a model that thinks has said, if it was cut off or gave up
    if stop and len(parts := re.split("|".join(map(re.escape, stop)), text, maxsplit=1)) > 1:
        text, finish = parts[0], "stop"  # some servers leave the stop string in
    return Answer(
        text=text,
        finish="length" if finish == "length" else "stop",
        prompt_tokens=tokens.prompt_tokens,
        completion_tokens=tokens.completion_tokens,
    )


def read_models(body: bytes) -> list[str]:
    """Names in a response of `/models`; none where it is no such list."""
    try:
        return [model.id for model in _Models.model_validate_json(body).data]
    except ValidationError:
        return []


def explain(status: int, body: bytes) -> str:
    """One line on a response that is an error, with the server's own words."""
    words = _complaint(body)
    return f"HTTP {status} {responses.get(status, '')}".rstrip() + (f": {words}" if words else "")


def out_of_quota(body: bytes) -> bool:
    """Whether a 429 says that waiting is of no use."""
    return b"insufficient_quota" in body


def excerpt(text: bytes) -> str:
    """The beginning of what a server sent, on one line and without control characters."""
    decoded = " ".join(text[: 4 * _LONGEST_EXCERPT].decode(errors="replace").split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in decoded)
    return shown if len(shown) <= _LONGEST_EXCERPT else shown[:_LONGEST_EXCERPT] + "..."


def _complaint(body: bytes) -> str:
    """The message in any of the shapes that servers put errors in, else the body's beginning."""
    try:
        content: Any = pydantic_core.from_json(body)
    except ValueError:
        return excerpt(body)
    for name in ("error", "message", "detail"):
        if isinstance(content, dict) and content.get(name):
            content = content[name]
    return excerpt(content.encode()) if isinstance(content, str) else excerpt(body)
