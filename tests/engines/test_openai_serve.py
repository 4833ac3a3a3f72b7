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
from redraft.engines.base import Failed, Response, Sampling
from redraft.engines.openai import OpenAIEngine
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
    engine = OpenAIEngine.from_url(served_lab, cache=tmp_path)
    engine.check()
    requests = user(*["Sort these words: pear fig apple"] * 3)
    rows = engine.generate(requests, Sampling(max_tokens=6))
    assert len({answer.text for (answer,) in rows if isinstance(answer, Response)}) > 1
    for (answer,) in rows:
        assert isinstance(answer, Response)
        assert answer.completion_tokens is not None
        assert 1 <= answer.completion_tokens <= 6
        assert (answer.finish == "length") == (answer.completion_tokens == 6)
    assert engine.usage.answered == engine.usage.requests == 3
    assert engine.usage.prompt_tokens > 0
    again = OpenAIEngine.from_url(served_lab, cache=tmp_path)
    assert again.generate(requests, Sampling(max_tokens=6)) == rows
    assert again.usage.requests == 0


def test_a_real_server_refuses_another_model(served_lab: str) -> None:
    engine = OpenAIEngine.from_url(served_lab.partition("#")[0] + "#gpt-5")
    [[answer]] = engine.generate(user("hello"), Sampling(max_tokens=2))
    assert isinstance(answer, Failed)
    assert answer.reason.startswith("HTTP 400 Bad Request: Server is pinned to")
    assert engine.usage.requests == 1
