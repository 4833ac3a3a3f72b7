"""The worker's side of a run: fork, watch, kill what is left, say what became of it."""

import json
import mmap
import os
import resource
import select
import signal
import sys
import sysconfig
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import kernel, landlock, namespaces, program, seccomp, tests
from .folder import clear_folder
from .report import REPORT_BYTES, last_line, read_report

_KIB = 1024
_WATCHED = (
    *(resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_STACK),
    *(resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC),
)
_KILL_LIMIT_S = 10.0
_LEAVE_LIMIT_S = 2.0  # that a program has to end when it has left its tests
_SYSTEM_FOLDERS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo")
_SMALL_FILES = ("/etc/ld.so.cache", "/etc/localtime", *namespaces.DEVICES)


@dataclass(frozen=True)
class Layers:
    """What confines the programs of this worker (`landlock`: the ABI, 0 for none)."""

    namespaces: bool
    read_only: bool
    landlock: int
    seccomp: bool
    unprivileged: bool


def interpreter_paths() -> list[str]:
    """Where Python and the libraries it needs lie."""
    paths = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *_SYSTEM_FOLDERS}
    real = sorted({os.path.realpath(path) for path in paths} - {"/"})
    return [path for path in real if not any(path.startswith(f"{above}/") for above in real)]


@dataclass(frozen=True)
class _Fork:
    """A process of this run, and what it will have reported at its end."""

    process: int
    report: mmap.mmap


class HostGoneError(Exception):
    """The process that asked for a program is no longer there."""


