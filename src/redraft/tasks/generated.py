"""Tasks whose problems are generated: each is a function of its split and number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from redraft.tasks.base import Loaded, Posed, Split, Task

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class GeneratedTask(Task):
    """An endless source of problems.

    `make(split, index)` is problem number `index` (from 0) of a split; `sizes` says how many
    problems a split has when no limit is given.
    """

    make: Callable[[Split, int], Posed]
    sizes: Mapping[Split, int]

    def load(self, split: Split, limit: int | None = None, seed: int = 0) -> Loaded:
        """The first `limit` problems of a split: they are independent draws, so `seed` is not
        used."""
        count = self.sizes[split] if limit is None else limit
        return Loaded([self.problem(self.make(split, i), split, i) for i in range(count)])


def by_cell(
    cells: Mapping[C, bool], make: Callable[[C, Split, int], Posed]
) -> Callable[[Split, int], Posed]:
    """Problems of the difficulty cells in turn, so that any number of them is balanced.

    `cells` says of each cell whether training sees it; the test split has all of them.
    `make(cell, split, number)` is problem number `number` of a cell.
    """

    def made(split: Split, index: int) -> Posed:
        open_cells = [cell for cell, seen in cells.items() if seen or split == "test"]
        number, place = divmod(index, len(open_cells))
        return make(open_cells[place], split, number)

    return made
