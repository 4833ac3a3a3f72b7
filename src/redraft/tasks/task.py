"""What a task is: a source of problems and the grader of answers to them."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from redraft.episode import Problem
from redraft.grading import Grader

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Loaded:
    """Problems that can be graded, and those that were dropped because they cannot.

    `dropped` holds the id of each dropped problem and the reason (a gold answer that cannot be
    parsed); such a problem is never scored.
    """

    problems: list[Problem]
    dropped: list[tuple[str, str]] = field(default_factory=list)


class Task(Protocol):
    """A source of problems.

    `name` is what the command line calls it and every problem's `task` field says; `description` is
    one line for `redraft tasks`; `grader` judges attempts at its problems.
    """

    @property
    def name(self) -> str:
        """The task's name, as in `--task NAME`."""
        ...

    @property
    def description(self) -> str:
        """One line that says what the problems are."""
        ...

    @property
    def grader(self) -> Grader:
        """The judge of attempts."""
        ...

    def load(self, split: Split, limit: int | None = None, seed: int = 0) -> Loaded:
        """Problems of a split: all, or `limit` of them chosen by `seed`, in the source's order.

        The same arguments give the same problems, and no problem is in both splits unless the
        user's own data says so.

        Raises:
            UserError: the data cannot be found or read, or a row lacks a field.
        """
        ...
