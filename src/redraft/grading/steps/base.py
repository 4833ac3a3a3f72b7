"""What it means to check a worked solution: find its first wrong step, and say what is wrong.

Checkers read model text; they never evaluate it, and no text can hang or crash them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

QUOTE_LIMIT = 2_000
"""Characters of a verdict's span, and of its reason."""


@dataclass(frozen=True)
class StepVerdict:
    """The first mistake of a worked solution, or that there is none.

    `step` is the 0-based index of the wrong step, None where every step is right. `span` is the
    wrong part, quoted from that step, and `reason` says why it is wrong, in one sentence without a
    full stop. `check` names the check that failed ("calculate", "order", ...). `readable` is False
    for a solution that could not be followed; then nothing is claimed about its steps.
    """

    step: int | None = None
    span: str = ""
    reason: str = ""
    check: str = ""
    readable: bool = True

    @property
    def confirms(self) -> bool:
        """Whether the whole solution was read and found right."""
        return self.readable and self.step is None

    def shortened(self) -> Self:
        """The verdict with no more than `QUOTE_LIMIT` characters of span and of reason: of a span
        its beginning, of a reason both ends."""
        reason = self.reason
        if len(reason) > QUOTE_LIMIT:
            reason = f"{reason[: QUOTE_LIMIT - 203]}...{reason[-200:]}"
        return replace(self, span=self.span[:QUOTE_LIMIT].rstrip(), reason=reason)


class StepChecker(Protocol):
    """Finds the first wrong step of solutions to one family of problems."""

    @property
    def name(self) -> str:
        """What `--task` calls it."""
        ...

    def check(self, question: str, steps: Sequence[str]) -> StepVerdict:
        """The first mistake in `steps`, the lines of a solution to `question`.

        The answer is worked out from the question: no gold answer is needed.
        """
        ...


FeedbackStyle = Literal["full", "short"]


def feedback(verdict: StepVerdict, style: FeedbackStyle = "full") -> str:
    """A verdict as feedback to whoever wrote the solution (arXiv 2310.13522, section 4).

    `full` is three sentences: which steps are right, which part of which step is wrong, and why.
    `short` is one. Steps are numbered from 1 in text.

    Raises:
        ValueError: the solution was not readable, so there is nothing to say about it.
    """
    if not verdict.readable:
        raise ValueError("no feedback on a solution that could not be read")
    if verdict.step is None:
        if style == "short":
            return "All steps are correct."
        return "All steps are correct. The final response is also correct."
    number = verdict.step + 1
    if style == "short":
        return f'In step ({number}) the part "{verdict.span}" is wrong because {verdict.reason}.'
    before = {1: "", 2: "Step (1) is correct. "}.get(
        number, f"Step (1) to step ({number - 1}) are correct. "
    )
    return (
        f'{before}In step ({number}) the part "{verdict.span}" is incorrect. '
        f"This is because {verdict.reason}."
    )
