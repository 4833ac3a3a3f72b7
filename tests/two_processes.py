"""Whole runs on two processes (gloo, CPU), started as `torchrun` starts them.

The module of a test has `train_rank(world, run)`, which trains in the folder `run` and returns the
session; what each process ends with is saved beside it.
"""

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from score_runs import weights


def run_on_two(module: str, world: Path, folder: Path) -> Path:
    """Run a module's `train_rank` as ranks 0 and 1 of one group; the run is `folder/run`."""
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
            [sys.executable, "-m", "two_processes", module, str(world), str(folder)],
            env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return folder


def assert_one_outcome(world: Path, folder: Path) -> None:
    """Both processes end with the weights that were written, which are not those of the start."""
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    written, base = weights(folder / "run" / "model"), weights(world / "model")
    assert first.keys() == second.keys() == written.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.equal(value, written[name]) for name, value in first.items())
    assert any(not torch.equal(value, base[name]) for name, value in written.items())


def main(module: str, world: Path, folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    session = importlib.import_module(module).train_rank(world, folder / "run")
    rank = session.accelerator.process_index
    torch.save(session.model.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
