"""The contract between rollout and every protocol."""

from collections.abc import Sequence
from typing import Protocol as Interface

from redraft.episode import Grade, Message, Problem


class Protocol(Interface):
    """The rule that decides what is said after an attempt and when an episode stops."""

    @property
    def name(self) -> str:
        """Written into every episode."""
        ...

    @property
    def turns(self) -> int:
        """Most attempts an episode can have."""
        ...

    @property
    def uses_grades(self) -> bool:
        """Whether `feedback` needs to know which attempts were right.

        Rollout then grades each attempt before it goes on; otherwise all grading happens together
        after sampling, and no grade can leak into what the policy is told.
        """
        ...

    def opening(self, problem: Problem) -> list[Message]:
        """The dialogue before the first attempt."""
        ...

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        """What the environment says after the last of `attempts`; None ends the episode.

        `grades` is empty unless `uses_grades`.
        """
        ...
