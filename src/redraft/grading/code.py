"""Code graded by its tests, which run in the sandbox (`docs/sandbox.md`).

A problem's `metadata` holds `tests`, the code that decides, and may hold `entry_point`, the name it
calls, and `prompt`, code that an answer continues (HumanEval). An answer is a whole program or a
completion of the prompt, bare or in a fenced block. Programs are read with regular expressions
alone: not even the parser sees them in this process.
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from redraft.episode import Grade, Problem
from redraft.errors import UserError
from redraft.grading.grader import Running, timed_out_grade
from redraft.sandbox import Limits, Result, shared_pool

LIMITS = Limits(wall_s=120.0, cpu_s=10.0, memory_mib=1024)
"""What a program and its tests may use. The limit by the clock is wide: machines are shared."""

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_MARKED = re.compile(r"\[BEGIN\](.*?)(?:\[DONE\]|\Z)", re.DOTALL)


@dataclass(frozen=True)
class CodeGrader:
    """Runs the program that an attempt holds, then the problem's tests: right if all pass."""

    limits: Limits = LIMITS

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`.

        Raises:
            UserError: the sandbox itself failed, which is no verdict.
        """
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
        future = shared_pool().submit(program, tests=tests, limits=self.limits)
        return Running(lambda: self._grade(program, future.result()))

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """A gold program is never compared to an answer: none is at fault."""
        return [None] * len(golds)

    def _grade(self, program: str, result: Result) -> Grade:
        if result.status == "infrastructure":
            raise UserError(f"{result.error}; no verdict is possible (see `redraft doctor`)")
        if result.status == "timeout":
            return timed_out_grade(program, self.limits.wall_s).model_copy(
                update={"reason": result.error}
            )
        return Grade(
            correct=result.finished, answer=program, decided_by="tests", reason=result.error
        )


def extract_program(attempt: str, entry_point: str = "", prompt: str = "") -> str:
    """The program that an attempt means, from the margin on: models like to begin with a space.

    Of several fenced blocks it is the last that defines `entry_point`, else the last. What does not
    define `entry_point` completes `prompt`, if there is one; what does is run after it, so that the
    prompt's imports and auxiliary functions are there.
    """
    blocks = _FENCE.findall(attempt) or _MARKED.findall(attempt)
    defining = [block for block in blocks if _defines(textwrap.dedent(block), entry_point)]
    code = (defining or blocks or [attempt])[-1]
    whole = bool(defining) or _defines(code, entry_point)
    program = textwrap.dedent(code).lstrip()
    if not prompt or program.startswith("from __future__"):
        return program
    if whole:
        stub = prompt.rstrip()
        return (
            f"{stub}\n    pass\n\n\n{program}" if stub.endswith(":") else f"{stub}\n\n\n{program}"
        )
    return prompt.rstrip() + "\n" + _as_body(code)


def _defines(code: str, name: str) -> bool:
    if not name:
        return False
    name = re.escape(name)
    return bool(
        re.search(rf"(?:\A\s*|^)(?:(?:async\s+)?def|class)\s+{name}\b|^{name}\s*=", code, re.M)
    )


def _as_body(code: str) -> str:
    """A completion as the body of a function, where its first line or all of it lost the indent."""
    lines = code.strip("\n").split("\n")
    if not lines[0].strip() or lines[0][0] in " \t":
        return code.strip("\n") + "\n"
    rest = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    nested = lines[0].rstrip().endswith(":")
    if not rest or (min(rest) >= 4 and not (nested and rest[0] == 4)):
        lines[0] = "    " + lines[0]  # only the first line was stripped
        return "\n".join(lines) + "\n"
    return textwrap.indent("\n".join(lines), "    ") + "\n"
