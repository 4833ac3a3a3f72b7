"""Intrinsic self-correction: the same neutral instruction after every attempt, whatever its grade.

Nothing about correctness ever reaches the policy (arXiv 2409.12917, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from redraft.episode import Grade, Message, Problem
from redraft.protocols.prompts import Prompts


@dataclass(frozen=True)
class Intrinsic:
    """`turns` attempts, with `prompts.retry` between them."""

    prompts: Prompts
    turns: int = 2

    name: ClassVar[str] = "intrinsic"
    uses_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        """The retry instruction, until the last attempt is made."""
        return self.prompts.again(problem) if len(attempts) < self.turns else None
