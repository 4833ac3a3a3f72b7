"""`python -m worker OPTIONS`: serve programs, one JSON line each.

OPTIONS is JSON: which layers to use (`namespaces`, `landlock`, `seccomp`). The first line written
says which of them there are, or why the worker cannot start with namespaces; after that, there is
one line with an outcome for each line with a program.
"""

import gc
import importlib
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from . import kernel, landlock, namespaces, seccomp
from .folder import remove_folder
from .supervise import HostGoneError, Layers, Supervisor, interpreter_paths

PRELOADED = (
    *("bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools"),
    *("heapq", "itertools", "math", "operator", "random", "re", "statistics", "string", "typing"),
)
"""What short programs import most: found in memory, not on disk."""

NEEDED = [sys.prefix, os.path.dirname(os.__file__)]
"""What a program's imports read."""


def main() -> None:
    """Serve until the host closes its end."""
    options = json.loads(sys.argv[1])
    os.environ.pop("PYTHONPATH", None)
    control, replies = os.dup(0), os.fdopen(os.dup(1), "w", encoding="utf-8")
    silent = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(silent, number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    try:
        layers = _confine(options)
        work = namespaces.mount_point(NEEDED) if layers.namespaces else _own_folder()
    except OSError as error:
        _say(replies, {"failed": str(error)})
        return
    libraries = interpreter_paths()
    sys.path[:] = [path for path in sys.path if path.startswith(tuple(libraries))]
    for name in PRELOADED:
        importlib.import_module(name)
    supervisor = Supervisor(layers, work, control)
    gc.collect()
    gc.freeze()  # forks share the pages of what is there now
    _say(replies, {"layers": asdict(layers), "work": None if layers.namespaces else work})
    with os.fdopen(control, encoding="utf-8", closefd=False) as requests, suppress(HostGoneError):
        for line in requests:
            _say(replies, supervisor.run(json.loads(line)))
            supervisor.clear()
            if supervisor.tampered():
                break
    if not layers.namespaces:
        remove_folder(work)


def _confine(options: dict[str, bool]) -> Layers:
    """Confine this process as far as all its programs have in common.

    Raises:
        OSError: the machine has no namespaces for this user.
    """
    if sys.platform != "linux":
        return Layers(False, False, 0, False, os.geteuid() != 0)
    unprivileged = namespaces.leave_root(NEEDED)
    read_only = False
    if options["namespaces"]:
        namespaces.enter()
        read_only = namespaces.make_read_only()
    else:
        kernel.adopt_orphans()
    kernel.set_dumpable(False)
    kernel.gain_nothing_by_exec()
    filtered = options["seccomp"] and seccomp.available()
    if filtered:
        seccomp.restrict_worker()
    return Layers(
        namespaces=options["namespaces"],
        read_only=read_only,
        landlock=landlock.abi() if options["landlock"] else 0,
        seccomp=filtered,
        unprivileged=unprivileged,
    )


def _own_folder() -> str:
    import tempfile  # with libraries that every fork would pay for

    folder = tempfile.mkdtemp(prefix="redraft-sandbox-")
    tempfile.tempdir = None  # programs have another, and ask for it themselves
    return folder


def _say(replies: Any, line: dict[str, Any]) -> None:
    replies.write(json.dumps(line) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
