"""The lab's worlds as tasks, loaded and graded by the same code as any other."""

from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True)
class LabCells:
    """A family of generated problems in difficulty cells: training sees only some of them.

    `cells` are sizes by cell; those in `unseen` are in the test split alone. The problems of a
    split go through its sizes in turn, so that any number of them is balanced.
    """

    name: str
    description: str
    grader: Grader
    make: Callable[[LabSplit, int, int], Sorting | Arithmetic]
    cells: Mapping[str, Sequence[int]]
    unseen: frozenset[str]

    def load(self, split: Split, limit: int | None = None, seed: int = 0) -> Loaded:
        """The first `limit` problems of a split: independent draws, so `seed` plays no part."""
        sizes = [
            (cell, size)
            for cell, of_cell in self.cells.items()
            for size in of_cell
            if split == "test" or cell not in self.unseen
        ]
        count = limit or SIZES[split]
        return Loaded(
            [
                self._problem(split, index, *sizes[index % len(sizes)], index // len(sizes))
                for index in range(count)
            ]
        )

    def _problem(self, split: Split, index: int, cell: str, size: int, number: int) -> Problem:
        made = self.make(split, number, size)
        return Problem(
            id=f"{self.name}/{split}/{index}",
            task=self.name,
            question=made.question,
            gold=made.gold,
            metadata={"size": size, "cell": cell, "seen": cell not in self.unseen},
        )


SORTING_CELLS = {"5-7": (5, 6, 7), "8-10": (8, 9, 10), "11-13": (11, 12, 13), "14-16": (14, 15, 16)}
ARITHMETIC_CELLS = {"2": (2,), "3": (3,), "4": (4,), "5": (5,)}
"""Cells by name: words of a list, groups of an expression. The upper two are unseen."""


def lab_tasks() -> dict[str, Task]:
    """The lab's tasks by name."""
    tasks: tuple[Task, ...] = (
        LabTask("lab/sorting", "put 5 to 15 words into order", ExactGrader(), sorting),
        LabTask("lab/arithmetic", "evaluate 2 or 3 bracketed sums", NumberGrader(), arithmetic),
        LabCells(
            "lab/sorting-cells",
            "lists in difficulty cells: 5 to 10 words seen, 11 to 16 unseen",
            ExactGrader(),
            sorting,
            SORTING_CELLS,
            frozenset(("11-13", "14-16")),
        ),
        LabCells(
            "lab/arithmetic-cells",
            "sums in difficulty cells: 2 or 3 brackets seen, 4 or 5 unseen",
            NumberGrader(),
            arithmetic,
            ARITHMETIC_CELLS,
            frozenset(("4", "5")),
        ),
    )
    return {task.name: task for task in tasks}
