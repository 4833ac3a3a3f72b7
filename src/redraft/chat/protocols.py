"""Protocols: the rules that decide what is said after a response and when an episode stops.

Intrinsic        the same instruction after every response, whatever it is worth
Oracle           the same after every wrong response; the first right one ends the episode
SelfRefine       criticise and redo in one response, until the model is content
SelfImprove      response, critique, update, critique, ... each in a turn of its own
Wait             the response is reopened with a word and continued
ProgramAlone     a program for the bare question
ChainToProgram   a chain of thought, then a program that refines it
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from typing import Protocol as Interface

from redraft.chat.prompts import ImprovementPrompts, ProgramPrompts, Prompts, sentence_affirms
from redraft.types import Message, Outcome, Problem, Turn


@dataclass(frozen=True)
class Say:
    """The environment's next message.

    `keep` is how many of the latest responses stay visible, with what was said after them, below
    the opening; None: all that were; 0: neither is, nor the message, which no one is then shown.
    """

    text: str
    keep: int | None = None


class Protocol(Interface):
    """What is said before the first response and after each one."""

    @property
    def name(self) -> str:
        """Written into every episode."""
        ...

    @property
    def turns(self) -> int:
        """Most responses an episode can have."""
        ...

    @property
    def needs_grades(self) -> bool:
        """Whether `after` needs to know what the responses are worth.

        Rollout then grades all responses of a round before it continues; otherwise the turns that
        a protocol sees have no grades, so that none can leak into what is said to the policy.
        """
        ...

    def opening(self, problem: Problem) -> list[Message]:
        """The conversation before the first response."""
        ...

    def prefill(self, responses: Sequence[Turn]) -> str:
        """What the response after `responses` is given to begin with; empty for nothing. Where that
        begins with the text of the last of them, it begins with its tokens."""
        ...

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        """What is said after the last of `responses`, or why the episode ends there."""
        ...

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        """Whether the last of `responses` is an answer, to be graded, and not a critique."""
        ...


@dataclass(frozen=True)
class Intrinsic:
    """Intrinsic self-correction: `turns` responses, with `prompts.retry` between them.

    Nothing about correctness ever reaches the policy (arXiv 2409.12917, section 3).
    """

    prompts: Prompts
    turns: int = 2

    name: ClassVar[str] = "intrinsic"
    needs_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def prefill(self, responses: Sequence[Turn]) -> str:
        """That of the prompts, for every response."""
        return self.prompts.prefill

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        """The retry instruction, until the last response."""
        return Say(self.prompts.again(problem)) if len(responses) < self.turns else "finished"

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        """Every response is."""
        return True


@dataclass(frozen=True)
class Oracle:
    """Correction with an oracle: wrong answers are tried again, the first right one ends it.

    It needs the gold answer, so what it measures (solved at any of K turns) is an upper bound, to
    be compared with pass@K in parallel and never with a vote. RISE collects its training data this
    way (arXiv 2407.18219).
    """

    prompts: Prompts
    turns: int = 2

    name: ClassVar[str] = "oracle"
    needs_grades: ClassVar[bool] = True

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def prefill(self, responses: Sequence[Turn]) -> str:
        """That of the prompts, for every response."""
        return self.prompts.prefill

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        """The retry instruction after a wrong answer, until the last response."""
        grade = responses[-1].grade
        assert grade is not None
        if grade.correct:
            return "solved"
        return Say(self.prompts.again(problem)) if len(responses) < self.turns else "finished"

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        """Every response is."""
        return True


@dataclass(frozen=True)
class SelfRefine:
    """Self-Refine (arXiv 2303.17651): criticise and redo, until the model is content.

    As in its GSM8K code, one response names the error and rewrites the solution, and one that says
    "it is correct" ends the episode with the solution before it. That response is a critique and
    no answer. No gold answer takes part.
    """

    prompts: Prompts
    turns: int = 2

    name: ClassVar[str] = "self-refine"
    needs_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def prefill(self, responses: Sequence[Turn]) -> str:
        """That of the prompts, for the first response."""
        return "" if responses else self.prompts.prefill

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        """The request for the error, until a response finds none or the last one is made."""
        if not self.is_answer(responses):
            return "confirmed"
        return Say(self.prompts.again(problem)) if len(responses) < self.turns else "finished"

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        """All are but a later one that affirms "it is correct"; "I hope it is correct", with which
        SCoRe's prompts have every solution end, does not."""
        said = responses[-1].text.casefold()
        return len(responses) < 2 or not sentence_affirms(said, "it is correct")


