"""The two scripted tasks as TriPosT trains and measures on them: generated, in difficulty cells.

Training problems come from the seen cells, test problems from all of them (the paper's test set of
multistep arithmetic is 360 problems: 12 cells of 30).
"""

from collections.abc import Callable

from redraft.grading import Grader
from redraft.tasks.base import Posed, Split, TaskEntry
from redraft.tasks.bbh import generated_arithmetic, generated_sorting
from redraft.tasks.bbh.formats import ARITHMETIC, SORTING
from redraft.tasks.bbh.sums import SumGrader
from redraft.tasks.bbh.word_list import WordListGrader
from redraft.tasks.generated import GeneratedTask, by_cell
from redraft.tasks.steps import StepFormat

SIZES: dict[Split, int] = {"train": 550, "test": 360}
"""Problems in a split when no limit is given: the paper's numbers for multistep arithmetic."""


def _cells(
    description: str,
    grader: Grader,
    steps: StepFormat,
    cells: dict[str, bool],
    make: Callable[[str, Split, int], Posed],
) -> TaskEntry:
    task = GeneratedTask(
        name=f"bbh/{steps.name}-cells",
        grader=grader,
        steps=steps,
        make=by_cell(cells, make),
        sizes=SIZES,
    )
    return TaskEntry(task.name, description, lambda: task, takes=())


TASKS = [
    _cells(
        "generated sums in the 12 difficulty cells of TriPosT, 4 of them seen",
        SumGrader(),
        ARITHMETIC,
        {name: cell.seen for name, cell in generated_arithmetic.CELLS.items()},
        generated_arithmetic.generated_arithmetic,
    ),
    _cells(
        "generated lists in the 4 difficulty cells of TriPosT, 1 of them seen",
        WordListGrader(),
        SORTING,
        {name: cell.seen for name, cell in generated_sorting.CELLS.items()},
        generated_sorting.generated_sorting,
    ),
]
