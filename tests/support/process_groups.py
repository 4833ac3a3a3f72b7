"""Whole runs on several processes (gloo, CPU), started as `torchrun` starts them.

The module of a test has `train_rank(world, run)`, which trains in the folder `run` and returns the
run; what each process ends with is saved beside it.
"""

import faulthandler
import importlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

from redraft.learning.sharding import whole
from score_runs import weights

LIMIT = 200
"""Seconds that the processes may take unless a test says otherwise; less than pytest's own limit,
which shows no errors."""


def run_group(module: str, world: Path, folder: Path, count: int = 2, limit: float = LIMIT) -> Path:
    """Run a module's `train_rank` as the ranks of one group; the run is `folder/run`."""
    codes, errors = launch_group(module, world, folder, count, limit=limit)
    assert codes == [0] * count, "\n".join([f"exit codes {codes}", *errors])
    return folder


def launch_group(
    module: str,
    world: Path,
    folder: Path,
    count: int = 2,
    *,
    patience: float = 20,
    limit: float = LIMIT,
) -> tuple[list[int], list[str]]:
    """Exit codes and errors of the ranks of one group, each of which runs `train_rank`.

    When one has died the others get `patience` seconds to end by themselves and are killed then; so
    are all after `limit` seconds.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    logs = [folder / f"errors-{rank}.txt" for rank in range(count)]
    ranks = []
    for rank, log in enumerate(logs):
        with log.open("w") as errors:  # a file, as a full pipe would block a rank
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-m", "process_groups", module, str(world), str(folder)],
                    env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stderr=errors,
                )
            )
    end = time.monotonic() + limit
    try:
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < end:
            if any(rank.poll() not in (None, 0) for rank in ranks):
                end = min(end, time.monotonic() + patience)
            time.sleep(0.05)
    finally:
        for rank in ranks:
            rank.kill()
    return [rank.wait() for rank in ranks], [log.read_text() for log in logs]


def assert_one_outcome(world: Path, folder: Path) -> None:
    """Both processes end with the weights that were written, which are not those of the start."""
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    written, base = weights(folder / "run" / "model"), weights(world / "model")
    assert first.keys() == second.keys() == written.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.equal(value, written[name]) for name, value in first.items())
    assert any(not torch.equal(value, base[name]) for name, value in written.items())


def main(module: str, world: Path, folder: Path) -> None:
    """What each process does; the errors of one that hangs or dies say where."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(LIMIT - 10)
    run = importlib.import_module(module).train_rank(world, folder / "run")
    rank = run.accelerator.process_index
    state = {name: whole(value) for name, value in run.policy.model.state_dict().items()}
    torch.save(state, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
