"""Answers by program: an attempt is a Python program, and what it prints is graded as an answer.

The program runs in the sandbox (`docs/sandbox.md`); what it prints, or else the value of its last
expression, goes to the task's own grader. A run that came to no answer has the reason in
`Grade.decided_by`: `program error`, `program timeout`, `program memory`, `program output` (too
much of it), `program silent`, or `program infrastructure`, where the sandbox failed and nothing is
known about the program.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import ClassVar, cast, get_args

from redraft.episode import Grade, Problem
from redraft.grading.code import result_of
from redraft.grading.grader import RUN, Grader, Running, StagedGrader, undecided_grade
from redraft.grading.program_text import extract_program
from redraft.sandbox import Limits, Pool, Result, Status, shared_pool

LIMITS = Limits(wall_s=10.0, cpu_s=5.0)
"""What a program that computes an answer may use."""

SHOWN = 2_000
"""Characters of a program's output that are kept."""

SILENT = RUN + "silent"


class ProgramGrader:
    """Runs the program in an attempt and has `grader` judge what it printed.

    Equal programs are run once. Many can run side by side: `begin` starts a program and its
    verdict waits for it.

    Args:
        grader: the task's own.
        limits: of each program.
        pool: where programs run; None: the pool of this process.
    """

    runs_programs: ClassVar[bool] = True

    def __init__(self, grader: Grader, limits: Limits = LIMITS, pool: Pool | None = None) -> None:
        self.grader, self.limits, self._pool = grader, limits, pool
        self._runs: dict[str, Future[Result]] = {}

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on the program in `attempt`.

        Raises:
            UserError: no sandbox can be started on this machine.
        """
        return self.begin(problem, attempt).settle()

    def begin(self, problem: Problem, attempt: str) -> Running:
        """Start the program; the verdict comes when it has ended."""
        run = self._start(attempt)
        return Running(lambda: self._grade(problem, self._result(attempt, run)))

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """Golds are the task's grader's business."""
        staged = isinstance(self.grader, StagedGrader)
        return self.grader.gold_faults(golds) if staged else [None] * len(golds)  # type: ignore[attr-defined]

    def output(self, attempt: str) -> str:
        """What the program in an attempt printed, or why it did not come to its end."""
        result = self._result(attempt, self._start(attempt))
        text = result.stdout if result.stdout.strip() else (result.value or "")
        return "\n".join(part for part in (text[:SHOWN].rstrip(), result.error[:SHOWN]) if part)

    def _start(self, attempt: str) -> "Future[Result]":
        code = extract_program(attempt)
        run = self._runs.get(code)
        if run is None or (run.done() and run.result().status == "infrastructure"):
            run = (self._pool or shared_pool()).submit(code, limits=self.limits)
            self._runs[code] = run
        return run

    def _result(self, attempt: str, run: "Future[Result]") -> Result:
        return result_of(run, lambda: self._start(attempt))

    def _grade(self, problem: Problem, result: Result) -> Grade:
        if result.status == "infrastructure":
            return undecided_grade(result.error)
        if not result.finished:
            return Grade(correct=False, decided_by=RUN + result.status, reason=result.error[:SHOWN])
        text = (result.stdout if result.stdout.strip() else result.value or "").strip()
        if not text:
            return Grade(correct=False, decided_by=SILENT, reason="it printed nothing")
        grade = self.grader(problem, text)
        if grade.answer is None and grade.decided_by != "none":
            return grade.model_copy(update={"answer": text})  # a grader that extracts nothing
        return grade


def program_status(grade: Grade) -> Status:
    """How the run of a graded program ended; a program cut off at its length limit is an error."""
    if grade.decided_by == "truncated":
        return "error"
    name = grade.decided_by.removeprefix(RUN)
    known = name in get_args(Status) and grade.decided_by.startswith(RUN)
    return cast(Status, name) if known else "finished"


def was_run(grade: Grade) -> bool:
    """Whether a graded program was given to the sandbox: one that was cut off is not."""
    return grade.decided_by != "truncated"
