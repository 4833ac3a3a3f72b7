"""What `redraft serve` makes of requests, on an engine that a test can hold and count."""

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import psutil
import pytest

from redraft.engines import Failed, Request, Sampling
from redraft.engines.scripted import ScriptedEngine
from redraft.errors import UserError
from redraft.types import Message
from serving import served


class Engine(ScriptedEngine):
    """Says what `function` says, once it is let; remembers what it was asked."""

    def __init__(self, function: Callable[[Sequence[Message]], str | Failed]) -> None:
        super().__init__(function)
        self.free = threading.Event()
        self.free.set()
        self.calls: list[tuple[Sequence[Request], Sampling]] = []

    def generate(self, requests: Any, sampling: Any, *given: Any, **more: Any) -> Any:
        self.calls.append((requests, sampling))
        assert self.free.wait(30)
        return super().generate(requests, sampling, *given, **more)


def counting(messages: Sequence[Message]) -> str:
    """The number of the response in its conversation, and the question."""
    return f"{sum(one.role == 'user' for one in messages)} for {messages[-1].content}"


@pytest.fixture
def engine() -> Engine:
    return Engine(counting)


def client(url: str, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=retries, timeout=30)


def ask(url: str, *contents: str, retries: int = 0, **fields: Any) -> Any:
    """The answer to a conversation that the user begins, or its chunks."""
    said = [
        {"role": ("user", "assistant")[place % 2], "content": content}
        for place, content in enumerate(contents)
    ]
    body: dict[str, Any] = {"model": "tiny", "messages": said, **fields}
    with client(url, retries) as asking:
        answer = asking.chat.completions.create(**body)
        return list(answer) if body.get("stream") else answer


def text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def test_a_conversation_is_shown_before_the_question(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(engine, monkeypatch, strategy="chain", prompts="score-math") as url:
        earlier = [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
            },
            {"role": "assistant", "content": "Hi"},
        ]
        ask(url, messages=[*earlier, {"role": "user", "content": "What is 1+1?"}])
    [([request], _)] = engine.calls
    roles = [message.role for message in request.messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert [one.content for one in request.messages[:3]] == ["Be brief.", "Hello", "Hi"]
    assert request.messages[3].content.endswith("What is 1+1?")
    assert request.messages[3].content.startswith("You are a math expert.")


def test_a_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["it is 1", "it is 2", "so 2", "it is 3"])
    engine = Engine(lambda messages: next(said))
    how = {"strategy": "majority-chains", "budget": 4, "grader": "number"}
    with served(engine, monkeypatch, **how) as url:
        answer = ask(url, "?", temperature=0.3, extra_body={"redraft": {"attempts": True}})
        assert text(answer) == "it is 2"
        assert [one["answer"] for one in answer.redraft["attempts"]] == ["1", "2", "2", "3"]
        assert answer.redraft["chosen"] == 1
        [(_, sampling)] = engine.calls
        assert sampling.temperature == 0.3
        with pytest.raises(openai.UnprocessableEntityError, match="all samples of this strategy"):
            ask(url, "?", temperature=0)


def test_a_vote_is_streamed_when_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["1", "2", "2", "3"])
    how = {"strategy": "majority-chains", "budget": 4, "grader": "number"}
    with served(Engine(lambda messages: next(said)), monkeypatch, **how) as url:
        chunks = ask(url, "?", stream=True, extra_body={"redraft": {"attempts": True}})
    told = [(one.model_extra or {}).get("redraft", {}) for one in chunks]
    assert [one["text"] for one in told if "text" in one] == ["1", "2", "2", "3"]
    assert [one["attempt"] for one in told if "text" in one] == [0, 1, 2, 3]
    contents = [one.choices[0].delta.content for one in chunks if one.choices[0].delta.content]
    assert contents == ["2"]


def test_the_answer_of_a_program_is_what_it_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(lambda messages: "8" if len(messages) == 1 else "```python\nprint(3 + 4)\n```")
    with served(engine, monkeypatch, strategy="cap") as url:
        answer = ask(url, "3+4?", extra_body={"redraft": {"attempts": True}})
    assert text(answer) == "7"
    assert answer.redraft["executions"] == 1
    assert [one["kind"] for one in answer.redraft["attempts"]] == ["chain", "program"]


