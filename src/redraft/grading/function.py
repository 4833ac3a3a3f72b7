"""A grader of the user's own: `module:function`, called in worker processes."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from redraft.errors import UserError
from redraft.grading.grader import Pending, finish, timed_out_grade
from redraft.grading.pool import Reply, shared_pool
from redraft.types import Grade, Problem

LIMIT_S = 30.0
"""Seconds that a user's grader has for one verdict, unless told otherwise."""


@dataclass(frozen=True)
class FunctionGrader:
    """Asks `function(question, gold, attempt)` for the verdict: a bool, a score from 0 to 1, or a
    `Grade`.

    `target` names it as `module:function`; it is imported and run in worker processes only, where a
    call that takes longer than `limit_s` costs that one verdict. An exception of the function is
    the user's to repair and stops the run with one line.
    """

    target: str
    limit_s: float = LIMIT_S

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return finish(self.begin(problem, attempt))

    def begin(self, problem: Problem, attempt: str) -> Pending:
        """The question to the function; every verdict is a worker's."""

        def settle(reply: Reply) -> Grade:
            return self._grade(problem, reply)

        arguments = (problem.question, problem.gold, attempt)
        return Pending(self.target, arguments, self.limit_s, settle)

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """What a gold means is the function's business: none is at fault."""
        return [None] * len(golds)

    def check(self) -> None:
        """Import the function in a worker now.

        Raises:
            UserError: it cannot be imported or is not a function.
        """
        shared_pool(self.target, self.limit_s).start()

    def _grade(self, problem: Problem, reply: Reply) -> Grade:
        if reply.status == "timeout":
            return timed_out_grade(None, self.limit_s, self.target)
        if reply.status == "died":
            return Grade(score=0, status="error", decided_by=self.target, reason=reply.error)
        if reply.status == "error":
            raise UserError(f"grader {self.target!r} failed on problem {problem.id}: {reply.error}")
        if isinstance(reply.value, dict):
            try:
                return Grade.model_validate(reply.value)
            except ValidationError:
                pass
        elif isinstance(reply.value, int | float) and 0 <= reply.value <= 1:  # a bool too
            return Grade(score=reply.value, decided_by=self.target)
        raise UserError(
            f"grader {self.target!r} returned {str(reply.value)[:60]!r} on problem {problem.id}; "
            "expected a bool, a score from 0 to 1, or a redraft.types.Grade"
        )
