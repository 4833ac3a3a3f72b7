"""The connection to an OpenAI-compatible server. The one module that imports `openai`.

Retries, waits, Retry-After and connections are the official client's. `_Transport` adds below it
what the client does not have: a time limit for the whole answer, a size limit, errors inside HTTP
200 as the server errors they are, and removal of the API key and other secrets from whatever a
server sends.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import responses
from typing import Any

import httpx2
import openai
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from redraft.engines.base import Failed, Response
from redraft.engines.endpoints import EndpointSettings, Usage
from redraft.engines.template import cut_at_stop
from redraft.errors import UserError

_LONGEST_ANSWER = 16 * 2**20  # bytes; a server may send without end
_LONGEST_EXCERPT = 200  # characters of a server's own words in a reason
_CONNECT_SECONDS = 10.0

_COMPLETIONS = "/chat/completions"

_CUT = ("length", "max_tokens", "model_length")
"""The `finish_reason` of an answer that was cut by its length: OpenAI's, Anthropic's, Mistral's."""

_CONTEXT_FULL = (
    "context_length",
    "context length",
    "context window",
    "context size",
    "contextwindow",
    "maximum model length",
    "maximum prompt length",
    "prompt is too long",
    "input is too long",
    "input token count",
    "`inputs` tokens + `max_new_tokens`",
    "reduce the length of the messages",
)
"""Wordings of OpenAI, vLLM, SGLang, TGI, llama.cpp, LiteLLM, Anthropic, Google, xAI and Bedrock
for a conversation that does not fit the context window."""


@dataclass(eq=False)
class _RequestError(Exception):
    """A request that got no answer."""

    reason: str
    """One line, with what the server said and without the key."""
    status: int | None = None
    """Of the last HTTP response; None if there was none."""
    unreachable: bool = False
    """No connection could be made."""
    context_full: bool = False
    """The server says that the conversation does not fit the context window."""


class Client(openai.AsyncOpenAI):
    """Connections to one server, for use within one event loop (`async with`).

    Raises:
        UserError: the address cannot be read.
    """

    def __init__(
        self, server: str, key: str | None, settings: EndpointSettings, hidden: Sequence[str] = ()
    ) -> None:
        self._connections = _Transport(key, settings, hidden)
        try:
            httpx2.URL(server)
        except httpx2.InvalidURL as error:
            shown = self._connections.hide(repr(server))
            raise UserError(f"endpoint {shown}: {error}; expected http://HOST:PORT/v1") from None
        self._seconds = settings.timeout
        self._silent = False  # whether the last request got no response at all
        super().__init__(
            api_key=key or "none",
            base_url=server,
            max_retries=settings.retries,
            http_client=self._connections,
        )

    async def complete(
        self, body: dict[str, Any], stop: Sequence[str], took: Usage
    ) -> Response | Failed:
        """The answer to a chat completion request; adds to `took` what it took."""
        try:
            return _read(await self._ask(_COMPLETIONS, body, took), stop, took)
        except _RequestError as error:
            times = f" (asked {took.requests} times)" if took.retries else ""
            return Failed(error.reason + times, context_full=error.context_full)

    async def problem(self, model: str) -> str | None:
        """Why the server will not answer for `model`, with the remedy; None where it may."""
        try:
            content = await self._ask("/models")
            names = [one.id for one in _Models.model_validate_json(content).data]
        except _RequestError as error:
            if error.unreachable:
                return f"{error.reason}; start the server, or correct the address"
            if error.status in (401, 403):
                return f"{error.reason}; export the right API key"
            return None  # busy, or without a list; its answers will tell
        except ValidationError:
            return None
        if not names or model in names:
            return None
        greeting = {"role": "user", "content": "Hello"}
        try:
            body = {"model": model, "messages": [greeting], "max_tokens": 1}
            await self._ask(_COMPLETIONS, body)
        except _RequestError as error:
            if error.status in (400, 404):
                return f"{error.reason}; the server lists {', '.join(names[:5])}"
        return None

    async def _ask(
        self, path: str, body: dict[str, Any] | None = None, took: Usage | None = None
    ) -> bytes:
        """The content of the answer to a request (a GET without `body`).

        Once a server has left a request and all its retries without a response, others are sent to
        it once each until it responds again, so that a thousand need not wait in turn.

        Raises:
            _RequestError: there is no answer.
        """
        options: Any = {"max_retries": 0} if self._silent else {}
        silent, request = False, None
        try:
            if body is None:
                response = await self.get(path, cast_to=httpx2.Response, options=options)
            else:
                response = await self.post(
                    path, cast_to=httpx2.Response, body=body, options=options
                )
            request = response.request
            return response.content
        except openai.APIStatusError as error:
            request = error.request
            raise _refusal(error.response) from None
        except openai.APIConnectionError as error:
            request, cause = error.request, error.__cause__
            silent = not isinstance(cause, httpx2.DecodingError)
            unreachable = isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout))
            match cause:
                case httpx2.ConnectError() | httpx2.ConnectTimeout():
                    reason = f"cannot connect to {request.url.netloc.decode()}"
                case httpx2.DecodingError():
                    reason = "the answer cannot be read"
                case httpx2.ReadTimeout():
                    reason = f"no whole answer within {self._seconds:g} s"
                case _:
                    reason = "the connection was lost"
            if said := self._connections.hide(str(cause or "")):
                reason += f": {said}"
            raise _RequestError(reason, unreachable=unreachable) from None
        except _TooLongError as error:
            raise _RequestError(str(error)) from None
        finally:
            self._silent = silent
            if took is not None:
                retries = request.headers["x-stainless-retry-count"] if request is not None else 0
                took.retries, took.requests = int(retries), 1 + int(retries)


