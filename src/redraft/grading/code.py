"""Code graded by its tests, which run in the sandbox (`docs/sandbox.md`).

A problem's `metadata` holds `tests`, the code that decides, and may hold `entry_point`, the name it
calls, and `prompt`, code that an answer continues (HumanEval). An answer is a whole program or a
completion of the prompt, in whatever form `program_text` reads. Where the sandbox fails, again and
again, the grade is no verdict (`grader.UNDECIDED`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import ClassVar

from redraft.episode import Grade, Problem
from redraft.errors import UserError
from redraft.grading.grader import Running, timed_out_grade, undecided_grade
from redraft.grading.program_text import extract_program
from redraft.sandbox import Limits, Pool, Result, shared_pool

LIMITS = Limits(wall_s=30.0, cpu_s=10.0, memory_mib=1024)
"""What a program and its tests may use. The limit by the clock leaves room for a busy machine."""

TRIES = 2
"""Times a program is given to the sandbox, which itself tries again, before it is given up."""


@dataclass(frozen=True)
class CodeGrader:
    """Runs the program that an attempt holds, then the problem's tests: right if all pass."""

    limits: Limits = LIMITS
    pool: Pool | None = None
    """Where programs run; None: the pool of this process."""

    runs_programs: ClassVar[bool] = True

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt).settle()

    def begin(self, problem: Problem, attempt: str) -> Running:
        """Start the tests; several run side by side.

        Raises:
            UserError: the problem has no tests, or no sandbox can be started.
        """
        tests = problem.metadata.get("tests")
        if not isinstance(tests, str):
            raise UserError(f"problem {problem.id} has no tests; the code grader needs them")
        prompt = str(problem.metadata.get("prompt", ""))
        program = extract_program(attempt, str(problem.metadata.get("entry_point", "")), prompt)

        def start() -> Future[Result]:
            pool = self.pool or shared_pool()
            return pool.submit(program, tests=tests, limits=self.limits)

        first = start()
        return Running(lambda: self._grade(program, result_of(first, start)))

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """A gold program is never compared to an answer: none is at fault."""
        return [None] * len(golds)

    def _grade(self, program: str, result: Result) -> Grade:
        if result.status == "infrastructure":
            return undecided_grade(result.error)
        if result.status == "timeout":
            return timed_out_grade(program, self.limits.wall_s).model_copy(
                update={"reason": result.error}
            )
        return Grade(
            correct=result.finished, answer=program, decided_by="tests", reason=result.error
        )


def result_of(run: "Future[Result]", again: Callable[[], "Future[Result]"]) -> Result:
    """The result of a run; where the sandbox fails it is started `again`, `TRIES` times in all."""
    result = run.result()
    for _ in range(TRIES - 1):
        if result.status == "infrastructure":  # it may go better another time
            result = again().result()
    return result
