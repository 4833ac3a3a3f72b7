"""Sending requests: connections, time limits and repetitions. The one place that needs httpx2."""

import asyncio
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import httpx2

from redraft.engines.http_answer import RequestError, explain, out_of_quota
from redraft.engines.http_settings import HttpSettings, Usage
from redraft.errors import UserError

_LONGEST_ANSWER = 16 * 2**20  # bytes; a server may send without end
_CONNECT_SECONDS = 10.0


def check_address(server: str) -> None:
    """Refuse an address that no request can be sent to.

    Raises:
        UserError: it cannot be read.
    """
    try:
        httpx2.URL(server)
    except httpx2.InvalidURL as error:
        raise UserError(f"endpoint {server!r}: {error}; expected http://HOST:PORT/v1") from None


class Client:
    """Connections to one server, for use within one event loop."""

    def __init__(self, server: str, key: str | None, settings: HttpSettings) -> None:
        self._settings, self._key = settings, key
        self._silent = False  # whether a request was repeated to the end without any response
        self._random = random.Random()  # jitter must not touch the run's random numbers
        headers = {"User-Agent": "redraft", "Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx2.AsyncClient(
            base_url=server,
            headers=headers,
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=settings.concurrency),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: bytes, usage: Usage, *, retries: int) -> bytes:
        """The body of the response to a request for an answer, which is counted in `usage`.

        Once a server has left a request and all its repetitions without a response, others are
        sent to it only once each, until it responds again: a thousand need not wait in turn.

        Raises:
            RequestError: all `retries` have been used up, or a repetition is of no use.
        """
        if self._silent:
            retries = 0
        for repetition in range(retries + 1):
            usage.requests += 1
            usage.retries += repetition > 0
            try:
                content = await self.send("POST", path, body)
                self._silent = False
                return content
            except RequestError as error:
                if error.status is not None:
                    self._silent = False
                elif repetition == retries:
                    self._silent = True
                if error.again_in is None or repetition == retries:
                    times = f" (asked {repetition + 1} times)" if repetition else ""
                    error.reason += times
                    raise
                wait = self._wait(repetition, error.again_in)
            await asyncio.sleep(wait)
        raise AssertionError("the last repetition returns or raises")

    async def send(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of the response to one request, sent once.

        Raises:
            RequestError: no connection, no whole answer in time, or a status that is an error.
        """
        limit = self._settings.timeout
        try:
            async with (
                asyncio.timeout(limit),
                self._http.stream(method, path, content=body) as response,
            ):
                content = self.hide(await _read(response))
        except TimeoutError:
            raise RequestError(f"no whole answer within {limit:g} s", again_in=0) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            reason = f"cannot connect to {self._http.base_url.netloc.decode()}{self._told(error)}"
            raise RequestError(reason, unreachable=True, again_in=0) from None
        except httpx2.TransportError as error:
            reason = f"the connection was lost{self._told(error)}"
            raise RequestError(reason, again_in=0) from None
        except httpx2.HTTPError as error:
            raise RequestError(f"the answer cannot be read{self._told(error)}") from None
        if response.is_success:
            return content
        raise self._refusal(response, content)

    def hide(self, content: bytes) -> bytes:
        """What a server sent, without the key it may have repeated."""
        return content.replace(self._key.encode(), b"[API key]") if self._key else content

    def _told(self, error: Exception) -> str:
        said = self.hide(" ".join(str(error).split()).encode()).decode()
        return f": {said}" if said else ""

    def _refusal(self, response: httpx2.Response, content: bytes) -> RequestError:
        status, reason = response.status_code, explain(response.status_code, content)
        if status != 429 and status < 500:
            return RequestError(reason, status=status)
        if status == 429 and out_of_quota(content):
            return RequestError(reason, status=status)
        wait = _retry_after(response.headers.get("Retry-After", ""))
        if wait > self._settings.longest_wait:
            return RequestError(f"{reason}; it asks to wait for {wait:.0f} s", status=status)
        return RequestError(reason, status=status, again_in=wait)

    def _wait(self, repetition: int, asked: float) -> float:
        """Seconds before a request is sent again, a little different for each."""
        settings = self._settings
        if asked:
            return asked + self._random.uniform(0, min(settings.backoff, 1.0))
        longest = min(settings.longest_wait, settings.backoff * 2.0**repetition)
        return longest * self._random.uniform(0.5, 1.0)


async def _read(response: httpx2.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > _LONGEST_ANSWER:
            raise RequestError(f"the answer is longer than {_LONGEST_ANSWER >> 20} MiB")
    return bytes(content)


def _retry_after(header: str) -> float:
    """Seconds from a Retry-After header (RFC 9110, section 10.2.3); 0 where it says nothing."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except (ValueError, OverflowError):
            return 0.0
        aware = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (aware - datetime.now(UTC)).total_seconds()
    return seconds if seconds > 0 else 0.0
