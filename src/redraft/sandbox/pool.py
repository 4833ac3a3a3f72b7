"""Warm workers, each running one program at a time, and the host's side of talking to them."""

import asyncio
import atexit
import contextlib
import functools
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redraft.errors import UserError
from redraft.processes import usable_cores
from redraft.sandbox.result import Limits, Result
from redraft.sandbox.worker.folder import remove_folder

ATTEMPTS = 3
"""How often a program is run when the sandbox itself fails."""

START_LIMIT_S = 60.0
_GRACE_S = 10.0
"""Seconds beyond a program's own that a worker has to report, before it is given up."""


@dataclass(frozen=True)
class Wanted:
    """Which layers to use where the machine has them."""

    namespaces: bool = True
    landlock: bool = True
    seccomp: bool = True


ALL_LAYERS = Wanted()

_open_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


@dataclass(frozen=True, eq=False)
class _Job:
    """A program, as a worker is asked for it, and its result to come."""

    request: str
    limits: Limits
    future: "Future[Result]" = field(default_factory=Future)


class Pool:
    """Runs programs side by side in `workers` warm processes (default: one per core, at most 4).

    `limits` are those of programs that bring none. Safe to use from any number of threads. Close
    it, use it as a context manager, or leave it to the interpreter's exit.

    Raises:
        UserError: on first use, where no worker can be started.
    """

    def __init__(
        self,
        workers: int | None = None,
        limits: Limits | None = None,
        *,
        wanted: Wanted = ALL_LAYERS,
    ) -> None:
        self.workers = workers or min(4, usable_cores())
        self.limits = limits or Limits()
        self._wanted = wanted
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._all: set[_Worker] = set()
        self._closed = False
        _open_pools.add(self)

    def submit(
        self,
        program: str,
        *,
        tests: str | None = None,
        stdin: str = "",
        limits: Limits | None = None,
    ) -> "Future[Result]":
        """Start a program (see `redraft.sandbox.run`); its result comes when it is there.

        Raises:
            ValueError: `stdin` is larger than a file may be.
        """
        limits = limits or self.limits
        if len(stdin.encode("utf-8", errors="surrogatepass")) > limits.files_mib * 2**20:
            raise ValueError(f"stdin is larger than Limits.files_mib, {limits.files_mib} MiB")
        request = {"program": program, "tests": tests, "stdin": stdin, "limits": asdict(limits)}
        job = _Job(json.dumps(request), limits)
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if not self._threads:  # daemons: whoever leaves does not wait for what still runs
                self._threads = [
                    threading.Thread(target=self._serve, name=f"sandbox-{index}", daemon=True)
                    for index in range(self.workers)
                ]
                for thread in self._threads:
                    thread.start()
        self._jobs.put(job)
        return job.future

    async def run(
        self,
        program: str,
        *,
        tests: str | None = None,
        stdin: str = "",
        limits: Limits | None = None,
    ) -> Result:
        """The result of a program, for `asyncio` code: the event loop goes on meanwhile."""
        future = self.submit(program, tests=tests, stdin=stdin, limits=limits)
        return await asyncio.wrap_future(future)

    def run_all(
        self, programs: Iterable[str], *, stdin: str = "", limits: Limits | None = None
    ) -> list[Result]:
        """The results of many programs, in order."""
        futures = [self.submit(program, stdin=stdin, limits=limits) for program in programs]
        return [future.result() for future in futures]

    def layers(self) -> dict[str, Any]:
        """The mechanisms that confine programs of this pool, by name.

        Raises:
            UserError: no worker can be started.
        """
        worker = self._take()
        self._idle.put(worker)
        return worker.layers

    def close(self) -> None:
        """End every worker, whatever it does."""
        with self._lock:
            self._closed = True
            workers = list(self._all)
        for worker in workers:
            worker.kill()
        with contextlib.suppress(queue.Empty):
            while job := self._jobs.get_nowait():
                job.future.cancel()
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

    def _serve(self) -> None:
        """Run jobs, one after another, until there is a None."""
        while job := self._jobs.get():
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(self._run(job.request, job.limits))
            except BaseException as error:
                job.future.set_exception(error)

    def _run(self, request: str, limits: Limits) -> Result:
        why = ""
        for _ in range(ATTEMPTS):
            worker = self._take()
            try:
                outcome = worker.ask(request, limits.wall_s + _GRACE_S)
                if outcome["status"] != "infrastructure":
                    result = Result(**outcome)
                    self._idle.put(worker)
                    return result
                why = outcome["error"]
            except (OSError, EOFError, ValueError, TypeError) as error:
                why = str(error) or type(error).__name__
            self._discard(worker)
        return Result("infrastructure", error=f"the sandbox failed {ATTEMPTS} times: {why}")

    def _take(self) -> "_Worker":
        if self._closed:
            raise RuntimeError("the pool is closed")
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        worker = start_worker(self._wanted)
        with self._lock:
            if not self._closed:
                self._all.add(worker)
                return worker
        worker.end()
        raise RuntimeError("the pool is closed")

    def _discard(self, worker: "_Worker") -> None:
        with self._lock:
            self._all.discard(worker)
        worker.end()


