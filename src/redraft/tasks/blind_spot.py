r"""Simple questions with a wrong solution each, to measure the blind spot (arXiv 2507.02778).

The kinds are those of its set SCLI5: one more, one less, the next and the previous letter, the
larger and the smaller number, letters in a word and digits in a number. A wrong answer is one off,
or the other number. Unlike there the answer stands in a box, so that it is read without a judge,
and letters do not go round from Z to A. The questions are enumerated, so none comes twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, islice, zip_longest
from random import Random
from string import ascii_uppercase
from zlib import crc32

from redraft.grading import MathGrader
from redraft.tasks.base import Loaded, Posed, Split, Task, TaskEntry

NAME = "blind-spot"
OF_A_KIND = 100
"""Most questions of a kind, in both splits together."""

Item = tuple[str, str | int, str | int]
"""Question, right and wrong answer."""


def _one_off(right: int, question: str) -> int:
    return right + (1 if crc32(question.encode()) % 2 else -1)


def _counting(noun: str, of: str, sign: str, inside: str) -> Item:
    question = f'How many {noun} "{sign}" are in the {of} "{inside}"?'
    right = inside.count(sign)
    return question, right, _one_off(right, question)


def _sums(random: Random) -> Iterator[tuple[str, Iterator[Item]]]:
    n = range(3, 3 + OF_A_KIND)
    yield "one more", ((f"What is {a} + 1?", a + 1, a + 2) for a in n)
    yield "one less", ((f"What is {a} - 1?", a - 1, a - 2) for a in n)
    pairs = iter(random.sample([(a, b) for a in n for b in n if a != b], 2 * OF_A_KIND))
    for word, best, worst in (("larger", max, min), ("smaller", min, max)):
        some = list(islice(pairs, OF_A_KIND))
        ask = f"Which one is {word}, %d or %d?"
        yield word, ((ask % pair, best(pair), worst(pair)) for pair in some)


def _signs(random: Random) -> Iterator[tuple[str, Iterator[Item]]]:
    abc = ascii_uppercase
    three = list(zip(abc, abc[1:], abc[2:], strict=False))
    yield "next letter", ((f"What letter comes after {a}?", b, c) for a, b, c in three)
    yield "previous letter", ((f"What letter comes before {c}?", b, a) for a, b, c in three)
    words = files("redraft.tasks.bbh").joinpath("words.txt").read_text("utf-8").split()
    twice = [(w, max(w, key=w.count)) for w in words if max(map(w.count, w)) > 1]
    some = random.sample(twice, OF_A_KIND)
    yield "letters", (_counting("letters", "word", letter, word) for word, letter in some)
    bits = [f"{number:b}" for number in random.sample(range(4, 1024), OF_A_KIND)]
    yield "digits", (_counting("digits", "number", "1", number) for number in bits)


def items(split: Split) -> Iterator[Posed]:
    """The questions of a split, of each kind in turn; `metadata` has the wrong solution."""
    random = Random(NAME)
    kinds = []
    for kind, made in chain(_sums(random), _signs(random)):
        kinds.append([_posed(kind, *item) for item in made if _split(item[0]) == split])
    yield from filter(None, chain.from_iterable(zip_longest(*kinds)))


def _split(question: str) -> Split:
    return "train" if crc32(question.encode()) // 2 % 2 else "test"


def _posed(kind: str, question: str, right: str | int, wrong: str | int) -> Posed:
    metadata = {"type": kind, "wrong": f"The answer is \\boxed{{{wrong}}}."}
    return Posed(f"{question} Put the answer in \\boxed{{}}.", str(right), metadata)


@dataclass(frozen=True, kw_only=True)
class BlindSpotTask(Task):
    """The questions; each problem's metadata has a wrong solution, `wrong`."""

    def load(self, split: Split, limit: int | None = None, seed: int = 0) -> Loaded:
        """The first `limit` questions of a split: they are in no order, so `seed` is not used."""
        posed = enumerate(islice(items(split), limit))
        return Loaded([self.problem(one, split, index) for index, one in posed])


TASK = TaskEntry(
    NAME,
    "simple questions, each with a wrong solution to be corrected (--protocol blind-spot)",
    lambda: BlindSpotTask(name=NAME, grader=MathGrader()),
    takes=(),
)
