"""Correction with an oracle: wrong attempts are tried again, the first right one ends the episode.

It needs the gold answer, so what it measures (solved at any of K turns) is an upper bound, to be
compared with pass@K in parallel and never with a vote. RISE collects its training data this way
(arXiv 2407.18219).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from redraft.episode import Grade, Message, Problem
from redraft.protocols.prompts import Prompts


@dataclass(frozen=True)
class Oracle:
    """At most `turns` attempts, with `prompts.retry` after each wrong one."""

    prompts: Prompts
    turns: int = 2

    name: ClassVar[str] = "oracle"
    uses_grades: ClassVar[bool] = True

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        """The retry instruction after a wrong attempt, until the last one is made."""
        if grades[-1].correct or len(attempts) >= self.turns:
            return None
        return self.prompts.again(problem)
