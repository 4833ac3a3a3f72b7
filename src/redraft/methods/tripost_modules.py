"""The teacher's modules: feedback (FBK) and improvement (IMP), each a script or a teacher.

A script answers from the question alone. A teacher is any chat engine: an endpoint, a local model.
It is asked for feedback on wrong attempts only, in the paper's tabular form of three fields, and
for updates with the steps before the wrong one given to it. A reply without the form is asked for
once more; a second one costs the trajectory.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from redraft.engines import Failed, Messages
from redraft.episode import Problem, Turn
from redraft.grading import Grader, grade_all
from redraft.grading.steps.base import StepVerdict, feedback
from redraft.methods.editing import Draft, Judge, Rewrite, Unusable
from redraft.methods.teacher import Teacher
from redraft.methods.tripost_scripts import ask_all
from redraft.methods.tripost_world import Remark, World

T = TypeVar("T")

Tokens = Callable[[str], list[int]]
"""The learner's tokens for an attempt that somebody else wrote (`Dialogue.attempt`)."""

FEEDBACK = """\
Here is a question and a solution to it. The solution's answer is known to be wrong.

Question: {question}

{steps}

Find the earliest step with an error. Reply with these three lines and nothing else:
Earliest error step: its number
Error segment: "the wrong part, copied letter by letter from that step"
Error reason: one sentence that says why it is wrong"""
"""Asks a teacher for feedback; the fields are the paper's, the words are this project's."""

IMPROVE = """\
Here is a question and a solution to it, with feedback on the solution.

Question: {question}

{steps}

Feedback: {feedback}

{kept}Go on from step {number}: write it anew, and all steps after it, one step a line and in the \
form of the solution, up to the final answer. Reply with these lines and nothing else."""
"""Asks a teacher for an update."""

KEPT = "The steps before step {number} are right and stay as they are:\n{lines}\n\n"

AGAIN = "\n\nYour last reply did not have this form. Keep to it exactly."
"""Said with the same question where a reply did not have the form."""

_STEP = re.compile(r"earliest error step\W*(?:step\W*)?(\d{1,6})", re.IGNORECASE)
_SEGMENT = re.compile(r"error segment[*_]*\s*:[*_]*\s*(.+)", re.IGNORECASE)
_REASON = re.compile(r"error reason[*_]*\s*:[*_]*\s*(.+)", re.IGNORECASE)
_QUOTES = "\"'“”‘’`"
_LINE_MARK = re.compile(r"^\s*(?:[-*•]\s+)?(?:[*_]*Step \d+[*_]*:[*_]*\s*)?", re.IGNORECASE)
_FENCE = re.compile(r"^\s*```")


@dataclass(frozen=True)
class ScriptedFeedback:
    """FBK by the world's script; it finds what is wrong without the gold answer."""

    world: World

    def __call__(self, asks: Sequence[Judge]) -> list[Remark | Unusable]:
        """Remarks in order; a solution that cannot be followed is `unreadable`."""
        replies = ask_all([_call(self.world, "inspect", ask.draft) for ask in asks])
        return [
            Remark(**reply.value) if reply.status == "ok" else Unusable("unreadable")
            for reply in replies
        ]


@dataclass(frozen=True)
class Writer:
    """Makes drafts of the texts that a module writes: steps, tokens, grade."""

    world: World
    grader: Grader
    tokens: Tokens

    def drafts(self, problems: Sequence[Problem], texts: Sequence[str], by: str) -> list[Draft]:
        """A draft for each text; `by` says who wrote it."""
        grades = grade_all(self.grader, list(zip(problems, texts, strict=True)))
        return [
            Draft(problem, self.turn(text, by, grade=grade), self.world.split(text))
            for problem, text, grade in zip(problems, texts, grades, strict=True)
        ]

    def turn(self, text: str, by: str, **fields: object) -> Turn:
        """A turn that the learner did not make."""
        made = {"attempt": text, "finish": "stop", "attempt_tokens": self.tokens(text)}
        return Turn.model_validate({**made, "on_policy": False, "source": by, **fields})


@dataclass(frozen=True)
class ScriptedImprovement:
    """IMP by the world's script."""

    writer: Writer

    def __call__(self, asks: Sequence[Rewrite]) -> list[Draft | Unusable]:
        """Updates in order; a solution that cannot be followed is `unreadable`."""
        world = self.writer.world
        replies = ask_all([_call(world, "mend", ask.draft) for ask in asks])
        return _drafts(
            self.writer,
            asks,
            [reply.value if reply.status == "ok" else Unusable("unreadable") for reply in replies],
            "script",
        )


@dataclass(frozen=True)
class TaughtFeedback:
    """FBK by a teacher, at temperature 0 as in the paper. Right attempts are confirmed unasked."""

    world: World
    teacher: Teacher

    def __call__(self, asks: Sequence[Judge]) -> list[Remark | Unusable]:
        """Remarks in order."""
        still = replace(self.teacher, sampling=replace(self.teacher.sampling, temperature=0.0))
        wrong = [ask.draft for ask in asks if not ask.draft.right]
        found = iter(
            _asked(
                still,
                [_feedback_question(draft) for draft in wrong],
                [_reads_feedback(draft, self.world) for draft in wrong],
                "feedback_malformed",
            )
        )
        return [
            self.world.confirmation(ask.draft.steps) if ask.draft.right else next(found)
            for ask in asks
        ]


