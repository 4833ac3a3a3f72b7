"""Runs that kill themselves with SIGKILL in the middle, for tests of resuming.

One process loads everything once and forks a child for each case; the child trains and kills itself
when it has come to the case's place. The module of a test names `CASES`, and `train_case(world,
folder, fields, progress)`, which trains with the settings of a case.
"""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redraft.progress import Phase, Silent

Case = tuple[str | None, int, dict[str, Any]]
"""The phase in which the run is killed (None: any), after how much work, and its settings."""


def run_killed(module: str, world: Path, folder: Path) -> Path:
    """Leave a killed run in `folder` for each of the `CASES` of a test's module."""
    done = subprocess.run(
        [sys.executable, "-m", "killed_runs", module, str(world), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Killer(Silent):
    """Watches the work, and ends the process at its place."""

    def __init__(self, phase: str | None, left: int) -> None:
        self._fatal, self._left, self._now = phase, left, ""

    @contextmanager
    def phase(self, name: str, total: int | None = None, *more: object) -> Iterator[Phase]:
        before, self._now = self._now, name
        yield self
        self._now = before

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        if metrics and self._fatal in (None, self._now):  # a step or a chunk is done
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def main(module: str, world: Path, folder: Path) -> None:
    """Run every case of a module in a child of its own."""
    tests = importlib.import_module(module)
    tests.train_case(world, folder / "warm-up", {}, Silent())  # loads what is loaded late
    for name, (phase, work, fields) in tests.CASES.items():
        child = os.fork()
        if not child:
            tests.train_case(world, folder / name, fields, Killer(phase, work))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{name}: ended with status {status}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
