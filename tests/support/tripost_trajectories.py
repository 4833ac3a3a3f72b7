"""Trajectories by hand, edited with a teacher's replies that are written down."""

from collections.abc import Sequence

from redraft.learning.imitation import Example
from redraft.methods.tripost.editing import (
    REASON,
    TAG,
    Judge,
    Rewrite,
    Rules,
    Unusable,
    edit,
    edit_all,
    trajectory_turns,
)
from redraft.tasks import get_task
from redraft.tasks.steps import Critique, StepFormat
from redraft.types import Episode, Grade, Problem, Turn


def format_of(task: str) -> StepFormat:
    """The step format of a task that has one."""
    form = get_task(task).steps
    assert form is not None
    return form


LAB = format_of("lab/arithmetic")
PROBLEM = Problem(id="p", task="lab/arithmetic", question="Compute (1+2)-(3*4)", gold="-9")
RIGHT = "1 + 2 = 3 ; 3 * 4 = 12 ; 3 - 12 = -9"
WRONG = "1 + 2 = 3 ; 3 * 4 = 13 ; 3 - 13 = -10"
WORST = "1 + 2 = 4 ; 3 * 4 = 12 ; 4 - 12 = -8"
LATER = "1 + 2 = 3 ; 3 * 4 = 12 ; 3 - 12 = -8"
SECOND = Critique("1 + 2 = 3 ; 3 * 4 = 13 wrong because 3 * 4 = 12", 1, "3 * 4 = 13")
FIRST = Critique("1 + 2 = 4 wrong because 1 + 2 = 3", 0, "1 + 2 = 4")
THIRD = Critique(f"{LATER} wrong because 3 - 12 = -9", 2, "3 - 12 = -8")
CONFIRMS = LAB.confirmation(LAB.split(RIGHT))


def answer(text: str, right: bool | None = None, finish: str = "stop", by: str = "policy") -> Turn:
    """A graded answer; `right` by default where it is `RIGHT`."""
    correct = text.strip() == RIGHT if right is None else right
    grade = Grade(score=float(correct), answer="x", decided_by="string")
    return Turn.model_validate({"author": by, "text": text, "finish": finish, "grade": grade})


def critique(text: str, finish: str = "stop") -> Turn:
    """A critique by the policy."""
    return Turn.model_validate({"author": "policy", "text": text, "finish": finish})


def trajectory(
    answers: Sequence[str | Turn],
    own: Sequence[str | Turn] = (),
    form: StepFormat = LAB,
    **tags: str,
) -> Episode:
    """The policy's answers and its own critiques."""
    return Episode(
        problem=PROBLEM,
        messages=[],
        turns=trajectory_turns(
            [answer(one) if isinstance(one, str) else one for one in answers],
            [critique(one) if isinstance(one, str) else one for one in own],
            form,
        ),
        protocol="self-improve",
        tags=tags,
    )


def edited(
    episode: Episode,
    critiques: Sequence[Critique | Unusable] = (),
    updates: Sequence[str | Unusable] = (),
    rules: Rules | None = None,
) -> tuple[Episode, list[Judge | Rewrite]]:
    """The trajectory edited by a teacher who gives these replies one after the other, and what the
    teacher was asked."""
    asked: list[Judge | Rewrite] = []
    said, written = iter(critiques), iter(updates)

    def judge(asks: Sequence[Judge]) -> list[Critique | Unusable]:
        asked.extend(asks)
        return [next(said) for _ in asks]

    def rewrite(asks: Sequence[Rewrite]) -> list[Turn | Unusable]:
        asked.extend(asks)
        made = [next(written) for _ in asks]
        return [answer(one, by="teacher") if isinstance(one, str) else one for one in made]

    [found] = edit_all([edit(episode, rules or Rules(LAB))], judge, rewrite)
    return found, asked


def outcome(episode: Episode) -> tuple[str, str]:
    """What became of an edited trajectory, and why."""
    return episode.tags[TAG], episode.tags.get(REASON, "")


def texts(one: Episode | Example) -> list[str]:
    """Answers and critiques in turn."""
    episode = one.episode if isinstance(one, Example) else one
    return [turn.text for turn in episode.responses]
