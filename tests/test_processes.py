"""What the processes of a run say of each other."""

import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from redraft import processes
from redraft.errors import UserError
from redraft.processes import Processes, naming_the_ended

GLOO = "[/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"


def said_of(error: RuntimeError, remedy: str = "resume") -> str:
    """What becomes of an error in an exchange."""
    with pytest.raises((RuntimeError, UserError)) as caught, naming_the_ended(remedy):
        raise error
    return str(caught.value)


def test_a_process_of_this_host_that_has_ended_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    host = socket.gethostname()
    monkeypatch.setattr(processes, "_members", [(host, os.getpid()), (host, ended.pid)])
    said = said_of(RuntimeError(GLOO))  # while it is a zombie, or not even ended
    assert said.startswith(f"process 1 (of 2, on {host}, process id {ended.pid}) has ended")
    assert said.endswith("; resume")
    assert ended.wait() == 0


def test_of_another_host_it_is_known_that_it_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_ENDING", 0.0)
    here = (socket.gethostname(), os.getpid())
    monkeypatch.setattr(processes, "_members", [here, ("node-7", os.getpid())])
    assert said_of(RuntimeError(GLOO)).startswith("a process on node-7 has ended or cannot be")


def test_errors_of_other_kinds_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_members", [(socket.gethostname(), os.getpid())] * 2)
    assert said_of(RuntimeError("shapes differ")) == "shapes differ"
    monkeypatch.setattr(processes, "_members", [])
    assert said_of(RuntimeError(GLOO)) == GLOO


def test_hosts_with_other_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(self: Processes, items: list[Any]) -> list[Any]:
        return [*items, ("node-7", "2")]

    Processes().check_same("--data", "1")
    monkeypatch.setattr(Processes, "gather", gather)
    with pytest.raises(UserError, match="--data: process 1, on node-7, has another one than"):
        Processes().check_same("--data", "1")
