"""What an endpoint's engine writes: answers that survive a kill, and never the key."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from endpoints import Asked, Endpoint, Handler, completion, failing, serving, user
from redraft.config import Settings, resolve, to_yaml
from redraft.engines import Failed, Sample, Sampling
from redraft.engines.http import HttpChat, HttpSettings
from redraft.errors import UserError

KEY = "sk-TopSecret-0123456789"
QUICK = HttpSettings(backoff=0.01, timeout=60, retries=1)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def ask(
    endpoint: Endpoint, folder: Path, *contents: str, sampling: Sampling | None = None
) -> list[str | None]:
    """The texts of the answers, None where there is none, from a new engine on the folder."""
    chat = HttpChat.from_url(endpoint.model, QUICK, cache=folder)
    answers = chat.chat(user(*contents), sampling or Sampling())
    return [answer.text if isinstance(answer, Sample) else None for answer in answers]


def test_a_restart_asks_nothing_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "teacher"
    first = ask(endpoint, folder, "a", "b")
    assert [str(text)[:2] for text in first] == ["a ", "b "]
    chat = HttpChat.from_url(endpoint.model, QUICK, cache=folder)
    finished: list[int] = []
    answers = chat.chat(user("b", "c", "a"), Sampling(), finished.append)
    assert [answer.text for answer in answers if isinstance(answer, Sample)] == [
        first[1],
        "c (2)",
        first[0],
    ]
    assert isinstance(answers[0], Sample)
    assert answers[0].completion_tokens == 5
    assert sum(finished) == 3
    assert (chat.usage.cached, chat.usage.answered, chat.usage.completion_tokens) == (2, 1, 5)
    assert len(endpoint.bodies) == 3


def test_the_same_engine_does_not_ask_again_either(endpoint: Endpoint, tmp_path: Path) -> None:
    chat = HttpChat.from_url(endpoint.model, QUICK, cache=tmp_path)
    assert chat.chat(user("a"), Sampling()) == chat.chat(user("a"), Sampling())
    assert len(endpoint.bodies) == 1


def test_equal_dialogues_have_answers_and_seeds_of_their_own(
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
    other = HttpChat(endpoint.url, "small", QUICK, cache=tmp_path)
    other.chat(user("a"), Sampling())
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
        endpoint.behave = failing(0, fail)
        assert ask(endpoint, tmp_path, "good", "bad") == ["fine", "bad (3)"]
        assert ask(endpoint, tmp_path, "good", "bad") == ["fine", "bad (3)"]
        assert len(endpoint.bodies) == 4


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


def test_lines_of_something_else_are_passed_over(endpoint: Endpoint, tmp_path: Path) -> None:
    garbage = b'\xff\n[]\n\n{"request": "x", "sample": -1}\n'
    (tmp_path / "responses.jsonl").write_bytes(garbage)
    first = ask(endpoint, tmp_path, "a\r\n\u2028b")
    assert ask(endpoint, tmp_path, "a\r\n\u2028b") == first
    assert (tmp_path / "responses.jsonl").read_bytes().startswith(garbage)
    assert len(endpoint.bodies) == 1


CHILD = """
import signal, sys
from pathlib import Path
from redraft.engines import Sampling
from redraft.engines.http import HttpChat, HttpSettings
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests ignores
chat = HttpChat.from_url(sys.argv[1], HttpSettings(concurrency=2), cache=Path(sys.argv[2]))
chat.chat([[{"role": "user", "content": str(n)}] for n in range(30)], Sampling())
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
    endpoint.behave = lambda handler, asked: handler.send(200, completion("later"))
    answers = ask(endpoint, tmp_path, *map(str, range(30)))
    assert answers.count("later") == 20
    assert len(endpoint.asked) == 12 + 20


def test_a_folder_that_cannot_be_written_to(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"responses.jsonl: .*\(Not a directory\)"):
        ask(endpoint, tmp_path / "file", "a")
    assert endpoint.asked == []
    (tmp_path / "responses.jsonl").symlink_to(tmp_path / "gone" / "there")
    with pytest.raises(UserError, match="an answer cannot be written"):
        ask(endpoint, tmp_path, "a", "b", "c")


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
    chat = HttpChat.from_url(endpoint.model, QUICK, cache=tmp_path)
    answers = chat.chat(user("answer", "error", "nonsense", "none"), Sampling())
    assert isinstance(answers[0], Sample)
    assert answers[0].text == "You sent Bearer [API key]"
    assert all(isinstance(answer, Failed) for answer in answers[1:])
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1
    shown = [repr(answers), repr(chat), repr(vars(chat)), repr(chat.settings), caplog.text]
    shown += [chat.usage.model_dump_json(), repr(pickle.dumps(chat)), *written]
    assert not any(map(leaks, shown))
    endpoint.behave = lambda handler, asked: handler.send(
        403, f"no: {asked.headers['authorization']}".encode()
    )
    with pytest.raises(UserError, match="export the right API key") as caught:
        chat.check()
    assert not leaks(str(caught.value))


def test_the_key_may_be_in_a_variable_of_another_name(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another key's owner")
    monkeypatch.setenv("TEACHER_KEY", KEY)
    chat = HttpChat.from_url(endpoint.model, HttpSettings(key_variable="TEACHER_KEY"))
    chat.chat(user("a"), Sampling())
    assert endpoint.asked[0].headers["authorization"] == f"Bearer {KEY}"
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(UserError, match="key_variable TEACHER_KEY: no such environment variable"):
        chat.chat(user("a"), Sampling())


@pytest.mark.parametrize("value", [f"{KEY} {KEY}", f"{KEY}\nX-Evil: 1", f"{KEY}é"])
def test_a_key_that_is_none_is_refused_without_being_shown(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(UserError, match="OPENAI_API_KEY: holds characters") as caught:
        HttpChat.from_url(endpoint.model)
    assert not leaks(repr(caught.value))


def test_a_key_in_the_wrong_place_is_refused_without_being_shown() -> None:
    class Teaching(Settings):
        http: HttpSettings = HttpSettings()
        """How the teacher is asked."""

    with pytest.raises(UserError, match="must be the name of an environment variable") as caught:
        resolve(Teaching, overrides={"http.key_variable": KEY})
    assert not leaks(str(caught.value))
    with pytest.raises(ValidationError) as refused:
        HttpSettings.model_validate({"api_key": KEY})
    assert not leaks(str(refused.value))
    for address in (f"https://me:{KEY}@host/v1#tiny", f"https://host/v1?key={KEY}#tiny"):
        with pytest.raises(UserError, match="endpoint on host") as caught:
            HttpChat.from_url(address)
        assert not leaks(str(caught.value))


def test_the_settings_are_a_group_of_a_configuration(tmp_path: Path) -> None:
    class Teaching(Settings):
        http: HttpSettings = HttpSettings()
        """How the teacher is asked."""

    given = {"http.concurrency": 3, "http.extra_body": {"seed": None, "top_k": 5}}
    config = resolve(Teaching, overrides=given)
    assert config.http == HttpSettings(concurrency=3, extra_body={"seed": None, "top_k": 5})
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config, "teaching"))
    assert resolve(Teaching, file=file) == config


def test_usage_can_be_written_as_json() -> None:
    chat = HttpChat("http://127.0.0.1:1/v1", "tiny")
    assert json.loads(chat.usage.model_dump_json())["requests"] == 0
