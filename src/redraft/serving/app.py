"""The HTTP side: addresses, who may ask, limits, and the two ways of answering."""

import asyncio
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from typing import Any, TypeVar
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from redraft.engines.base import Sampling
from redraft.evaluation.settings import STRATEGIES
from redraft.evaluation.strategies import Trial
from redraft.serving import fields
from redraft.serving.fields import ChatRequest, RefusedError
from redraft.serving.jobs import Job, Jobs, Wrote
from redraft.serving.settings import ServeSettings
from redraft.types import Problem

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Endpoint:
    """Everything that requests share.

    Args:
        config: the settings.
        jobs: where requests wait for the model.
        task_of: the task that says how a question is posed.
        key: what clients have to send; None: nothing.
    """

    def __init__(
        self,
        config: ServeSettings,
        jobs: Jobs,
        task_of: Callable[[str], str],
        key: str | None,
    ) -> None:
        self.config, self.jobs, self.task_of = config, jobs, task_of
        self._key = key
        self._since = time.time()
        strategy = STRATEGIES[config.strategy]
        self._greedy = bool(strategy.greedy)
        known = strategy.last_answers and config.budget_tokens is None
        self._last = strategy.most_samples(config) - 1 if known else None
        """The sample that is known to answer before it is written."""

    def app(self) -> Starlette:
        """The application."""
        config = self.config
        seconds = config.body_seconds + config.seconds + config.read_seconds
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
            ],
            exception_handlers={
                RefusedError: _refuse,
                HTTPException: _refuse_http,
                ClientDisconnect: _gone,
                Exception: _fail,
            },
            middleware=[Middleware(_Bounded, most=self.config.requests, seconds=seconds)],
        )

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        self._admit(request)
        model = fields.models(self.config.model_name, self._since)
        return JSONResponse({"object": "list", "data": [model]})

    async def _model(self, request: Request) -> Response:
        self._admit(request)
        self._check_model(request.path_params["name"])
        return JSONResponse(fields.models(self.config.model_name, self._since))

    def _admit(self, request: Request) -> None:
        """Let in whoever has the key. Without one the address has to be this machine's: a page in
        its user's browser could otherwise ask under a name of its own."""
        if self._key is None:
            host = re.sub(r":\d+$", "", request.headers.get("host", "")).strip("[]")
            if host not in (*LOOPBACK, self.config.host):
                raise RefusedError(403, f"this endpoint is not known by the name {host!r}")
            return
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {self._key}".encode()):
            raise RefusedError(
                401,
                "the API key is missing or wrong (Authorization: Bearer KEY)",
                code="invalid_api_key",
            )

    def _check_model(self, name: str) -> None:
        ours = self.config.model_name
        if name != ours:
            raise RefusedError(
                404,
                f"there is no model {name!r} here, only {ours!r}",
                code="model_not_found",
                param="model",
            )

    async def _complete(self, request: Request) -> Response:
        self._admit(request)
        chat = ChatRequest.read(await self._body(request))
        self._check_model(chat.model)
        job = self._job(chat)
        request.scope[_JOBS].append(job)
        self.jobs.add(job)
        watcher = asyncio.create_task(_tell_disconnect(request, job))
        try:
            first = await self._event(job)
        finally:
            watcher.cancel()
        identity = f"chatcmpl-{uuid4().hex}"
        if isinstance(first, Trial):
            text = fields.content(first)  # what is to be refused is refused with its status
            if not chat.stream:
                return JSONResponse(self._completion(identity, chat, first, text))
        chunks = self._chunks(identity, chat, job, first)
        return StreamingResponse(chunks, media_type="text/event-stream")

    async def _body(self, request: Request) -> bytes:
        """The body within its limits of size and time. What is too long is read on and dropped, so
        that a client which is still sending gets to read why."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise RefusedError(415, "the body has to be JSON (Content-Type: application/json)")
        most, length, body = self.config.body_kib * 1024, 0, bytearray()
        late = False
        try:
            async with asyncio.timeout(self.config.body_seconds):
                async for part in request.stream():
                    length += len(part)
                    if length <= most:
                        body += part
        except TimeoutError:
            late = True
        if length > most:
            raise RefusedError(413, f"the body is larger than {self.config.body_kib} KiB")
        if late:
            raise RefusedError(
                408, f"the body took more than {self.config.body_seconds:g} s to arrive"
            )
        return bytes(body)

    def _job(self, chat: ChatRequest) -> Job:
        """The request as a problem, and how it is sampled.

        Raises:
            RefusedError: a setting that the strategy or the server's limits do not allow.
        """
        config, longest = self.config, self.config.max_tokens
        if chat.length is not None and chat.length > longest:
            raise RefusedError(
                422,
                f"max_tokens {chat.length} is above this endpoint's limit of {longest}",
                param="max_tokens",
            )
        sampling = Sampling(
            config.temperature, max_tokens=chat.length or longest, stop=chat.stops, seed=config.seed
        )
        *before, asked = chat.conversation
        metadata = {"system": chat.system, "before": [one.model_dump() for one in before]}
        identity = uuid4().hex
        if not self._greedy:
            if chat.temperature == 0:
                message = "temperature 0 would make all samples of this strategy equal"
                raise RefusedError(422, message, param="temperature")
            sampling = replace(
                sampling,
                temperature=_or(chat.temperature, sampling.temperature),
                top_p=_or(chat.top_p, sampling.top_p),
                seed=_or(chat.seed, sampling.seed),
            )
            if chat.seed is not None:  # random numbers belong to a problem's name
                said = json.dumps([metadata, asked.content])
                identity = blake2b(said.encode(), digest_size=16).hexdigest()
        task = self.task_of(asked.content)
        problem = Problem(
            id=identity, task=task, question=asked.content, gold="", metadata=metadata
        )
        shows = chat.redraft.attempts or self._last is not None
        deadline = asyncio.get_running_loop().time() + self.config.seconds
        return Job(problem, task, sampling, deadline, streams=bool(chat.stream) and shows)

    async def _event(self, job: Job) -> Wrote | Trial:
        """What the request is told next.

        Raises:
            RefusedError: that it is refused, or its time is over.
        """
        try:
            async with asyncio.timeout_at(job.deadline):
                event = await job.events.get()
        except TimeoutError:
            said = f"no answer within {self.config.seconds:g} s, waiting included"
            raise RefusedError(504, said) from None
        if isinstance(event, RefusedError):
            raise event
        return event

    def _completion(
        self, identity: str, chat: ChatRequest, trial: Trial, text: str
    ) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": fields.finish(trial)}
        return {
            **fields.head(identity, self.config.model_name, stream=False),
            "choices": [{**choice, "logprobs": None}],
            "usage": fields.usage(trial),
            **self._extension(chat, trial),
        }

    def _extension(self, chat: ChatRequest, trial: Trial) -> dict[str, Any]:
        asked = chat.redraft.attempts
        return {"redraft": fields.extension(trial, self.config)} if asked else {}

    async def _chunks(
        self, identity: str, chat: ChatRequest, job: Job, event: Wrote | Trial
    ) -> AsyncIterator[str]:
        """The answer as server-sent events: the text of the sample that answers as it is written,
        where it is known which one that will be, and else when it is chosen; on request also the
        text of the others."""
        head = fields.head(identity, self.config.model_name, stream=True)

        def chunk(delta: dict[str, str], finish: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
            return _sent({**head, "choices": [choice], **more})

        yield chunk({"role": "assistant", "content": ""})
        sent = ""
        try:
            while isinstance(event, Wrote):
                if event.sample == self._last:
                    sent += event.text
                    yield chunk({"content": event.text})
                elif chat.redraft.attempts:
                    yield chunk({}, redraft={"attempt": event.sample, "text": event.text})
                event = await self._event(job)
            text = fields.content(event)
            if not text.startswith(sent):
                raise RefusedError(500, "the answer is not the text that was streamed")
            if len(text) > len(sent):
                yield chunk({"content": text[len(sent) :]})
            yield chunk({}, fields.finish(event), **self._extension(chat, event))
            if chat.stream_options and chat.stream_options.include_usage:
                yield _sent({**head, "choices": [], "usage": fields.usage(event)})
        except RefusedError as refusal:
            yield _sent(refusal.body())
        yield "data: [DONE]\n\n"


T = TypeVar("T")


def _or(given: T | None, default: T) -> T:
    return default if given is None else given


_JOBS = "redraft.jobs"
"""The jobs of a request, in its scope."""


class _Bounded:
    """Bounds the requests under way; whoever has no request under way waits for no job."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self._app, self._most, self._seconds, self._under_way = app, most, seconds, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers = scope["type"] == "http" and scope["method"] == "POST"
        if answers and self._under_way >= self._most:
            refusal = RefusedError(
                429,
                f"{self._most} requests are under way, which is the limit; try again later",
                code="rate_limit_exceeded",
            )
            await _refused(refusal)(scope, receive, send)
            return
        jobs: list[Job] = []
        self._under_way += answers
        try:
            with suppress(TimeoutError):  # of a client that does not read its answer
                async with asyncio.timeout(self._seconds):
                    await self._app({**scope, _JOBS: jobs}, receive, send)
        finally:
            self._under_way -= answers
            for job in jobs:
                job.wanted = False


async def _tell_disconnect(request: Request, job: Job) -> None:
    """Give a request up when its client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.tell(RefusedError(499, "the client went away"))


def _sent(data: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


def _refused(refusal: RefusedError) -> JSONResponse:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}
    return JSONResponse(refusal.body(), refusal.status, headers.get(refusal.status))


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _refused(error)


def _refuse_http(request: Request, error: Exception) -> Response:
    """No such address, or not with this method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    return _refused(RefusedError(error.status_code, f"{request.method} {path}: {error.detail}"))


def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


def _fail(request: Request, error: Exception) -> Response:
    return _refused(RefusedError(500, "the endpoint failed; its log says why"))
