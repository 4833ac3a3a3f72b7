"""The teacher's two modules, feedback (FBK) and improvement (IMP): a script, or a language model.

A script answers from the question alone. A language model is asked for critiques of wrong answers
only, in the paper's form of three fields, and for updates with the steps before the wrong one given
to it. A reply that lacks the form is asked for once more; if the second one lacks it too, the
trajectory is dropped.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from redraft.engines.base import Failed, Request
from redraft.grading import Grader, grade_all
from redraft.methods.tripost.editing import SCRIPT, Judge, Rewrite, Unusable
from redraft.tasks.steps import Critique, StepFormat, StepVerdict
from redraft.types import Message, Problem, Turn

if TYPE_CHECKING:
    from redraft.training.teacher import Teacher

T = TypeVar("T")

FEEDBACK = """\
Here is a question and a solution to it. The solution's answer is known to be wrong.

Question: {question}

{steps}

Find the earliest step with an error. Reply with these three lines and nothing else:
Earliest error step: its number
Error segment: "the wrong part, copied letter by letter from that step"
Error reason: one sentence that says why it is wrong"""
"""Asks a language model for a critique; the fields are the paper's, the words this project's."""

IMPROVE = """\
Here is a question and a solution to it, with feedback on the solution.

Question: {question}

{steps}

Feedback: {feedback}

{kept}Go on from step {number}: write it anew, and all steps after it, one step a line and in the \
form of the solution, up to the final answer. Reply with these lines and nothing else."""
"""Asks a language model for an update."""

STAY = "The steps before step {number} are right and stay as they are:\n{lines}\n\n"

AGAIN = "\n\nYour last reply did not have this form. Keep to it exactly."
"""Appended to the question when a reply did not have the form."""

_STEP = re.compile(r"earliest error step\W*(?:step\W*)?(\d{1,6})", re.IGNORECASE)
_FIELD = re.compile(r"error (segment|reason)[*_]*\s*:[*_]*\s*(.+)", re.IGNORECASE)
_LINE_MARK = re.compile(r"^\s*(?:[-*•]\s+)?(?:[*_]*Step \d+[*_]*:[*_]*\s*)?", re.IGNORECASE)
_QUOTES = "\"'“”‘’`"


@dataclass(frozen=True)
class Script:
    """The task's own script. What it cannot follow is `unreadable`."""

    form: StepFormat
    grader: Grader

    def judge(self, asks: Sequence[Judge]) -> list[Critique | Unusable]:
        """Critiques in order; the script finds what is wrong without the gold answer."""
        found = self.form.inspect(
            [(ask.problem.question, self.form.split(ask.answer.text)) for ask in asks]
        )
        return [Unusable("unreadable") if critique is None else critique for critique in found]

    def rewrite(self, asks: Sequence[Rewrite]) -> list[Turn | Unusable]:
        """Updates in order."""
        made = self.form.mend(
            [(ask.problem.question, self.form.split(ask.answer.text)) for ask in asks]
        )
        updates = [Unusable("unreadable") if steps is None else steps for steps in made]
        return _graded(self.form, self.grader, asks, updates, SCRIPT)


@dataclass(frozen=True)
class Taught:
    """A language model: an endpoint or a local model."""

    form: StepFormat
    grader: Grader
    teacher: "Teacher"

    def judge(self, asks: Sequence[Judge]) -> list[Critique | Unusable]:
        """Critiques of wrong answers in order, at temperature 0 as in the paper."""
        questions, readers = [], []
        for ask in asks:
            steps = self.form.split(ask.answer.text)
            lines = _numbered(steps)
            questions.append(FEEDBACK.format(question=ask.problem.question, steps=lines))
            readers.append(_reads_critique(steps, self.form))
        return _asked(self.teacher.at(0.0), asks, questions, readers, "feedback_malformed")

    def rewrite(self, asks: Sequence[Rewrite]) -> list[Turn | Unusable]:
        """Updates in order, at the run's temperature for the teacher."""
        questions, readers = [], []
        for ask in asks:
            steps, step = self.form.split(ask.answer.text), ask.critique.step
            assert step is not None
            number, kept = step + 1, steps[:step]
            question = IMPROVE.format(
                question=ask.problem.question,
                steps=_numbered(steps),
                feedback=ask.critique.text,
                kept=STAY.format(number=number, lines=_numbered(kept)) if kept else "",
                number=number,
            )
            questions.append(question)
            readers.append(_reads_update(kept, self.form))
        made = _asked(self.teacher, asks, questions, readers, "improvement_malformed")
        return _graded(self.form, self.grader, asks, made, self.teacher.name)


