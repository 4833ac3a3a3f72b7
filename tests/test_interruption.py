"""Signals that come where Python can raise nothing."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, time
from redraft.interruption import Terminated, heed_signals

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})

heed_signals()
try:
    Last()
    time.sleep(20)
except Terminated:
    print("SIGTERM")
except KeyboardInterrupt:
    print("SIGINT")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_is_heard_although_its_exception_was_lost(name: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(name=name)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), done.stderr) == (name, "")


def test_other_exceptions_that_cannot_be_raised_are_shown_as_ever() -> None:
    program = PROGRAM.format(name="SIGINT").replace("os.kill(os.getpid(), signal.SIGINT)", "1 / 0")
    program = program.replace("time.sleep(20)", "pass")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ZeroDivisionError" in done.stderr
