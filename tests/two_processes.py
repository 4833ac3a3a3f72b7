"""Whole runs on two processes (gloo, CPU), started as `torchrun` starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_on_two(script: str, *arguments: object) -> None:
    """Run a Python script as ranks 0 and 1 of one group, with the tests' modules at hand."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {
        "PYTHONPATH": str(Path(__file__).parent),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
