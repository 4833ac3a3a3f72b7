"""The contract of graders, and grading many attempts at once.

A grader is any callable `(problem, attempt) -> Grade`. Redraft's own are also *staged*: what can be
decided at once is decided in the caller's thread, and what needs a worker process is begun and
becomes a `Pending` call or a `Running` program, so that `grade_all` can have many at a time.
"""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from redraft.grading.pool import Reply, shared_pool
from redraft.sandbox import Result
from redraft.types import Grade, Problem


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

    @property
    def key(self) -> Hashable:
        """Equal for equal questions."""
        return self.target, self.arguments, self.limit_s

    def start(self) -> "Future[Reply]":
        """Ask."""
        return shared_pool(self.target, self.limit_s).submit(*self.arguments)


@dataclass(frozen=True)
class Running:
    """A verdict that a program has yet to give: how to run it in the sandbox, and how to read what
    became of it: a grade, or the question to a worker that grades what was printed. `key` is equal
    for equal runs."""

    key: Hashable
    start: Callable[[], "Future[Result]"]
    settle: Callable[[Result], Grade | Pending]


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
    while not isinstance(begun, Grade):
        begun = begun.settle(begun.start().result())  # type: ignore[arg-type]
    return begun


def grade_attempt(grader: Grader, problem: Problem, attempt: str, truncated: bool) -> Grade:
    """The grade of one attempt; one that hit its length limit is wrong, whatever it says."""
    return truncated_grade() if truncated else grader(problem, attempt)


def is_whole(grader: Grader, problem: Problem, attempt: str) -> bool:
    """Whether an attempt that hit its length limit has a whole answer before the cut, as far as the
    grader can tell: those that can have a method of this name."""
    tells = getattr(grader, "is_whole", None)
    return tells is not None and tells(problem, attempt)


def truncated_grade() -> Grade:
    """The grade of every attempt that hit its length limit."""
    reason = "the attempt hit its length limit"
    return Grade(score=0, status="truncated", decided_by="none", reason=reason)


def no_answer_grade(reason: str = "no answer found") -> Grade:
    """The grade of an attempt in which there is nothing to compare."""
    return Grade(score=0, status="no_answer", decided_by="none", reason=reason)


def timed_out_grade(answer: str | None, limit_s: float, decided_by: str) -> Grade:
    """The grade of an attempt whose verdict was cut off after `limit_s` seconds."""
    reason = f"no verdict after {limit_s:g} s"
    return Grade(score=0, status="timeout", answer=answer, decided_by=decided_by, reason=reason)


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
    a worker are asked once, and equal programs run once. `progress` is called with 1 for each
    attempt graded.

    Raises:
        UserError: a grader of the user's cannot be imported or failed.
    """
    flags = truncated if truncated is not None else [False] * len(attempts)
    begin = grader.begin if isinstance(grader, StagedGrader) else grader
    grades: dict[int, Grade] = {}
    asked: dict[Hashable, Future[Any]] = {}
    pending: list[tuple[int, Pending | Running]] = []

    def wait_for(index: int, begun: Pending | Running) -> None:
        pending.append((index, begun))
        if begun.key not in asked:
            asked[begun.key] = begun.start()

    def settled(index: int, grade: Grade) -> None:
        grades[index] = grade
        if progress:
            progress(1)

    try:
        for index, ((problem, attempt), cut) in enumerate(zip(attempts, flags, strict=True)):
            begun = truncated_grade() if cut else begin(problem, attempt)
            if isinstance(begun, Grade):
                settled(index, begun)
            else:
                wait_for(index, begun)
        for index, begun in pending:  # which grows where a printed answer goes to a worker
            found = begun.settle(asked[begun.key].result())
            if isinstance(found, Grade):
                settled(index, found)
            else:
                wait_for(index, found)
    finally:
        for future in asked.values():  # on an error or Ctrl-C, what waits is not begun
            future.cancel()
    return [grades[index] for index in range(len(attempts))]
