"""The lab's worlds as tasks, loaded and graded by the same code as any other."""

from collections.abc import Callable
from dataclasses import dataclass

from redraft.episode import Problem
from redraft.grading import ExactGrader, Grader, NumberGrader
from redraft.lab.problems import Arithmetic, Sorting, arithmetic, sorting
from redraft.lab.problems import Split as LabSplit
from redraft.tasks.task import Loaded, Split, Task

SIZES: dict[Split, int] = {"train": 20_000, "test": 1_000}
"""Problems in a split when no limit is given. The splits have separate seeds."""


@dataclass(frozen=True)
class LabTask:
    """A family of generated problems."""

    name: str
    description: str
    grader: Grader
    make: Callable[[LabSplit, int], Sorting | Arithmetic]

    def load(self, split: Split, limit: int | None = None, seed: int = 0) -> Loaded:
        """The first `limit` problems of a split: independent draws, so `seed` plays no part."""
        return Loaded([self._problem(split, index) for index in range(limit or SIZES[split])])

    def _problem(self, split: Split, index: int) -> Problem:
        made = self.make(split, index)
        return Problem(
            id=f"{self.name}/{split}/{index}",
            task=self.name,
            question=made.question,
            gold=made.gold,
            metadata={"size": made.size, "program": made.program},
        )


def lab_tasks() -> dict[str, Task]:
    """The lab's tasks by name."""
    tasks = (
        LabTask("lab/sorting", "put 5 to 9 words into order", ExactGrader(), sorting),
        LabTask("lab/arithmetic", "evaluate 2 or 3 bracketed sums", NumberGrader(), arithmetic),
    )
    return {task.name: task for task in tasks}
