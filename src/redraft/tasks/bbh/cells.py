"""The two scripted tasks as TriPosT trains and measures on them: generated, in difficulty cells.

Training problems come from the seen cells, test problems from all of them in turn, so that any
number of problems is balanced over the cells (the paper's test set of multistep arithmetic is 360
problems: 12 cells of 30).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from redraft.episode import Problem
from redraft.grading import Grader
from redraft.tasks.bbh import generated_arithmetic as arithmetic
from redraft.tasks.bbh import generated_sorting as sorting
from redraft.tasks.bbh.sums import SumGrader
from redraft.tasks.bbh.word_list import WordListGrader
from redraft.tasks.task import Loaded, Split

SIZES: dict[Split, int] = {"train": 550, "test": 360}
"""Problems in a split when no limit is given: the paper's numbers for multistep arithmetic."""


@dataclass(frozen=True)
class GeneratedCells:
    """A family of generated problems; `cells` says of each difficulty whether training sees it."""

    name: str
    description: str
    grader: Grader
    cells: Mapping[str, bool]
    make: Callable[[str, Split, int], Problem]

    def load(self, split: Split, limit: int | None = None, seed: int = 0) -> Loaded:
        """The first `limit` problems of a split: independent draws, so `seed` plays no part."""
        cells = [name for name, seen in self.cells.items() if seen or split == "test"]
        count = limit or SIZES[split]
        return Loaded(
            [
                self.make(cells[index % len(cells)], split, index // len(cells)).model_copy(
                    update={"id": f"{self.name}/{split}/{index}", "task": self.name}
                )
                for index in range(count)
            ]
        )


CELL_TASKS = {
    task.name: task
    for task in (
        GeneratedCells(
            "bbh/multistep_arithmetic-cells",
            "generated sums in the 12 difficulty cells of TriPosT, 4 of them seen",
            SumGrader(),
            {name: cell.seen for name, cell in arithmetic.CELLS.items()},
            arithmetic.generated_arithmetic,
        ),
        GeneratedCells(
            "bbh/word_sorting-cells",
            "generated lists in the 4 difficulty cells of TriPosT, 1 of them seen",
            WordListGrader(),
            {name: cell.seen for name, cell in sorting.CELLS.items()},
            sorting.generated_sorting,
        ),
    )
}
"""By name."""
