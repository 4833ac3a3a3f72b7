"""Endpoints: answers, failures, repetitions and usage, against real servers on loopback."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from endpoints import Asked, Endpoint, Handler, completion, failing, free_port, serving, user
from redraft.engines import Failed, Sample, Sampling
from redraft.engines.http import HttpChat, HttpSettings
from redraft.errors import UserError

QUICK = HttpSettings(backoff=0.01, timeout=60)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def texts(answers: list[Sample | Failed]) -> list[str]:
    assert all(isinstance(answer, Sample) for answer in answers), answers
    return [answer.text for answer in answers if isinstance(answer, Sample)]


def reason(answer: Sample | Failed) -> str:
    assert isinstance(answer, Failed), answer
    return answer.reason


def ask_one(endpoint: Endpoint, settings: HttpSettings = QUICK, **sampling: Any) -> Sample | Failed:
    chat = HttpChat.from_url(endpoint.model, settings)
    return chat.chat(user("hello"), Sampling(**sampling))[0]


def test_what_is_asked_is_what_sampling_says(endpoint: Endpoint) -> None:
    chat = HttpChat.from_url(endpoint.model, QUICK)
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, stop=("END",), seed=3)
    dialogue = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "Try again. ✓"},
    ]
    (answer,) = chat.chat([dialogue], sampling)
    assert answer == Sample([], [], "Try again. ✓ (0)", "stop", completion_tokens=5)
    (asked,) = endpoint.asked
    assert asked.path == "/v1/chat/completions"
    assert "authorization" not in asked.headers
    assert isinstance(asked.body.pop("seed"), int)
    assert asked.body == {
        "model": "tiny",
        "messages": dialogue,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["END"],
    }


def test_answers_come_in_the_order_of_the_dialogues(endpoint: Endpoint) -> None:
    def slower_first(handler: Handler, asked: Asked) -> None:
        number = int(asked.body["messages"][0]["content"])
        time.sleep(0.02 * (5 - number))
        handler.send(200, completion(str(number)))

    endpoint.behave = slower_first
    finished: list[int] = []
    chat = HttpChat.from_url(endpoint.model, QUICK)
    answers = chat.chat(user("0", "1", "2", "3", "4"), Sampling(), finished.append)
    assert texts(answers) == ["0", "1", "2", "3", "4"]
    assert sum(finished) == 5
    assert chat.chat([], Sampling()) == []


def test_fields_can_be_added_replaced_and_removed(endpoint: Endpoint) -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 9, "seed": None, "temperature": 0.1}
    ask_one(endpoint, QUICK.model_copy(update={"extra_body": extra}), top_k=4)
    (body,) = endpoint.bodies
    assert "seed" not in body
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["temperature"], body["top_k"]) == (9, 0.1, 4)


@pytest.mark.parametrize(
    ("sent", "finish", "text"),
    [
        (completion("cut off", "length"), "length", "cut off"),
        (completion("done", "stop"), "stop", "done"),
        (completion("done", "eos"), "stop", "done"),
        (completion(""), "stop", ""),
        (completion("good STOP bad END", "length"), "stop", "good "),
    ],
)
def test_how_an_answer_ended(
    endpoint: Endpoint, sent: dict[str, Any], finish: str, text: str
) -> None:
    endpoint.behave = lambda handler, asked: handler.send(200, sent)
    answer = ask_one(endpoint, stop=("END", "STOP"))
    assert isinstance(answer, Sample)
    assert (answer.finish, answer.text) == (finish, text)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    fail = failing(3, lambda handler, asked: handler.send(status, b"busy"))
    with serving(fail) as endpoint:
        chat = HttpChat.from_url(endpoint.model, QUICK)
        assert texts(chat.chat(user("hello"), Sampling())) == ["hello (3)"]
    assert (chat.usage.requests, chat.usage.retries, chat.usage.answered) == (4, 3, 1)


def test_waits_grow_and_the_runs_random_numbers_are_left_alone() -> None:
    times: list[float] = []

    def fail(handler: Handler, asked: Asked) -> None:
        times.append(time.monotonic())
        handler.send(500, b"")

    state = random.getstate()
    with serving(fail) as endpoint:
        ask_one(endpoint, HttpSettings(backoff=0.08, retries=3))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    for gap, wait in zip(gaps, [0.08, 0.16, 0.32], strict=True):
        assert gap >= wait / 2
    assert random.getstate() == state


def test_a_server_that_never_recovers_fails_one_dialogue_and_no_other(endpoint: Endpoint) -> None:
    def picky(handler: Handler, asked: Asked) -> None:
        bad = asked.body["messages"][0]["content"] == "bad"
        handler.send(*(503, b"down") if bad else (200, completion("fine")))

    endpoint.behave = picky
    chat = HttpChat.from_url(endpoint.model, HttpSettings(backoff=0.01, retries=2))
    first, second, third = chat.chat(user("good", "bad", "good"), Sampling())
    assert reason(second) == "HTTP 503 Service Unavailable: down (asked 3 times)"
    assert texts([first, third]) == ["fine", "fine"]
    assert (chat.usage.failed, chat.usage.answered, chat.usage.requests) == (1, 2, 5)


@pytest.mark.parametrize("header", ["1", "Sat, 01 Jan 2000 00:00:00 GMT", "soon"])
def test_retry_after_is_honoured(header: str) -> None:
    fail = failing(1, lambda handler, asked: handler.send(429, b"", Retry_After=header))
    with serving(fail) as endpoint:
        start = time.monotonic()
        assert isinstance(ask_one(endpoint), Sample)
        took = time.monotonic() - start
    assert took >= 1 or header != "1"


@pytest.mark.parametrize("header", ["86400", "Fri, 01 Jan 2100 00:00:00 GMT", "inf"])
def test_a_wait_that_is_too_long_is_not_waited_for(endpoint: Endpoint, header: str) -> None:
    endpoint.behave = lambda handler, asked: handler.send(429, b"", Retry_After=header)
    assert "it asks to wait for" in reason(ask_one(endpoint))
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
    endpoint.behave = lambda handler, asked: handler.send(status, body, Location="/elsewhere")
    assert reason(ask_one(endpoint)).startswith(words)
    assert len(endpoint.asked) == 1


GARBAGE: list[tuple[bytes | dict[str, Any], str]] = [
    (b"<html>It works!</html>", "not JSON: '<html>It works!</html>'"),
    (b"", "not JSON"),
    (b'{"choices": [{"message": {"content": "cut', "not JSON"),
    (b"\xff\xfe{}", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"choices": [{"message": {"content": "\\ud800"}}]}', "not JSON"),
    (b"[]", "malformed"),
    (b"null", "malformed"),
    ({}, "malformed: choices: Field required"),
    ({"choices": None}, "malformed: choices"),
    ({"choices": []}, "has no choices"),
    ({"choices": [7]}, "malformed: choices.0"),
    ({"choices": [{"text": "old style"}]}, "malformed: choices.0.message"),
    (completion(None, "tool_calls"), "no text (finish_reason 'tool_calls')"),
    (completion(None) | {"choices": [{"message": {"content": 5}}]}, "choices.0.message.content"),
    (completion(None) | {"choices": [{"message": {"content": ["a"]}}]}, "message.content"),
    (completion("a", usage={"prompt_tokens": "many"}), "malformed: usage.prompt_tokens"),
    (completion("a", usage={"completion_tokens": -5}), "malformed: usage.completion_tokens"),
    (completion("half", "content_filter"), "withheld"),
]


def test_garbage_is_a_failure_with_a_reason(endpoint: Endpoint) -> None:
    def send_garbage(handler: Handler, asked: Asked) -> None:
        handler.send(200, GARBAGE[int(asked.body["messages"][0]["content"])][0])

    endpoint.behave = send_garbage
    chat = HttpChat.from_url(endpoint.model, QUICK)
    answers = chat.chat(user(*map(str, range(len(GARBAGE)))), Sampling())
    for answer, (sent, words) in zip(answers, GARBAGE, strict=True):
        told = reason(answer)
        assert words in told, sent
        assert "\n" not in told
        assert len(told) < 400
    assert len(endpoint.asked) == len(GARBAGE)


def test_an_answer_in_a_broken_encoding_is_a_failure(endpoint: Endpoint) -> None:
    endpoint.behave = lambda handler, asked: handler.send(200, b"junk", Content_Encoding="gzip")
    assert "cannot be read" in reason(ask_one(endpoint))


def test_an_answer_without_end_is_a_failure(endpoint: Endpoint) -> None:
    def pour(handler: Handler, asked: Asked) -> None:
        handler.send(200, b"", Content_Length=str(2**40))
        while True:
            handler.wfile.write(b"x" * 2**20)

    endpoint.behave = pour
    assert "longer than 16 MiB" in reason(ask_one(endpoint))


def test_a_server_that_stalls_is_given_up_in_time(endpoint: Endpoint) -> None:
    def drip(handler: Handler, asked: Asked) -> None:
        handler.send(200, b"", Content_Length="1000")
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    endpoint.behave = drip
    start = time.monotonic()
    answer = ask_one(endpoint, HttpSettings(timeout=0.3, retries=1, backoff=0.01))
    assert reason(answer) == "no whole answer within 0.3 s (asked 2 times)"
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
        told = reason(ask_one(endpoint, HttpSettings(retries=1, backoff=0.01)))
        assert told.startswith("the connection was lost")


def test_a_server_that_is_not_there() -> None:
    port = free_port()
    chat = HttpChat.from_url(
        f"http://127.0.0.1:{port}/v1#tiny", HttpSettings(retries=1, backoff=0.01)
    )
    answers = chat.chat(user("a", "b"), Sampling())
    for answer in answers:
        assert f"cannot connect to 127.0.0.1:{port}" in reason(answer)
    assert (chat.usage.requests, chat.usage.retries, chat.usage.failed) == (4, 2, 2)
    with pytest.raises(UserError, match=f"cannot connect to 127.0.0.1:{port}.*start the server"):
        chat.check()


def test_a_server_that_is_gone_is_not_waited_for_by_every_dialogue(endpoint: Endpoint) -> None:
    def gone_for_a_while(handler: Handler, asked: Asked) -> None:
        if asked.number < 4:
            handler.close_connection = True
        else:
            handler.send(*(500, b"") if asked.number == 6 else (200, completion("back")))

    endpoint.behave = gone_for_a_while
    chat = HttpChat.from_url(endpoint.model, HttpSettings(concurrency=1, retries=2, backoff=0.01))
    answers = chat.chat(user(*"abcde"), Sampling())
    assert [type(answer) for answer in answers] == [Failed, Failed, Sample, Sample, Sample]
    # three for "a", one for "b", one each for "c" and "d", and again two for "e"
    assert (chat.usage.requests, chat.usage.retries) == (8, 3)


def test_as_many_requests_as_allowed_and_connections_are_reused(endpoint: Endpoint) -> None:
    four = threading.Barrier(4, timeout=60)

    def together(handler: Handler, asked: Asked) -> None:
        four.wait()  # breaks, and fails the request, unless four are under way
        handler.send(200, completion("x"))

    endpoint.behave = together
    chat = HttpChat.from_url(endpoint.model, HttpSettings(concurrency=4, retries=0))
    assert len(texts(chat.chat(user(*map(str, range(40))), Sampling()))) == 40
    assert endpoint.most_under_way == 4
    assert endpoint.connections == 4


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_model_that_only_thought_has_said_nothing(endpoint: Endpoint, finish: str) -> None:
    endpoint.behave = lambda handler, asked: handler.send(200, completion(None, finish))
    (answer,) = HttpChat.from_url(endpoint.model, QUICK).chat(user("a"), Sampling())
    assert isinstance(answer, Sample)
    assert (answer.text, answer.finish) == ("", finish)


def test_usage_and_cost(endpoint: Endpoint) -> None:
    settings = HttpSettings(prompt_price=2.0, completion_price=6.0)
    chat = HttpChat.from_url(endpoint.model, settings)
    chat.chat(user("a", "b"), Sampling())
    assert json.loads(chat.usage.model_dump_json()) == {
        "requests": 2,
        "retries": 0,
        "answered": 2,
        "cached": 0,
        "failed": 0,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "unmetered": 0,
        "cost": pytest.approx(20 * 2e-6 + 10 * 6e-6),
    }
    endpoint.behave = lambda handler, asked: handler.send(200, completion(None, "tool_calls"))
    chat.chat(user("a paid answer without text"), Sampling())
    assert (chat.usage.prompt_tokens, chat.usage.failed) == (30, 1)
    endpoint.behave = lambda handler, asked: handler.send(200, completion("x", usage=None))
    (answer,) = chat.chat(user("nobody counts"), Sampling())
    assert isinstance(answer, Sample)
    assert answer.completion_tokens is None
    assert (chat.usage.prompt_tokens, chat.usage.unmetered) == (30, 1)
    assert HttpChat.from_url(endpoint.model).usage.cost is None


def test_within_a_running_event_loop(endpoint: Endpoint) -> None:
    async def notebook() -> list[Sample | Failed]:
        return HttpChat.from_url(endpoint.model).chat(user("hello"), Sampling())

    assert texts(asyncio.run(notebook())) == ["hello (0)"]


def test_an_error_in_progress_is_raised_as_it_is(endpoint: Endpoint) -> None:
    def stop(finished: int) -> None:
        raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        HttpChat.from_url(endpoint.model).chat(user(*"abcdef"), Sampling(), stop)
