r"""Majority votes over answers, with every rule stated.

**What counts as the same answer.** Answers that read as a number (`grading.number`) are the same
when their exact values are: `1/2`, `0.5` and `\frac12`, or `1,600` and `$1600`. All others are the
same when their normalised strings are (`grading.normalise`). That is coarser than comparing the
strings and finer than asking the grader, which may also forgive rounding or a percentage written as
hundredths: such a relation is not transitive, so it forms no groups.

A unit only separates answers that name different ones: `5` and `5 m` are one answer, `5 m`
and `5 cm` are two, and a `5` beside both of these is a third. A percent sign is read as a unit, so
`12.5%` goes with `12.5`, and `0.125` stands apart from both.

**Who votes.** Every attempt in which an answer was found, right or wrong. An attempt without one
(`Grade.answer` is None; truncated attempts have none) abstains.

**Who wins.** The most frequent answer; among equally frequent ones that whose first vote came
earliest. The verdict on a vote is the grade of the earliest attempt with the winning answer, and a
vote from which all abstained is wrong.
"""

from collections.abc import Hashable, Sequence
from fractions import Fraction

from redraft.episode import Grade
from redraft.grading.equality import LENGTH_LIMIT
from redraft.grading.normalise import normalise
from redraft.grading.number import Number, parse_number

ABSTAINED = Grade(correct=False, decided_by="none", reason="every attempt abstained from the vote")
"""The verdict on a vote without votes."""


def answer_groups(answers: Sequence[str | None]) -> list[list[int]]:
    """Indices of equal answers, in order of first appearance; None is in no group."""
    numbers = [None if answer is None else parse_number(answer) for answer in answers]
    units: dict[Fraction, set[str]] = {}  # those named with each value
    for number in numbers:
        if number is not None:
            units.setdefault(number.value, set()).update(_unit(number))
    groups: dict[Hashable, list[int]] = {}
    for index, (answer, number) in enumerate(zip(answers, numbers, strict=True)):
        if number is not None:
            ambiguous = len(units[number.value]) > 1
            key: Hashable = (number.value, _unit(number) if ambiguous else frozenset())
        elif answer is not None:
            key = _text(answer)
        else:
            continue
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def majority_group(answers: Sequence[str | None]) -> list[int]:
    """Indices of the attempts whose answer wins the vote, in order; empty when all abstain."""
    return max(answer_groups(answers), key=len, default=[])  # of equals, max takes the first


def vote(grades: Sequence[Grade]) -> Grade:
    """The verdict of the majority: the grade of the earliest attempt with the winning answer."""
    winners = majority_group([grade.answer for grade in grades])
    return grades[winners[0]] if winners else ABSTAINED


def _unit(number: Number) -> frozenset[str]:
    unit = "%" if number.percent else number.unit
    return frozenset() if unit is None else frozenset((unit,))


def _text(answer: str) -> str:
    if len(answer) > LENGTH_LIMIT:  # compared as it is, like everywhere in grading
        return answer.strip()
    return normalise(answer) or answer.strip()