class _Worker:
    """One worker process and the two pipes to it.

    Raises:
        OSError, EOFError: it does not start.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._work: str | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-m", "worker", json.dumps(asdict(wanted))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        os.set_blocking(self._replies.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._replies, selectors.EVENT_READ)
        try:
            ready = self._read(START_LIMIT_S)
            if "failed" in ready:
                raise OSError(ready["failed"])
        except BaseException:
            self.end()
            raise
        self.layers: dict[str, Any] = ready["layers"]
        self._work = ready["work"]

    def ask(self, request: str, limit_s: float) -> dict[str, Any]:
        """Have a program run.

        Raises:
            OSError, EOFError: the worker is no longer there, or says nothing.
        """
        self._requests.write(request.encode() + b"\n")
        self._requests.flush()
        return self._read(limit_s)

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()

    def end(self) -> None:
        """Have the process end and clean up; kill it if it does not. Then reap it."""
        with contextlib.suppress(OSError):  # what was buffered for a dead process
            self._requests.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._selector.close()
        self._replies.close()
        if self._work is not None:
            remove_folder(self._work)

    def _read(self, limit_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        line = bytearray()
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise TimeoutError(f"a sandbox worker said nothing for {limit_s:g} s")
            chunk = self._replies.read(1 << 16)
            if chunk == b"":
                raise EOFError("a sandbox worker ended")
            line += chunk or b""
        answer: dict[str, Any] = json.loads(line)
        return answer


def start_worker(wanted: Wanted) -> _Worker:
    """A worker with as many of the wanted layers as the machine has.

    Raises:
        UserError: none can be started.
    """
    if not hasattr(os, "fork"):
        raise UserError("the sandbox needs a Unix system (Linux for more than plain limits)")
    if not (wanted.namespaces and _namespaces_work()):
        wanted = Wanted(False, wanted.landlock, wanted.seccomp)
    try:
        return _Worker(wanted)
    except (OSError, EOFError) as error:
        raise UserError(f"the sandbox cannot start a worker on this machine: {error}") from error


@functools.cache
def _namespaces_work() -> bool:
    """Whether this user may have namespaces here: tried once."""
    if sys.platform != "linux":
        return False
    try:
        worker = _Worker(ALL_LAYERS)
    except (OSError, EOFError):
        return False
    try:
        request = {"program": "print(1)", "tests": None, "stdin": "", "limits": asdict(Limits())}
        return bool(worker.ask(json.dumps(request), START_LIMIT_S)["stdout"] == "1\n")
    except (OSError, EOFError, ValueError):
        return False
    finally:
        worker.end()


def _environment() -> dict[str, str]:
    """All that programs see of the environment, but HOME and TMPDIR, which are their folder."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parent),  # of the worker, which takes it out again
        "PYTHONHASHSEED": "0",  # a program's verdict does not depend on the order of sets
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


@functools.cache
def shared_pool() -> Pool:
    """The pool of this process; lives until the interpreter exits."""
    return Pool()


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