class Supervisor:
    """Runs one program at a time, each in a fork of this process, and its tests in another.

    The tests are read by the fork that runs them: the forks for programs inherit the memory of this
    process, in which there has never been a test.

    `work` is a folder that nothing else uses; `control` the descriptor that ends when the host
    process does.
    """

    def __init__(self, layers: Layers, work: str, control: int) -> None:
        self._layers, self._work, self._control = layers, work, control
        self._folder = namespaces.prepare_mounts(work) if layers.namespaces else work
        if layers.landlock:
            readable = [*interpreter_paths(), *_SMALL_FILES]
            self._rules = landlock.ruleset(readable, [work, os.devnull], layers.landlock)
        if layers.seccomp:
            self._filter = seccomp.program_filter()
        program.prepare_streams()
        self._limits = _own_limits()
        self._ended, wakeup = os.pipe()
        self.silence, self._unused = os.pipe()  # an input on which nothing ever comes
        self._failures, self._failed = os.pipe()  # of confinement: closed before a program starts
        for end in (self._ended, wakeup, self.silence, self._failures, self._failed):
            os.set_blocking(end, False)
        for name in [name for name in sys.modules if name.split(".")[0] == __package__]:
            del sys.modules[name]  # programs find an interpreter without the worker's own modules
        os.environ.update(HOME=self._folder, TMPDIR=self._folder)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """The outcome of one program, none of whose processes is left; `clear` is to follow.

        Raises:
            HostGoneError: the host process ended meanwhile.
        """
        started = time.monotonic()
        if self._layers.namespaces:
            namespaces.mount_folder(self._folder, int(request["limits"]["files_mib"]))
        tested, forks = request["tested"], list[_Fork]()
        stdin, (output, stdout) = _input_file(self._folder, request["stdin"]), os.pipe()
        given, outputs = [stdin, stdout], [output]
        try:
            try:
                if tested:
                    # Tests print to a pipe of their own: a program could read from its own.
                    questions, answers, (spoken, told) = os.pipe(), os.pipe(), os.pipe()
                    given += [*questions, *answers, told]
                    outputs.append(spoken)
                    own = [stdin, stdout, questions[0], answers[1]]
                    forks.append(self._fork(request, own))
                    own = [stdin, told, answers[0], questions[1]]
                    forks.insert(0, self._fork_tests(request, own))
                else:
                    forks.append(self._fork(request, given))
            finally:
                for descriptor in given:
                    os.close(descriptor)
            outcome = _Watch(self, forks, outputs, request["limits"], started).outcome()
        finally:
            self.kill_all([fork.process for fork in forks])
            for descriptor in outputs:
                os.close(descriptor)
        return {**outcome, "seconds": time.monotonic() - started}

    def clear(self) -> None:
        """Remove the files of the last program. However many, its outcome need not wait for it."""
        if self._layers.namespaces:
            kernel.unmount(self._folder)
        else:
            clear_folder(self._folder)
            os.makedirs(self._folder, 0o700, exist_ok=True)

    def failure(self) -> str:
        """Why the last program could not be confined, and was not run; mostly empty."""
        with suppress(BlockingIOError):
            return os.read(self._failures, 1 << 16).decode("utf-8", errors="replace")
        return ""

    def kill_all(self, forks: Sequence[int]) -> None:
        """Kill the forks and everything that they started, wherever it went, and reap it."""
        if self._layers.namespaces:
            assert os.getpid() == 1
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # all of this namespace but its process 1: this one
            while _reaped(0):
                pass
            return
        for fork in forks:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(fork, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_LIMIT_S
        while _reaped(os.WNOHANG) is not None:
            for orphan in _children():
                with suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise RuntimeError("processes of a program cannot be killed")
            time.sleep(0.001)

    def tampered(self) -> bool:
        """Whether a program changed this process's limits, which every later one would inherit."""
        return _own_limits() != self._limits

    def wait(self, outputs: Sequence[int], seconds: float) -> list[int]:
        """Wait for output or for a child's end; the descriptors that have something."""
        ready, _, _ = select.select([*outputs, self._ended, self._control], [], [], seconds)
        if self._control in ready:  # while a program runs, the host says nothing: this is its end
            raise HostGoneError
        if self._ended in ready:
            with suppress(BlockingIOError):
                os.read(self._ended, 1 << 12)
        return ready

    def _fork_tests(self, request: dict[str, Any], descriptors: Sequence[int]) -> _Fork:
        """Start the tests, once they are there; the program has started before."""
        taken, take = os.pipe()
        try:
            fork = self._fork(request, descriptors, take)
            os.close(take)
            if not os.read(taken, 1):
                raise HostGoneError
            return fork
        finally:
            os.close(taken)

    def _fork(
        self, request: dict[str, Any], descriptors: Sequence[int], take: int | None = None
    ) -> _Fork:
        """Start the program or, with a descriptor that tells when they are taken, the tests."""
        report = mmap.mmap(-1, REPORT_BYTES)
        process = os.fork()
        if process:
            return _Fork(process, report)
        try:
            given = None if take is None else self._take_tests(take)
            self._become_fork(request, descriptors)
            if given is None:
                program.run(request["program"], request["tested"], report)
            tests.run(given["tests"], given["entry_point"], report)
        finally:
            os._exit(1)

    def _take_tests(self, take: int) -> dict[str, Any]:
        """Ask the host for the tests."""
        os.write(self._control, b'"tests"\n')
        line = bytearray()
        while not line.endswith(b"\n"):
            chunk = os.read(self._control, 1 << 16)
            if not chunk:
                raise HostGoneError
            line += chunk
        os.write(take, b"1")
        given: dict[str, Any] = json.loads(line)
        return given

    def _become_fork(self, request: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Confine this process, which is a fork of the worker, for good."""
        try:
            os.setsid()
            os.chdir(self._folder)
            processes = self._processes(request)
            self._confine()
            program.forget_the_worker()
            highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            program.set_limits(request["limits"], processes)
        except BaseException as error:
            os.write(self._failed, last_line(error))
            os._exit(1)
        program.take_descriptors(descriptors, highest)

    def _confine(self) -> None:
        if self._layers.landlock:
            landlock.restrict(self._rules)
        if sys.platform == "linux":
            kernel.drop_capabilities()
        if self._layers.seccomp:
            seccomp.restrict_program(self._filter)

    def _processes(self, request: dict[str, Any]) -> int | None:
        """The kernel's bound on this user's processes and threads; None for no bound.

        In namespaces only those inside are counted, and two are the worker's. Elsewhere the user's
        others have to be added, unless seccomp refuses new processes anyway.
        """
        own = int(request["limits"]["processes"]) + request["tested"]  # the tests are one
        if self._layers.namespaces:
            return own + 2
        return None if self._layers.seccomp else own + _tasks_of_user()


class _Watch:
    """A program, or its tests and itself, while they run."""

    def __init__(
        self,
        supervisor: Supervisor,
        forks: list[_Fork],
        outputs: list[int],
        limits: dict[str, Any],
        started: float,
    ) -> None:
        self._supervisor, self._forks, self._pipes = supervisor, forks, outputs
        self._limits, self._deadline = limits, started + float(limits["wall_s"])
        self._room = int(limits["output_kib"]) * _KIB
        self._output = bytearray()
        for pipe in outputs:
            os.set_blocking(pipe, False)

    def outcome(self) -> dict[str, Any]:
        """Wait for the end, or make one."""
        decides, *others = self._forks
        stopped, ended = self._wait_for(decides, self._deadline)
        told = read_report(decides.report)
        if others and ended is not None and ended[0] == tests.PROGRAM_LEFT:
            stopped, ended = self._wait_for(others[0], time.monotonic() + _LEAVE_LIMIT_S)
            stopped = "left" if stopped == "timeout" else stopped
            told = read_report(others[0].report)
            told = None if told is None or told["status"] == "finished" else told
        self._supervisor.kill_all([fork.process for fork in self._forks])
        if not stopped and not self._read():
            stopped = "output"
        text = self._output[: self._room].decode("utf-8", errors="replace")
        end = self._verdict(stopped, ended, told)
        return {"value": None, "error": "", **end, "stdout": text}

    def _wait_for(self, fork: _Fork, deadline: float) -> tuple[str, tuple[int, float] | None]:
        """Why it has to be stopped, or how it ended."""
        while (ended := _ended(fork.process)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout", None
            ready = self._supervisor.wait(self._pipes, left)
            if not set(ready).isdisjoint(self._pipes) and not self._read():
                return "output", None
        return "", ended

    def _verdict(
        self, stopped: str, ended: tuple[int, float] | None, told: dict[str, Any] | None
    ) -> dict[str, Any]:
        limits = self._limits
        if failure := self._supervisor.failure():
            return {"status": "infrastructure", "error": failure}
        if stopped == "output":
            return {"status": "output", "error": f"printed more than {limits['output_kib']} KiB"}
        if stopped == "left":
            return {"status": "error", "error": "left its tests"}
        if stopped or ended is None:
            return {"status": "timeout", "error": f"not finished after {limits['wall_s']:g} s"}
        code, cpu_s = ended
        if code == 0 and told is not None:
            return told
        # The kernel warns with SIGXCPU and kills a second later. Its clock is not that of `cpu_s`.
        killed_late = code == -signal.SIGKILL and cpu_s >= limits["cpu_s"] / 2
        if code == -signal.SIGXCPU or killed_late:
            return {"status": "timeout", "error": f"used {cpu_s:.1f} s of the processor"}
        if code < 0:
            return {"status": "error", "error": f"killed by {_signal_name(-code)}"}
        return {"status": "error", "error": f"ended itself half-way (exit status {code})"}

    def _read(self) -> bool:
        """Take what was printed, by the program first; whether there is room for more."""
        return all(self._read_from(pipe) for pipe in self._pipes)

    def _read_from(self, pipe: int) -> bool:
        while len(self._output) <= self._room:
            try:
                chunk = os.read(pipe, 1 << 16)
            except BlockingIOError:
                return True
            if not chunk:  # closed, while it may run on: an ended pipe would be ready for ever
                os.dup2(self._supervisor.silence, pipe)
                return True
            self._output += chunk
        return False


def _input_file(folder: str, text: str) -> int:
    """A descriptor to read `text` from; the file has no name."""
    if not text:
        return os.open(os.devnull, os.O_RDONLY)
    path = Path(folder, "stdin")
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    try:
        return os.open(path, os.O_RDONLY)
    finally:
        path.unlink()


def _own_limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(which) for which in _WATCHED]


def _ended(child: int) -> tuple[int, float] | None:
    """Exit code (negative: the signal) and processor seconds of the child, once it has ended."""
    pid, status, usage = os.wait4(child, os.WNOHANG)
    if pid == 0:
        return None
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def _reaped(options: int) -> int | None:
    """Reap a child: its id, 0 if none has ended yet, None if there are none."""
    try:
        return os.waitpid(-1, options)[0]
    except ChildProcessError:
        return None


def _children() -> list[int]:
    """The children of this process."""
    return [pid for pid, parent, _ in _tasks() if parent == os.getpid()]


def _tasks_of_user() -> int:
    """How many processes and threads this user has."""
    return sum(threads for _, _, threads in _tasks(os.geteuid()))


def _tasks(user: int | None = None) -> list[tuple[int, int, int]]:
    """Process id, parent and number of threads of the processes (of a user) in /proc."""
    found = []
    with suppress(FileNotFoundError):
        for entry in os.scandir("/proc"):
            with suppress(OSError):
                if entry.name.isdigit() and user in (None, entry.stat().st_uid):
                    after_name = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                    found.append((int(entry.name), int(after_name[1]), int(after_name[17])))
    return found


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
