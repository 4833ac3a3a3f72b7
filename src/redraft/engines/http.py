"""The engine for a model behind an OpenAI-compatible endpoint.

Every dialogue is one request to `/chat/completions`, as many at a time as the settings allow. An
answer is written to the cache as soon as it is there, so that a run that was killed asks only for
what it did not have; a dialogue that got none is `Failed` and is asked again the next time. The
API key is read from the environment when it is needed and is kept, written and shown nowhere.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from redraft.engines.base import Failed, Messages, Sample, Sampling
from redraft.engines.http_answer import (
    Answer,
    RequestError,
    UnusableError,
    read_completion,
    read_models,
)
from redraft.engines.http_cache import ResponseCache
from redraft.engines.http_settings import HttpSettings, Usage, split_address
from redraft.errors import UserError

if TYPE_CHECKING:
    from redraft.engines.http_client import Client

T = TypeVar("T")

_COMPLETIONS = "chat/completions"
_CHECK_SECONDS = 30.0


class HttpChat:
    """Answers dialogues through an OpenAI-compatible server.

    Of `Sampling`, temperature, top_p, max_tokens, stop strings and seed are sent, top_k where it is
    not 0 (vLLM and others know it). Stop tokens are the endpoint's own business.

    Args:
        server: base address, such as `http://127.0.0.1:8000/v1`.
        model: the name that the server knows the model by.
        settings: concurrency, time limits, repetitions, prices, where the key is.
        cache: folder for the answers; without it nothing is kept.

    Attributes:
        usage: what has been asked since this object was made. Answers from the cache cost nothing.
        total: what has been asked in all, by whoever kept answers in the same cache.

    Raises:
        UserError: httpx2 is not installed, the server's address cannot be read, the variable that
            should hold the key is not set, or the cache cannot be read.
    """

    def __init__(
        self,
        server: str,
        model: str,
        settings: HttpSettings | None = None,
        *,
        cache: Path | None = None,
    ) -> None:
        self.server, self.model = server, model
        self.settings = settings or HttpSettings()
        self.settings.key()
        self.usage = Usage()
        self.usage.price(self.settings)
        self._cache = ResponseCache(cache) if cache is not None else None
        _client_module(server).check_address(server)

    @classmethod
    def from_url(
        cls, address: str, settings: HttpSettings | None = None, *, cache: Path | None = None
    ) -> Self:
        """The engine for `http://127.0.0.1:8000/v1#model`; a missing path means `/v1`.

        Raises:
            UserError: as the class does, or the address has another scheme, no `#model`, or a
                password in it.
        """
        server, model = split_address(address)
        return cls(server, model, settings, cache=cache)

    def __repr__(self) -> str:
        return f"HttpChat({self.server!r}, {self.model!r})"

    @property
    def total(self) -> Usage:
        """The usage of all objects with this cache, at the prices of this one.

        It is summed over what lies in the cache's folder, so that a killed process takes nothing of
        it along; only `cached` counts since this object was made.
        """
        if self._cache is None:
            return self.usage
        total = self._cache.took.model_copy(update={"cached": self.usage.cached})
        total.price(self.settings)
        return total

    def chat(
        self,
        dialogues: Sequence[Messages],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
        *,
        samples: Sequence[int] | None = None,
    ) -> list[Sample | Failed]:
        """The next message of each dialogue; see `ChatEngine.chat`.

        The n-th of equal dialogues is their sample n: it has a seed and a place in the cache of its
        own, and gets the same answer again when it is asked with the same `sampling`. Where only
        some of equal dialogues are asked, `samples` says the number of each.

        Raises:
            UserError: the key is gone from the environment, or the cache cannot be written.
        """
        questions = self._questions(dialogues, sampling, samples)
        results: dict[int, Sample | Failed] = {}
        for index, question in enumerate(questions):
            if self._cache and (answer := self._cache.get(question.request, question.sample)):
                results[index] = _sample(answer)
        self.usage.cached += len(results)
        if progress is not None and results:
            progress(len(results))
        waiting = [index for index in range(len(questions)) if index not in results]

        async def ask_all() -> None:
            todo = iter(waiting)

            async def work() -> None:
                for index in todo:
                    results[index] = await self._ask(client, questions[index], sampling.stop)
                    if progress is not None:
                        progress(1)

            async with self._client(self.settings) as client:
                workers = min(self.settings.concurrency, len(waiting))
                await asyncio.gather(*(work() for _ in range(workers)))

        if waiting:
            _run(ask_all())
        return [results[index] for index in range(len(questions))]

    def check(self) -> None:
        """See early that there is a server, that it takes the key and that it has the model.

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
        async with self._client(self.settings.model_copy(update={"timeout": timeout})) as client:
            try:
                names = read_models(await client.send("GET", "models"))
            except RequestError as error:
                if error.unreachable:
                    return f"{error.reason}; start the server, or correct the address"
                if error.status in (401, 403):
                    return f"{error.reason}; export the right API key"
                return None  # busy, or without a list; its answers will tell
            if not names or self.model in names:
                return None
            body = {"model": self.model, "messages": [_GREETING], "max_tokens": 1}
            try:
                await client.post(_COMPLETIONS, json.dumps(body).encode(), Usage(), retries=0)
            except RequestError as error:
                if error.status in (400, 404):
                    return f"{error.reason}; the server lists {', '.join(names[:5])}"
            return None

    async def _ask(
        self, client: "Client", question: "_Question", stop: Sequence[str]
    ) -> Sample | Failed:
        took, retries = Usage(), self.settings.retries
        result: Answer | Failed
        try:
            body = await client.post(_COMPLETIONS, question.body, took, retries=retries)
            result = read_completion(body, stop)
            took.answered = 1
            took.meter(result.prompt_tokens, result.completion_tokens)
        except (RequestError, UnusableError) as error:
            result = Failed(error.reason)
            took.failed = 1
            if isinstance(error, UnusableError) and error.tokens:
                took.meter(error.tokens.prompt_tokens, error.tokens.completion_tokens)
        self.usage.add(took)
        self.usage.price(self.settings)
        if isinstance(result, Failed):
            if self._cache is not None:
                self._cache.add_failure(question.request, question.sample, took)
            return result
        if self._cache is not None:
            self._cache.add(question.request, question.sample, result, took)
        return _sample(result)

    def _questions(
        self, dialogues: Sequence[Messages], sampling: Sampling, samples: Sequence[int] | None
    ) -> list["_Question"]:
        """One request per dialogue, named by what is asked and how often it was asked before."""
        fields: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or None,
            "max_tokens": sampling.max_tokens,
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed,
        }
        fields |= self.settings.extra_body
        asked: Counter[str] = Counter()
        questions = []
        for index, dialogue in enumerate(dialogues):
            messages = [dict(message) for message in dialogue]
            body: dict[str, Any] = {"model": self.model, "messages": messages}
            body |= {name: value for name, value in fields.items() if value is not None}
            request = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            sample = asked[request] if samples is None else samples[index]
            asked[request] += 1
            if "seed" in body:
                body["seed"] = _seed(body["seed"], sample)
            questions.append(_Question(request, sample, json.dumps(body).encode()))
        return questions

    def _client(self, settings: HttpSettings) -> "Client":
        client: Client = _client_module(self.server).Client(self.server, settings.key(), settings)
        return client


def _client_module(server: str) -> ModuleType:
    try:
        from redraft.engines import http_client
    except ImportError:
        raise UserError(
            f"endpoint {server}: needs the package httpx2, which is not installed; "
            "pip install 'redraft[http]'"
        ) from None
    return http_client


@dataclass(frozen=True)
class _Question:
    """A request: its hash, which of the equal ones it is, and what is sent."""

    request: str
    sample: int
    body: bytes


_GREETING = {"role": "user", "content": "Hello"}


def _sample(answer: Answer) -> Sample:
    return Sample([], [], answer.text, answer.finish, answer.completion_tokens)


def _seed(seed: object, sample: int) -> int:
    """A seed of 31 bits for one of several equal requests, unlike those of neighbouring seeds."""
    digest = hashlib.sha256(f"{seed} {sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine to its end, also from within a running event loop such as a notebook's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        inside = False
    else:
        inside = True
    if not inside:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
