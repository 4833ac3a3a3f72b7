"""`redraft serve` as clients meet it: a process of its own, asked by the official client."""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest

from redraft.cli import run as redraft
from redraft.lab.problems import sorting
from serving import KEY, Serving

MOST = 24
"""Requests under way that the server takes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    limits = ["--requests", str(MOST), "--body-kib", "64", "--body-seconds", "0.5"]
    serving = Serving(tmp_path_factory.mktemp("serve") / "log", *limits)
    yield serving
    assert serving.end() == 143
    *_, last = serving.said.splitlines()
    assert last == "redraft: ended by SIGTERM"
    assert "Traceback" not in serving.said


@pytest.fixture
def client(server: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=60)


def question(number: int) -> str:
    return sorting("test", number, 7).question


def asked(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "lab", "messages": [{"role": "user", "content": content}], **fields}


ATTEMPTS = {"extra_body": {"redraft": {"attempts": True}}}


def test_an_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**asked(question(0)), **ATTEMPTS)
    [choice] = answer.choices
    how = answer.model_extra["redraft"]  # type: ignore[index]
    first, second = how["attempts"]
    assert (how["strategy"], how["chosen"]) == ("turns", 1)
    assert choice.message.content == second["text"]
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert sorted(second["answer"].split()) == sorted(question(0).split()[1:])
    assert answer.usage.completion_tokens == first["tokens"] + second["tokens"]  # type: ignore[union-attr]
    # The first attempt read the question and the second one that, the first and the request to
    # correct it, so together more than twice the shorter of both.
    assert answer.usage.prompt_tokens > 3 * 8  # type: ignore[union-attr]
    assert answer.id != client.chat.completions.create(**asked(question(0))).id


def test_attempts_are_there_on_request_only(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**asked(question(0)))
    assert "redraft" not in (answer.model_extra or {})


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**asked(question(1)), **ATTEMPTS)
    attempts = whole.model_extra["redraft"]["attempts"]  # type: ignore[index]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**asked(question(1), **options), **ATTEMPTS))
    *_, last, usage = chunks
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == whole.choices[0].message.content
    told = [(chunk.model_extra or {}).get("redraft", {}) for chunk in chunks[:-2]]
    assert "".join(one["text"] for one in told if one) == attempts[0]["text"]
    assert {one["attempt"] for one in told if one} == {0}
    assert last.choices[0].finish_reason == "stop"
    assert last.model_extra["redraft"]["attempts"] == attempts
    assert (usage.choices, usage.usage) == ([], whole.usage)


def test_length_and_stop_strings(client: openai.OpenAI) -> None:
    cut = client.chat.completions.create(**asked(question(2), max_tokens=3))
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 6  # type: ignore[union-attr]
    whole = client.chat.completions.create(**asked(question(2))).choices[0].message.content or ""
    word = whole.split()[3]
    options = {"stop": [word], "stream": True}
    chunks = list(client.chat.completions.create(**asked(question(2), **options)))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole[: whole.index(word)]


def test_models_and_health(client: openai.OpenAI, server: Serving) -> None:
    assert [model.id for model in client.models.list()] == ["lab"]
    assert client.models.retrieve("lab").owned_by == "redraft"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    assert raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200


def test_the_key_is_asked_for(server: Serving) -> None:
    for key in ("wrong", "sesam", KEY + "e"):
        stranger = openai.OpenAI(base_url=server.url, api_key=key, max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
            stranger.models.list()
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(**asked("Sort a b"))
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\r\n\r\n"
    assert raw(server, head)[0] == 401


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"model": "gpt-5"}, 404, "no model 'gpt-5' here, only 'lab'"),
        ({"messages": []}, 422, "messages: List should have at least 1"),
        ({"messages": [{"role": "user", "content": " "}]}, 422, "is empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 422, "the last one the user's"),
        ({"messages": [{"role": "user", "content": 1}]}, 422, "messages.0.content"),
        ({"messages": "x"}, 422, "messages"),
        ({"tools": []}, 422, "tools: this endpoint does not know the field"),
        ({"n": 2}, 422, "n: "),
        ({"logprobs": True}, 422, "logprobs: "),
        ({"presence_penalty": 0.5}, 422, "presence_penalty: "),
        ({"temperature": "hot"}, 422, "temperature: "),
        ({"stop": ["a", ""]}, 422, "stop"),
        ({"max_tokens": 0}, 422, "max_tokens: "),
        ({"max_tokens": 10**9}, 422, "above this endpoint's limit of 1024"),
        ({"redraft": {"attempt": True}}, 422, "redraft.attempt: "),
        ({"messages": [{"role": "user", "content": "Sort " + "beach " * 9000}]}, 400, "exceed"),
    ],
)
def test_fields_that_are_refused(
    client: openai.OpenAI, fields: dict[str, Any], status: int, says: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.post("/chat/completions", body=asked("Sort a b") | fields, cast_to=object)
    error = refused.value
    assert (error.status_code, says in error.message) == (status, True), error.message
    assert set(error.body) == {"message", "type", "param", "code"}  # type: ignore[arg-type]


def test_a_stream_is_refused_with_its_status(client: openai.OpenAI) -> None:
    long = "Sort " + "beach " * 9000
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked(long), stream=True)
    assert refused.value.code == "context_length_exceeded"


def test_fields_without_effect_are_taken(client: openai.OpenAI) -> None:
    effectless = {"n": 1, "user": "me", "presence_penalty": 0, "logprobs": False, "store": False}
    client.chat.completions.create(**asked("Sort crow beach", **effectless))


def raw(server: Serving, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """Status and body of the response to what is sent."""
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        for part in parts:
            connection.sendall(part)
        said = connection.makefile("rb")
        status = int(said.readline().split()[1])
        headers = dict(line.lower().split(b": ") for line in iter(said.readline, b"\r\n"))
        return status, json.loads(said.read(int(headers[b"content-length"])))


def posted(body: bytes, length: int | None = None, kind: str = "application/json") -> bytes:
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {KEY}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("parts", "status", "says"),
    [
        ([posted(b"{")], 400, "not JSON"),
        ([posted(b"")], 400, "not JSON"),
        ([posted(b"\xff\xfe{}")], 400, "not JSON"),
        ([posted(b"[" * 60_000)], 400, "not JSON"),
        ([posted(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)], 400, "not JSON"),
        ([posted(b"[]")], 400, "not a JSON object"),
        ([posted(b'{"model": "\\ud800"}')], 400, "not JSON"),
        ([posted(b"{}")], 422, "model: "),
        ([posted(b"{}", kind="text/plain")], 415, "has to be JSON"),
        ([posted(b"", 100 << 20), *[b" " * (1 << 20)] * 100], 413, "larger than 64 KiB"),
        ([posted(b"{", 100)], 408, "more than 0.5 s to arrive"),
        ([b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"], 404, "GET /nothing: Not Found"),
        ([b"GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n"], 405, "Method Not Allowed"),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:60],
)
def test_hostile_bodies(server: Serving, parts: list[bytes], status: int, says: str) -> None:
    found, body = raw(server, *parts)
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert says in body["error"]["message"]
    assert raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200


async def ask_all(server: Serving, count: int, retries: int) -> list[str | None]:
    """The answer to each question, all asked at once; None for one that was refused."""

    async def ask(number: int) -> str | None:
        try:
            answer = await client.chat.completions.create(**asked(question(number)))
        except openai.RateLimitError as error:
            return None if error.code == "rate_limit_exceeded" else str(error)
        return answer.choices[0].message.content or ""

    limits = {"base_url": server.url, "api_key": KEY, "max_retries": retries, "timeout": 120}
    async with openai.AsyncOpenAI(**limits) as client:
        return await asyncio.gather(*(ask(number) for number in range(count)))


def check(answers: list[str | None]) -> None:
    """Every answer is that to its own question: it shares more words with none."""
    words = [set(question(number).split()) for number in range(len(answers))]
    for number, answer in enumerate(answers):
        if answer is not None:
            shared = [len(set(answer.split()) & other) for other in words]
            assert shared[number] == max(shared) >= 3, (question(number), answer)


def test_more_connections_than_are_taken(server: Serving) -> None:
    answers = asyncio.run(ask_all(server, MOST + 16, retries=0))
    check(answers)
    refused = answers.count(None)
    assert 0 < refused <= 16
    check(again := asyncio.run(ask_all(server, MOST + 16, retries=20)))
    assert None not in again


@pytest.mark.slow
def test_two_hundred_connections_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = Serving(tmp_path_factory.mktemp("serve") / "log", "--requests", "200")
    try:
        process = psutil.Process(server.process.pid)
        check(asyncio.run(ask_all(server, 200, retries=0)))
        before = process.memory_info().rss
        for _ in range(5):
            answers = asyncio.run(ask_all(server, 200, retries=0))
            check(answers)
            assert None not in answers
        assert process.memory_info().rss < before + (100 << 20)
        answers = asyncio.run(ask_all(server, 600, retries=0))
        check(answers)
        assert 0 < answers.count(None) <= 400
    finally:
        assert server.end() == 143


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert redraft(["serve", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"--port {port}: cannot be listened on at 127.0.0.1 (Address already in use)" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "other machines could use the model; export a key"),
        (["--host", "no.such.host.invalid"], "no such address"),
        (["--key-variable", "secret-value"], "not the key (the value is not shown)"),
        (["--strategy", "bonbon", "--select", "oracle"], "needs gold answers"),
        (["--strategy", "majority-chains", "--temperature", "0"], "would be equal"),
        (["--task", "nothing"], "nothing"),
        (["--port", "70000"], "port"),
    ],
)
def test_refusals(
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REDRAFT_API_KEY", raising=False)
    assert redraft(["serve", "--port", "0", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
