"""Endpoints: requests, answers, failures and retries, against real servers on loopback."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import openai
import pytest

from endpoints import Asked, Endpoint, Handler, completion, failing, free_port, serving, user
from redraft.engines.base import Failed, Request, Response, Sampling
from redraft.engines.endpoints import EndpointSettings
from redraft.engines.openai import OpenAIEngine
from redraft.errors import UserError
from redraft.types import Message


@pytest.fixture(autouse=True)
def _no_key_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def answers(engine: OpenAIEngine, *contents: str, **sampling: Any) -> list[Response | Failed]:
    return [one for (one,) in engine.generate(user(*contents), Sampling(**sampling))]


def texts(responses: list[Response | Failed]) -> list[str]:
    assert all(isinstance(one, Response) for one in responses), responses
    return [one.text for one in responses if isinstance(one, Response)]


def reason(answer: Response | Failed) -> str:
    assert isinstance(answer, Failed), answer
    return answer.reason


def ask_one(endpoint: Endpoint, sampling: Any = None, **settings: Any) -> Response | Failed:
    engine = OpenAIEngine.from_url(endpoint.model, EndpointSettings(**settings))
    return answers(engine, "hello", **(sampling or {}))[0]


def always(status: int, body: bytes | dict[str, Any], **headers: str) -> Any:
    return lambda handler, asked: handler.send(status, body, **headers)


# What is asked


def test_what_is_asked_is_what_sampling_says(endpoint: Endpoint) -> None:
    engine = OpenAIEngine.from_url(endpoint.model)
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, stop=("END",), seed=3)
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="1 + 1?"),
        Message(role="assistant", content="3"),
        Message(role="user", content="Try again. ✓"),
    ]
    [[answer]] = engine.generate([Request(messages)], sampling)
    assert answer == Response("Try again. ✓ (0)", "stop", [], [], completion_tokens=5)
    assert engine.template is None
    (asked,) = endpoint.asked
    assert asked.path == "/v1/chat/completions"
    assert "authorization" not in asked.headers
    assert 0 <= asked.body.pop("seed") < 2**31
    assert asked.body == {
        "model": "tiny",
        "messages": [message.model_dump() for message in messages],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["END"],
    }


def test_answers_come_in_the_order_of_the_requests(endpoint: Endpoint) -> None:
    def slower_first(handler: Handler, asked: Asked) -> None:
        number = int(asked.body["messages"][0]["content"])
        time.sleep(0.02 * (5 - number))
        handler.send(200, completion(str(number)))

    endpoint.behave = slower_first
    seen: list[tuple[int, int]] = []
    engine = OpenAIEngine.from_url(endpoint.model)
    requests = user("0", "1", "2", "3", "4")
    rows = engine.generate(requests, Sampling(), watch=lambda *count: seen.append(count))
    assert texts([one for (one,) in rows]) == ["0", "1", "2", "3", "4"]
    assert seen == [(5, 1)] * 5
    assert engine.generate([], Sampling()) == []
    engine.sync_weights("7")
    assert len(endpoint.asked) == 5


def test_fields_can_be_added_replaced_and_removed(endpoint: Endpoint) -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 9, "seed": None, "temperature": 0.1}
    ask_one(endpoint, {"top_k": 4}, extra_body=extra)
    (body,) = endpoint.bodies
    assert "seed" not in body
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["temperature"], body["top_k"]) == (9, 0.1, 4)


def test_as_many_requests_as_allowed_and_connections_are_reused(endpoint: Endpoint) -> None:
    four = threading.Barrier(4, timeout=60)

    def together(handler: Handler, asked: Asked) -> None:
        four.wait()  # breaks, and fails the request, unless four are under way
        handler.send(200, completion("x"))

    endpoint.behave = together
    engine = OpenAIEngine.from_url(endpoint.model, EndpointSettings(concurrency=4, retries=0))
    assert len(texts(answers(engine, *map(str, range(40))))) == 40
    assert endpoint.most_under_way == 4
    assert endpoint.connections == 4


def test_within_a_running_event_loop(endpoint: Endpoint) -> None:
    async def notebook() -> list[Response | Failed]:
        return answers(OpenAIEngine.from_url(endpoint.model), "hello")

    assert texts(asyncio.run(notebook())) == ["hello (0)"]


def test_an_error_in_watch_is_raised_as_it_is(endpoint: Endpoint) -> None:
    def stop(tokens: int, responses: int) -> None:
        raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        OpenAIEngine.from_url(endpoint.model).generate(user(*"abcdef"), Sampling(), watch=stop)


# What is answered


@pytest.mark.parametrize(
    ("sent", "finish", "text"),
    [
        (completion("cut off", "length"), "length", "cut off"),
        (completion("cut off", "max_tokens"), "length", "cut off"),
        (completion("cut off", "model_length"), "length", "cut off"),
        (completion("done", "stop"), "stop", "done"),
        (completion("done", "eos"), "stop", "done"),
        (completion("done", error=None), "stop", "done"),
        (completion(""), "stop", ""),
        (completion("good STOP bad END", "length"), "stop", "good "),
        # all that a model has said that came to its end, or was cut off, while it thought
        (completion(None), "stop", ""),
        (completion(None, "length"), "length", ""),
        (completion(None, "max_tokens"), "length", ""),
    ],
)
def test_how_an_answer_ended(
    endpoint: Endpoint, sent: dict[str, Any], finish: str, text: str
) -> None:
    endpoint.behave = always(200, sent)
    answer = ask_one(endpoint, {"stop": ("END", "STOP")})
    assert isinstance(answer, Response)
    assert (answer.finish, answer.text) == (finish, text)


GARBAGE: list[tuple[bytes | dict[str, Any], str]] = [
    (b"<html>It works!</html>", "not JSON: '<html>It works!</html>'"),
    (b"", "not JSON"),
    (b'{"choices": [{"message": {"content": "cut', "not JSON"),
    (b"\xff\xfe{}", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"choices": [{"message": {"content": "\\ud800"}}]}', "not JSON"),
    (b"[]", "no message: '[]'"),
    (b"null", "no message: 'null'"),
    ({}, "no message: '{}'"),
    ({"choices": None}, "no message: "),
    ({"choices": []}, "no message: "),
    ({"choices": [7]}, "no message: "),
    ({"choices": [{"text": "old style"}]}, 'no message: \'{"choices": [{"text": "old'),
    (completion(None, "tool_calls"), "no text (finish_reason 'tool_calls')"),
    (completion(None) | {"choices": [{"message": {"content": 5}}]}, "no text"),
    (completion(None) | {"choices": [{"message": {"content": ["a"]}}]}, "no text"),
    (completion("half", "content_filter"), "withheld"),
]


def test_garbage_is_a_failure_with_a_reason(endpoint: Endpoint) -> None:
    def send_garbage(handler: Handler, asked: Asked) -> None:
        handler.send(200, GARBAGE[int(asked.body["messages"][0]["content"])][0])

    endpoint.behave = send_garbage
    engine = OpenAIEngine.from_url(endpoint.model)
    for answer, (sent, words) in zip(
        answers(engine, *map(str, range(len(GARBAGE)))), GARBAGE, strict=True
    ):
        told = reason(answer)
        assert words in told, sent
        assert "\n" not in told
        assert len(told) < 400
    assert len(endpoint.asked) == len(GARBAGE)


@pytest.mark.parametrize(
    ("usage", "read", "written", "unmetered"),
    [
        (None, 0, None, 1),
        ({"prompt_tokens": None, "completion_tokens": 5}, 0, 5, 1),
        ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, 10, 5, 0),
        ({"prompt_tokens": "10", "completion_tokens": 5}, 0, 5, 1),
        ({"prompt_tokens": "many", "completion_tokens": -5}, 0, None, 1),
        ({"prompt_tokens": 10, "completion_tokens": 2.5}, 10, None, 1),
        ({"prompt_tokens": 10**400, "completion_tokens": [5]}, 0, None, 1),
        ({"completion_tokens": 5}, 0, 5, 1),
        ("many", 0, None, 1),
        ([5], 0, None, 1),
    ],
)
def test_odd_counts_of_tokens_cost_no_answer(
    endpoint: Endpoint, usage: Any, read: int, written: int | None, unmetered: int
) -> None:
    endpoint.behave = always(200, completion("fine", usage=usage))
    settings = EndpointSettings(prompt_price=1e6, completion_price=1e6)
    engine = OpenAIEngine.from_url(endpoint.model, settings)
    (answer,) = answers(engine, "hello")
    assert answer == Response("fine", "stop", [], [], written)
    assert (engine.usage.prompt_tokens, engine.usage.unmetered) == (read, unmetered)
    assert engine.usage.cost == read + (written or 0)


def test_usage_and_cost(endpoint: Endpoint) -> None:
    settings = EndpointSettings(prompt_price=2.0, completion_price=6.0)
    engine = OpenAIEngine.from_url(endpoint.model, settings)
    answers(engine, "a", "b")
    assert json.loads(engine.usage.model_dump_json()) == {
        "requests": 2,
        "retries": 0,
        "answered": 2,
        "cached": 0,
        "failed": 0,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "unmetered": 0,
        "models": [],
        "cost": pytest.approx(20 * 2e-6 + 10 * 6e-6),
    }
    endpoint.behave = always(200, completion(None, "tool_calls"))
    answers(engine, "a paid answer without text")
    assert (engine.usage.prompt_tokens, engine.usage.failed) == (30, 1)
    assert OpenAIEngine.from_url(endpoint.model).usage.cost is None


# Errors and retries


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    with serving(failing(3, always(status, b"busy"))) as endpoint:
        engine = OpenAIEngine.from_url(endpoint.model)
        assert texts(answers(engine, "hello")) == ["hello (3)"]
    assert (engine.usage.requests, engine.usage.retries, engine.usage.answered) == (4, 3, 1)


INSIDE: list[tuple[dict[str, Any], str]] = [
    ({"error": {"message": "overloaded", "code": 502}}, "overloaded"),
    ({"error": "overloaded"}, "overloaded"),
    ({"object": "error", "message": "out of memory", "code": 50000}, "out of memory"),
    (completion("", "error") | {"error": {"message": "gone"}}, "gone"),
    ({"choices": [{"error": {"message": "provider down"}, "message": {}}]}, "provider down"),
]


@pytest.mark.parametrize(("sent", "words"), INSIDE)
def test_an_error_inside_http_200_is_a_server_error(sent: dict[str, Any], words: str) -> None:
    with serving(failing(2, always(200, sent))) as endpoint:
        assert texts([ask_one(endpoint)]) == ["hello (2)"]
        endpoint.behave = always(200, sent)
        assert reason(ask_one(endpoint, retries=1)) == f"HTTP 200 OK: {words} (asked 2 times)"


def test_an_error_inside_http_200_that_is_the_clients_fault_is_final(endpoint: Endpoint) -> None:
    endpoint.behave = always(200, {"error": {"message": "no such field", "code": 400}})
    assert reason(ask_one(endpoint)) == "HTTP 200 OK: no such field"
    assert len(endpoint.asked) == 1


def test_waits_grow_and_the_runs_random_numbers_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.08)
    times: list[float] = []

    def fail(handler: Handler, asked: Asked) -> None:
        times.append(time.monotonic())
        handler.send(500, b"")

    state = random.getstate()
    with serving(fail) as endpoint:
        ask_one(endpoint, retries=3)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    for gap, wait in zip(gaps, [0.08, 0.16, 0.32], strict=True):
        assert gap >= wait / 2
    assert random.getstate() == state


def test_a_server_that_never_recovers_fails_one_request_and_no_other(endpoint: Endpoint) -> None:
    def picky(handler: Handler, asked: Asked) -> None:
        bad = asked.body["messages"][0]["content"] == "bad"
        handler.send(*(503, b"down") if bad else (200, completion("fine")))

    endpoint.behave = picky
    engine = OpenAIEngine.from_url(endpoint.model, EndpointSettings(retries=2))
    first, second, third = answers(engine, "good", "bad", "good")
    assert reason(second) == "HTTP 503 Service Unavailable: down (asked 3 times)"
    assert texts([first, third]) == ["fine", "fine"]
    assert (engine.usage.failed, engine.usage.answered, engine.usage.requests) == (1, 2, 5)


@pytest.mark.parametrize("header", ["1", "Sat, 01 Jan 2000 00:00:00 GMT", "soon"])
def test_retry_after_is_honoured(header: str) -> None:
    with serving(failing(1, always(429, b"", Retry_After=header))) as endpoint:
        start = time.monotonic()
        assert isinstance(ask_one(endpoint), Response)
        took = time.monotonic() - start
    assert took >= 1 or header != "1"


@pytest.mark.parametrize("header", ["86400", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_wait_that_is_too_long_is_not_waited_for(endpoint: Endpoint, header: str) -> None:
    endpoint.behave = always(429, b"", Retry_After=header)
    assert f"(Retry-After: {header})" in reason(ask_one(endpoint))
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, {"error": {"message": "no such field"}}, "HTTP 400 Bad Request: no such field"),
        (401, {"error": "who are you?"}, "HTTP 401 Unauthorized: who are you?"),
        (404, {"detail": "no model"}, "HTTP 404 Not Found: no model"),
        (422, b"<html>\n\x1b[31mno</html>", "HTTP 422 Unprocessable Entity: <html> \ufffd[31mno"),
        (499, b"", "HTTP 499"),
        (307, b"", "HTTP 307 Temporary Redirect"),
        (429, {"error": {"message": "pay!", "code": "insufficient_quota"}}, "HTTP 429 Too Many"),
    ],
)
def test_an_error_that_waiting_cannot_mend_is_told_at_once(
    endpoint: Endpoint, status: int, body: dict[str, Any] | bytes, words: str
) -> None:
    endpoint.behave = always(status, body, Location="/elsewhere")
    answer = ask_one(endpoint)
    assert reason(answer).startswith(words)
    assert isinstance(answer, Failed)
    assert not answer.context_full
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": "Too long.", "code": "context_length_exceeded"}},
        {"message": "This model's maximum context length is 2048 tokens. However, you requested"},
        {"error": {"message": "The decoder prompt is longer than the maximum model length of 9"}},
        {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}},
        {"error": {"message": "the request exceeds the available context size, try increasing it"}},
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"},
        {"error": {"message": "The input token count (9) exceeds the maximum"}},
    ],
)
def test_a_full_context_is_told_apart(endpoint: Endpoint, said: dict[str, Any]) -> None:
    for status in (400, 200, 500) if "error" in said else (400,):
        endpoint.asked.clear()
        endpoint.behave = always(status, said)
        answer = ask_one(endpoint)
        assert isinstance(answer, Failed)
        assert answer.context_full
        assert answer.reason.startswith(f"HTTP {status}")
        assert len(endpoint.asked) == 1


def test_a_rate_limit_is_no_full_context() -> None:
    busy = always(429, b"Please reduce the length of the messages.")
    with serving(failing(2, busy)) as endpoint:
        assert texts([ask_one(endpoint)]) == ["hello (2)"]


def test_an_answer_in_a_broken_encoding_is_a_failure(endpoint: Endpoint) -> None:
    endpoint.behave = always(200, b"junk", Content_Encoding="gzip")
    assert "cannot be read" in reason(ask_one(endpoint))


def test_an_answer_without_end_is_a_failure(endpoint: Endpoint) -> None:
    def pour(handler: Handler, asked: Asked) -> None:
        handler.send(200, b"", Content_Length=str(2**40))
        while True:
            handler.wfile.write(b"x" * 2**20)

    endpoint.behave = pour
    assert "longer than 16 MiB" in reason(ask_one(endpoint))
    assert len(endpoint.asked) == 1


def test_a_server_that_stalls_is_given_up_in_time(endpoint: Endpoint) -> None:
    def drip(handler: Handler, asked: Asked) -> None:
        handler.send(200, b"", Content_Length="1000")
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.05)

    endpoint.behave = drip
    start = time.monotonic()
    told = reason(ask_one(endpoint, timeout=0.3, retries=1))
    assert told == "no whole answer within 0.3 s (asked 2 times)"
    assert 0.6 <= time.monotonic() - start < 15


@pytest.mark.parametrize("after", ["headers", "nothing"])
def test_a_connection_that_is_cut_is_made_again(after: str) -> None:
    def cut(handler: Handler, asked: Asked) -> None:
        if after == "headers":
            handler.send(200, b'{"choices": [', Content_Length="1000")
        handler.close_connection = True

    with serving(failing(2, cut)) as endpoint:
        assert texts([ask_one(endpoint)]) == ["hello (2)"]
        endpoint.behave = cut
        assert reason(ask_one(endpoint, retries=1)).startswith("the connection was lost")


def test_a_server_that_is_not_there() -> None:
    address = f"127.0.0.1:{free_port()}"
    engine = OpenAIEngine.from_url(f"http://{address}/v1#tiny", EndpointSettings(retries=1))
    for answer in answers(engine, "a", "b"):
        assert f"cannot connect to {address}" in reason(answer)
    assert (engine.usage.requests, engine.usage.retries, engine.usage.failed) == (4, 2, 2)
    with pytest.raises(UserError, match=f"cannot connect to {address}.*start the server"):
        engine.check()


def test_a_server_that_is_gone_is_not_waited_for_by_every_request(endpoint: Endpoint) -> None:
    def gone_for_a_while(handler: Handler, asked: Asked) -> None:
        if asked.number < 4:
            handler.close_connection = True
        else:
            handler.send(*(500, b"") if asked.number == 6 else (200, completion("back")))

    endpoint.behave = gone_for_a_while
    engine = OpenAIEngine.from_url(endpoint.model, EndpointSettings(concurrency=1, retries=2))
    kinds = [type(answer) for answer in answers(engine, *"abcde")]
    assert kinds == [Failed, Failed, Response, Response, Response]
    # three for "a", one for "b", one each for "c" and "d", and again two for "e"
    assert (engine.usage.requests, engine.usage.retries) == (8, 3)
