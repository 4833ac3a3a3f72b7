"""Running Python that a model wrote, as if it meant harm.

    >>> from redraft.sandbox import run
    >>> run("print(6 * 7)").stdout
    '42\\n'

Every program runs in a fresh fork of a warm interpreter, confined by the strongest layers the
machine offers; `level()` says which and what they were seen to keep a program from, and
`docs/sandbox.md` what they do not. What became of the program is a typed `Result`. For many
programs, and from `asyncio`, there is `Pool`.
"""

from redraft.sandbox.levels import Level, level, require_strict
from redraft.sandbox.pool import Pool, Wanted, shared_pool
from redraft.sandbox.result import LARGEST_LIMIT, Limits, Result, Status

__all__ = [
    "LARGEST_LIMIT",
    "Level",
    "Limits",
    "Pool",
    "Result",
    "Status",
    "Wanted",
    "level",
    "require_strict",
    "run",
    "shared_pool",
]


def run(
    program: str,
    *,
    tests: str | None = None,
    entry_point: str = "",
    stdin: str = "",
    limits: Limits | None = None,
) -> Result:
    """Run a program to its end, or to the end that `limits` make of it.

    Args:
        program: Python source, run as `python program.py` would run it.
        tests: more source, run after the program, in a process of its own in which the program's
            names can be used. The program is then imported (its `__name__` is not `__main__`), and
            the result is `finished` only if the last line of the tests was passed: a program that
            exits before has failed them.
        entry_point: what the tests test. It has to be named only where the program gives it the
            name of a builtin, which otherwise means the builtin.
        stdin: what the program can read.
        limits: what it may use; `Limits()` by default.

    Raises:
        UserError: no sandbox can be started on this machine.
        ValueError: `stdin` is larger than `limits.files_mib`.
    """
    future = shared_pool().submit(
        program, tests=tests, entry_point=entry_point, stdin=stdin, limits=limits
    )
    return future.result()