def test_requests_are_answered_together_each_with_its_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        served(engine, monkeypatch, strategy="chain", at_once=8, requests=13) as url,
        ThreadPoolExecutor(20) as pool,
    ):
        engine.free.clear()
        first = pool.submit(ask, url, "first")
        wait_for(lambda: bool(engine.calls))
        # `full` takes a place too, for as long as it is answered.
        again = {"retries": 20}
        others = [pool.submit(ask, url, f"question {n}", **again) for n in range(10)]
        short = [pool.submit(ask, url, f"short {n}", max_tokens=5, **again) for n in range(2)]
        wait_for(lambda: full(url))
        engine.free.set()
        assert text(first.result()).endswith("first")
        for number, answer in enumerate(others):
            assert text(answer.result()).endswith(f"question {number}")
        assert all(text(one.result()).endswith(f"short {n}") for n, one in enumerate(short))
    sizes = {(sampling.max_tokens, len(requests)) for requests, sampling in engine.calls}
    assert {(1024, 8), (1024, 2), (5, 2)} <= sizes


def wait_for(there: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not there():
        assert time.monotonic() < until
        time.sleep(0.01)


def full(url: str) -> bool:
    """Whether one more request is refused for those that are under way."""
    with client(url) as asking, pytest.raises(openai.APIStatusError) as refused:
        asking.post("/chat/completions", body=[], cast_to=object)
    assert refused.value.status_code in (400, 429)
    return refused.value.status_code == 429


def test_the_same_seed_gives_the_same_streams_of_random_numbers(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(engine, monkeypatch, strategy="majority-chains", budget=2) as url:
        for seed in (7, 7, 8, None, None):
            ask(url, "?", **({} if seed is None else {"seed": seed}))
    streams = [requests[0].stream(sampling.seed) for requests, sampling in engine.calls]
    assert streams[0] == streams[1]
    assert len(set(streams)) == 4


def test_a_client_that_goes_away_frees_its_place(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(engine, monkeypatch, strategy="turns", turns=3, requests=1) as url:
        engine.free.clear()
        for stream in (False, True):
            before = len(engine.calls)
            with pytest.raises(openai.APITimeoutError):
                ask(url, "?", stream=stream, timeout=0.5)
            assert len(engine.calls) == before + 1
            wait_for(lambda: not full(url))
            engine.free.set()
            assert text(ask(url, "next")).startswith("3 for")
            assert len(engine.calls) == before + 4  # its second and third turn were not asked for
            engine.free.clear()
        engine.free.set()


def test_a_request_that_takes_too_long(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(engine, monkeypatch, strategy="turns", seconds=0.3) as url:
        engine.free.clear()
        for stream in (False, True):
            with pytest.raises(
                openai.InternalServerError, match=r"no answer within 0\.3 s"
            ) as late:
                ask(url, "?", stream=stream)
            assert late.value.status_code == 504
        engine.free.set()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such timer")
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_does_not_read_is_cut_off(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(lambda messages: "x" * 10_000_000)
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "?"}],
                       "stream": stream}).encode()  # fmt: skip
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with served(engine, monkeypatch, strategy="chain", read_seconds=0.2) as url:
        port = int(url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.sendall(head.encode() + body)
            assert silent.recv(12) == b"HTTP/1.1 200"
            asking = silent.getsockname()[1]
            wait_for(lambda: not connected(port, asking))


def connected(server: int, client: int) -> bool:
    """Whether the side of the server of a connection within this process is still there."""
    ends = psutil.Process().net_connections("tcp")
    return any(one.raddr and (one.laddr.port, one.raddr.port) == (server, client) for one in ends)


def test_what_fails_keeps_no_other_from_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def say(messages: Sequence[Message]) -> str | Failed:
        match messages[0].content:
            case "down":
                return Failed("HTTP 500")
            case "diverged":
                raise UserError("the weights have diverged")
            case "broken":
                raise RuntimeError("no such thing")
        return counting(messages)

    with served(Engine(say), monkeypatch, strategy="chain", prompts="plain") as url:
        for question, status, why in (
            ("down", 503, "HTTP 500"),
            ("diverged", 503, "have diverged"),
            ("broken", 500, "its log says why"),
        ):
            with pytest.raises(openai.InternalServerError, match=why) as failure:
                ask(url, question)
            assert failure.value.status_code == status
            assert text(ask(url, "fine"))


def test_another_name_of_this_machine_is_refused_without_a_key(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(engine, monkeypatch) as url, client(url) as asking:
        assert asking.models.list()
        with pytest.raises(
            openai.PermissionDeniedError, match=r"not known by the name 'evil\.com'"
        ):
            asking.with_options(default_headers={"Host": "evil.com"}).models.list()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDRAFT_API_KEY", raising=False)
