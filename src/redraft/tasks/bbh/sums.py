"""Grading sums: a signed number, which attempts give in words, in equations and in sentences."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from redraft.grading import NumberGrader
from redraft.grading.extract import boxed_answers, extract_answer, visible_part
from redraft.types import Grade, Problem

_MINUS = str.maketrans("−–－", "---")
_NEGATIVE = re.compile(r"\b(?:an?\s)?negative\s{1,3}(?=\d)", re.IGNORECASE)
# "is minus 63" is a number, in "70 minus 7" and "the total minus 7" it is an operation
_SIGN_IN_WORDS = re.compile(
    r"((?:^|[=:({\[/×·+]|\b(?:is|be|was|equals?|to|gets?|got|gives?|gave|makes?|yields?|obtain|have"
    r"|find|so|thus|hence|therefore|namely|times|plus|and|or|not|than|by)\b)"
    r"[\s*$({\[]{0,9})minus\s{1,3}(?=\d)",
    re.IGNORECASE,
)
_SPACED_SIGN = re.compile(r"((?:^|=|\bis|:)[\s*$({]{0,9}-)\s{1,3}(?=\d)", re.IGNORECASE)
_MARKER = re.compile(r"\banswer(?:\sis|\s?[:=])|\bevaluates\sto\b|####|</answer>", re.IGNORECASE)
_NUMBER = (
    r"(?P<number>-?\d{1,300}+(?:,\d{3}(?!\d))*+(?:\.\d{1,300}+)?+(?:[eE][-+]?\d{1,3})?+)(?!\d)"
)
_STATED = re.compile(
    r"(?:\s?:)?(?:\s(?:the\snumber|equal\sto))?"
    rf"[\s$(\\\[{{]{{0,9}}+(?P<stars>\*{{1,3}}+)?[\s$(\\\[{{]{{0,9}}+{_NUMBER}"
    r"(?:[$}]|\\?[)\]]){0,9}+(?(stars)(?:(?P=stars))?+)(?:[ $}]|\\?[)\]]){0,9}+"
    r"(?![-+*/^%×·÷=\d²³]|x\s?[-\d(]|\(\s?[-\d(]|\\(?:times|cdot|div)\b)"
    r"(?!(?:,\s?|\()?(?:and(?!\snot\b)|or|to|hundred|thousand|million|billion"
    r"|times|plus|minus|over|(?:divided|multiplied)\sby)\b)",
    re.IGNORECASE,
)
_INSISTS = re.compile(r"(?:,\s?)?(?:(?:and\s)?not|since|because)\b", re.IGNORECASE)
_SIDE = re.compile(
    r"(?:(?:so|thus|hence|therefore|then)\b[\s,:]*+)?[\s*`$(\\\[{,;!]*+"
    r"(?P<number>-?(?:\d{1,3}(?:[ ]\d{3})++|\d++(?:,\d{3}(?!\d))*+)(?:\.\d++)?+(?:e[-+]?\d{1,3})?+)"
    r"[^\w%]*+",
    re.IGNORECASE,
)
_OPERATION = re.compile(
    r"(?:(?:\d|[)\]}]|\b[A-Za-z])[ \t]*[-+*/^×·÷][ \t]+|[\d)\]}][-+*/^×·÷]"
    r"|\b(?:plus|minus|times|over|by|not)\s{1,3}|\\(?:times|cdot|div)\s{0,3})[$({\[]{0,9}$",
    re.IGNORECASE,
)
_PRODUCT = re.compile(r"\dx\s?(?!10\s?\^)[-\d(]")  # which reads like a unit, "x2"
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


@dataclass(frozen=True)
class SumGrader:
    """Right when the number that the attempt answers with is the gold one.

    That is the last box; else the number right after "the answer is"; else what `NumberGrader`
    reads. Of an equation it is the last side if that is a number, else the only side that is one
    ("18 = 6 * 3"). A number that something is yet to be done with is none, and "minus 63" is -63.
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
    text = _SIGN_IN_WORDS.sub(r"\1-", _NEGATIVE.sub("-", text))
    text = _SPACED_SIGN.sub(r"\1", text)
    boxes = boxed_answers(text)
    if boxes:
        return _of_equation(boxes[-1])
    markers = list(_MARKER.finditer(text))
    begin = markers[-1].end() if markers else 0
    stated = _STATED.match(text, begin)
    if stated and (markers or _INSISTS.match(text, stated.end())):
        return stated["number"]
    answer = extract_answer(text, fallback=True) or ""
    place = text.find(answer, begin) if markers else text.rfind(answer)
    operand = place >= 0 and _OPERATION.search(text[max(0, place - 40) : place])
    if answer and place >= 0 and "=" not in answer and (operand or not _SIDE.fullmatch(answer)):
        line = text[text.rfind("\n", 0, place) + 1 :].split("\n", 1)[0]
        answer = line if "=" in line else "" if operand else answer
    return _of_equation(answer)


def _of_equation(answer: str) -> str:
    """The number that an equation comes to; empty where it is left open; what is none, as it is."""
    if "=" not in answer:
        return "" if _PRODUCT.search(answer) else answer
    sides = [_SIDE.fullmatch(side) for side in answer.split("=")]
    if sides[-1]:
        return sides[-1]["number"]
    numbers = {side["number"] for side in sides if side}
    return numbers.pop() if len(numbers) == 1 else ""
