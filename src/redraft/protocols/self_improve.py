"""Self-improvement: an attempt, the model's own feedback on it, an updated attempt, and again.

Attempt, feedback and update are turns of their own, each asked for with a fixed message. A *round*
is a dialogue of three turns (arXiv 2310.13522, section 3): the problem, an attempt, feedback on it
and the update. The next round is a new dialogue that has the update in the attempt's place, so that
the model always sees the problem and its latest attempt, and never how it came about. No gold
answer takes part, except where an oracle stops at the first right attempt; that is another
protocol, by another name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from redraft.episode import Grade, Message, Problem
from redraft.protocols.prompts import Prompts

_DOUBTS = re.compile(r"\b(?:not|whether|if|unless)\b|n['’]t\b")


@dataclass(frozen=True)
class ImprovementPrompts:
    """How feedback and an update are asked for, and how feedback says that all is right.

    `confirmation` is that feedback as a script writes it; `{attempt}` in it stands for the attempt.
    Feedback of a model confirms if its last line contains `confirmed_by`, whatever the case, in a
    sentence that does not deny or doubt it.
    """

    name: str
    feedback: str
    update: str
    confirmation: str
    confirmed_by: str

    def confirms(self, feedback: str) -> bool:
        """Whether feedback says that the attempt is right."""
        lines = feedback.strip().splitlines() or [""]
        said, found, _ = " ".join(lines[-1].casefold().split()).partition(self.confirmed_by)
        return bool(found) and not _DOUBTS.search(said.rpartition(".")[2])


STEPS = ImprovementPrompts(
    name="steps",
    feedback=(
        "Feedback: go through the answer above step by step. Find the first step that is wrong, "
        "and reply in this form: Step (1) to step (k-1) are correct. In step (k) the part "
        '"..." is incorrect. This is because ... . If there is no such step, reply: All steps are '
        "correct. The final response is also correct."
    ),
    update=(
        "Updated Answer: keep the steps before the wrong one as they are, and write the answer "
        "anew from there. Output only the updated answer."
    ),
    confirmation="All steps are correct. The final response is also correct.",
    confirmed_by="final response is also correct",
)
"""The paper's form of feedback and its headings; the requests are worded by this project, because
the paper's models have them from fine-tuning alone."""

LAB_STEPS = ImprovementPrompts(
    name="lab",
    feedback="Feedback :",
    update="Please correct any error.",
    confirmation="{attempt} right",
    confirmed_by="right",
)
"""The lab's texts; the second is the one that its base model was pretrained on.

Its feedback repeats the attempt up to the first mistake, so that a small model decides word by
word, as it writes, and not all at once: the paper's three sentences likewise say what is right,
what is wrong, and why.
"""


def improvement_prompts_for(task: str) -> ImprovementPrompts:
    """A task's texts."""
    return LAB_STEPS if task.startswith("lab/") else STEPS


@dataclass(frozen=True)
class SelfImprove:
    """One round: an attempt, feedback, and unless that confirms the attempt an update.

    With `oracle` a right attempt ends the round, which makes an upper bound of what it measures.
    """

    prompts: Prompts
    improvement: ImprovementPrompts
    oracle: bool = False

    turns: ClassVar[int] = 3

    @property
    def name(self) -> str:
        """Says whether an oracle stops."""
        return "self-improve-oracle" if self.oracle else "self-improve"

    @property
    def uses_grades(self) -> bool:
        """Only an oracle knows what an attempt is worth."""
        return self.oracle

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        """The request for feedback, then that for an update, then nothing."""
        if len(attempts) == 1:
            return None if self.oracle and grades[0].correct else self.improvement.feedback
        if len(attempts) == 2 and not self.improvement.confirms(attempts[1]):
            return self.improvement.update
        return None


@dataclass(frozen=True)
class LaidOut:
    """A round whose `turns` turns are all there already, whoever wrote them: for training rows."""

    prompts: Prompts
    improvement: ImprovementPrompts
    turns: int

    name: ClassVar[str] = "self-improve"
    uses_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def feedback(
        self, problem: Problem, attempts: Sequence[str], grades: Sequence[Grade]
    ) -> str | None:
        """What was asked for after each turn, whatever it says."""
        if len(attempts) >= self.turns:
            return None
        return self.improvement.feedback if len(attempts) == 1 else self.improvement.update
