"""The contract of graders, and grading many attempts at once.

A grader is any callable `(problem, attempt) -> Grade`. Redraft's own are also *staged*: what can be
decided at once is decided in the caller's thread, and what needs a worker process becomes a
`Pending` verdict, so that `grade_all` can run many of those at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from redraft.episode import Episode, Grade, Problem
from redraft.grading.pool import Reply, shared_pool


class Grader(Protocol):
    """Judges one attempt at one problem."""

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        ...


@dataclass(frozen=True)
class Pending:
    """A verdict that a worker process has yet to give: what to ask it, and how to read its reply.

    `target` is the function asked (`module:function`) with `arguments`; it has `limit_s` seconds,
    not counting those in which its worker waits for a processor (see `pool`).
    """

    target: str
    arguments: tuple[str, ...]
    limit_s: float
    settle: Callable[[Reply], Grade]


@dataclass(frozen=True)
class Running:
    """A verdict that is being found already, elsewhere than in the grading pool.

    `settle` waits for it.
    """

    settle: Callable[[], Grade]


@runtime_checkable
class StagedGrader(Protocol):
    """A grader that knows which of its verdicts need a worker process."""

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`: both stages, one after the other."""
        ...

    def begin(self, problem: Problem, attempt: str) -> Grade | Pending | Running:
        """The verdict where it is cheap, else what a worker must be asked or is busy with."""
        ...

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """For each gold answer: why no answer can be compared to it, or None where one can."""
        ...


def finish(begun: Grade | Pending | Running) -> Grade:
    """The verdict that a staged grader began, in this thread."""
    if isinstance(begun, Grade):
        return begun
    if isinstance(begun, Running):
        return begun.settle()
    return begun.settle(shared_pool(begun.target, begun.limit_s).call(*begun.arguments))


def grade_attempt(grader: Grader, problem: Problem, attempt: str, truncated: bool) -> Grade:
    """The grade of one attempt; one that hit its length limit is wrong, whatever it says."""
    return truncated_grade() if truncated else grader(problem, attempt)


def truncated_grade() -> Grade:
    """The grade of every attempt that hit its length limit."""
    return Grade(correct=False, decided_by="truncated", reason="the attempt hit its length limit")


def timed_out_grade(answer: str | None, limit_s: float) -> Grade:
    """The grade of an attempt whose verdict was cut off after `limit_s` seconds."""
    return Grade(
        correct=False,
        answer=answer,
        decided_by="timeout",
        timed_out=True,
        reason=f"no verdict after {limit_s:g} s",
    )


RUN = "program "
"""How `Grade.decided_by` begins where a run came to no answer; how it ended follows."""

UNDECIDED = RUN + "infrastructure"
"""`Grade.decided_by` where the sandbox failed: nothing is known about the attempt."""


def undecided_grade(reason: str) -> Grade:
    """The grade of an attempt that could not be judged: no verdict, not to be counted as one."""
    return Grade(correct=False, decided_by=UNDECIDED, reason=reason)


def why_undecided(episode: Episode) -> str | None:
    """Why an attempt of the episode has no verdict; None where all have."""
    grades = (turn.grade for turn in episode.turns)
    return next((grade.reason for grade in grades if grade.decided_by == UNDECIDED), None)


def runs_programs(grader: Grader) -> bool:
    """Whether a grader runs what a model wrote; such graders have an attribute that says so."""
    return bool(getattr(grader, "runs_programs", False))


def grade_all(
    grader: Grader,
    attempts: Sequence[tuple[Problem, str]],
    truncated: Sequence[bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Grade]:
    """Grades of many attempts, in order; verdicts that need a worker process run side by side.

    `truncated` (one flag per attempt) marks those that hit their length limit. Equal questions to
    a worker are asked once. `progress` is called with the number of attempts just graded.

    Raises:
        UserError: a grader of the user's cannot be imported or failed.
    """
    flags = truncated if truncated is not None else [False] * len(attempts)
    grades: dict[int, Grade] = {}
    asked: dict[tuple[str, tuple[str, ...], float], list[tuple[int, Pending]]] = {}
    running: list[tuple[int, Running]] = []
    for index, ((problem, attempt), cut) in enumerate(zip(attempts, flags, strict=True)):
        begun = _begin(grader, problem, attempt, cut)
        if isinstance(begun, Grade):
            grades[index] = begun
            if progress:
                progress(1)
        elif isinstance(begun, Running):
            running.append((index, begun))
        else:
            question = (begun.target, begun.arguments, begun.limit_s)
            asked.setdefault(question, []).append((index, begun))
    for target, limit_s in dict.fromkeys((target, limit) for target, _, limit in asked):
        questions = [q for q in asked if (q[0], q[2]) == (target, limit_s)]
        calls = [arguments for _, arguments, _ in questions]
        replies = shared_pool(target, limit_s).call_all(calls)
        for question, reply in zip(questions, replies, strict=True):
            for index, pending in asked[question]:
                grades[index] = pending.settle(reply)
                if progress:
                    progress(1)
    for index, verdict in running:
        grades[index] = verdict.settle()
        if progress:
            progress(1)
    return [grades[index] for index in range(len(attempts))]


def _begin(grader: Grader, problem: Problem, attempt: str, cut: bool) -> Grade | Pending | Running:
    if cut:
        return truncated_grade()
    if isinstance(grader, StagedGrader):
        return grader.begin(problem, attempt)
    return grader(problem, attempt)
