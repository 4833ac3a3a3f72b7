"""Interactive trajectory editing (arXiv 2310.13522, stage (a)).

The learner has attempted, given itself feedback and updated. Where that ends right it stays as it
is. Otherwise the teacher's feedback is put beside the learner's, attempt by attempt; at the first
disagreement it takes its place, and from there on the teacher finishes: its improvement module
rewrites from the wrong step on, its feedback module looks again, until all is right.

`edit` is that procedure for one trajectory, written as a generator that asks for feedback (`Judge`)
or for an update (`Rewrite`) and is sent the answer; `edit_all` runs many and asks for all of them
together. What cannot be used is an outcome too, with a reason, and nothing is lost.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from redraft.episode import Problem, Turn
from redraft.methods.tripost_world import Remark, World

Fate = Literal["kept", "edited", "first_feedback", "worse", "dropped"]
"""`kept`: the learner ended right, unaided. `edited`: the teacher finished it. `first_feedback`:
the teacher's updates went backwards on their way, only the attempt with the first feedback is
used. `worse`: an attempt was right and the last one is not; put aside. `dropped`: of no use."""


OUT_OF_FORM = "out_of_form"
"""Reason of a kept trajectory whose own feedback is no example to follow: only its end is."""


@dataclass(frozen=True)
class Draft:
    """An attempt in its steps, whoever wrote it."""

    problem: Problem
    turn: Turn
    steps: list[str]

    @property
    def right(self) -> bool:
        """What the task's grader says of the answer."""
        return self.turn.grade.correct


@dataclass(frozen=True)
class Judge:
    """Asks the feedback module for a remark on a draft."""

    draft: Draft


@dataclass(frozen=True)
class Rewrite:
    """Asks the improvement module to write a draft anew from the remark's step on."""

    draft: Draft
    remark: Remark


@dataclass(frozen=True)
class Unusable:
    """An answer that is none: `failed` if the teacher could not be reached, so that asking again
    later may help."""

    reason: str
    failed: bool = False


Answer = Remark | Draft | Unusable


@dataclass(frozen=True)
class Outcome:
    """What became of a trajectory.

    `remarks[i]` is on `drafts[i]`: a turn of the learner's own or a remark of the teacher. The last
    draft of a `dropped` or `worse` trajectory may have none.
    """

    fate: Fate
    drafts: list[Draft]
    remarks: list[Turn | Remark]
    reason: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Rules:
    """What editing goes by.

    `checks_right`: whether the feedback module also looks at attempts whose answer is right (a
    script does; a teacher is told that what it sees is wrong).
    """

    world: World
    updates: int = 5
    checks_right: bool = True


Editing = Generator[Judge | Rewrite, Answer, Outcome]


def edit(drafts: Sequence[Draft], own: Sequence[Turn], rules: Rules) -> Editing:
    """Edit a trajectory: the learner's attempts, and its feedback on all or all but the last."""
    drafts, remarks = list(drafts), list[Turn | Remark](own)

    def dropped(reason: str, failed: bool = False) -> Outcome:
        return Outcome("dropped", drafts, remarks, reason, failed)

    last = drafts[-1]
    if not last.right and any(draft.right for draft in drafts):
        return Outcome("worse", drafts, remarks)
    if fault := _unfit(drafts, rules.world):
        return dropped(fault)
    if last.right:
        seen = (yield Judge(last)) if rules.checks_right else None
        steady = seen is None or (isinstance(seen, Remark) and seen.confirms)
        if not steady or not rules.world.consistent(last.problem, last.steps):
            return dropped("inconsistent")
        confirms = len(own) == len(drafts) and _confirms(own[-1], rules.world)
        end = own[-1] if confirms else rules.world.confirmation(last.steps)
        before = own[: len(drafts) - 1]
        in_form = all(_points(remark, rules.world) for remark in before)
        return Outcome("kept", drafts, [*before, end], "" if in_form else OUT_OF_FORM)
    for index, draft in enumerate(drafts):
        theirs = yield Judge(draft)
        if not isinstance(theirs, Remark):
            return dropped(*_why(theirs))
        if theirs.confirms:
            return dropped("confirmed_but_wrong")
        mine = own[index].attempt if index < len(own) else None
        cut_off = index < len(own) and own[index].truncated
        if cut_off or not rules.world.agree(mine, theirs):
            # The first disagreement is the edit point; all before it is the learner's.
            return (yield from _finish(drafts[: index + 1], remarks[:index], theirs, rules))
    return dropped("feedback_agrees")


