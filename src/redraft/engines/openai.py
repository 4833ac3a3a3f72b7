"""The engine for a model behind an OpenAI-compatible endpoint.

Every request is one chat completion. An answer is written to the cache as soon as it is there, so
that a killed run asks only for what it did not have; a request that got none is `Failed` and is
sent again the next time. The API key, and whatever `$NAME` stands for in an address or a request,
is read from the environment when it is needed and is stored, written and shown nowhere.
"""

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from redraft.engines.base import Failed, Follow, Reply, Request, Response, Sampling, Watch
from redraft.engines.endpoints import (
    EndpointSettings,
    Usage,
    from_environment,
    secrets_in,
    split_address,
)
from redraft.engines.openai_cache import ResponseCache, Row
from redraft.errors import UserError
from redraft.storage import write_json

if TYPE_CHECKING:
    from redraft.engines.openai_client import Client

T = TypeVar("T")

_CHECK_SECONDS = 30.0


class OpenAIEngine:
    """Asks an OpenAI-compatible server.

    Of `Sampling`, temperature, top_p, max_tokens, stop strings and seed are sent, top_k where it is
    not 0 (vLLM and others know it). Stop tokens are the server's own business.

    An answer belongs to the body of its request, the sampling's seed, and the request's problem,
    sample and turn. Requests without a problem are told apart by their running number among the
    equal ones of a call. The seed that is sent is derived from `Request.stream`, so that it depends
    on nothing else either.

    Args:
        server: base address, such as `http://127.0.0.1:8000/v1`.
        model: the name that the server knows the model by.
        settings: concurrency, time limit, retries, prices, where the key is.
        cache: folder for the answers (`responses.jsonl`) and the usage (`usage.json`), which may
            hold those of earlier processes; without it nothing is kept.
        process: number of this process among those that use `cache` at the same time. Answers are
            read from the files of all; 1 and up write to `responses-N.jsonl` and `usage-N.json`.

    Attributes:
        usage: what has been asked since this object was made. Answers from the cache cost nothing.

    Raises:
        UserError: `openai` is not installed, the server's address cannot be read, the variable that
            should hold the key is not set, or the cache cannot be read.
    """

    template: None = None

    def __init__(
        self,
        server: str,
        model: str,
        settings: EndpointSettings | None = None,
        *,
        cache: Path | None = None,
        process: int = 0,
    ) -> None:
        self.server, self.model = server, model
        self.settings = settings or EndpointSettings()
        self.usage = Usage()
        self.usage.price(self.settings)
        self._client()
        self._cache = None if cache is None else ResponseCache(cache, process)
        self._write_usage()  # the last process may have been killed before, or had other prices

    @classmethod
    def from_url(
        cls,
        address: str,
        settings: EndpointSettings | None = None,
        *,
        cache: Path | None = None,
        process: int = 0,
    ) -> Self:
        """The engine for `http://127.0.0.1:8000/v1#model`; a missing path means `/v1`.

        Raises:
            UserError: as the class does, or the address has another scheme, no `#model`, or a
                password in it.
        """
        server, model = split_address(address)
        return cls(server, model, settings, cache=cache, process=process)

    def __repr__(self) -> str:
        return f"OpenAIEngine({self.server!r}, {self.model!r})"

    @property
    def total(self) -> Usage:
        """The usage of all engines of this `process` on this cache, at the prices of this one.

        It is summed over the process's file, so that a kill loses nothing of it; only `cached`
        counts since this engine was made.
        """
        if self._cache is None:
            return self.usage
        total = self._cache.took.model_copy(update={"cached": self.usage.cached})
        total.price(self.settings)
        return total

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        reply: Reply | None = None,
        watch: Watch | None = None,
        follow: Follow | None = None,
    ) -> list[list[Response | Failed]]:
        """One response to each request; see `Engine.generate`. `reply` is ignored.

        Raises:
            UserError: the key is gone from the environment, or the cache cannot be written.
        """
        questions = self._questions(requests, sampling)
        kept = self._cache.answers if self._cache is not None else {}
        results: dict[str, Response | Failed] = {
            key: kept[key] for key, _ in questions if key in kept
        }
        had = [results[key] for key, _ in questions if key in results]
        self.usage.cached += len(had)
        if watch is not None and had:
            watch(sum(map(_tokens, had)), len(had))
        waiting = {key: body for key, body in questions if key not in results}

        async def ask_all() -> None:
            todo = iter(waiting.items())

            async def work() -> None:
                for key, body in todo:
                    results[key] = await self._ask(client, key, body, sampling.stop)
                    if watch is not None:
                        watch(_tokens(results[key]), 1)

            async with self._client() as client:
                workers = min(self.settings.concurrency, len(waiting))
                await asyncio.gather(*(work() for _ in range(workers)))

        try:
            if waiting:
                _run(ask_all())
        finally:
            self._write_usage()
        return [[results[key]] for key, _ in questions]

    def sync_weights(self, version: str) -> None:
        """Nothing: the model behind an endpoint does not change."""

    def check(self) -> None:
        """Check early that the server can be reached, takes the key and has the model.

        Asks for the server's list of models. Where that does not name the model, which proves
        little (`transformers serve` lists its downloads), it asks for one token.

        Raises:
            UserError: no connection, the key is refused, or there is no such model. A server that
                is busy or has no list passes.
        """
        if problem := _run(self._problem()):
            raise UserError(f"endpoint {self.server}#{self.model}: {problem}")

    async def _problem(self) -> str | None:
        timeout = min(_CHECK_SECONDS, self.settings.timeout)
        async with self._client(timeout=timeout, retries=0) as client:
            return await client.problem(self.model)

    async def _ask(
        self, client: "Client", key: str, body: dict[str, Any], stop: Sequence[str]
    ) -> Response | Failed:
        took = Usage()
        extra = {name: body[name] for name in self.settings.extra_body if name in body}
        result = await client.complete({**body, **from_environment(extra)}, stop, took)
        answer = result if isinstance(result, Response) else None
        took.answered, took.failed = int(answer is not None), int(answer is None)
        self.usage.add(took)
        self.usage.price(self.settings)
        if self._cache is not None:
            self._cache.add(Row(key=key, answer=answer, took=took))
        return result

    def _questions(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[tuple[str, dict[str, Any]]]:
        """The key in the cache and the body of each request."""
        fields: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or None,
            "max_tokens": sampling.max_tokens,
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed,
        } | self.settings.extra_body
        fields = {name: value for name, value in fields.items() if value is not None}
        asked: Counter[str] = Counter()
        questions = []
        for request in requests:
            messages = [message.model_dump() for message in request.messages]
            if not request.problem:
                text = json.dumps(messages)
                request = replace(request, sample=asked[text])
                asked[text] += 1
            body: dict[str, Any] = {"model": self.model, "messages": messages, **fields}
            identity = [body, request.problem, request.sample, request.turn]
            key = _digest(json.dumps(identity, sort_keys=True)).hex()
            if "seed" in body:  # servers take 31 bits
                stream = request.stream(body["seed"])
                body["seed"] = int.from_bytes(_digest(str(stream))[:4], "big") >> 1
            questions.append((key, body))
        return questions

    def _client(self, **changes: Any) -> "Client":
        try:
            from redraft.engines.openai_client import Client
        except ImportError:
            raise UserError(
                f"endpoint {self.server}: needs the package openai, which is not installed; "
                "pip install 'redraft[endpoint]'"
            ) from None
        settings = self.settings.model_copy(update=changes)
        hidden = [*secrets_in(self.server), *secrets_in(settings.extra_body)]
        return Client(from_environment(self.server), settings.key(), settings, hidden)

    def _write_usage(self) -> None:
        if self._cache is not None and self._cache.took.requests:
            with suppress(OSError):  # a full disk is reported where an answer is lost by it
                write_json(self._cache.usage_path, self.total.model_dump())


def _tokens(result: Response | Failed) -> int:
    return result.completion_tokens or 0 if isinstance(result, Response) else 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine to its end, also from within a running event loop such as a notebook's.

    Python's random numbers, which the client draws its waits with, are left as they were.
    """
    state = random.getstate()
    try:
        asyncio.get_running_loop()
        drive = ThreadPoolExecutor(1).submit(asyncio.run, work).result
    except RuntimeError:
        drive = partial(asyncio.run, work)
    try:
        return drive()
    finally:
        random.setstate(state)
