"""Generated word-sorting problems in the paper's difficulty cells (arXiv 2310.13522, section 5).

A problem is a pure function of (cell, split, index). Its words are drawn from `words.txt`, everyday
English words, without repetition. A checksum of the set of words decides the split that may have
it, so that no test problem is a training problem in another order.
"""

import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from zlib import crc32

from redraft.errors import UserError
from redraft.tasks.base import Posed, Split

TASK = "bbh/word_sorting"
_SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Cell:
    """A difficulty: how many words, and whether training sees it."""

    name: str
    lengths: range
    seen: bool


CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("2-7", range(2, 8), True),
        Cell("8-10", range(8, 11), False),
        Cell("11-15", range(11, 16), False),
        Cell("16+", range(16, 21), False),
    )
}
"""The paper's cells by name; "16+" ends at BIG-Bench Hard's 20 words."""


@cache
def word_list() -> tuple[str, ...]:
    """The words that problems draw from, in alphabetical order."""
    return tuple(files("redraft.tasks.bbh").joinpath("words.txt").read_text("utf-8").split())


def generated_sorting(cell: str, split: Split, index: int) -> Posed:
    """Problem number `index` of a cell and split, posed as BIG-bench poses it.

    Raises:
        UserError: there is no such cell.
    """
    if cell not in CELLS:
        raise UserError(f"no word-sorting cell {cell!r}; expected one of: {', '.join(CELLS)}")
    drawn = random.Random(f"{TASK}/{cell}/{split}/{index}")
    while True:
        words = drawn.sample(word_list(), drawn.choice(CELLS[cell].lengths))
        gold = " ".join(sorted(words))
        if crc32(gold.encode()) % len(_SPLITS) == _SPLITS.index(split):
            break
    return Posed(
        f"Sort the following words alphabetically: List: {' '.join(words)}",
        gold,
        {"cell": cell, "seen": CELLS[cell].seen, "words": len(words)},
    )