@dataclass(frozen=True)
class TaughtImprovement:
    """IMP by a teacher, at the run's teacher temperature."""

    writer: Writer
    teacher: Teacher

    def __call__(self, asks: Sequence[Rewrite]) -> list[Draft | Unusable]:
        """Updates in order."""
        written = _asked(
            self.teacher,
            [_improvement_question(ask) for ask in asks],
            [_reads_update(ask, self.writer.world) for ask in asks],
            "improvement_malformed",
        )
        return _drafts(self.writer, asks, written, "teacher")


def _call(world: World, action: str, draft: Draft) -> tuple[str, str, str, list[str]]:
    assert world.script is not None
    return (world.script, action, draft.problem.question, draft.steps)


def _drafts(
    writer: Writer, asks: Sequence[Rewrite], made: Sequence[list[str] | Unusable], by: str
) -> list[Draft | Unusable]:
    """Drafts of the steps that were made, in the places of those that were not."""
    had = [(ask, steps) for ask, steps in zip(asks, made, strict=True) if isinstance(steps, list)]
    texts = [writer.world.join(steps) for _, steps in had]
    drafts = iter(writer.drafts([ask.draft.problem for ask, _ in had], texts, by))
    return [steps if isinstance(steps, Unusable) else next(drafts) for steps in made]


def _asked(
    teacher: Teacher,
    questions: Sequence[str],
    readers: Sequence[Callable[[str], T | None]],
    malformed: str,
) -> list[T | Unusable]:
    """What a teacher's replies say; those without the form are asked for once more."""
    found = _read(teacher.answer([_message(text) for text in questions]), readers)
    again = [index for index, one in enumerate(found) if one is None]
    if again:
        repeated = [_message(questions[index] + AGAIN) for index in again]
        second = _read(teacher.answer(repeated), [readers[index] for index in again])
        for index, one in zip(again, second, strict=True):
            found[index] = one
    return [Unusable(malformed) if one is None else one for one in found]


def _read(
    answers: Sequence[object], readers: Sequence[Callable[[str], T | None]]
) -> list[T | Unusable | None]:
    return [
        Unusable(answer.reason, failed=True)
        if isinstance(answer, Failed)
        else reader(getattr(answer, "text", ""))
        for answer, reader in zip(answers, readers, strict=True)
    ]


def _message(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def numbered(steps: Sequence[str]) -> str:
    """Steps as a teacher is shown them: `Step 1: ...`, one a line."""
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, start=1))


def _feedback_question(draft: Draft) -> str:
    return _filled(FEEDBACK, question=draft.problem.question, steps=numbered(draft.steps))


def _improvement_question(ask: Rewrite) -> str:
    step, steps = ask.remark.step, ask.draft.steps
    assert step is not None
    number = str(step + 1)
    kept = _filled(KEPT, number=number, lines=numbered(steps[:step])) if step else ""
    return _filled(
        IMPROVE,
        question=ask.draft.problem.question,
        steps=numbered(steps),
        feedback=ask.remark.text,
        kept=kept,
        number=number,
    )


def _filled(template: str, **texts: str) -> str:
    """The template with its places filled; braces in the texts stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda place: texts[place[1]], template)


def _reads_feedback(draft: Draft, world: World) -> Callable[[str], Remark | None]:
    """Reads the three fields; the segment must stand in the step, or there is no place to edit."""

    def read(reply: str) -> Remark | None:
        step, segment, reason = (form.search(reply) for form in (_STEP, _SEGMENT, _REASON))
        if step is None or segment is None or reason is None:
            return None
        index = int(step[1]) - 1
        if not 0 <= index < len(draft.steps):
            return None
        span = quoted(segment[1], draft.steps[index])
        return (
            None if span is None else pointing(draft.steps, index, span, reason[1].strip(), world)
        )

    return read


def quoted(said: str, step: str) -> str | None:
    """The part of a step that is quoted, without quotation marks, emphasis and full stop that are
    not the step's own; None if there is none."""
    said = said.strip()
    for bare in (
        said,
        said.strip(_QUOTES),
        said.strip(f"{_QUOTES}*_ "),
        said.strip(f"{_QUOTES}*_. "),
    ):
        if bare and bare in step:
            return bare
    return None


def pointing(steps: Sequence[str], step: int, span: str, reason: str, world: World) -> Remark:
    """A remark on a wrong part of the step with this index, in the world's words."""
    because = reason.rstrip(".")
    if world.name.startswith("lab/"):
        return Remark(f"{world.join(steps[: step + 1])} wrong because {because}", step, span)
    return Remark(feedback(StepVerdict(step, span, because)), step, span)


def _reads_update(ask: Rewrite, world: World) -> Callable[[str], list[str] | None]:
    """Reads the new steps, without `Step 3:`, bullets and fences, and puts the kept ones before."""
    step = ask.remark.step
    assert step is not None
    kept = ask.draft.steps[:step]

    def read(reply: str) -> list[str] | None:
        written = [line for line in reply.strip().splitlines() if not _FENCE.match(line)]
        lines = [_LINE_MARK.sub("", line) for line in written]
        text = "\n".join(lines)
        steps = world.split(text) if len(lines) < 2 else [one for one in lines if one.strip()]
        if step and steps[:step] == kept:
            steps = steps[step:]
        return [*kept, *steps] if steps and world.ends(steps) else None

    return read