def _finish(
    drafts: list[Draft], remarks: list[Turn | Remark], remark: Remark, rules: Rules
) -> Editing:
    """The teacher's part: update and feedback until the feedback confirms."""
    begin = len(drafts) - 1
    theirs = [remark]
    reason, failed = "updates", False
    for _ in range(rules.updates):
        made = yield Rewrite(drafts[-1], theirs[-1])
        if not isinstance(made, Draft):
            reason, failed = _why(made)
            break
        if fault := update_fault(drafts[-1], theirs[-1], made, rules.world):
            reason = fault
            break
        found = yield from _looked_at(made, rules)
        if not isinstance(found, Remark):
            reason, failed = _why(found)
            break
        drafts, theirs = [*drafts, made], [*theirs, found]
        if found.confirms:
            if regressed(theirs):
                return Outcome("first_feedback", drafts[: begin + 1], [*remarks, theirs[0]])
            return Outcome("edited", drafts, [*remarks, *theirs])
    return Outcome("dropped", drafts, [*remarks, *theirs], reason, failed)


def _looked_at(draft: Draft, rules: Rules) -> Generator[Judge | Rewrite, Answer, Answer]:
    """Feedback on an update; feedback and grade must agree that it is right."""
    if draft.right and not rules.checks_right:
        steady = rules.world.consistent(draft.problem, draft.steps)
        return rules.world.confirmation(draft.steps) if steady else Unusable("inconsistent")
    found = yield Judge(draft)
    if isinstance(found, Remark) and found.confirms and not draft.right:
        return Unusable("confirmed_but_wrong")
    return found


def update_fault(before: Draft, remark: Remark, after: Draft, world: World) -> str | None:
    """Why an update breaks the rules of the paper; None if it keeps them.

    `no_final_response`: it does not end in one. `earlier_steps_changed`; `step_unchanged`: what was
    wrong is still there to the letter; `span_kept`: the wrong part is (in lists: in its place).
    """
    step = remark.step
    assert step is not None
    if after.turn.truncated or not world.ends(after.steps):
        return "no_final_response"
    if after.steps[:step] != before.steps[:step]:
        return "earlier_steps_changed"
    if step >= len(after.steps):  # the wrong step is gone
        return None if step < len(before.steps) else "step_unchanged"
    if step < len(before.steps) and after.steps[step] == before.steps[step]:
        return "step_unchanged"
    if not remark.span or remark.span not in after.steps[step]:
        return None
    if not world.span_may_move or step >= len(before.steps):
        return "span_kept"
    up_to, _, _ = before.steps[step].partition(remark.span)
    return "span_kept" if after.steps[step].startswith(up_to + remark.span) else None


def regressed(remarks: Sequence[Remark]) -> bool:
    """Whether feedback ever points to an earlier step than the time before, or to the same part."""
    places = [remark for remark in remarks if not remark.confirms]
    return any(
        after.step < before.step or (after.step == before.step and after.span == before.span)
        for before, after in pairwise(places)
        if before.step is not None and after.step is not None
    )


def _confirms(own: Turn, world: World) -> bool:
    return not own.truncated and world.prompts.confirms(own.attempt)


def _points(own: Turn, world: World) -> bool:
    return not own.truncated and world.in_form(own.attempt)


def _unfit(drafts: Sequence[Draft], world: World) -> str | None:
    for draft in drafts:
        if draft.turn.truncated:
            return "truncated"
        if not draft.steps:
            return "empty"
        if len(draft.turn.attempt.split()) > world.longest:
            return "too_long"
    return None


def _why(answer: Answer) -> tuple[str, bool]:
    if isinstance(answer, Unusable):
        return answer.reason, answer.failed
    return "no_answer", False


@dataclass
class _Running:
    """An editing in progress and what it asks."""

    editing: Editing
    asks: Judge | Rewrite | None = None
    outcome: Outcome | None = None

    def send(self, answer: Answer | None) -> None:
        try:
            self.asks = next(self.editing) if answer is None else self.editing.send(answer)
        except StopIteration as done:
            self.asks, self.outcome = None, done.value


@dataclass
class Modules:
    """The teacher's two modules: each answers many questions at once, in order."""

    judge: Callable[[Sequence[Judge]], Sequence[Remark | Unusable]]
    rewrite: Callable[[Sequence[Rewrite]], Sequence[Draft | Unusable]]

    def answers(self, asks: Sequence[Judge | Rewrite]) -> list[Answer]:
        """Answers in the order of the questions."""
        judged = [ask for ask in asks if isinstance(ask, Judge)]
        rewritten = [ask for ask in asks if isinstance(ask, Rewrite)]
        remarks = iter(self.judge(judged) if judged else ())
        drafts = iter(self.rewrite(rewritten) if rewritten else ())
        return [next(remarks) if isinstance(ask, Judge) else next(drafts) for ask in asks]


def edit_all(editings: Sequence[Editing], modules: Modules) -> list[Outcome]:
    """The outcomes of many editings, in order; all that ask at one time are answered together."""
    running = [_Running(editing) for editing in editings]
    for one in running:
        one.send(None)
    while asking := [one for one in running if one.asks is not None]:
        asks = [one.asks for one in asking if one.asks is not None]
        for one, answer in zip(asking, modules.answers(asks), strict=True):
            one.send(answer)
    return [one.outcome for one in running if one.outcome is not None]
