"""Grading sums: a signed number, which attempts give in words, in equations and in sentences."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from redraft.episode import Grade, Problem
from redraft.grading import NumberGrader
from redraft.grading.extract import boxed_answers, extract_answer, visible_part

_MINUS = str.maketrans("−–－", "---")
# "negative 63" is a number, in "70 minus 7" and "A minus 7" it is an operation
_IN_WORDS = re.compile(r"(?<![\d)\]]\s)(?<!\b[A-Za-z]\s)\b(?:minus|negative)\s{1,3}(?=\d)", re.I)
_SPACED_SIGN = re.compile(r"((?:^|=|\bis|:)[\s*$({]{0,9}-)\s{1,3}(?=\d)", re.IGNORECASE)
_MARKER = re.compile(r"\banswer(?:\sis|\s?[:=])|####|</answer>", re.IGNORECASE)
_STATED = re.compile(
    r"(?:\s?:)?(?:\s(?:the\snumber|equal\sto))?"
    r"[\s*$(\\\[{]{0,9}+(?P<number>-?\d{1,300}+(?:,\d{3})*+(?:\.\d{1,300}+)?+)(?!\d)"
    r"[ *$)\\\]}]{0,9}+(?![-+/^%×·=\d])"
    r"(?!(?:,\s?)?(?:and|or|to|hundred|thousand|million|billion|times|plus|minus)\b)",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_DELIMITERS = re.compile(r"\\[)\]]|[$*\s]")


@dataclass(frozen=True)
class SumGrader:
    """Right when the number that the attempt answers with is the gold one.

    That is the last box; else the number right after "the answer is"; else what `NumberGrader`
    reads. Of an equation it is the last right-hand side, and "minus 63" is -63.
    """

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt)

    def begin(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`; it never needs a worker."""
        return NumberGrader().begin(problem, final_number(attempt))

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """A gold that is not a number is at fault."""
        return NumberGrader().gold_faults(golds)


def final_number(attempt: str) -> str:
    """The number that an attempt answers with, as it stands there; empty where there is none."""
    text = _TEXT.sub(r"\1", visible_part(attempt).translate(_MINUS))
    text = _SPACED_SIGN.sub(r"\1", _IN_WORDS.sub("-", text))
    boxes = boxed_answers(text)
    markers = [] if boxes else list(_MARKER.finditer(text))
    stated = _STATED.match(text, markers[-1].end()) if markers else None
    if stated:
        return stated["number"]
    answer = boxes[-1] if boxes else extract_answer(text, fallback=True)
    _, equals, right = (answer or "").rpartition("=")
    return _DELIMITERS.sub("", right) if equals else right
