"""The lab's tasks: two families of generated problems, each also in difficulty cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redraft.grading import ExactGrader, NumberGrader
from redraft.lab.expert import expert
from redraft.lab.problems import Arithmetic, Sorting, arithmetic, sorting
from redraft.lab.prompts import PROGRAM_PROMPTS, PROMPTS
from redraft.lab.steps import ARITHMETIC, SORTING
from redraft.tasks.base import Posed, Split, TaskEntry
from redraft.tasks.generated import GeneratedTask, by_cell

SIZES: dict[Split, int] = {"train": 20_000, "test": 1_000}
"""Problems in a split when no limit is given. The splits have separate seeds."""

SORTING_CELLS = {"5-7": (5, 6, 7), "8-10": (8, 9, 10), "11-13": (11, 12, 13), "14-16": (14, 15, 16)}
ARITHMETIC_CELLS = {"2": (2,), "3": (3,), "4": (4,), "5": (5,)}
"""Cells by name: words of a list, groups of an expression."""

SHORT_LISTS = (3, 4)
"""Words of a list that a model which was not made for the lab learns to sort."""

UNSEEN = frozenset(("11-13", "14-16", "4", "5"))
"""Cells that only the test split has."""

_SORTING = GeneratedTask(
    name="lab/sorting",
    grader=ExactGrader(),
    prompts=PROMPTS,
    programs=PROGRAM_PROMPTS,
    steps=SORTING,
    expert=expert,
    make=lambda split, index: _posed(sorting(split, index)),
    sizes=SIZES,
)
_ARITHMETIC = replace(
    _SORTING,
    name="lab/arithmetic",
    grader=NumberGrader(),
    steps=ARITHMETIC,
    make=lambda split, index: _posed(arithmetic(split, index)),
)


def _posed(problem: Sorting | Arithmetic, **metadata: Any) -> Posed:
    more = metadata or {"program": problem.program}
    return Posed(problem.question, problem.gold, {"size": problem.size, **more})


def _in_cells(
    task: GeneratedTask,
    generate: Callable[[Split, int, int], Sorting | Arithmetic],
    cells: Mapping[str, Sequence[int]],
) -> GeneratedTask:
    """The task with the problems of its sizes in turn; training sees those of the seen cells."""
    sizes = {
        (name, size): name not in UNSEEN for name, of_cell in cells.items() for size in of_cell
    }

    def make(cell: tuple[str, int], split: Split, number: int) -> Posed:
        name, size = cell
        return _posed(generate(split, number, size), cell=name, seen=name not in UNSEEN)

    return replace(task, name=f"{task.name}-cells", make=by_cell(sizes, make))


def _entry(task: GeneratedTask, description: str) -> TaskEntry:
    return TaskEntry(task.name, description, lambda: task, takes=())


TASKS = [
    _entry(_SORTING, "put 5 to 15 words into order"),
    _entry(
        replace(
            _SORTING,
            name="lab/short-lists",
            make=by_cell(
                dict.fromkeys(SHORT_LISTS, True),
                lambda size, split, number: _posed(sorting(split, number, size)),
            ),
        ),
        "put 3 or 4 words into order, for models other than the lab's",
    ),
    _entry(_ARITHMETIC, "evaluate 2 or 3 bracketed sums"),
    _entry(
        _in_cells(_SORTING, sorting, SORTING_CELLS),
        "lists in difficulty cells: 5 to 10 words seen, 11 to 16 unseen",
    ),
    _entry(
        _in_cells(_ARITHMETIC, arithmetic, ARITHMETIC_CELLS),
        "sums in difficulty cells: 2 or 3 brackets seen, 4 or 5 unseen",
    ),
]
