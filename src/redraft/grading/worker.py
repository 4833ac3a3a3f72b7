"""A grading process: `python -m redraft.grading.worker MODULE:FUNCTION SECONDS`.

Reads one JSON array of arguments, or object of keyword arguments, per line on its standard input,
calls the function and answers each with one JSON line: `{"ok": result}` or `{"error": message}`.
The first line it writes says that the function is imported, so that no verdict pays for the import.

The process protects whoever started it: a kernel alarm ends it when a call outlives `SECONDS` even
if the parent is gone, memory is bounded for math-verify, and what the function prints goes to
standard error.
"""

import importlib
import json
import os
import resource
import signal
import sys
from typing import Any

from redraft.types import Grade

MATH_MEMORY = 3 * 2**30
"""Bytes of address space that math-verify may take; a user's own grader is not bounded."""

_ALARM_GRACE_S = 2.0


def main() -> None:
    """Serve calls until standard input ends."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what the function starts inherits neither
    os.dup2(2, 1)
    target, limit_s = sys.argv[1], float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    module, _, name = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise TypeError(f"{name!r} is not a function")
    except BaseException as error:
        _reply(replies, json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return
    if module == "redraft.grading.bare_math_verify":
        limit_memory(MATH_MEMORY)
    _reply(replies, json.dumps({"ok": None}))
    for line in requests:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit_s + _ALARM_GRACE_S)
        try:
            given = json.loads(line)
            result = function(**given) if isinstance(given, dict) else function(*given)
            answer = json.dumps({"ok": result}, default=_plain)
        except Exception as error:
            answer = json.dumps({"error": f"{type(error).__name__}: {str(error)[:200]}"})
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(replies, answer)


def limit_memory(size: int) -> None:
    """Bound this process's address space in bytes, or leave a lower bound that it has already."""
    _, ceiling = resource.getrlimit(resource.RLIMIT_AS)
    size = size if ceiling == resource.RLIM_INFINITY else min(size, ceiling)
    resource.setrlimit(resource.RLIMIT_AS, (size, ceiling))


def _plain(result: Any) -> Any:
    """What JSON does not know of a result: a Grade becomes its fields, numbers of numpy and torch
    Python's."""
    if isinstance(result, Grade):
        return result.model_dump()
    if hasattr(result, "tolist"):
        return result.tolist()
    raise TypeError(f"{type(result).__name__} is not JSON")


def _reply(replies: Any, answer: str) -> None:
    replies.write(answer + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
