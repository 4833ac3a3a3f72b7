"""Code graded by its tests, which run in the sandbox (`docs/sandbox.md`).

A problem's `metadata` holds `tests`, the code that decides, and may hold `entry_point`, the name it
calls, and `prompt`, code that an answer continues (HumanEval). What else the prompt defines, the
tests have from there, whatever an answer makes of it. An answer is a whole program or a completion
of the prompt, in whatever form `program_text` reads. Where the sandbox fails, again and again, the
grade's status is `undecided`.
"""

import ast
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from redraft.errors import UserError
from redraft.grading.grader import Running, finish
from redraft.grading.program_text import extract_program, is_whole
from redraft.sandbox import Limits, Pool, Result, shared_pool
from redraft.sandbox import Status as Ending
from redraft.types import Grade, Problem, Status

LIMITS = Limits(wall_s=30.0, cpu_s=10.0, memory_mib=1024)
"""What a program and its tests may use. The limit by the clock leaves room for a busy machine."""

STATUS: dict[Ending, Status] = {
    "finished": "graded",
    "error": "error",
    "timeout": "timeout",
    "memory": "memory",
    "output": "output",
    "infrastructure": "undecided",
}
"""The status of a grade by how a program ended."""


@dataclass(frozen=True)
class CodeGrader:
    """Runs the program that an attempt holds, then the problem's tests: right if all pass."""

    limits: Limits = LIMITS
    pool: Pool | None = None
    """Where programs run; None: the pool of this process."""

    runs_programs: ClassVar[bool] = True

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return finish(self.begin(problem, attempt))

    def begin(self, problem: Problem, attempt: str) -> Running:
        """The run of the program and its tests.

        Raises:
            UserError: the problem has no tests.
        """
        tests = problem.metadata.get("tests")
        if not isinstance(tests, str):
            raise UserError(f"problem {problem.id} has no tests; the code grader needs them")
        prompt = str(problem.metadata.get("prompt", ""))
        name = str(problem.metadata.get("entry_point", ""))
        program = extract_program(attempt, name, prompt)
        pool, limits = self.pool or shared_pool(), self.limits
        tests = _helpers(prompt, name) + tests
        return Running(
            key=(program, tests, name, limits),
            start=lambda: pool.submit(program, tests=tests, entry_point=name, limits=limits),
            settle=lambda result: _grade(program, result),
        )

    def is_whole(self, problem: Problem, attempt: str) -> bool:
        """Whether an attempt that was cut off had closed its block of code before."""
        return is_whole(attempt, str(problem.metadata.get("entry_point", "")))

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """A gold program is never compared to an answer: none is at fault."""
        return [None] * len(golds)


_HELPERS = (ast.FunctionDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


@functools.lru_cache(maxsize=1024)
def _helpers(prompt: str, entry_point: str) -> str:
    """What a prompt defines besides the function that is asked for; its classes are the program's,
    which has to know their objects.
    """
    try:
        found = ast.parse(prompt).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return "".join(
        f"{ast.unparse(node)}\n"
        for node in found
        if isinstance(node, _HELPERS) and getattr(node, "name", None) != entry_point
    )


def _grade(program: str, result: Result) -> Grade:
    failed = result.status == "error"  # the tests, as a rule: an assertion
    return Grade(
        score=result.finished,
        status="graded" if failed else STATUS[result.status],
        answer=None if result.status == "infrastructure" else program,
        decided_by="tests",
        reason=result.error,
    )
