"""Calls with a time limit, in worker processes that are replaced when they hang.

A `Pool` serves one function. Its workers are fresh Python processes (`worker`), started when first
needed and spoken to over pipes, so they are safe beside any threads of the caller, need no signals
and import nothing of the caller's program. Whatever a call does (loops, sleeps, exhausts its
memory, crashes the interpreter), it is cut off at the limit and the other calls go on.

A verdict should not depend on what else the machine does. So the time in which a worker could run
and had no processor does not count (where the system tells it, as Linux does), and a call that was
cut off on a machine so busy has a second try.
"""

import atexit
import contextlib
import functools
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from redraft.errors import UserError
from redraft.processes import usable_cores

START_LIMIT_S = 120.0
"""Seconds that a worker may take to import its function (a loaded machine is slow at that)."""

PATIENCE = 10.0
"""How many times its limit a call may take by the clock, however busy the machine is."""

_BUSY = 0.1
"""Time spent waiting for a processor, as a share of a call's limit, that makes a machine busy."""

_open_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


@dataclass(frozen=True)
class Reply:
    """What became of a call: `value` if `ok`, else a message in `error` unless it timed out."""

    status: Literal["ok", "error", "timeout", "died"]
    value: Any = None
    error: str = ""


class Pool:
    """Worker processes for one function, named `module:function`.

    `workers` processes at most run at once (default: one per available core, at most 4). Each call
    has `limit_s` seconds from the moment a worker takes it, not counting those in which the worker
    waits for a processor. Safe to use from any number of threads. Close it, use it as a context
    manager, or leave it to the interpreter's exit.
    """

    def __init__(self, target: str, *, workers: int | None = None, limit_s: float = 5.0) -> None:
        self.target = target
        self.workers = workers or min(4, usable_cores())
        self.limit_s = limit_s
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # a place without a process yet
        self._running: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        _open_pools.add(self)

    def start(self) -> None:
        """Start one worker, if none runs yet, so that a function that cannot be imported shows.

        Raises:
            UserError: the function cannot be imported.
        """
        worker = self._idle.get()
        try:
            worker = worker or self._start()
        finally:
            self._idle.put(worker)

    def call(self, *arguments: Any) -> Reply:
        """Call the function with JSON arguments; waits for a free worker first.

        Raises:
            UserError: the function cannot be imported.
        """
        worker = self._idle.get()
        try:
            worker = worker or self._start()
            reply = worker.call(arguments, self.limit_s)
            if reply.status == "timeout" and worker.waited > _BUSY * self.limit_s:
                self._discard(worker)
                worker = self._start()
                reply = worker.call(arguments, self.limit_s)
        except BaseException:
            self._discard(worker)
            self._idle.put(None)
            raise
        if reply.status in ("timeout", "died"):
            self._discard(worker)
            worker = None
        self._idle.put(worker)
        return reply

    def call_all(
        self, calls: Sequence[Sequence[Any]], progress: Callable[[int], None] | None = None
    ) -> list[Reply]:
        """Replies to many calls, in order, run over all workers at once.

        `progress` is called with 1 for each call that has finished.
        """

        def one(arguments: Sequence[Any]) -> Reply:
            reply = self.call(*arguments)
            if progress:
                progress(1)
            return reply

        if len(calls) <= 1:
            return [one(arguments) for arguments in calls]
        executor = ThreadPoolExecutor(min(self.workers, len(calls)))
        try:
            return list(executor.map(one, calls))
        finally:  # on Ctrl-C the calls that wait are dropped
            executor.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End all workers. Calls that other threads have running end with status `died`."""
        with self._lock:
            self._closed = True
            for worker in self._running:
                worker.kill()  # a thread that waits for it sees its pipe end
        for _ in range(self._idle.qsize()):
            with contextlib.suppress(queue.Empty):
                self._discard(self._idle.get_nowait())
                self._idle.put(None)  # whoever waits for a place learns that the pool is closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> "_Worker":
        worker = _Worker(self.target, self.limit_s)
        with self._lock:
            closed = self._closed
            if not closed:
                self._running.add(worker)
        if closed:
            worker.end()
            raise RuntimeError(f"the grading pool of {self.target} is closed")
        ready = worker.read(START_LIMIT_S)
        if ready.status != "ok":
            self._discard(worker)
            why = ready.error or f"its import took more than {START_LIMIT_S:.0f} s"
            raise UserError(
                f"grader {self.target!r} cannot be imported ({why}); expected module:function with "
                "the module on the Python path or in the current folder"
            )
        return worker

    def _discard(self, worker: "_Worker | None") -> None:
        if worker is not None:
            with self._lock:
                self._running.discard(worker)
            worker.end()


class _Worker:
    """One worker process and the two pipes to it.

    `waited` is how many seconds of the latest call it could have run and had no processor.
    """

    def __init__(self, target: str, limit_s: float) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "redraft.grading.worker", target, str(PATIENCE * limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # sympy's results depend on the order of sets; a fixed seed makes verdicts repeatable.
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        os.set_blocking(self._replies.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._replies, selectors.EVENT_READ)
        self.waited = 0.0

    def call(self, arguments: Sequence[Any], limit_s: float) -> Reply:
        """Send one call and wait for its reply."""
        try:
            self._requests.write(json.dumps(arguments).encode() + b"\n")
            self._requests.flush()
        except (BrokenPipeError, ValueError):
            return Reply("died", error="the grading process ended")
        return self.read(limit_s)

    def read(self, limit_s: float) -> Reply:
        """The next reply line, or `timeout` after `limit_s` seconds of the worker's own."""
        began, waited_before = time.monotonic(), self._waited()
        line = bytearray()
        while not line.endswith(b"\n"):
            self.waited = self._waited() - waited_before
            allowed = min(limit_s + self.waited, PATIENCE * limit_s)
            left = began + allowed - time.monotonic()
            if left <= 0:
                return Reply("timeout")
            if not self._selector.select(left):
                continue
            chunk = self._replies.read(1 << 16)
            if chunk == b"":
                return Reply("died", error=f"the grading process ended ({self._exit_status()})")
            line += chunk or b""
        answer = json.loads(line)
        if "error" in answer:
            return Reply("error", error=answer["error"])
        return Reply("ok", answer["ok"])

    def _waited(self) -> float:
        """Seconds that the process could run and had no processor, since it was started; 0 where
        the system does not tell."""
        try:
            _, waited_ns, _ = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()
        except (OSError, ValueError):
            return 0.0
        return int(waited_ns) / 1e9

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process, reap it and close the pipes."""
        self.kill()
        self._process.wait()
        self._selector.close()
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):  # what was buffered for a dead process
                pipe.close()

    def _exit_status(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"exit status {self._process.wait(1.0)}"
        return "closed its pipe"


@functools.cache
def shared_pool(target: str, limit_s: float) -> Pool:
    """The pool of this process for one function and limit; lives until the interpreter exits."""
    return Pool(target, limit_s=limit_s)


@atexit.register
def close_pools() -> None:
    """End the workers of every pool; happens by itself when the interpreter exits."""
    for pool in list(_open_pools):
        pool.close()


def _forget_pools_after_fork() -> None:
    """A forked child starts workers of its own and leaves its parent's alone."""
    _open_pools.clear()
    shared_pool.cache_clear()


os.register_at_fork(after_in_child=_forget_pools_after_fork)
