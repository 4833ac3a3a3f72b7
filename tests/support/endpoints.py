"""A real OpenAI-compatible server on loopback that behaves, or misbehaves, as a test says."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from redraft.engines.base import Request
from redraft.types import Message

Behaviour = Callable[["Handler", "Asked"], None]
"""Writes the response to a request."""


@dataclass(frozen=True)
class Asked:
    """One request as it came in; `number` counts from 0."""

    number: int
    method: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Endpoint:
    """The server's address and what it has seen."""

    url: str
    behave: Behaviour
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def model(self) -> str:
        return f"{self.url}#tiny"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """Requests for answers."""
        return [asked.body for asked in self.asked if asked.method == "POST"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: Endpoint

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(60)
        with self.endpoint.lock:
            self.endpoint.connections += 1

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client has gone
            super().handle()

    def do_POST(self) -> None:
        endpoint = self.endpoint
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with endpoint.lock:
            asked = Asked(
                len(endpoint.asked),
                self.command,
                self.path,
                json.loads(body or "{}"),
                {name.lower(): value for name, value in self.headers.items()},
            )
            endpoint.asked.append(asked)
            endpoint.under_way += 1
            endpoint.most_under_way = max(endpoint.most_under_way, endpoint.under_way)
        try:
            endpoint.behave(self, asked)
        except OSError:  # the client has gone
            self.close_connection = True
        finally:
            with endpoint.lock:
                endpoint.under_way -= 1

    def do_GET(self) -> None:
        self.do_POST()

    def send(self, status: int, body: bytes | dict[str, Any], **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def user(*contents: str, problem: str = "") -> list[Request]:
    """One request with a single message for each content."""
    return [Request([Message(role="user", content=c)], problem=problem) for c in contents]


def completion(text: str | None, finish: str = "stop", **fields: Any) -> dict[str, Any]:
    """A well-formed answer that cost 10 prompt tokens and 5 others."""
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
        **fields,
    }


def echo(handler: Handler, asked: Asked) -> None:
    """Answers with the last message and the number of the request."""
    if asked.method == "GET":
        handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
    else:
        handler.send(200, completion(f"{asked.body['messages'][-1]['content']} ({asked.number})"))


def failing(times: int, fail: Behaviour) -> Behaviour:
    """Fails so many requests and then answers."""

    def behave(handler: Handler, asked: Asked) -> None:
        (fail if asked.number < times else echo)(handler, asked)

    return behave


@contextmanager
def serving(behave: Behaviour = echo) -> Iterator[Endpoint]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", behave)
    server.RequestHandlerClass = type("BoundHandler", (Handler,), {"endpoint": endpoint})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    """A port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
