"""The tests' side of a run: a process that never runs a line of the program.

What the tests call is in the program's process, at the other end of the channel.
"""

import ast
import builtins
import importlib
import mmap
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

from .channel import Channel, ChannelEndedError, ChannelError, Remote
from .program import CHANNEL
from .report import finished, raised

PROGRAM_LEFT = 3
"""The exit status of tests whose program ended before them: its own end says why."""

_NAMESPACE = 0
"""The program's namespace, by its number on the channel."""


def run(tests: str, entry_point: str, report: mmap.mmap) -> NoReturn:
    """Run the tests, once the program has run to its end, report, and end this process.

    `entry_point` is the function that they test, by its name in the program.
    """
    try:
        try:
            _run(tests, entry_point, _TestsEnd(report))
            told = finished()
        except BaseException as error:
            told = raised(error)
        with suppress(OSError):
            sys.stdout.flush()
        report.write(told)
    finally:
        os._exit(0)


def _run(tests: str, entry_point: str, channel: "_TestsEnd") -> None:
    channel.ask("bool", _NAMESPACE)  # answered when the program has run
    tree = ast.parse(tests, "<tests>")
    channel.asked = 0
    exec(compile(tree, "<tests>", "exec"), _Names(tree, entry_point, channel))
    if not channel.asked:
        raise RuntimeError("the tests asked the program for nothing")


class _TestsEnd(Channel):
    """The tests' end of the channel. Where the other is no longer a channel's, the tests end at
    once: they could catch an exception and pass.
    """

    def __init__(self, report: mmap.mmap) -> None:
        super().__init__(*CHANNEL)
        self._report = report
        self.asked = 0

    def ask(self, operation: str, number: int, *operands: Any) -> Any:
        """See `Channel.ask`; raises no ChannelError."""
        self.asked += 1
        try:
            return super().ask(operation, number, *operands)
        except ChannelEndedError:
            os._exit(PROGRAM_LEFT)
        except ChannelError as error:
            self._report.write(raised(RuntimeError(f"the program sent {error}")))
            os._exit(0)


class _Names(dict[str, Any]):
    """The tests' globals: a name that the tests do not bind is the program's.

    Except for builtins, of which only `entry_point` may be the program's own, and for standard
    modules that the tests use without importing them.
    """

    def __init__(self, tree: ast.Module, entry_point: str, channel: Channel) -> None:
        super().__init__(__name__="tests")
        self._tree, self._entry_point = tree, entry_point
        self._program = Remote(channel, _NAMESPACE, "namespace")

    def __missing__(self, name: str) -> Any:
        if name != self._entry_point:
            if hasattr(builtins, name) or name.startswith("__"):
                raise KeyError(name)
            if name in sys.stdlib_module_names and self._has_attributes_only(name):
                return importlib.import_module(name)
        value = self._program[name]
        if type(value) is Remote:
            self[name] = value
        return value

    def _has_attributes_only(self, name: str) -> bool:
        """Whether the tests use a name for its attributes and nothing else."""
        nodes = list(ast.walk(self._tree))
        owners = [node.value for node in nodes if isinstance(node, ast.Attribute)]
        return all(
            any(node is owner for owner in owners)
            for node in nodes
            if isinstance(node, ast.Name) and node.id == name
        )
