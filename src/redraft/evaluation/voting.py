r"""Majority votes over answers, with every rule stated.

**What counts as the same answer.** Answers that read as a number (`grading.math`) are the same
when their exact values are: `1/2`, `0.5` and `\frac12`, or `1,600` and `$1600`. All others are the
same when they are read as the same. That is coarser than comparing the
strings and finer than asking the grader, which may also forgive rounding or a percentage written as
hundredths: such a relation is not transitive, so it forms no groups.

A unit only separates answers that name different ones: `5` and `5 m` are one answer, `5 m`
and `5 cm` are two, and a `5` beside both of these is a third. A percent sign is read as a unit, so
`12.5%` goes with `12.5`, and `0.125` stands apart from both.

**Who votes.** Every response in which an answer was found, right or wrong. One without (its
`Grade.answer` is None, as for truncated responses) abstains.

**Who wins.** The most frequent answer; among equally frequent ones that whose first vote came
earliest. The verdict on a vote is the grade of the earliest response with the winning answer, and a
vote from which all abstained is wrong.
"""

from collections.abc import Hashable, Sequence

from redraft.grading.math import key
from redraft.types import Grade

ABSTAINED = Grade(
    score=0, status="no_answer", decided_by="none", reason="every response abstained from the vote"
)
"""The verdict on a vote without votes."""


def answer_groups(answers: Sequence[str | None]) -> list[list[int]]:
    """Indices of equal answers, in order of first appearance; None is in no group."""
    keys = [None if answer is None else key(answer) for answer in answers]
    units: dict[Hashable, set[str]] = {}  # those named with each value
    for found in keys:
        if found is not None and found[1]:
            units.setdefault(found[0], set()).add(found[1])
    groups: dict[Hashable, list[int]] = {}
    for index, found in enumerate(keys):
        if found is not None:
            value, unit = found
            ambiguous = len(units.get(value, ())) > 1
            groups.setdefault((value, unit if ambiguous else ""), []).append(index)
    return list(groups.values())


def majority_group(answers: Sequence[str | None]) -> list[int]:
    """Indices of the responses whose answer wins the vote, in order; empty when all abstain."""
    return max(answer_groups(answers), key=len, default=[])  # of equals, max takes the first


def same_answer(a: str | None, b: str | None) -> bool:
    """Whether two answers are there and would be one in a vote."""
    return a is not None and b is not None and len(answer_groups([a, b])) == 1


def vote(grades: Sequence[Grade]) -> Grade:
    """The verdict of the majority: the grade of the earliest response with the winning answer."""
    winners = majority_group([grade.answer for grade in grades])
    return grades[winners[0]] if winners else ABSTAINED
