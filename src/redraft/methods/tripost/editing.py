"""Interactive trajectory editing (arXiv 2310.13522, stage (a)).

A trajectory is an episode of `SelfImprove`: answer, critique, update, critique, ... One that ends
right stays as it is. Otherwise the teacher's critiques are compared with the policy's, answer by
answer; at the first disagreement the teacher's takes its place, and from there on the teacher
finishes: it rewrites the answer from the wrong step on and criticises the result, until its
critique confirms it.

`edit` does this for one trajectory. It is a generator that yields a question to the teacher
(`Judge` or `Rewrite`) and is sent the reply; `edit_all` runs many and asks all their questions
together. The result is the edited episode: the teacher's turns have the author "teacher", and the
tags `tripost` and `reason` say what became of it.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from redraft.tasks.steps import Critique, StepFormat
from redraft.types import Episode, Problem, Turn

TAG, REASON = "tripost", "reason"
"""Tags of an edited episode: what became of it (one of `TAGS`), and why."""

KEPT = "kept"
"""The policy ended right without help."""
EDITED = "edited"
"""The teacher finished it."""
FIRST_FEEDBACK = "first_feedback"
"""The teacher's updates went backwards; only the answer with the first critique is used."""
WORSE = "worse"
"""An answer was right and the last one is wrong; not used."""
DROPPED = "dropped"
"""Not used, for the reason given."""
TAGS = (KEPT, EDITED, FIRST_FEEDBACK, WORSE, DROPPED)

SCRIPT = "script"
"""Source of turns that the task's script has written."""

OUT_OF_FORM = "out_of_form"
"""Reason of a kept trajectory in which a critique of the policy names no wrong step: only the last
answer with the confirming critique is used."""


@dataclass(frozen=True)
class Judge:
    """Asks for a critique of an answer."""

    problem: Problem
    answer: Turn


@dataclass(frozen=True)
class Rewrite:
    """Asks for an answer to be rewritten from the critique's step on."""

    problem: Problem
    answer: Turn
    critique: Critique


@dataclass(frozen=True)
class Unusable:
    """An unusable reply. `failed`: the teacher could not be reached, so that asking again
    later may help."""

    reason: str
    failed: bool = False


Reply = Critique | Turn | Unusable
"""The reply to `Judge` is a critique, that to `Rewrite` a graded answer; either may be unusable."""

Editing = Generator[Judge | Rewrite, Reply | None, Episode]


@dataclass(frozen=True)
class Rules:
    """What editing goes by.

    `updates`: most updates of the teacher. `critic`: who writes the critiques, `SCRIPT` or the name
    of a language model. A script also checks answers that are right; a language model is asked
    about wrong answers only, so right answers that agree with their steps count as confirmed.
    """

    form: StepFormat
    updates: int = 5
    critic: str = SCRIPT


def edit(episode: Episode, rules: Rules) -> Editing:
    """Edit a trajectory: answers, and critiques of all of them or of all but the last.

    If the teacher cannot be reached, the result has the outcome "failed"; otherwise the outcome
    stays that of the policy's own trajectory.
    """
    problem, form = episode.problem, rules.form
    answers, own = episode.responses[::2], episode.responses[1::2]

    def ended(tag: str, reason: str = "") -> Episode:
        return _ended(episode, rules, answers, own, tag, reason)

    if not answers:  # not even the first one fitted the context window
        return ended(DROPPED, "truncated")
    last = answers[-1]
    if not _right(last) and any(map(_right, answers)):
        return ended(WORSE)
    if fault := _unfit(answers, form):
        return ended(DROPPED, fault)
    if _right(last):
        steps = form.split(last.text)
        steady = form.consistent(problem, steps)
        if steady and rules.critic == SCRIPT:
            found = yield from _judged(problem, last)
            steady = isinstance(found, Critique) and found.confirms
        if not steady:
            return ended(DROPPED, "inconsistent")
        before, end = own[: len(answers) - 1], own[len(answers) - 1 :]
        if not end or end[0].truncated or not form.prompts.confirms(end[0].text):
            end = [critique_turn(form.confirmation(steps), rules.critic)]
        in_form = all(not turn.truncated and form.in_form(turn.text) for turn in before)
        reason = "" if in_form else OUT_OF_FORM
        return _ended(episode, rules, answers, [*before, *end], KEPT, reason)
    for index, answer in enumerate(answers):
        found = yield from _judged(problem, answer)
        if isinstance(found, Unusable):
            return _ended(episode, rules, answers, own, DROPPED, found.reason, found.failed)
        if found.confirms:
            return ended(DROPPED, "confirmed_but_wrong")
        mine = own[index] if index < len(own) else None
        cut_off = mine is not None and mine.truncated
        if cut_off or not form.agree(None if mine is None else mine.text, found):
            # The first disagreement is the edit point; all before it is the policy's.
            return (yield from _finish(episode, answers[: index + 1], own[:index], found, rules))
    return ended(DROPPED, "feedback_agrees")


def _finish(
    episode: Episode, answers: list[Turn], own: list[Turn], critique: Critique, rules: Rules
) -> Editing:
    """The teacher's part: update and critique, until the critique confirms the update."""
    begin, critiques = len(answers), [critique]
    why = Unusable("updates")

    def ended(tag: str, answers: list[Turn], critiques: list[Critique]) -> Episode:
        theirs = [critique_turn(one, rules.critic) for one in critiques]
        reason, failed = (why.reason, why.failed) if tag == DROPPED else ("", False)
        return _ended(episode, rules, answers, [*own, *theirs], tag, reason, failed)

    for _ in range(rules.updates):
        update = yield Rewrite(episode.problem, answers[-1], critiques[-1])
        if isinstance(update, Unusable):
            why = update
            break
        assert isinstance(update, Turn)
        if fault := update_fault(answers[-1].text, critiques[-1], update.text, rules.form):
            why = Unusable(fault)
            break
        found = yield from _checked(episode.problem, update, rules)
        if isinstance(found, Unusable):
            why = found
            break
        answers, critiques = [*answers, update], [*critiques, found]
        if found.confirms:
            if regressed(critiques):
                return ended(FIRST_FEEDBACK, answers[:begin], critiques[:1])
            return ended(EDITED, answers, critiques)
    return ended(DROPPED, answers, critiques)