def answer_turns(
    grader: Grader, problems: Sequence[Problem], texts: Sequence[str], source: str
) -> list[Turn]:
    """Graded answers that the policy has not written; `source` says who has."""
    grades = grade_all(grader, list(zip(problems, texts, strict=True)))
    return [
        Turn(author="teacher", text=text, grade=grade, source=source)
        for text, grade in zip(texts, grades, strict=True)
    ]


def _graded(
    form: StepFormat,
    grader: Grader,
    asks: Sequence[Rewrite],
    updates: Sequence[list[str] | Unusable],
    source: str,
) -> list[Turn | Unusable]:
    """Graded answers in place of the steps; unusable replies stay as they are."""
    had = [
        (ask.problem, form.join(steps))
        for ask, steps in zip(asks, updates, strict=True)
        if isinstance(steps, list)
    ]
    turns = iter(answer_turns(grader, [p for p, _ in had], [text for _, text in had], source))
    return [steps if isinstance(steps, Unusable) else next(turns) for steps in updates]


def _asked(
    teacher: "Teacher",
    asks: Sequence[Judge | Rewrite],
    questions: Sequence[str],
    readers: Sequence[Callable[[str], T | None]],
    malformed: str,
) -> list[T | Unusable]:
    """What a language model's replies say; those without the form are asked for once more."""
    found: dict[int, T | Unusable] = {}
    waiting = dict(enumerate(questions))
    for _ in range(2):
        if not waiting:
            break
        requests = [
            Request([Message(role="user", content=text)], problem=asks[index].problem.id)
            for index, text in waiting.items()
        ]
        replies = teacher.answer(requests)
        for index, reply in zip(list(waiting), replies, strict=True):
            if isinstance(reply, Failed):
                # Asking again does not help where the context is full: the trajectory is dropped.
                read: T | Unusable | None = (
                    Unusable("context_full")
                    if reply.context_full
                    else Unusable(reply.reason, failed=True)
                )
            else:
                read = readers[index](reply.text)
            if read is not None:
                found[index] = read
        waiting = {i: questions[i] + AGAIN for i in waiting if i not in found}
    return [found.get(index, Unusable(malformed)) for index in range(len(questions))]


def _numbered(steps: Sequence[str]) -> str:
    """Steps as a language model is shown them: `Step 1: ...`, one a line."""
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, start=1))


def _reads_critique(steps: Sequence[str], form: StepFormat) -> Callable[[str], Critique | None]:
    """Reads the three fields; the segment must be part of the step, or there is no edit point."""

    def read(reply: str) -> Critique | None:
        number = _STEP.search(reply)
        fields = {name.casefold(): text for name, text in reversed(_FIELD.findall(reply))}
        if number is None or len(fields) < 2 or not 0 < int(number[1]) <= len(steps):
            return None
        step = int(number[1]) - 1
        span = quoted(fields["segment"], steps[step])
        if span is None:
            return None
        return form.critique(steps, StepVerdict(step, span, fields["reason"].strip().rstrip(".")))

    return read


def quoted(segment: str, step: str) -> str | None:
    """The part of `step` that `segment` quotes: without the quotation marks, emphasis and full stop
    that are not the step's own. None if the step has no such part."""
    segment = segment.strip()
    for marks in ("", _QUOTES, f"{_QUOTES}*_ ", f"{_QUOTES}*_. "):
        bare = segment.strip(marks) if marks else segment
        if bare and bare in step:
            return bare
    return None


def _reads_update(kept: list[str], form: StepFormat) -> Callable[[str], list[str] | None]:
    """Reads the new steps, without `Step 3:`, bullets and fences, and puts the kept ones before."""

    def read(reply: str) -> list[str] | None:
        written = [
            line for line in reply.strip().splitlines() if not line.strip().startswith("```")
        ]
        lines = [_LINE_MARK.sub("", line) for line in written]
        steps = [line for line in lines if line.strip()]
        if len(lines) < 2:
            steps = form.split("\n".join(lines))
        if kept and steps[: len(kept)] == kept:
            steps = steps[len(kept) :]
        return [*kept, *steps] if steps and form.ends(steps) else None

    return read
