"""What a task is: a source of problems and everything that belongs to them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from redraft.chat.prompts import PLAIN, PYTHON, ImprovementPrompts, ProgramPrompts, Prompts
from redraft.errors import UserError
from redraft.grading import Grader
from redraft.registry import Registry
from redraft.tasks.steps import LINES, StepFormat
from redraft.types import Message, Problem

if TYPE_CHECKING:
    from redraft.engines import Failed

Split = Literal["train", "test"]

Expert = Callable[[Sequence[Message]], "str | Failed"]
"""A script that continues a conversation about a problem, or says why it cannot."""


@dataclass(frozen=True)
class Posed:
    """What a source says of a problem: the question, its gold answer, and what else to keep."""

    question: str
    gold: str
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class Loaded:
    """Problems that can be graded, and those that were dropped because they cannot.

    `dropped` holds the id of each dropped problem and the reason (a gold answer that cannot be
    parsed); such a problem is never scored.
    """

    problems: list[Problem]
    dropped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A source of problems, with how they are posed, graded and read step by step.

    Subclasses say where problems come from (`load`): `DatasetTask` reads rows, `GeneratedTask`
    calls a function.
    """

    name: str
    """What `--task` calls it, and the `task` field of its problems."""
    grader: Grader
    """Grades responses to its problems."""
    prompts: Prompts = PLAIN
    """How a problem is posed unless `--prompts` says otherwise."""
    programs: ProgramPrompts = PYTHON
    """How a program is asked for."""
    steps: StepFormat | None = None
    """How solutions are read step by step; None: by lines (`redraft.tasks.steps.LINES`)."""
    expert: Callable[[int], Expert] | None = None
    """Makes the scripted expert from a seed; None: the task has none."""

    @property
    def improvement(self) -> ImprovementPrompts:
        """How a critique and an update are asked for."""
        return (self.steps or LINES).prompts

    @abstractmethod
    def load(self, split: Split, limit: int | None = None, seed: int = 0) -> Loaded:
        """Problems of a split: all, or `limit` of them chosen by `seed`, in the source's order.

        The same arguments give the same problems, and no problem is in both splits unless the
        user's own data says so.

        Raises:
            UserError: the data cannot be found or read, or a row lacks a field.
        """

    def examples(self) -> list[tuple[str, str]]:
        """Question and solution of the worked examples that some prompts show; none by default.

        Raises:
            UserError: the data that has them cannot be read.
        """
        return []

    def problem(self, posed: Posed, split: str, index: int) -> Problem:
        """Problem number `index` of a split."""
        return Problem(
            id=posed.id or f"{self.name}/{split}/{index}",
            task=self.name,
            question=posed.question,
            gold=posed.gold,
            metadata=posed.metadata,
        )


@dataclass(frozen=True)
class TaskEntry:
    """A task as it is registered: what it is called, and how it is made from the user's options."""

    name: str
    """What `--task` calls it."""
    description: str
    """One line for `redraft tasks`."""
    make: Callable[..., Task]
    """Makes the task; called with those of the options `takes` that were given."""
    takes: tuple[str, ...] = ("data",)
    """Options that it understands: `data` (a `Path`: read it from there and not from the hub),
    `grader`, `question_field`, `gold_field` (texts)."""

    def open(self, options: Mapping[str, object]) -> Task:
        """The task with these options, None for those not given.

        Raises:
            UserError: an option that the task does not take, or that does not fit it.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            if name not in self.takes:
                known = ", ".join(_flag(option) for option in self.takes) or "no option"
                raise UserError(
                    f"task {self.name!r} takes no {_flag(name)} (given {str(value)!r}); "
                    f"it takes {known}"
                )
        return self.make(**given)


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


TASKS: Registry[TaskEntry] = Registry("task", "redraft.tasks")
