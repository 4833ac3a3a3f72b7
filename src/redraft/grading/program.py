"""Answers by program: an attempt is a Python program, and what it prints is graded as an answer.

The program runs in the sandbox (`docs/sandbox.md`); what it prints, or else the value of its last
expression, goes to the task's own grader. Where a run came to no answer, `Grade.decided_by` is
`program` and `Grade.status` says why: `error`, `timeout`, `memory`, `output` (too much of it),
`no_answer` (it printed nothing), or `undecided`, where the sandbox failed and nothing is known
about the program.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from redraft.grading.code import STATUS
from redraft.grading.grader import Grader, Pending, Running, StagedGrader, finish
from redraft.grading.program_text import extract_program
from redraft.sandbox import Limits, Pool, Result, shared_pool
from redraft.types import Grade, Problem

LIMITS = Limits(wall_s=10.0, cpu_s=5.0)
"""What a program that computes an answer may use."""

SHOWN = 2_000
"""Characters of a program's output, and of its error, that are kept."""


@dataclass(frozen=True)
class ProgramGrader:
    """Runs the program in an attempt and has `grader` judge what it printed.

    `Grade.output` is what it printed, or else the value of its last expression, and its error.
    """

    grader: Grader
    """The task's own."""
    limits: Limits = LIMITS
    pool: Pool | None = None
    """Where programs run; None: the pool of this process."""

    runs_programs: ClassVar[bool] = True

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on the program in `attempt`.

        Raises:
            UserError: no sandbox can be started on this machine.
        """
        return finish(self.begin(problem, attempt))

    def begin(self, problem: Problem, attempt: str) -> Running:
        """The run of the program; the verdict comes when it has ended."""
        program, pool, limits = extract_program(attempt), self.pool or shared_pool(), self.limits
        return Running(
            key=(program, limits),
            start=lambda: pool.submit(program, limits=limits),
            settle=lambda result: self._grade(problem, result),
        )

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """Golds are the task's grader's business."""
        staged = isinstance(self.grader, StagedGrader)
        return self.grader.gold_faults(golds) if staged else [None] * len(golds)  # type: ignore[attr-defined]

    def _grade(self, problem: Problem, result: Result) -> Grade | Pending:
        """The verdict on what was printed, or what a worker must be asked for it."""
        text = result.stdout if result.stdout.strip() else (result.value or "")
        error = result.error[:SHOWN]
        output = "\n".join(part for part in (text[:SHOWN].rstrip(), error) if part)
        if not result.finished:
            status = STATUS[result.status]
            grade = Grade(score=0, status=status, decided_by="program", reason=error)
        elif not text.strip():
            reason = "it printed nothing"
            grade = Grade(score=0, status="no_answer", decided_by="program", reason=reason)
        else:
            return self._answered(problem, text.strip(), output)
        return grade.model_copy(update={"output": output})

    def _answered(self, problem: Problem, answer: str, output: str) -> Grade | Pending:
        """The task's verdict on a printed answer."""

        def with_output(grade: Grade) -> Grade:
            extracts_nothing = grade.answer is None and grade.status != "no_answer"
            update = {"output": output} | ({"answer": answer} if extracts_nothing else {})
            return grade.model_copy(update=update)

        if not isinstance(self.grader, StagedGrader):
            return with_output(self.grader(problem, answer))
        begun = self.grader.begin(problem, answer)
        if isinstance(begun, Pending):
            return replace(begun, settle=lambda reply: with_output(begun.settle(reply)))
        return with_output(finish(begun))
