"""Generated multistep arithmetic in the paper's difficulty cells (arXiv 2310.13522, section 5).

BIG-bench builds a problem level by level: a depth of {2, 2} is two bracketed halves, each of two
innermost brackets, each of `length` numbers from -9 to 9 joined by + - *. Problem number `index` is
a pure function of (cell, split, index). A checksum of the question decides the split that may have
it, so that no test problem is a training problem.
"""

import random
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from redraft.errors import UserError
from redraft.tasks.base import Posed, Split
from redraft.tasks.bbh.steps.expression import evaluate, parse

TASK = "bbh/multistep_arithmetic"
LENGTHS = range(3, 7)
DEPTHS = ((2,), (2, 2), (2, 2, 2))

_SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Cell:
    """A difficulty: numbers in an innermost bracket, the brackets' levels, whether training sees
    it."""

    length: int
    depth: tuple[int, ...]

    @property
    def name(self) -> str:
        """For example "2.2-l3": depth {2, 2} and length 3."""
        return f"{'.'.join(map(str, self.depth))}-l{self.length}"

    @property
    def brackets(self) -> str:
        """The brackets of its problems, and nothing else: "(()())" at depth {2}."""
        shape = "()"
        for parts in reversed(self.depth):
            shape = f"({shape * parts})"
        return shape

    @property
    def seen(self) -> bool:
        """Length 3 or 4 at a depth of one or two levels."""
        return self.length <= 4 and len(self.depth) <= 2

    @property
    def metadata(self) -> dict[str, Any]:
        """What its problems say of themselves."""
        return {
            "cell": self.name,
            "seen": self.seen,
            "length": self.length,
            "depth": len(self.depth),
        }


CELLS: dict[str, Cell] = {
    cell.name: cell for cell in (Cell(length, depth) for depth in DEPTHS for length in LENGTHS)
}
"""The paper's twelve cells by name, four of them seen."""


def generated_arithmetic(cell: str, split: Split, index: int) -> Posed:
    """Problem number `index` of a cell and split, posed as BIG-bench poses it.

    Raises:
        UserError: there is no such cell.
    """
    if cell not in CELLS:
        raise UserError(
            f"no multistep arithmetic cell {cell!r}; expected one of: {', '.join(CELLS)}"
        )
    drawn = random.Random(f"{TASK}/{cell}/{split}/{index}")
    difficulty = CELLS[cell]
    while True:
        expression = _expression(drawn, difficulty.depth, difficulty.length)
        if crc32(expression.encode()) % len(_SPLITS) == _SPLITS.index(split):
            break
    return Posed(f"{expression} =", str(evaluate(parse(expression))), difficulty.metadata)


def _expression(drawn: random.Random, depth: tuple[int, ...], length: int) -> str:
    if not depth:
        parts = [str(drawn.randint(-9, 9)) for _ in range(length)]
    else:
        parts = [_expression(drawn, depth[1:], length) for _ in range(depth[0])]
    joined = parts[0]
    for part in parts[1:]:
        joined += f" {drawn.choice('+-*')} {part}"
    return f"({joined})"