Judging = Generator[Judge, Reply | None, Critique | Unusable]


def _judged(problem: Problem, answer: Turn) -> Judging:
    """The teacher's critique of an answer."""
    reply = yield Judge(problem, answer)
    assert isinstance(reply, Critique | Unusable)
    return reply


def _checked(problem: Problem, update: Turn, rules: Rules) -> Judging:
    """The critique of an update; critique and grade must agree that it is right."""
    if _right(update) and rules.critic != SCRIPT:
        steps = rules.form.split(update.text)
        steady = rules.form.consistent(problem, steps)
        return rules.form.confirmation(steps) if steady else Unusable("inconsistent")
    found = yield from _judged(problem, update)
    if isinstance(found, Critique) and found.confirms and not _right(update):
        return Unusable("confirmed_but_wrong")
    return found


def update_fault(before: str, critique: Critique, after: str, form: StepFormat) -> str | None:
    """Why an update from `before` to `after` breaks the rules of the paper; None if it keeps them.

    `no_final_response`: it does not end in one. `earlier_steps_changed`; `step_unchanged`: the
    wrong step is still there to the letter; `span_kept`: its wrong part is (in lists: in its
    place).
    """
    step, old, new = critique.step, form.split(before), form.split(after)
    assert step is not None
    if not form.ends(new):
        return "no_final_response"
    if new[:step] != old[:step]:
        return "earlier_steps_changed"
    if step >= len(new):  # the wrong step is gone
        return None if step < len(old) else "step_unchanged"
    if step < len(old) and new[step] == old[step]:
        return "step_unchanged"
    if not critique.span or critique.span not in new[step]:
        return None
    if not form.span_may_move or step >= len(old):
        return "span_kept"
    up_to, _, _ = old[step].partition(critique.span)
    return "span_kept" if new[step].startswith(up_to + critique.span) else None


def regressed(critiques: Sequence[Critique]) -> bool:
    """Whether a critique names an earlier step than the one before it, or the same part again."""
    return any(
        after.step < before.step or (after.step == before.step and after.span == before.span)
        for before, after in pairwise(critiques)
        if before.step is not None and after.step is not None
    )


def _right(answer: Turn) -> bool:
    return answer.grade is not None and answer.grade.correct


def _unfit(answers: Sequence[Turn], form: StepFormat) -> str | None:
    for answer in answers:
        if answer.truncated:
            return "truncated"
        if not form.split(answer.text):
            return "empty"
        if len(answer.text.split()) > form.longest:
            return "too_long"
    return None


def critique_turn(critique: Critique, source: str) -> Turn:
    """A critique that the policy has not written, as a turn."""
    return Turn(author="teacher", text=critique.text, source=source)


def trajectory_turns(
    answers: Sequence[Turn], critiques: Sequence[Turn], form: StepFormat
) -> list[Turn]:
    """The turns of a trajectory: answer, request, critique, request, answer, ...

    `critiques[i]` is about `answers[i]`; the last answer may have none. As in a rollout of
    `SelfImprove` a critique sees the answer before it, and an update sees both.
    """
    turns: list[Turn] = []
    for answer, critique in zip_longest(answers, critiques):
        if turns:
            turns.append(Turn(author="environment", text=form.prompts.update))
        turns.append(answer.model_copy(update={"history": max(0, len(turns) - 4)}))
        if critique is not None:
            turns.append(Turn(author="environment", text=form.prompts.feedback))
            turns.append(critique.model_copy(update={"history": len(turns) - 2}))
    return turns


def _ended(
    episode: Episode,
    rules: Rules,
    answers: Sequence[Turn],
    critiques: Sequence[Turn],
    tag: str,
    reason: str = "",
    failed: bool = False,
) -> Episode:
    """The trajectory with these turns and tags."""
    update: dict[str, object] = {
        "turns": trajectory_turns(answers, critiques, rules.form),
        "tags": episode.tags | {TAG: tag} | ({REASON: reason} if reason else {}),
    }
    if failed:
        update |= {"outcome": "failed", "note": reason}
    return episode.model_copy(update=update)


def edit_all(
    editings: Sequence[Editing],
    judge: Callable[[Sequence[Judge]], Sequence[Critique | Unusable]],
    rewrite: Callable[[Sequence[Rewrite]], Sequence[Turn | Unusable]],
) -> list[Episode]:
    """The results of many editings, in order; `judge` and `rewrite` are each given all the
    questions of one round together and reply in order."""
    done: dict[int, Episode] = {}
    replies: dict[int, Reply | None] = dict.fromkeys(range(len(editings)))
    while replies:
        judges: dict[int, Judge] = {}
        rewrites: dict[int, Rewrite] = {}
        for index in sorted(replies):
            try:
                ask = editings[index].send(replies[index])
            except StopIteration as end:
                done[index] = end.value
            else:
                if isinstance(ask, Judge):
                    judges[index] = ask
                else:
                    rewrites[index] = ask
        replies = {}
        if judges:
            replies |= zip(judges, judge(list(judges.values())), strict=True)
        if rewrites:
            replies |= zip(rewrites, rewrite(list(rewrites.values())), strict=True)
    return [done[index] for index in range(len(editings))]
