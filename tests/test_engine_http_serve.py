"""The lab's model behind a real server process, `transformers serve`."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoints import free_port, user
from redraft.engines import Failed, Sample, Sampling
from redraft.engines.http import HttpChat
from redraft.lab import model_path


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def served_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the lab's model behind `transformers serve`, set to sample."""
    folder = tmp_path_factory.mktemp("served") / "lab"
    shutil.copytree(model_path(), folder)
    generation = folder / "generation_config.json"
    settings = json.loads(generation.read_text()) | {"do_sample": True}
    generation.write_text(json.dumps(settings))
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (folder.parent / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(2000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder.parent / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1#{folder}"
    finally:
        server.terminate()
        server.wait(20)


def test_a_real_server_with_the_labs_model(served_lab: str, tmp_path: Path) -> None:
    chat = HttpChat.from_url(served_lab, cache=tmp_path)
    chat.check()
    question = "Sort these words: pear fig apple"
    answers = chat.chat(user(question, question, question), Sampling(max_tokens=6))
    assert len({answer.text for answer in answers if isinstance(answer, Sample)}) > 1
    for answer in answers:
        assert isinstance(answer, Sample)
        assert answer.completion_tokens is not None
        assert 1 <= answer.completion_tokens <= 6
        assert (answer.finish == "length") == (answer.completion_tokens == 6)
    assert chat.usage.answered == chat.usage.requests == 3
    assert chat.usage.prompt_tokens > 0
    again = HttpChat.from_url(served_lab, cache=tmp_path)
    assert again.chat(user(question, question, question), Sampling(max_tokens=6)) == answers
    assert again.usage.requests == 0


def test_a_real_server_refuses_another_model(served_lab: str) -> None:
    chat = HttpChat.from_url(served_lab.partition("#")[0] + "#gpt-5")
    (answer,) = chat.chat(user("hello"), Sampling(max_tokens=2))
    assert isinstance(answer, Failed)
    assert answer.reason.startswith("HTTP 400 Bad Request: Server is pinned to")
    assert chat.usage.requests == 1
