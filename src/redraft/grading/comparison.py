"""Two graders compared: where math-verify alone decides otherwise than the grades of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from redraft.grading.answers import gold_answer
from redraft.grading.pool import shared_pool
from redraft.types import Episode, Grade

MATH_VERIFY = "redraft.grading.bare_math_verify:ask"
LIMIT_S = 10.0
"""Seconds that math-verify has for one verdict."""


@dataclass(frozen=True)
class Difference:
    """A response on which the two disagree."""

    problem: str
    gold: str
    response: str
    ours: Grade
    theirs: bool | None
    """Its verdict; None where it gave none in time or failed."""


def compare_with_math_verify(episodes: Sequence[Episode]) -> list[Difference]:
    """The graded responses of a run on which math-verify alone differs, in order, each pair once.

    Responses that were cut off, and those without a verdict, are left out. math-verify runs in
    worker processes; a verdict that takes longer than `LIMIT_S` counts as none.
    """
    graded: dict[tuple[str, str], tuple[str, Grade]] = {}
    for episode in episodes:
        for turn in episode.turns:
            if turn.grade is not None and turn.grade.status in ("graded", "no_answer"):
                pair = (gold_answer(episode.problem.gold), turn.text)
                graded.setdefault(pair, (episode.problem.id, turn.grade))
    replies = shared_pool(MATH_VERIFY, LIMIT_S).call_all(list(graded))
    differences = []
    for ((gold, response), (problem, ours)), reply in zip(graded.items(), replies, strict=True):
        theirs = reply.value is True if reply.status == "ok" else None
        if theirs != ours.correct:
            differences.append(Difference(problem, gold, response, ours, theirs))
    return differences
