"""`redraft serve` for tests: as a process of its own, and in this one on an engine of theirs."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from redraft.engines.base import Engine
from redraft.errors import UserError
from redraft.evaluation import solve
from redraft.progress import Silent
from redraft.serving.server import serve
from redraft.serving.settings import ServeSettings

KEY = "sesame"


class Serving:
    """A `redraft serve` process, its output in `log`."""

    def __init__(self, log: Path, *flags: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "redraft", "serve", "--port", "0", "--device", "cpu"]
        with log.open("wb") as written:
            self.process = subprocess.Popen(
                [*command, *flags],
                stdout=subprocess.DEVNULL,
                stderr=written,
                env={**os.environ, "REDRAFT_API_KEY": KEY},
            )
        while "answers as" not in self.said:
            assert self.process.poll() is None, self.said
            time.sleep(0.05)
        self.url = self.said.split()[0]
        self.port = int(self.url.split(":")[2].split("/")[0])

    @property
    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> int:
        """Ask it to end; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()


class _Noted(Silent):
    def __init__(self) -> None:
        self.address = ""
        self.there = threading.Event()

    def note(self, text: str) -> None:
        self.address = text.split()[0]
        self.there.set()


@contextmanager
def served(engine: Engine, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[str]:
    """The address of an endpoint in this process whose model is `engine`."""
    servers: list[uvicorn.Server] = []

    class Kept(uvicorn.Server):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            servers.append(self)

    noted = _Noted()
    monkeypatch.setattr(uvicorn, "Server", Kept)
    monkeypatch.setattr(solve, "open_engine", lambda *given, **more: engine)
    config = ServeSettings(port=0, **{"model": "http://127.0.0.1:9/v1#tiny", **settings})
    failed: list[BaseException] = []

    def run() -> None:
        try:
            serve(config, noted)
        except UserError as error:  # that the server has ended, as it was told to
            failed.append(error)
            noted.there.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert noted.there.wait(30)
    assert not failed, failed
    try:
        yield noted.address
    finally:
        servers[0].should_exit = True
        thread.join(20)
        assert not thread.is_alive()
