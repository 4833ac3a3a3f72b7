"""Pools of worker processes: started when first needed, killed when they hang, ended at exit.

Two pools build on this: `grading.pool` calls a Python function with a time limit, and
`sandbox.pool` runs programs that a model wrote. What they share is here. A `Worker` is a process
that answers each JSON line on its standard input with one on its standard output. A `WorkerPool`
gives jobs to at most `workers` of them at once and replaces a worker whose job failed. Pools may be
used from any thread, end their workers when the interpreter exits, and start afresh in a fork.
"""

import atexit
import contextlib
import json
import os
import queue
import socket
import subprocess
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from redraft.system import usable_cores

START_LIMIT_S = 120.0
"""Seconds that a worker may take to start (a loaded machine is slow at imports)."""

_most_workers: int | None = None
_open_pools: "weakref.WeakSet[WorkerPool[Any]]" = weakref.WeakSet()


def set_workers(count: int | None) -> None:
    """Set how many processes each pool of this process may have, unless it is given a number.

    None, the default, is one per usable core, shared by the processes that torchrun started on this
    machine. A pool that already has more keeps them.

    Raises:
        ValueError: `count` is below 1.
    """
    global _most_workers
    if count is not None and count < 1:
        raise ValueError(f"workers {count}: expected at least 1, or None for one per usable core")
    _most_workers = count


def most_workers() -> int:
    """How many processes a pool may have; see `set_workers`."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return _most_workers or max(1, usable_cores() // processes)


class Worker(ABC):
    """A process that answers each JSON line with one; both ways are one socket.

    Args:
        command: what to run.
        options: of `subprocess.Popen`.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                end = theirs.fileno()
                self._process = subprocess.Popen(command, stdin=end, stdout=end, **options)
        except BaseException:
            self._socket.close()
            raise

    @abstractmethod
    def wait_until_ready(self) -> None:
        """Wait for the line that says that the process has started.

        Raises:
            UserError: it cannot, and the user can mend that.
        """

    def send(self, message: Any, limit_s: float) -> None:
        """Send a JSON value.

        Raises:
            OSError: the process ended, or did not read it within `limit_s` seconds.
        """
        self._socket.settimeout(limit_s)
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, allowed_s: Callable[[], float]) -> Any:
        """The next JSON value.

        Args:
            allowed_s: how many seconds it may take in all; asked again while waiting.

        Raises:
            TimeoutError: none came in time.
            EOFError, OSError: the process ended.
        """
        began, line = time.monotonic(), bytearray()
        while not line.endswith(b"\n"):
            left = began + allowed_s() - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"a worker said nothing for {allowed_s():g} s")
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                chunk = self._socket.recv(1 << 16)
                if not chunk:
                    raise EOFError("a worker ended")
                line += chunk
        return json.loads(line)

    def kill(self) -> None:
        """End the process at once, whatever it does; those who wait for it see its socket end."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process, reap it and close the socket."""
        self.kill()
        self._process.wait()
        self._socket.close()

    def forget(self) -> None:
        """Leave the process to the parent of this one."""
        self._socket.close()
        self._process.returncode = 0  # it is no child of this process, which cannot wait for it


W = TypeVar("W", bound=Worker)
R = TypeVar("R")


class WorkerPool(ABC, Generic[W]):
    """At most `workers` processes (default: `most_workers`), and a thread for each to wait for it.

    Close it, use it as a context manager, or leave it to the interpreter's exit.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._most = workers
        self._closed = False
        self._begin()
        _open_pools.add(self)

    def _begin(self) -> None:
        """Have no workers and no threads, as at first and after a fork."""
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._jobs = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: set[W] = set()
        self._idle: list[W] = []  # the last one used comes first, so that few are started

    @property
    def workers(self) -> int:
        """How many processes run at once at most."""
        return self._most or most_workers()

    @abstractmethod
    def _start_worker(self) -> W:
        """Start a process, without waiting until it is ready."""

    def _submit(self, job: Callable[[], R]) -> "Future[R]":
        """Run a job, which asks for its worker itself (`_worker`), in a thread of the pool.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if len(self._threads) < self.workers:
                # Daemons: an interpreter that exits does not wait for what still runs.
                self._threads.append(threading.Thread(target=self._serve, daemon=True))
                self._threads[-1].start()
            self._jobs.put((future, job))
        return future

    def _serve(self) -> None:
        """Run jobs, one after another, until there is a None."""
        while entry := self._jobs.get():
            future, job = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            del entry, future, job  # what is done is not kept until the next job comes

    @contextlib.contextmanager
    def _worker(self) -> Iterator[W]:
        """A worker for one exchange, after which it is idle again; if that raises, it is ended.

        Raises:
            RuntimeError: the pool is closed.
            UserError: no worker can be started.
        """
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        fresh = worker is None
        if worker is None:
            worker = self._start_worker()
            with self._lock:
                self._running.add(worker)
        try:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if fresh:
                worker.wait_until_ready()
            yield worker
        except BaseException:
            self._discard(worker)
            raise
        with self._lock:
            self._idle.append(worker)

    def _discard(self, worker: W) -> None:
        with self._lock:
            self._running.discard(worker)
        worker.end()

    def close(self) -> None:
        """End every worker, whatever it does; jobs that wait are cancelled."""
        with self._lock:
            self._closed = True
            workers = list(self._running)
            for worker in workers:
                worker.kill()
        with contextlib.suppress(queue.Empty):
            while entry := self._jobs.get_nowait():
                entry[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        for worker in workers:
            self._discard(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _after_fork(self) -> None:
        """Leave the parent's workers alone; this process starts its own."""
        for worker in self._running:
            worker.forget()
        self._begin()


def results(futures: "Sequence[Future[R]]") -> list[R]:
    """The results of futures in order; if one raises, or on Ctrl-C, those that wait are
    cancelled."""
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


@atexit.register
def close_pools() -> None:
    """End the workers of every pool; happens by itself when the interpreter exits."""
    for pool in list(_open_pools):
        pool.close()


def _after_fork() -> None:
    for pool in list(_open_pools):
        pool._after_fork()


os.register_at_fork(after_in_child=_after_fork)
