"""What a program may use, and what became of it."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["finished", "error", "timeout", "memory", "output", "infrastructure"]
"""How a run ended.

`finished`: the program (and its tests) ran to the end. `error`: it raised, ended itself half-way or
was ended by a signal. `timeout`: it used up its time, by the clock or of the processor. `memory`:
it asked for more than it may have. `output`: it printed more than it may. `infrastructure`: the
sandbox itself failed, again and again; that says nothing about the program.
"""


LARGEST_LIMIT = 1_000_000
"""The largest limit of any kind: more than any machine has, and less than clocks take."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    `wall_s` and `cpu_s` are seconds (the latter in whole seconds, rounded up); `memory_mib` bounds
    the address space, the interpreter's own few dozen MiB included; `processes` counts processes
    and threads; `files_mib` is for each file and, where the sandbox mounts the working directory,
    for all of them; `output_kib` is for what is printed.
    """

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_mib: int = 512
    processes: int = 32
    files_mib: int = 16
    open_files: int = 64
    output_kib: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= LARGEST_LIMIT:
                most = f"{LARGEST_LIMIT:,}"
                raise ValueError(
                    f"Limits.{name} is {value!r}; expected a number above 0, at most {most}"
                )


@dataclass(frozen=True)
class Result:
    """What became of a program.

    `stdout` is what it printed (bytes that are not UTF-8 as U+FFFD; cut at the limit). `value` is
    the `str` of its last statement, if that is an expression other than None. `error` is the last
    line of what an interpreter would say, or what the sandbox has to say. `seconds` is wall-clock
    time. All three texts can be written as UTF-8.
    """

    status: Status
    stdout: str = ""
    value: str | None = None
    error: str = ""
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the program, with its tests if there were any, ran to the end."""
        return self.status == "finished"
