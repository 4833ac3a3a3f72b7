"""What an endpoint's engine writes: answers and usage that survive a kill, and never the key."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest
from pydantic import ValidationError

from endpoints import Asked, Endpoint, Handler, completion, serving, user
from redraft.config import Settings, resolve, to_yaml
from redraft.engines.base import Failed, Request, Response, Sampling
from redraft.engines.endpoints import EndpointSettings, Usage
from redraft.engines.openai import OpenAIEngine
from redraft.errors import UserError

KEY = "sk-TopSecret-0123456789"
QUICK = EndpointSettings(timeout=60, retries=1)


@pytest.fixture(autouse=True)
def _no_key_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def ask(
    endpoint: Endpoint, folder: Path, *requests: Request | str, sampling: Sampling | None = None
) -> list[str | None]:
    """The texts of the answers, None where there is none, from a new engine on the folder."""
    engine = OpenAIEngine.from_url(endpoint.model, QUICK, cache=folder)
    wanted = [user(one)[0] if isinstance(one, str) else one for one in requests]
    rows = engine.generate(wanted, sampling or Sampling())
    return [one.text if isinstance(one, Response) else None for (one,) in rows]


def draws(problem: str, samples: int, turn: int = 0) -> list[Request]:
    """Requests for several samples of one problem."""
    (request,) = user(f"What is {problem}?", problem=problem)
    return [replace(request, sample=sample, turn=turn) for sample in range(samples)]


def usage_in(folder: Path) -> Usage:
    return Usage.model_validate_json((folder / "usage.json").read_text())


# Answers are asked for once


def test_a_restart_asks_nothing_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "endpoint"
    first = ask(endpoint, folder, "a", "b")
    assert [str(text)[:2] for text in first] == ["a ", "b "]
    engine = OpenAIEngine.from_url(endpoint.model, QUICK, cache=folder)
    seen: list[tuple[int, int]] = []
    rows = engine.generate(user("b", "c", "a"), Sampling(), watch=lambda *n: seen.append(n))
    answers = [one for (one,) in rows if isinstance(one, Response)]
    assert [answer.text for answer in answers] == [first[1], "c (2)", first[0]]
    assert [answer.completion_tokens for answer in answers] == [5, 5, 5]
    assert seen == [(10, 2), (5, 1)]
    usage = engine.usage
    assert (usage.cached, usage.answered, usage.completion_tokens) == (2, 1, 5)
    assert engine.generate(user("c"), Sampling()) == [[answers[1]]]
    assert len(endpoint.bodies) == 3


def test_a_server_that_has_gone_is_not_needed_for_what_is_there(tmp_path: Path) -> None:
    with serving() as endpoint:
        first = ask(endpoint, tmp_path, *draws("p", 3))
    assert ask(endpoint, tmp_path, *draws("p", 3)) == first


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_draws_do_not_depend_on_what_is_asked_together(
    endpoint: Endpoint, tmp_path: Path, chunk: int
) -> None:
    """A smaller `--limit` or `--samples` is a part of the whole: same seeds, same answers."""
    wanted = [request for problem in "xyz" for request in draws(problem, 4)]
    whole = ask(endpoint, tmp_path, *wanted)
    seeds = {body["seed"] for body in endpoint.bodies}
    assert len(seeds) == len(set(whole)) == 12
    engine = OpenAIEngine.from_url(endpoint.model, QUICK, cache=tmp_path)
    for start in reversed(range(0, 12, chunk)):
        rows = engine.generate(wanted[start : start + chunk], Sampling())
        texts = [one.text for (one,) in rows if isinstance(one, Response)]
        assert texts == whole[start : start + chunk]
    assert len(endpoint.bodies) == 12
    fewer = [request for problem in "zx" for request in draws(problem, 2)]
    endpoint.asked.clear()
    ask(endpoint, tmp_path / "elsewhere", *fewer)
    assert len({body["seed"] for body in endpoint.bodies} & seeds) == 4


def test_each_turn_is_an_answer_of_its_own(endpoint: Endpoint, tmp_path: Path) -> None:
    requests = [*draws("p", 1), *draws("p", 1, turn=1)]
    assert len(set(ask(endpoint, tmp_path, *requests))) == 2
    assert len({body["seed"] for body in endpoint.bodies}) == 2


def test_the_same_draw_is_paid_for_once(endpoint: Endpoint, tmp_path: Path) -> None:
    first, second = ask(endpoint, tmp_path, *draws("p", 1), *draws("p", 1))
    assert first == second
    assert len(endpoint.bodies) == 1


def test_equal_requests_without_a_problem_are_told_apart(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    first = ask(endpoint, tmp_path, "a", "a", "b", "a")
    assert len(set(first)) == 4
    assert len({body["seed"] for body in endpoint.bodies}) == 3  # "b" is the first of its kind
    assert ask(endpoint, tmp_path, "a", "a", "b", "a") == first
    more = ask(endpoint, tmp_path, "a", "a", "a", "a")
    assert more[:3] == [first[0], first[1], first[3]]
    assert len(endpoint.bodies) == 5


def test_another_question_is_another_answer(endpoint: Endpoint, tmp_path: Path) -> None:
    for sampling in (Sampling(), Sampling(seed=1), Sampling(temperature=0), Sampling(stop=("x",))):
        ask(endpoint, tmp_path, "a", sampling=sampling)
    assert len(endpoint.bodies) == 4
    assert len({body["seed"] for body in endpoint.bodies}) == 2
    other = OpenAIEngine(endpoint.url, "small", QUICK, cache=tmp_path)
    other.generate(user("a"), Sampling())
    assert len(endpoint.bodies) == 5


def test_neighbouring_seeds_share_no_samples(endpoint: Endpoint, tmp_path: Path) -> None:
    for seed in range(3):
        ask(endpoint, tmp_path, *"aaa", sampling=Sampling(seed=seed))
    assert len({body["seed"] for body in endpoint.bodies}) == 9


def test_what_failed_is_asked_again(tmp_path: Path) -> None:
    def fail(handler: Handler, asked: Asked) -> None:
        bad = asked.body["messages"][0]["content"] == "bad"
        handler.send(200, b"nonsense" if bad else completion("fine"))

    with serving(fail) as endpoint:
        assert ask(endpoint, tmp_path, "good", "bad") == ["fine", None]
        assert ask(endpoint, tmp_path, "good", "bad") == ["fine", None]
        endpoint.behave = lambda handler, asked: handler.send(200, completion("better"))
        assert ask(endpoint, tmp_path, "good", "bad") == ["fine", "better"]
        assert ask(endpoint, tmp_path, "good", "bad") == ["fine", "better"]
        assert len(endpoint.bodies) == 4
    usage = usage_in(tmp_path)
    assert (usage.requests, usage.answered, usage.failed, usage.cached) == (4, 2, 2, 2)


# Kills and damage


@pytest.mark.parametrize("keep", [1, 40, -2, -1])
def test_a_last_line_cut_short_costs_one_request(
    endpoint: Endpoint, tmp_path: Path, keep: int
) -> None:
    """The whole of the last line but its newline (-1) is still a whole answer."""
    first = ask(endpoint, tmp_path, "a")
    second = ask(endpoint, tmp_path, "b")
    path = tmp_path / "responses.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(whole[0] + whole[1][:keep])
    again = ask(endpoint, tmp_path, "a", "b", "c")
    assert again[0] == first[0]
    lost = keep != -1
    assert (again[1] != second[0]) == lost
    assert len(endpoint.bodies) == 3 + lost
    assert ask(endpoint, tmp_path, "a", "b", "c") == again
    assert len(endpoint.bodies) == 3 + lost


def test_lines_of_something_else_are_skipped(endpoint: Endpoint, tmp_path: Path) -> None:
    garbage = b'\xff\n[]\n\n{"request": "x", "sample": 1, "text": "of the first format"}\n'
    (tmp_path / "responses.jsonl").write_bytes(garbage)
    (tmp_path / "usage.json").write_bytes(b"{")
    first = ask(endpoint, tmp_path, "a\r\n\u2028b")
    assert ask(endpoint, tmp_path, "a\r\n\u2028b") == first
    assert (tmp_path / "responses.jsonl").read_bytes().startswith(garbage)
    assert len(endpoint.bodies) == usage_in(tmp_path).requests == 1


CHILD = """
import signal, sys
from pathlib import Path
from redraft.engines.base import Request, Sampling
from redraft.engines.endpoints import EndpointSettings
from redraft.engines.openai import OpenAIEngine
from redraft.types import Message
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests ignores
settings = EndpointSettings(concurrency=2)
engine = OpenAIEngine.from_url(sys.argv[1], settings, cache=Path(sys.argv[2]))
ask = [Request([Message(role="user", content=str(n))], problem="p", sample=n) for n in range(30)]
engine.generate(ask, Sampling())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_has_lost_nothing_it_had(
    endpoint: Endpoint, tmp_path: Path, end: signal.Signals
) -> None:
    def hang_after_ten(handler: Handler, asked: Asked) -> None:
        if asked.number >= 10:
            time.sleep(60)
        handler.send(200, completion(f"answer {asked.number}"))

    endpoint.behave = hang_after_ten
    command = [sys.executable, "-c", CHILD, endpoint.model, str(tmp_path)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(endpoint.asked) < 12 and child.poll() is None:
        time.sleep(0.01)
    os.kill(child.pid, end)
    assert child.wait(60) != 0
    engine = OpenAIEngine.from_url(endpoint.model, QUICK, cache=tmp_path)
    assert engine.total.answered == usage_in(tmp_path).answered == 10
    endpoint.behave = lambda handler, asked: handler.send(200, completion("later"))
    requests = [replace(user(str(n), problem="p")[0], sample=n) for n in range(30)]
    answers = ask(endpoint, tmp_path, *requests)
    assert answers.count("later") == 20
    assert len(endpoint.asked) == 12 + 20
    assert usage_in(tmp_path).answered == 30


def test_the_total_is_of_all_processes_at_the_prices_of_today(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    ask(endpoint, tmp_path, "a", "b")
    prices = QUICK.model_copy(update={"prompt_price": 1e6, "completion_price": 2e6})
    engine = OpenAIEngine.from_url(endpoint.model, prices, cache=tmp_path)
    assert engine.usage == Usage(cost=0)
    assert usage_in(tmp_path).cost == 2 * (10 + 2 * 5)
    engine.generate(user("a", "c"), Sampling())
    expected = {"requests": 3, "answered": 3, "cached": 1, "cost": 60.0}
    assert usage_in(tmp_path) == engine.total
    assert engine.total == Usage(prompt_tokens=30, completion_tokens=15, **expected)


def test_processes_read_each_others_answers_and_write_files_of_their_own(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    def process(number: int) -> OpenAIEngine:
        return OpenAIEngine.from_url(endpoint.model, QUICK, cache=tmp_path, process=number)

    first, second = process(0), process(1)
    had = first.generate(user("a"), Sampling()) + second.generate(user("b", "c"), Sampling())
    for number in (0, 1, 2):
        assert process(number).generate(user("a", "b", "c"), Sampling()) == had
    assert len(endpoint.bodies) == 3
    names = ["responses-1.jsonl", "responses.jsonl", "usage-1.json", "usage.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [process(number).total.answered for number in (0, 1, 2)] == [1, 2, 0]
    assert usage_in(tmp_path).answered == 1


def test_a_folder_that_cannot_be_written_to(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"responses.jsonl: .*\(Not a directory\)"):
        ask(endpoint, tmp_path / "file", "a")
    assert endpoint.asked == []
    (tmp_path / "responses.jsonl").symlink_to(tmp_path / "gone" / "there")
    with pytest.raises(UserError, match="an answer cannot be written"):
        ask(endpoint, tmp_path, "a", "b", "c")


# The key


def leaks(text: str) -> bool:
    return "TopSecret" in text


def test_the_key_is_sent_and_stays_secret(
    endpoint: Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even where the server repeats it, in errors and in answers."""
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    caplog.set_level(logging.DEBUG)

    def indiscreet(handler: Handler, asked: Asked) -> None:
        said = asked.headers["authorization"]
        assert said == f"Bearer {KEY}"
        match asked.body["messages"][0]["content"]:
            case "answer":
                handler.send(200, completion(f"You sent {said}", finish=said))
            case "error":
                handler.send(401, {"error": {"message": f"{'x' * 185} wrong key {said}"}})
            case "nonsense":
                handler.send(200, f"what is {said}?".encode())
            case _:
                handler.send(200, {"choices": [{"message": {"content": None}}], said: said})

    endpoint.behave = indiscreet
    engine = OpenAIEngine.from_url(endpoint.model, QUICK, cache=tmp_path)
    rows = engine.generate(user("answer", "error", "nonsense", "none"), Sampling())
    assert isinstance(rows[0][0], Response)
    assert rows[0][0].text == "You sent Bearer [API key]"
    assert all(isinstance(answer, Failed) for (answer,) in rows[1:])
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 2
    shown = [repr(rows), repr(engine), repr(vars(engine)), repr(engine.settings), caplog.text]
    shown += [engine.usage.model_dump_json(), repr(pickle.dumps(engine)), *written]
    assert not any(map(leaks, shown))
    endpoint.behave = lambda handler, asked: handler.send(
        403, f"no: {asked.headers['authorization']}".encode()
    )
    with pytest.raises(UserError, match="export the right API key") as caught:
        engine.check()
    assert not leaks(str(caught.value))
    endpoint.behave = lambda handler, asked: handler.send(
        429, b"", Retry_After=f"9{asked.headers['authorization']}"
    )
    [[busy]] = engine.generate(user("busy"), Sampling())
    assert "Retry-After: 9Bearer [API key]" in str(busy)


def test_the_key_may_be_in_a_variable_of_another_name(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another key's owner")
    monkeypatch.setenv("TEACHER_KEY", KEY)
    settings = EndpointSettings(key_variable="TEACHER_KEY")
    engine = OpenAIEngine.from_url(endpoint.model, settings)
    engine.generate(user("a"), Sampling())
    assert endpoint.asked[0].headers["authorization"] == f"Bearer {KEY}"
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(UserError, match="key_variable TEACHER_KEY: no such environment variable"):
        engine.generate(user("a"), Sampling())


def test_no_other_key_of_the_environment_is_sent(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    OpenAIEngine.from_url(endpoint.model).generate(user("a"), Sampling())
    assert not leaks(str(endpoint.asked[0].headers))


@pytest.mark.parametrize("value", [f"{KEY} {KEY}", f"{KEY}\nX-Evil: 1", f"{KEY}é"])
def test_a_key_that_is_none_is_refused_without_being_shown(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(UserError, match="OPENAI_API_KEY: holds characters") as caught:
        OpenAIEngine.from_url(endpoint.model)
    assert not leaks(repr(caught.value))


class Teaching(Settings):
    """A configuration that an endpoint's settings are a group of."""

    http: EndpointSettings = EndpointSettings()
    """How the teacher is asked."""


def test_a_key_in_the_wrong_place_is_refused_without_being_shown() -> None:
    with pytest.raises(UserError, match="must be the name of an environment variable") as caught:
        resolve(Teaching, overrides={"http.key_variable": KEY})
    assert not leaks(str(caught.value))
    with pytest.raises(ValidationError) as refused:
        EndpointSettings.model_validate({"api_key": KEY})
    assert not leaks(str(refused.value))
    for address in (f"https://me:{KEY}@host/v1#tiny", f"https://host/v1?key={KEY}#tiny"):
        with pytest.raises(UserError, match="endpoint on host") as caught:
            OpenAIEngine.from_url(address)
        assert not leaks(str(caught.value))


def test_the_settings_are_a_group_of_a_configuration(tmp_path: Path) -> None:
    given = {"http.concurrency": 3, "http.extra_body": {"seed": None, "top_k": 5}}
    config = resolve(Teaching, overrides=given)
    assert config.http == EndpointSettings(concurrency=3, extra_body={"seed": None, "top_k": 5})
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config, "teaching"))
    assert resolve(Teaching, file=file) == config
