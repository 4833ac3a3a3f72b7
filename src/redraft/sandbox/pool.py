"""Programs in warm sandboxed workers, and the host's side of talking to them."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redraft.errors import UserError
from redraft.sandbox.result import Limits, Result
from redraft.sandbox.worker.folder import remove_folder
from redraft.workers import START_LIMIT_S, Worker, WorkerPool, results

TRIES = 6
"""How often a program is run when the sandbox itself fails."""

_GRACE_S = 10.0
"""Seconds beyond a program's own that a worker has to report, before it is given up."""


@dataclass(frozen=True)
class Wanted:
    """Which layers to use where the machine has them."""

    namespaces: bool = True
    landlock: bool = True
    seccomp: bool = True


ALL_LAYERS = Wanted()


class _Worker(Worker):
    """A process that runs one program at a time, confined by `layers`."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(
            [sys.executable, "-s", "-P", "-m", "worker", json.dumps(asdict(wanted))],
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
        self.layers: dict[str, Any] = {}
        self._work: str | None = None

    def wait_until_ready(self) -> None:
        """Wait for the layers that there are; see `Worker`."""
        try:
            ready = self.receive(lambda: START_LIMIT_S)
            if "failed" in ready:
                raise OSError(ready["failed"])
        except (OSError, EOFError) as error:
            raise UserError(
                f"the sandbox cannot start a worker on this machine: {error}"
            ) from error
        self.layers, self._work = ready["layers"], ready["work"]

    def run(self, request: dict[str, Any]) -> Result:
        """What became of a program.

        Raises:
            OSError, EOFError: the worker is no longer there, or says nothing.
        """
        limit_s = request["limits"]["wall_s"] + _GRACE_S
        tests = request["tests"]
        program = {name: request[name] for name in ("program", "stdin", "limits")}
        self.send({**program, "tested": tests is not None}, limit_s)
        answer = self.receive(lambda: limit_s)
        if answer == "tests":  # the process that runs them asks, when that of the program is there
            self.send({"tests": tests, "entry_point": request["entry_point"]}, limit_s)
            answer = self.receive(lambda: limit_s)
        return Result(**answer)

    def end(self) -> None:
        """Have the process end and clean up; kill it if it does not. Then reap it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        super().end()
        if self._work is not None:
            remove_folder(self._work)


class Pool(WorkerPool[_Worker]):
    """Runs programs side by side in warm processes.

    `limits` are those of programs that bring none.

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
        super().__init__(workers)
        self.limits = limits or Limits()
        self._wanted = wanted

    def submit(
        self,
        program: str,
        *,
        tests: str | None = None,
        entry_point: str = "",
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
        request = _request(program, tests, entry_point, stdin, limits)
        return self._submit(lambda: self._run(request))

    async def run(
        self,
        program: str,
        *,
        tests: str | None = None,
        entry_point: str = "",
        stdin: str = "",
        limits: Limits | None = None,
    ) -> Result:
        """The result of a program, for `asyncio` code: the event loop goes on meanwhile."""
        future = self.submit(
            program, tests=tests, entry_point=entry_point, stdin=stdin, limits=limits
        )
        return await asyncio.wrap_future(future)

    def run_all(
        self, programs: Iterable[str], *, stdin: str = "", limits: Limits | None = None
    ) -> list[Result]:
        """The results of many programs, in order."""
        return results([self.submit(program, stdin=stdin, limits=limits) for program in programs])

    def layers(self) -> dict[str, Any]:
        """The mechanisms that confine programs of this pool, by name.

        Raises:
            UserError: no worker can be started.
        """

        def found() -> dict[str, Any]:
            with self._worker() as worker:
                return worker.layers

        return self._submit(found).result()

    def _run(self, request: dict[str, Any]) -> Result:
        why = ""
        for _ in range(TRIES):
            try:
                return self._try(request)
            except (OSError, EOFError, ValueError, TypeError) as error:
                why = str(error) or type(error).__name__
        return Result("infrastructure", error=f"the sandbox failed {TRIES} times: {why}")

    def _try(self, request: dict[str, Any]) -> Result:
        """What became of a program; a sandbox that failed is an OSError too."""
        with self._worker() as worker:
            result = worker.run(request)
            if result.status == "infrastructure":
                raise OSError(result.error)
            return result

    def _start_worker(self) -> _Worker:
        if not hasattr(os, "fork"):
            raise UserError("the sandbox needs a Unix system (Linux for more than plain limits)")
        wanted = self._wanted
        if wanted.namespaces and not _namespaces_work():
            wanted = Wanted(False, wanted.landlock, wanted.seccomp)
        return _Worker(wanted)


@functools.cache
def _namespaces_work() -> bool:
    """Whether this user may have namespaces here: tried once."""
    if sys.platform != "linux":
        return False
    worker = _Worker(ALL_LAYERS)
    try:
        worker.wait_until_ready()
        return worker.run(_request("print(1)", None, "", "", Limits())).stdout == "1\n"
    except (UserError, OSError, EOFError, ValueError, TypeError):
        return False
    finally:
        worker.end()


def _request(
    program: str, tests: str | None, entry_point: str, stdin: str, limits: Limits
) -> dict[str, Any]:
    return {
        "program": program,
        "tests": tests,
        "entry_point": entry_point,
        "stdin": stdin,
        "limits": asdict(limits),
    }


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
