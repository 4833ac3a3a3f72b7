"""The program's side of a run: what happens in the fork, from its first line to its last.

How the run ended is written into memory shared with the worker, which a program reaches by no file
descriptor: whatever it prints, writes or closes, it writes no verdict.
"""

import ast
import atexit
import json
import mmap
import os
import resource
import signal
import struct
import sys
import threading
import traceback
import types
from contextlib import suppress
from typing import Any, NoReturn

REPORT_BYTES = 1 << 16
_HEADER = struct.Struct("<I")
_MESSAGE_LIMIT = 2000
_VALUE_LIMIT = 10_000
_OWN_FILES = 3
_MIB = 2**20


def read_report(report: mmap.mmap) -> dict[str, Any] | None:
    """What the fork reported about its end; None if it did not get there."""
    (size,) = _HEADER.unpack_from(report, 0)
    if not 0 < size <= REPORT_BYTES - _HEADER.size:
        return None
    try:
        told = json.loads(report[_HEADER.size : _HEADER.size + size])
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def set_limits(limits: dict[str, Any], processes: int | None) -> None:
    """Bound this process; `processes` counts those of its user (None: no bound).

    Raises:
        OSError, ValueError: a limit cannot be set.
    """
    cpu = max(1, -int(-limits["cpu_s"] // 1))
    files = int(limits["files_mib"]) * _MIB
    _limit(resource.RLIMIT_CPU, cpu, cpu + 1)
    _limit(resource.RLIMIT_FSIZE, files, files)
    _limit(resource.RLIMIT_NOFILE, int(limits["open_files"]), int(limits["open_files"]))
    _limit(resource.RLIMIT_CORE, 0, 0)
    if processes is not None:
        _limit(resource.RLIMIT_NPROC, processes, processes)
    memory = int(limits["memory_mib"]) * _MIB
    if sys.platform != "darwin":  # macOS refuses to bound the address space
        _limit(resource.RLIMIT_AS, memory, memory)


def _limit(which: int, soft: int, hard: int) -> None:
    _, ceiling = resource.getrlimit(which)
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(which, (soft, hard))


def prepare_streams() -> None:
    """Make the interpreter's own streams ones for a pipe, whatever 0, 1 and 2 are later."""
    _, pipe = os.pipe()
    os.dup2(pipe, 1)
    os.close(pipe)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", errors="replace", closefd=False)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        for number in (1, 2)
    )


def take_descriptors(stdin: int, stdout: int) -> None:
    """Make the two descriptors the process's input and output, and close every other."""
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.closerange(_OWN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def forget_the_worker(modules: list[str]) -> None:
    """Leave an interpreter that looks like a fresh one; `modules` are the worker's own."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in modules:
        del sys.modules[name]
    sys.argv = ["program.py"]


def run(program: str, tests: str | None, report: mmap.mmap) -> NoReturn:
    """Run the program, then its tests, report how that ended, and end this process."""
    process = os.getpid()
    try:
        end = _run(program, tests)
        if os.getpid() == process:  # not in a process that the program forked
            _write(report, end)
    finally:
        os._exit(0)


def write_failure(report: mmap.mmap, error: BaseException) -> None:
    """Report that the program could not be confined, and so was not run."""
    _write(report, {"status": "infrastructure", "error": _last_line(error)})


def _run(program: str, tests: str | None) -> dict[str, Any]:
    end: dict[str, Any]
    try:
        if tests is None:
            end = {"status": "finished", "value": _program(program)}
        else:
            _tested(program, tests)
            end = {"status": "finished"}
    except MemoryError as error:
        end = {"status": "memory", "error": type(error).__name__}
    except BaseException as error:
        end = {"status": "error", "error": _last_line(error)}
    with suppress(BaseException):  # what a program leaves to its exit is the program's own
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    with suppress(BaseException):
        sys.stdout.flush()
    return end


def _program(program: str) -> str | None:
    """Run as `python program.py` would; the `repr` of a last expression."""
    module = _module("__main__")
    tree = ast.parse(program, "<program>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    try:
        exec(compile(tree, "<program>", "exec"), module.__dict__)
        if last is None:
            return None
        assert isinstance(last, ast.Expr)
        value = eval(compile(ast.Expression(last.value), "<program>", "eval"), module.__dict__)
    except SystemExit as ending:
        if ending.code is None or ending.code in (0, False):
            return None
        raise
    return None if value is None else repr(value)[:_VALUE_LIMIT]


def _tested(program: str, tests: str) -> None:
    """Run as an imported module, then the tests in its namespace; both must reach their end."""
    module = _module("solution")
    exec(compile(program, "<program>", "exec"), module.__dict__)
    exec(compile(tests, "<tests>", "exec"), module.__dict__)


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


def _last_line(error: BaseException) -> str:
    """`Type: message`, as a traceback ends, whatever the exception's own methods do."""
    try:
        said = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    except BaseException:
        said = type(error).__name__
    return said[:_MESSAGE_LIMIT]


def _write(report: mmap.mmap, end: dict[str, Any]) -> None:
    content = json.dumps(end).encode()
    if len(content) > REPORT_BYTES - _HEADER.size:
        content = json.dumps({**end, "value": None, "error": ""}).encode()
    report[_HEADER.size : _HEADER.size + len(content)] = content
    _HEADER.pack_into(report, 0, len(content))
