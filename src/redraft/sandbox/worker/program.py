"""The program's side of a run: what happens in the fork, from its first line to its last.

How the run ended is written into memory shared with the worker, which no file descriptor leads to:
whatever a program prints, writes or closes, it writes no verdict. The report is a letter (`F`
finished, `V` finished with a value, `E` error, `M` memory), a text, and a byte that ends it.

A program shares this interpreter and may replace every name in it. So what decides is written as
single expressions: Python evaluates a callee before its arguments and the arguments in order, so
what is to be called after the program already lies on the interpreter's own stack, where no name,
no local of a frame and no attribute leads to it.
"""

import ast
import atexit
import builtins
import linecache
import mmap
import os
import resource
import signal
import sys
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

REPORT_BYTES = 1 << 16
_END = b"\xff"  # in no UTF-8 text
_MESSAGE_LIMIT = 2000
_VALUE_LIMIT = 10_000
_OWN_FILES = 3
_MIB = 2**20


def read_report(report: mmap.mmap) -> dict[str, Any] | None:
    """What the fork reported about its end; None if it did not get there, or wrote what it never
    writes.
    """
    size = report.find(_END)
    letter, text = report[:1], report[1 : max(size, 1)].decode("utf-8", errors="replace")
    if size < 1 or (letter == b"F" and text):
        return None
    known: dict[bytes, dict[str, Any]] = {
        b"F": {"status": "finished"},
        b"V": {"status": "finished", "value": text},
        b"E": {"status": "error", "error": text},
        b"M": {"status": "memory", "error": text},
    }
    return known.get(letter)


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
    # a stream that nothing else holds closes with the name that a program gives to another
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def take_descriptors(stdin: int, stdout: int, highest: int) -> None:
    """Make the two descriptors the process's input and output, and close every other."""
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.closerange(_OWN_FILES, highest)


def forget_the_worker() -> None:
    """Leave an interpreter that looks like a fresh one."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["program.py"]


def run(program: str, tests: str | None, reports: list[mmap.mmap]) -> NoReturn:
    """Run the program, then its tests, report how that ended, and end this process.

    `reports` holds the report and is empty before the program's first line.
    """
    end_now, process = os._exit, os.getpid()
    try:
        program = program.removeprefix("\ufeff")  # a file may begin with it
        reports.pop().write(b"".join((_outcome(program, tests), _leave(process), _END)))
    finally:
        end_now(0)


def write_failure(pipe: int, error: BaseException) -> None:
    """Tell the worker that the program could not be confined, and so was not run."""
    os.write(pipe, _last_line(error))


def _outcome(program: str, tests: str | None) -> bytes:
    """The letter and the text of the report; the letters are constants, whatever else is not."""
    try:
        if tests is None:
            return _shown(_program(program))
        _tested(program, tests)
        return b"F"
    except MemoryError as error:
        return b"M%b" % _last_line(error)
    except BaseException as error:
        return b"E%b" % _last_line(error)


def _leave(process: int) -> bytes:
    """Do what an interpreter does at its end; nothing of it goes into the report."""
    with suppress(BaseException):  # what a program leaves to its exit is the program's own
        if "threading" in sys.modules:  # not imported here: every fork would pay for it
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    for name in ("stdout", "__stdout__"):
        with suppress(BaseException):
            getattr(sys, name).flush()
    if os.getpid() != process:  # a process that the program forked
        os._exit(0)
    return b""


def _program(program: str) -> object:
    """Run as `python program.py` would; the value of a last expression."""
    module = _module("__main__", program)
    tree = ast.parse(program, "<program>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    try:
        exec(compile(tree, "<program>", "exec"), module.__dict__)
        if last is None:
            return None
        assert isinstance(last, ast.Expr)
        return eval(compile(ast.Expression(last.value), "<program>", "eval"), module.__dict__)
    except SystemExit as ending:
        if ending.code is None or ending.code in (0, False):
            return None
        raise


def _tested(program: str, tests: str) -> None:
    """Run as an imported module, then the tests in its namespace; both must reach their end.

    The tests are compiled, and the builtins they see are copied, before the program runs.
    """
    _refuse_to_look_around()
    exec(
        compile(tests, "<tests>", "exec"),
        _with_builtins(dict(vars(builtins)), _namespace_after(program)),
    )


def _refuse_to_look_around() -> None:
    """Refuse, for good, what would show a tested program the report or let it skip its tests.

    A trace function may move a frame to another line, and the collector knows every object. An
    audit hook cannot be taken away again.
    """

    def refuse(event: str, _: tuple[object, ...]) -> None:
        if event in {
            *("sys.settrace", "sys.setprofile", "sys.monitoring.register_callback"),
            *("gc.get_objects", "gc.get_referrers", "gc.get_referents"),
        }:
            raise RuntimeError(f"{event} is refused to a program with tests")

    sys.addaudithook(refuse)
    for name in ("settrace", "setprofile"):
        setattr(sys, name, _unless_none(getattr(sys, name)))


def _unless_none(refused: Callable[[object], None]) -> Callable[[object], None]:
    """Asks for nothing where None is asked for: to switch off what is never on, as `doctest` does
    at its end, is no attempt at anything.
    """

    def switch(function: object, /) -> None:
        if function is not None:
            refused(function)

    return switch


def _namespace_after(program: str) -> dict[str, Any]:
    module = _module("solution", program)
    exec(compile(program, "<program>", "exec"), module.__dict__)
    return module.__dict__


def _with_builtins(known: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    namespace["__builtins__"] = known
    return namespace


def _module(name: str, source: str) -> types.ModuleType:
    """An empty module, in its place; `inspect` finds the source of what is defined in it."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    linecache.cache["<program>"] = (len(source), None, source.splitlines(True), "<program>")
    return module


def _shown(value: object) -> bytes:
    return b"F" if value is None else b"V%b" % _encoded(str(value)[:_VALUE_LIMIT])


def _last_line(error: BaseException) -> bytes:
    """`Type: message`, as a traceback ends, whatever the exception's own methods do."""
    try:
        told = traceback.TracebackException(type(error), error, None, compact=True)
        told.__notes__ = None  # they come after the message
        said = list(told.format_exception_only())[-1].strip().splitlines()[0]
    except BaseException:
        said = type(error).__name__
    return _encoded(said[:_MESSAGE_LIMIT])


def _encoded(text: str) -> bytes:
    """Text as the report holds it; lone surrogates, which UTF-8 lacks, as escapes."""
    return text.encode("utf-8", errors="backslashreplace")
