"""Calls of a Python function in worker processes, with a time limit for each.

Whatever a call does (loops, sleeps, exhausts its memory, crashes the interpreter), it is cut off at
the limit and the other calls go on. Workers are fresh Python processes (`worker`), so they import
nothing of the caller's program and are safe beside any of its threads.

A verdict should not depend on what else the machine does. So the time in which a worker could run
and had no processor does not count (where the system tells it, as Linux does), and a call that was
cut off on a machine so busy has a second try.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from redraft.errors import UserError
from redraft.workers import START_LIMIT_S, Worker, WorkerPool, results

PATIENCE = 10.0
"""How many times its limit a call may take by the clock, however busy the machine is."""

_BUSY = 0.1
"""Time spent waiting for a processor, as a share of a call's limit, that makes a machine busy."""


Arguments = Sequence[Any] | Mapping[str, Any]
"""Of a call, as JSON values: by position or by name."""


@dataclass(frozen=True)
class Reply:
    """What became of a call: `value` if `ok`, else a message in `error` unless it timed out."""

    status: Literal["ok", "error", "timeout", "died"]
    value: Any = None
    error: str = ""


class _NoReplyError(Exception):
    """A worker timed out or ended; `busy` is whether it lacked a processor for much of its time."""

    def __init__(self, reply: Reply, busy: bool = False) -> None:
        super().__init__(reply.status)
        self.reply, self.busy = reply, busy


class _Worker(Worker):
    """A process that has imported the function."""

    def __init__(self, target: str, limit_s: float) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        super().__init__(
            [sys.executable, "-m", "redraft.grading.worker", target, str(PATIENCE * limit_s)],
            # sympy's results depend on the order of sets; a fixed seed makes verdicts repeatable.
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        )
        self._target, self._limit_s = target, limit_s

    def wait_until_ready(self) -> None:
        """Wait until the function is imported; see `Worker`."""
        try:
            why = self.receive(lambda: START_LIMIT_S).get("error")
        except TimeoutError:
            why = f"its import took more than {START_LIMIT_S:.0f} s"
        except (EOFError, OSError):
            why = self._exit_status()
        if why is not None:
            raise UserError(
                f"{self._target}: cannot be imported ({why}); expected module:function with the "
                "module on the Python path or in the current folder"
            )

    def call(self, arguments: Arguments) -> Reply:
        """What the function answers.

        Raises:
            _NoReplyError: nothing, within its limit, or it ended the process.
        """
        before, waited_s = self._all_waited_s(), 0.0

        def allowed_s() -> float:
            nonlocal waited_s
            waited_s = self._all_waited_s() - before
            return min(self._limit_s + waited_s, PATIENCE * self._limit_s)

        try:
            self.send(arguments, PATIENCE * self._limit_s)
            answer = self.receive(allowed_s)
        except TimeoutError:
            raise _NoReplyError(Reply("timeout"), waited_s > _BUSY * self._limit_s) from None
        except (EOFError, OSError):
            raise _NoReplyError(Reply("died", error=self._exit_status())) from None
        if "error" in answer:
            return Reply("error", error=answer["error"])
        return Reply("ok", answer["ok"])

    def _exit_status(self) -> str:
        """How the process ended, in words."""
        try:
            return f"the grading process ended (exit status {self._process.wait(1.0)})"
        except subprocess.TimeoutExpired:
            return "the grading process ended (it closed its socket)"

    def _all_waited_s(self) -> float:
        """Seconds that the process could run and had no processor, since it was started; 0 where
        the system does not tell."""
        try:
            _, waited_ns, _ = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()
        except (OSError, ValueError):
            return 0.0
        return int(waited_ns) / 1e9


class Pool(WorkerPool[_Worker]):
    """Worker processes for one function, named `module:function`.

    Each call has `limit_s` seconds from the moment a worker takes it, not counting those in which
    the worker waits for a processor.
    """

    def __init__(self, target: str, *, workers: int | None = None, limit_s: float = 5.0) -> None:
        super().__init__(workers)
        self.target, self.limit_s = target, limit_s

    def start(self) -> None:
        """Start one worker, if none runs yet, so that a function that cannot be imported shows.

        Raises:
            UserError: the function cannot be imported.
        """

        def started() -> None:
            with self._worker():
                pass

        self._submit(started).result()

    def submit(self, *arguments: Any) -> "Future[Reply]":
        """Call the function with JSON arguments; the reply comes when it is there, or a `UserError`
        where the function cannot be imported."""
        return self._submit(lambda: self._call(arguments))

    def call(self, *arguments: Any) -> Reply:
        """Call the function with JSON arguments and wait for its reply.

        Raises:
            UserError: the function cannot be imported.
        """
        return self.submit(*arguments).result()

    def call_all(self, calls: Sequence[Arguments]) -> list[Reply]:
        """Replies to many calls, in order, run over all workers at once; raises as `call`."""
        return results([self._submit(partial(self._call, arguments)) for arguments in calls])

    def _call(self, arguments: Arguments, tries: int = 2) -> Reply:
        try:
            with self._worker() as worker:
                return worker.call(arguments)
        except _NoReplyError as failure:
            again = failure.busy and tries > 1
            return self._call(arguments, tries - 1) if again else failure.reply

    def _start_worker(self) -> _Worker:
        return _Worker(self.target, self.limit_s)


@functools.cache
def shared_pool(target: str, limit_s: float) -> Pool:
    """The pool of this process for one function and limit; lives until the interpreter exits."""
    return Pool(target, limit_s=limit_s)