class _TooLongError(openai.OpenAIError):
    """An answer beyond the size limit. The client passes its own errors on without a retry."""


class _Transport(openai.DefaultAsyncHttpxClient):
    """Reads whole answers, within limits of time and size and without the key."""

    def __init__(self, key: str | None, settings: EndpointSettings, hidden: Sequence[str]) -> None:
        self._key, self._seconds = key, settings.timeout
        self._hidden = {**dict.fromkeys(hidden, "[secret]"), **({key: "[API key]"} if key else {})}
        connections = settings.concurrency
        super().__init__(
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(
                max_connections=connections, max_keepalive_connections=connections
            ),
            follow_redirects=False,
        )

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        if self._key is None:  # the client takes others from the environment
            request.headers.pop("Authorization", None)
        content, response = bytearray(), None
        try:
            async with asyncio.timeout(self._seconds):
                response = await super().send(request, stream=True, **options)
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > _LONGEST_ANSWER:
                        limit = _LONGEST_ANSWER >> 20
                        raise _TooLongError(f"the answer is longer than {limit} MiB")
        except TimeoutError:
            raise httpx2.ReadTimeout("", request=request) from None
        finally:
            if response is not None:
                await response.aclose()
        body = bytes(content)
        for secret, shown in self._hidden.items():
            body = body.replace(secret.encode(), shown.encode())
        names = ("retry-after", "retry-after-ms", "x-should-retry")
        headers = {n: self.hide(response.headers[n]) for n in names if n in response.headers}
        status = response.status_code
        if response.is_success and (error := _error_inside(body)):
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
        if b"insufficient_quota" in body or _context_full(status, body):
            headers["x-should-retry"] = "false"
        return httpx2.Response(
            status,
            headers=headers,
            content=body,
            request=request,
            extensions={"sent": response.status_code},
        )

    def hide(self, text: str) -> str:
        """The text on one line, without the key and what else is secret."""
        text = " ".join(text.split())
        for secret, shown in self._hidden.items():
            text = text.replace(secret, shown)
        return text


def _refusal(response: httpx2.Response) -> _RequestError:
    """What a response that is an error says, in the server's own words."""
    status, body = response.extensions["sent"], response.content
    reason = f"HTTP {status} {responses.get(status, '')}".rstrip()
    full = _context_full(response.status_code, body)
    match _error_inside(body):
        case str(words) | {"message": str(words)} | {"detail": str(words)} if words:
            body = words.encode()
    if words := _excerpt(body):
        reason += f": {words}"
    if wait := response.headers.get("retry-after"):
        reason += f" (Retry-After: {_excerpt(wait.encode())})"
    return _RequestError(reason, status=response.status_code, context_full=full)


def _error_inside(body: bytes) -> Any:
    """The error in an answer or in its first choice; None where there is none."""
    try:
        parsed = from_json(body)
    except ValueError:
        return None
    match parsed:
        case {"error": error} | {"choices": [{"error": error}, *_]} if error:
            return error
        case {"object": "error"} | {"message": str()} | {"detail": _} if "choices" not in parsed:
            return parsed
    return None


def _context_full(status: int, body: bytes) -> bool:
    """Whether an error says that the conversation does not fit; a rate limit may use its words."""
    said = body.decode(errors="replace").lower()
    return status >= 400 and status != 429 and any(wording in said for wording in _CONTEXT_FULL)


def _excerpt(text: bytes) -> str:
    """The beginning of what a server sent, on one line and without control characters."""
    decoded = " ".join(text[: 4 * _LONGEST_EXCERPT].decode(errors="replace").split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in decoded)
    return shown if len(shown) <= _LONGEST_EXCERPT else shown[:_LONGEST_EXCERPT] + "..."


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def _read(content: bytes, stop: Sequence[str], took: Usage) -> Response:
    """The answer in the content of a response, cut at the first of the `stop` strings.

    A model that ended or was cut off with `null` for a text has written nothing.

    Raises:
        _RequestError: the content is not JSON or has no text, or a filter withheld the text.
    """
    try:
        parsed = from_json(content)
    except ValueError:
        raise _RequestError(f"the answer is not JSON: {_excerpt(content)!r}") from None
    usage = parsed.get("usage") if isinstance(parsed, dict) else None
    read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    took.prompt_tokens, took.completion_tokens = read or 0, written or 0
    took.unmetered = int(read is None or written is None)
    if isinstance(parsed, dict) and isinstance(name := parsed.get("model"), str):
        took.models = [_excerpt(name.encode(errors="replace"))]
    match parsed:
        case {"choices": [{"message": {**message}, **choice}, *_]}:
            text, finish = message.get("content"), choice.get("finish_reason")
        case _:
            raise _RequestError(f"the answer holds no message: {_excerpt(content)!r}")
    ending = f"(finish_reason {_excerpt(str(finish).encode())!r})"
    if finish == "content_filter":
        raise _RequestError(f"the endpoint withheld the answer {ending}")
    if text is None and finish in ("stop", *_CUT):
        text = ""  # all its tokens were reasoning
    if not isinstance(text, str):
        raise _RequestError(f"the answer has no text {ending}")
    text, stopped = cut_at_stop(text, stop)  # some servers leave the stop string in
    return Response(
        text,
        "length" if finish in _CUT and not stopped else "stop",
        tokens=[],
        logprobs=[],
        completion_tokens=written,
    )


def _count(usage: object, name: str) -> int | None:
    """A count of tokens as the server reports it; None where it is no number of tokens."""
    value = usage.get(name) if isinstance(usage, dict) else None
    if not isinstance(value, (int, float)) or not 0 <= value <= 2**53 or value % 1:
        return None
    return int(value)
