"""Self-Refine (arXiv 2303.17651) as a protocol: criticise and redo, until the model is content.

As in its GSM8K code, one reply names the error and rewrites the solution, and a reply that says "it
is correct" ends the episode with the solution before it. No gold answer takes part. That reply is
the episode's last turn; `evaluation.standing` says how it counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from redraft.episode import Grade, Message, Problem
from redraft.protocols.prompts import Prompts


@dataclass(frozen=True)
class SelfRefine:
    """At most `turns` attempts, with `prompts.retry` between them, which asks for the error."""

    prompts: Prompts
    turns: int = 2

    name: ClassVar[str] = "self-refine"
    uses_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        """The request for the error, until a reply to it finds none or the last attempt is made."""
        content = len(attempts) > 1 and confirms(attempts[-1])
        return None if content or len(attempts) >= self.turns else self.prompts.again(problem)


def confirms(reply: str) -> bool:
    """Whether a reply says that "it is correct"; "I hope it is correct", with which SCoRe's prompts
    have every solution end, does not."""
    return "it is correct" in reply.casefold().replace("i hope it is correct", "")