@dataclass(frozen=True)
class SelfImprove:
    """Self-improvement (arXiv 2310.13522, section 3): answer, critique, update, critique, ...

    Answer, critique and update are turns of their own, each asked for with a fixed message. The
    model always sees the problem and its latest answer with the critique of it, and never how the
    answer came about. It ends when the critique confirms the answer, after `updates` updates, or
    when an update was cut off, changed nothing or goes in circles. With `oracle` a right answer
    ends it too, which makes what it measures an upper bound.
    """

    prompts: Prompts
    improvement: ImprovementPrompts
    updates: int = 3
    oracle: bool = False

    @property
    def name(self) -> str:
        """Says whether an oracle stops."""
        return "self-improve-oracle" if self.oracle else "self-improve"

    @property
    def turns(self) -> int:
        """An answer, and a critique and an answer for each update."""
        return 1 + 2 * self.updates

    @property
    def needs_grades(self) -> bool:
        """Only an oracle knows what an answer is worth."""
        return self.oracle

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def prefill(self, responses: Sequence[Turn]) -> str:
        """That of the prompts, for answers."""
        return "" if len(responses) % 2 else self.prompts.prefill

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        """The request for a critique, then that for an update, and so on."""
        if not self.is_answer(responses):
            confirmed = self.improvement.confirms(responses[-1].text)
            return "confirmed" if confirmed else Say(self.improvement.update, keep=2)
        if len(responses) > 1 and (why := stuck(responses[-3], responses[-1])):
            return why
        if len(responses) >= self.turns:
            return "finished"
        if self.oracle and (grade := responses[-1].grade) and grade.correct:
            return "solved"
        return Say(self.improvement.feedback, keep=1)

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        """Every other response is, from the first on."""
        return len(responses) % 2 == 1


WAIT = " Wait"
"""The word that reopens a response (arXiv 2507.02778; arXiv 2501.19393)."""


@dataclass(frozen=True)
class Wait:
    """The response is reopened: it loses its end and continues after `word` (arXiv 2507.02778).

    Each answer is the whole response so far, read as any response is: the last answer in it counts.
    With an empty `word` it is only continued, which is how an error that was put into the model's
    own response is offered to it for correction.
    """

    prompts: Prompts
    turns: int = 2
    word: str = WAIT

    needs_grades: ClassVar[bool] = False
    names: ClassVar[tuple[str, str]] = ("continue", "wait")

    @property
    def name(self) -> str:
        """Says whether there is a word."""
        return self.names[bool(self.word)]

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def prefill(self, responses: Sequence[Turn]) -> str:
        """The response before with the word; that of the prompts for the first."""
        return responses[-1].text + self.word if responses else self.prompts.prefill

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        """The word, which is written into the response, until the last one."""
        return Say(self.word, keep=0) if len(responses) < self.turns else "finished"

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        """Every response is."""
        return True


@dataclass(frozen=True)
class ProgramAlone:
    """One response, a program, to the bare question."""

    programs: ProgramPrompts

    name: ClassVar[str] = "program"
    turns: ClassVar[int] = 1
    needs_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The question with the request for a program."""
        return self.programs.opening(problem)

    def prefill(self, responses: Sequence[Turn]) -> str:
        """Nothing."""
        return ""

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        """Nothing: the program is all."""
        return "finished"

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        """The program is."""
        return True


@dataclass(frozen=True)
class ChainToProgram:
    """A chain of thought, then a program that refines it (arXiv 2412.16871)."""

    prompts: Prompts
    programs: ProgramPrompts

    name: ClassVar[str] = "cap"
    turns: ClassVar[int] = 2
    needs_grades: ClassVar[bool] = False

    def opening(self, problem: Problem) -> list[Message]:
        """The problem as `prompts` pose it."""
        return self.prompts.opening(problem)

    def prefill(self, responses: Sequence[Turn]) -> str:
        """That of the prompts, for the chain."""
        return "" if responses else self.prompts.prefill

    def after(self, problem: Problem, responses: Sequence[Turn]) -> Say | Outcome:
        """The request for a program, after the chain; whatever it is worth."""
        return Say(self.programs.refine) if len(responses) == 1 else "finished"

    def is_answer(self, responses: Sequence[Turn]) -> bool:
        """Both are."""
        return True


STEP_LIMIT = 15
"""A step with a number above this is taken for a loop (arXiv 2310.13522)."""
TAIL = 50
"""Characters at the end of a response that are searched for loops (arXiv 2310.13522)."""

_LABEL = re.compile(r"^\s*\((\d{1,6})[.)]", re.MULTILINE)


def stuck(before: Turn, after: Turn) -> Outcome | None:
    """Why a model that has updated `before` to `after` should stop; None if it may continue.

    As in TriPosT's code an update makes no progress if its last line is the one that was there.
    """
    if after.truncated:
        return "truncated"
    if _last_line(before.text) == _last_line(after.text):
        return "unchanged"
    return "repetitive" if in_circles(after.text) else None


def in_circles(text: str) -> bool:
    """Whether a text looks like the output of a model in a loop.

    As in TriPosT's code: a step's number is above 15, the last 50 characters repeat a piece of at
    most ten, or the last five words are one. The last 50 characters without white space count too;
    the paper's rule, fewer than five words, would stop lists of long words.
    """
    if any(int(number) > STEP_LIMIT for number in _LABEL.findall(text)):
        return True
    words = text.split()[-5:]
    if len(words) == 5 and len(set(words)) == 1:
        return True
    tail = text.strip()[-TAIL:]
    if len(tail) < TAIL:
        return False
    periodic = any(tail[period:] == tail[:-period] for period in range(1, 11))
    return periodic or len(tail.split()) == 1


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
