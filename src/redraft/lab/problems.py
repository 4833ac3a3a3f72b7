"""The lab's problems: generated, seeded, with exact answers and worked solutions.

Two families in the style of BIG-bench: word sorting and multistep arithmetic. Problem number `i` of
a split is a pure function of (family, split, i), so every split is endless, reproducible and the
same on every machine. What the base model was pretrained on comes from the split `corpus`; training
uses `train`; all reported numbers use `test`. A question belongs to one split only.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args
from zlib import crc32

from redraft.lab.words import WORDS

Split = Literal["corpus", "train", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)

SORTING_LENGTHS = range(5, 16)
"""Words per sorting problem, drawn uniformly."""

ARITHMETIC_GROUPS = range(2, 4)
"""Bracketed groups per arithmetic problem, drawn uniformly."""


@dataclass(frozen=True)
class Sorting:
    """Put `words` into alphabetical order."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of words."""
        return len(self.words)

    @property
    def question(self) -> str:
        return "Sort " + " ".join(self.words)

    @property
    def gold(self) -> str:
        return " ".join(sorted(self.words))

    @property
    def hasty(self) -> str:
        """The words by their first letters only: those that share one stay as the question has
        them."""
        return " ".join(sorted(self.words, key=lambda word: word[0]))

    @property
    def program(self) -> str:
        """A Python program that prints the answer."""
        return f'print(*sorted(" {" ".join(self.words)}".split()))'


@dataclass(frozen=True)
class Arithmetic:
    """Evaluate bracketed groups `(a ∘ b)` of digits joined by `operators`, left to right.

    `groups` are (a, operator, b) with a, b in 0..9 and the operator one of + - *; `operators` join
    the groups with + or -, so that intermediate values stay within three digits.
    """

    groups: tuple[tuple[int, str, int], ...]
    operators: tuple[str, ...]

    @property
    def expression(self) -> str:
        parts = [f"({a}{op}{b})" for a, op, b in self.groups]
        joined = parts[0]
        for operator, part in zip(self.operators, parts[1:], strict=True):
            joined += operator + part
        return joined

    @property
    def size(self) -> int:
        """Number of bracketed groups."""
        return len(self.groups)

    @property
    def question(self) -> str:
        return "Compute " + self.expression

    @property
    def steps(self) -> list[tuple[int, str, int]]:
        """The worked solution: every binary operation in the order it is carried out."""
        steps = list(self.groups)
        total = apply(*self.groups[0])
        for operator, group in zip(self.operators, self.groups[1:], strict=True):
            steps.append((total, operator, apply(*group)))
            total = apply(*steps[-1])
        return steps

    @property
    def gold(self) -> str:
        return str(apply(*self.steps[-1]))

    @property
    def program(self) -> str:
        """A Python program that prints the answer."""
        return f"print({self.expression})"


P = TypeVar("P", Sorting, Arithmetic)


def apply(a: int, operator: str, b: int) -> int:
    """`a operator b` for the lab's three operators."""
    match operator:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
    raise ValueError(f"unknown operator {operator!r}; the lab has + - *")


def worked(steps: list[tuple[int, str, int]]) -> str:
    """A worked solution as text: one equation per step, the last value is the answer."""
    return " ; ".join(f"{a} {op} {b} = {apply(a, op, b)}" for a, op, b in steps)


def sorting(split: Split, index: int, size: int | None = None) -> Sorting:
    """Sorting problem number `index` of a split, or of those in it with `size` words."""

    def draw(rng: random.Random) -> Sorting:
        return Sorting(tuple(rng.sample(WORDS, size or rng.choice(SORTING_LENGTHS))))

    return _of_split(split, random.Random(_seed("sorting", split, index, size)), draw)


def arithmetic(split: Split, index: int, size: int | None = None) -> Arithmetic:
    """Arithmetic problem number `index` of a split, or of those in it with `size` groups."""

    def draw(rng: random.Random) -> Arithmetic:
        count = size or rng.choice(ARITHMETIC_GROUPS)
        return Arithmetic(
            groups=tuple(
                (rng.randrange(10), rng.choice("+-*"), rng.randrange(10)) for _ in range(count)
            ),
            operators=tuple(rng.choice("+-") for _ in range(count - 1)),
        )

    return _of_split(split, random.Random(_seed("arithmetic", split, index, size)), draw)


def _seed(family: str, split: Split, index: int, size: int | None) -> str:
    return f"{family}/{split}/{index}" if size is None else f"{family}/{split}/{size}/{index}"


def _of_split(split: Split, rng: random.Random, draw: Callable[[random.Random], P]) -> P:
    """The first problem drawn whose question belongs to the split.

    Small problems are few enough to be drawn twice; a checksum of the question decides which split
    may have it, so that no reported number is of a question seen in training.
    """
    while True:
        problem = draw(rng)
        if crc32(problem.question.encode()) % len(SPLITS) == SPLITS.index(split):
            return problem
