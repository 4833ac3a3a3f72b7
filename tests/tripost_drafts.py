"""Trajectories by hand: drafts with grades, and editing with answers that are written down."""

from collections.abc import Sequence

from redraft.episode import Grade, Problem, Turn
from redraft.methods.editing import (
    Draft,
    Editing,
    Judge,
    Modules,
    Outcome,
    Rewrite,
    Rules,
    Unusable,
    edit,
    edit_all,
)
from redraft.methods.tripost_world import Remark, World, world_for

LAB = world_for("lab/arithmetic")
PROBLEM = Problem(id="p", task="lab/arithmetic", question="Compute (1+2)-(3*4)", gold="-9")
RIGHT = "1 + 2 = 3 ; 3 * 4 = 12 ; 3 - 12 = -9"
WRONG = "1 + 2 = 3 ; 3 * 4 = 13 ; 3 - 13 = -10"
WORSE = "1 + 2 = 4 ; 3 * 4 = 12 ; 4 - 12 = -8"
LATER = "1 + 2 = 3 ; 3 * 4 = 12 ; 3 - 12 = -8"
SECOND = Remark("1 + 2 = 3 ; 3 * 4 = 13 wrong because 3 * 4 = 12", 1, "3 * 4 = 13")
FIRST = Remark("1 + 2 = 4 wrong because 1 + 2 = 3", 0, "1 + 2 = 4")
THIRD = Remark(f"{LATER} wrong because 3 - 12 = -9", 2, "3 - 12 = -8")
CONFIRMS = LAB.confirmation(LAB.split(RIGHT))


def turn(text: str, right: bool = False, finish: str = "stop", by: str = "") -> Turn:
    grade = Grade(correct=right, answer="x", decided_by="string")
    made = {"attempt": text, "finish": finish, "grade": grade, "on_policy": False, "source": by}
    return Turn.model_validate(made)


def draft(text: str, right: bool | None = None, world: World = LAB, finish: str = "stop") -> Draft:
    correct = text == RIGHT if right is None else right
    return Draft(PROBLEM, turn(text, correct, finish), world.split(text))


def edited(
    attempts: Sequence[str],
    own: Sequence[str | Turn] = (),
    remarks: Sequence[Remark | Unusable] = (),
    updates: Sequence[str | Unusable] = (),
    rules: Rules | None = None,
) -> tuple[Outcome, list[Judge | Rewrite]]:
    """The outcome for a trajectory whose teacher gives these answers one after the other, and what
    the teacher was asked."""
    asked: list[Judge | Rewrite] = []
    said, written = iter(remarks), iter(updates)

    def judge(asks: Sequence[Judge]) -> list[Remark | Unusable]:
        asked.extend(asks)
        return [next(said) for _ in asks]

    def rewrite(asks: Sequence[Rewrite]) -> list[Draft | Unusable]:
        asked.extend(asks)
        made = [next(written) for _ in asks]
        return [draft(one) if isinstance(one, str) else one for one in made]

    editing: Editing = edit(
        [draft(text) for text in attempts],
        [one if isinstance(one, Turn) else turn(one) for one in own],
        rules or Rules(LAB),
    )
    [outcome] = edit_all([editing], Modules(judge, rewrite))
    return outcome, asked


def texts(outcome: Outcome) -> list[str]:
    """Attempts and feedback in turn."""
    said = [one.attempt if isinstance(one, Turn) else one.text for one in outcome.remarks]
    both = [(one.turn.attempt, *said[i : i + 1]) for i, one in enumerate(outcome.drafts)]
    return [text for pair in both for text in pair]
