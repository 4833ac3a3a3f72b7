"""The program's side of a run: what happens in the fork, from its first line to its last.

A program that is tested stays when it has run, and does what its tests ask for, which another
process runs (`tests`). Whether they pass, this process has no say in.
"""

import ast
import atexit
import linecache
import mmap
import operator
import os
import resource
import signal
import sys
import types
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .channel import Channel
from .report import finished, raised

CHANNEL = (3, 4)
"""The descriptors on which a program and its tests read and write to each other."""

_MIB = 2**20


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


def take_descriptors(descriptors: Sequence[int], highest: int) -> None:
    """Make these the process's input and output, and its `CHANNEL` if there are four, and close
    every other.
    """
    taken = (0, 1, *CHANNEL)[: len(descriptors)]
    for number, descriptor in zip(taken, descriptors, strict=True):
        os.dup2(descriptor, number)
    os.closerange(max(taken[-1], 2) + 1, highest)


def forget_the_worker() -> None:
    """Leave an interpreter that looks like a fresh one."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["program.py"]


def run(program: str, tested: bool, report: mmap.mmap) -> NoReturn:
    """Run the program, serve its tests if it is tested, report, and end this process."""
    end_now, process = os._exit, os.getpid()
    try:
        program = program.removeprefix("\ufeff")  # a file may begin with it
        try:
            told = _serve_tests(program) if tested else finished(_value(program))
        except BaseException as error:
            told = raised(error)
        _leave(process)
        report.write(told)
    finally:
        end_now(0)


def _leave(process: int) -> None:
    """Do what an interpreter does at its end."""
    with suppress(BaseException):  # what a program leaves to its exit is the program's own
        if "threading" in sys.modules:  # not imported here: every fork would pay for it
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    for name in ("stdout", "__stdout__"):
        with suppress(BaseException):
            getattr(sys, name).flush()
    if os.getpid() != process:  # a process that the program forked
        os._exit(0)


def _value(program: str) -> object:
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


def _serve_tests(program: str) -> NoReturn:
    """Run as an imported module, then do with it what the tests ask for.

    The program starts when the tests are there and ask, so that it cannot keep them from it.

    Raises:
        ChannelError: the tests have ended.
    """
    process, module = os.getpid(), _module("solution", program)
    tests = _ProgramEnd(*CHANNEL)
    tests.keep(module.__dict__)
    first = tests.receive()
    exec(compile(program, "<program>", "exec"), module.__dict__)
    if os.getpid() != process:  # a process that the program forked
        os._exit(0)
    tests.answer(*first)
    while True:
        tests.answer(*tests.receive())


class _ProgramEnd(Channel):
    """The program's end of the channel; its first object is the program's namespace."""

    operations = Channel.operations | {
        "get": getattr,
        "set": setattr,
        "item": operator.getitem,
        "len": len,
        "bool": bool,
        "str": str,
        "repr": repr,
    }

    def send(self, *message: Any) -> None:
        """Write a message, and before it what was printed: the end may come as a signal."""
        with suppress(BaseException):
            sys.stdout.flush()
        super().send(*message)


def _module(name: str, source: str) -> types.ModuleType:
    """An empty module, in its place; `inspect` finds the source of what is defined in it."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    linecache.cache["<program>"] = (len(source), None, source.splitlines(True), "<program>")
    return module
