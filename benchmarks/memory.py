"""Memory of a long training run: SCoRe on the lab with tiny steps, resident memory as it goes.

    .venv/bin/python benchmarks/memory.py --steps 2000

Prints a line per hundredth of the run: the step, resident memory in MiB, and seconds.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redraft.methods.score import METHOD
from redraft.progress import Phase, Silent
from redraft.training.launch import train


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch(Silent):
    """Prints resident memory as steps are taken."""

    def __init__(self, every: int) -> None:
        self._every, self._steps, self._began = every, 0, time.monotonic()

    @contextmanager
    def phase(self, name: str, total: int | None = None, *more: object) -> Iterator[Phase]:
        yield self

    def advance(self, n: int = 1, **shown: float | str) -> None:
        if shown:
            self._steps += 1
            if self._steps % self._every == 0 or self._steps in (1, 10):
                seconds = time.monotonic() - self._began
                print(f"{self._steps:6} {resident():8.0f} MiB {seconds:7.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--checkpoint-every", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = METHOD.configure(
            preset="lab",
            overrides={
                "out": Path(folder) / "run",
                "task": "lab/sorting",
                "stage_one_steps": arguments.steps // 10,
                "stage_two_steps": arguments.steps - arguments.steps // 10,
                "problems_per_step": 4,
                "samples": 2,
                "checkpoint_every": arguments.checkpoint_every,
            },
        )
        train(METHOD, config, Watch(max(1, arguments.steps // 40)))


if __name__ == "__main__":
    main()
