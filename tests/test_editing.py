"""Editing trajectories: which are kept, where the teacher takes over, what is dropped and why."""

from dataclasses import replace

import pytest

from redraft.methods.editing import (
    OUT_OF_FORM,
    Modules,
    Rewrite,
    Rules,
    Unusable,
    edit,
    edit_all,
    regressed,
    update_fault,
)
from redraft.methods.tripost_modules import ScriptedFeedback, ScriptedImprovement, Writer
from redraft.methods.tripost_scripts import ask_all
from redraft.methods.tripost_world import Remark, pointed, world_for
from redraft.tasks import get_task
from tripost_drafts import (
    CONFIRMS,
    FIRST,
    LAB,
    LATER,
    RIGHT,
    SECOND,
    THIRD,
    WORSE,
    WRONG,
    draft,
    edited,
    texts,
    turn,
)

LINES = world_for("bbh/multistep_arithmetic")


# What the learner did


def test_a_right_attempt_is_kept_and_confirmed() -> None:
    outcome, _ = edited([RIGHT], remarks=[CONFIRMS])
    assert outcome.fate == "kept"
    assert texts(outcome) == [RIGHT, CONFIRMS.text]


def test_a_trajectory_that_ends_right_is_kept_as_the_learner_wrote_it() -> None:
    own = ["step 2 wrong because nothing", "right"]
    outcome, asked = edited([WRONG, RIGHT], own, remarks=[CONFIRMS])
    assert outcome.fate == "kept"
    assert texts(outcome) == [WRONG, own[0], RIGHT, own[1]]
    assert len(asked) == 1, "only the last attempt is looked at"


def test_feedback_without_a_form_is_no_example() -> None:
    outcome, _ = edited([WRONG, RIGHT], ["12 - 110"], remarks=[CONFIRMS])
    assert (outcome.fate, outcome.reason) == ("kept", OUT_OF_FORM)
    assert texts(outcome) == [WRONG, "12 - 110", RIGHT, CONFIRMS.text], "nothing is lost"


def test_feedback_that_was_cut_off_is_no_example() -> None:
    cut = turn("step 2 wrong because nothing", finish="length")
    found, _ = edited([WRONG, RIGHT], [cut], remarks=[CONFIRMS])
    assert (found.fate, found.reason) == ("kept", OUT_OF_FORM)
    confirming = turn(CONFIRMS.text, finish="length")
    found, _ = edited([RIGHT], [confirming], remarks=[CONFIRMS])
    assert found.remarks == [CONFIRMS], "the script's, which was not cut off"
    agreeing = turn(SECOND.text, finish="length")
    found, _ = edited([WRONG], [agreeing], [SECOND, CONFIRMS], [RIGHT])
    assert found.remarks == [SECOND, CONFIRMS]


def test_an_answer_that_its_steps_do_not_give_is_dropped() -> None:
    outcome, _ = edited([RIGHT], remarks=[SECOND])
    assert (outcome.fate, outcome.reason) == ("dropped", "inconsistent")
    outcome, _ = edited([RIGHT], remarks=[Unusable("unreadable")])
    assert (outcome.fate, outcome.reason) == ("dropped", "inconsistent")


@pytest.mark.parametrize(
    ("task", "attempt", "fate"),
    [
        (
            "bbh/multistep_arithmetic",
            "(1) A = 3 * 4 = 12\n(2) 3 - 12 = -9\n(3) The answer is -9.",
            "kept",
        ),
        (
            "bbh/multistep_arithmetic",
            "(1) A = 3 * 4 = 12\n(2) 3 - 12 = -8\n(3) The answer is -9.",
            "dropped",
        ),
        (
            "bbh/word_sorting",
            "(1) ash: 1 bee: 2\n(2) ash < bee\n(3) The answer is ash bee.",
            "kept",
        ),
        (
            "bbh/word_sorting",
            "(1) ash: 1 bee: 2\n(2) ash ? bee\n(3) The answer is ash bee.",
            "dropped",
        ),
    ],
)
def test_a_right_answer_must_follow_from_its_steps_where_a_teacher_gives_feedback(
    task: str, attempt: str, fate: str
) -> None:
    """The paper's checks; the teacher is not asked about right answers."""
    world = world_for(task)
    right = draft(attempt, right=True, world=world)
    [outcome] = edit_all(
        [edit([right], [], Rules(world, checks_right=False))],
        Modules(lambda asks: [], lambda asks: []),
    )
    assert (outcome.fate, outcome.reason) == (fate, "" if fate == "kept" else "inconsistent")


def test_what_ends_cut_off_after_it_was_right_is_put_aside() -> None:
    own = [turn("step 2 wrong because nothing")]
    [outcome] = edit_all(
        [edit([draft(RIGHT), draft(WRONG, finish="length")], own, Rules(LAB))],
        Modules(lambda asks: [], lambda asks: []),
    )
    assert outcome.fate == "worse"


@pytest.mark.parametrize("attempts", [[RIGHT, WRONG], [WRONG, RIGHT, WORSE]])
def test_what_ends_worse_than_it_was_is_put_aside(attempts: list[str]) -> None:
    own = ["step 1 wrong because 9"] * (len(attempts) - 1)
    outcome, asked = edited(attempts, own)
    assert outcome.fate == "worse"
    assert texts(outcome)[::2] == attempts
    assert not asked


def test_cut_off_empty_and_endless_attempts_are_dropped() -> None:
    for one, reason in (
        (draft(WRONG, finish="length"), "truncated"),
        (draft("", world=LINES), "empty"),
        (draft("word " * 513), "too_long"),
    ):
        [outcome] = edit_all([edit([one], [], Rules(LAB))], Modules(lambda a: [], lambda a: []))
        assert (outcome.fate, outcome.reason) == ("dropped", reason)


# The first disagreement


def test_an_attempt_without_feedback_counts_as_confirmed_so_the_teacher_overrules_it() -> None:
    outcome, asked = edited([WRONG], [], [SECOND, CONFIRMS], [RIGHT])
    assert outcome.fate == "edited"
    assert texts(outcome) == [WRONG, SECOND.text, RIGHT, CONFIRMS.text]
    assert isinstance(asked[1], Rewrite)
    assert asked[1].remark == SECOND


def test_feedback_that_agrees_stays_the_learners_and_the_next_one_is_replaced() -> None:
    own = [SECOND.text, "step 1 wrong because 1 + 2 = 5"]
    outcome, _ = edited([WRONG, LATER], own, [SECOND, THIRD, CONFIRMS], [RIGHT])
    assert outcome.fate == "edited"
    assert texts(outcome) == [WRONG, SECOND.text, LATER, THIRD.text, RIGHT, CONFIRMS.text]
    assert outcome.remarks[0] == turn(SECOND.text), "the learner's own turn"
    assert outcome.remarks[1] == THIRD


def test_what_came_after_the_edit_point_is_gone() -> None:
    outcome, _ = edited([WRONG, WORSE], ["right", "right"], [SECOND, CONFIRMS], [RIGHT])
    assert texts(outcome) == [WRONG, SECOND.text, RIGHT, CONFIRMS.text]


def test_where_all_feedback_agrees_the_teacher_has_nothing_to_add() -> None:
    own = [SECOND.text, THIRD.text]
    outcome, _ = edited([WRONG, LATER], own, [SECOND, THIRD])
    assert (outcome.fate, outcome.reason) == ("dropped", "feedback_agrees")


def test_feedback_that_confirms_a_wrong_attempt_drops_it() -> None:
    outcome, _ = edited([WRONG], [], [CONFIRMS])
    assert (outcome.fate, outcome.reason) == ("dropped", "confirmed_but_wrong")


def test_the_papers_rule_of_agreement() -> None:
    """Same step, and one quoted part contains the other."""
    own = 'Step (1) is correct. In step (2) the part "A = 3 + 4 = 8" is incorrect. This is because'
    assert pointed(own) == (1, "A = 3 + 4 = 8")
    for other, agree in (
        (Remark("", 1, "3 + 4 = 8"), True),
        (Remark("", 1, "Let's calculate A = 3 + 4 = 8."), True),
        (Remark("", 1, "B = 2"), False),
        (Remark("", 2, "3 + 4 = 8"), False),
        (LINES.confirmation([]), False),
    ):
        assert LINES.agree(own, other) is agree
    assert LINES.agree(None, LINES.confirmation([]))
    assert LINES.agree("All steps are correct. The final response is also correct.", CONFIRMS)
    assert not LINES.agree("I am not sure.", Remark("", 1, "3 + 4 = 8"))


# The teacher's updates


@pytest.mark.parametrize(
    ("before", "remark", "after", "fault"),
    [
        (WRONG, SECOND, RIGHT, None),
        (WRONG, SECOND, "1 + 2 = 4 ; 3 * 4 = 12 ; 4 - 12 = -8", "earlier_steps_changed"),
        (WRONG, SECOND, "1 + 2 = 3 ; 3 * 4 = 13 ; 3 - 13 = -9", "step_unchanged"),
        (WRONG, Remark("", 1, "4 = 13"), "1 + 2 = 3 ; 9 + 4 = 13 ; 3 - 9 = -6", "span_kept"),
        (WRONG, SECOND, "1 + 2 = 3 ; so it is 12", "no_final_response"),
        ("1 + 2 = 3", Remark("", 1), RIGHT, None),
        ("1 + 2 = 3", Remark("", 1), "1 + 2 = 3", "step_unchanged"),
        (f"{RIGHT} ; 1 + 1 = 2", Remark("", 3, "1 + 1 = 2"), RIGHT, None),
    ],
)
def test_filters_of_updates(before: str, remark: Remark, after: str, fault: str | None) -> None:
    assert update_fault(draft(before), remark, draft(after), LAB) == fault


def test_a_word_of_a_list_may_stand_elsewhere() -> None:
    """The wrong part of a sorting step is a word, which its correction has too."""
    world = world_for("bbh/word_sorting")
    remark = Remark("", 0, '"chair"')
    end = "(Final response) So the answer is: cable chair."
    before = draft(f'(1) We have "chair" < "cable".\n{end}', world=world)
    moved = draft(f'(1) We have "cable" < "chair".\n{end}', world=world)
    stays = draft(f'(1) We have "chair" < "cable" .\n{end}', world=world)
    assert update_fault(before, remark, moved, world) is None
    assert update_fault(before, remark, stays, world) == "span_kept"


def test_scripts_finish_solutions_in_the_papers_lines() -> None:
    """A worked solution with a planted mistake, edited by the real checker and script."""
    for task, old, new in (
        ("bbh/multistep_arithmetic-cells", "(Final response) So the answer is ", None),
        ("bbh/word_sorting-cells", "(2) We now have: (", "(2) We now have: (1"),
    ):
        world, found = world_for(task), get_task(task)
        [problem] = found.load("train", 1).problems
        writer = Writer(world, found.grader, lambda text: [1])
        assert world.script is not None
        [worked] = ask_all([(world.script, "work", problem.question, [])])
        text = world.join(worked.value)
        spoiled = text.replace(old, new or f"{old}1")
        wrong = writer.drafts([problem], [spoiled], "policy")
        wrong = [replace(one, turn=turn(spoiled, right=False)) for one in wrong]
        modules = Modules(ScriptedFeedback(world), ScriptedImprovement(writer))
        [outcome] = edit_all([edit(wrong, [], Rules(world))], modules)
        assert outcome.fate == "edited", (task, outcome.reason)
        first, last = outcome.drafts[0], outcome.drafts[-1]
        [remark, confirmation] = outcome.remarks
        assert isinstance(remark, Remark)
        assert last.right
        assert last.steps[: remark.step] == first.steps[: remark.step]
        assert confirmation == world.confirmation(outcome.drafts[-1].steps)


def test_an_update_that_breaks_a_rule_ends_the_editing() -> None:
    outcome, asked = edited([WRONG], [], [SECOND], [WORSE])
    assert (outcome.fate, outcome.reason) == ("dropped", "earlier_steps_changed")
    assert len(asked) == 2


def test_a_final_response_is_needed_in_the_papers_lines() -> None:
    start = ["(1) A = 2", "(2) A = 3"]
    remark = Remark("", 1, "A = 3")
    before = draft("\n".join(start), world=LINES)
    good = draft("(1) A = 2\n(2) A = 4\n(Final response) So the answer is 4.", world=LINES)
    bad = draft("(1) A = 2\n(2) A = 4", world=LINES)
    assert update_fault(before, remark, good, LINES) is None
    assert update_fault(before, remark, bad, LINES) == "no_final_response"


def test_going_backwards_on_the_way_leaves_attempt_and_first_feedback() -> None:
    middle = "1 + 2 = 3 ; 3 * 4 = 14 ; 3 - 14 = -11"
    again = Remark("step 2 wrong because 3 * 4 = 12", 1, "3 * 4 = 13")
    outcome, _ = edited([WRONG], [], [SECOND, again, CONFIRMS], [middle, RIGHT])
    assert (outcome.fate, texts(outcome)) == ("first_feedback", [WRONG, SECOND.text])


def test_progress_is_a_later_step_or_another_part_of_the_same() -> None:
    assert not regressed([FIRST, SECOND, THIRD, CONFIRMS])
    assert not regressed([SECOND, Remark("", 1, "something else"), CONFIRMS])
    assert regressed([SECOND, FIRST, CONFIRMS])
    assert regressed([SECOND, SECOND, CONFIRMS])


def test_no_more_than_so_many_updates() -> None:
    made = [f"1 + 2 = 3 ; 3 * 4 = {n} ; 3 - {n} = {3 - n}" for n in range(20, 30)]
    remarks = [Remark("step 2", 1, step.split(" ; ")[1]) for step in [WRONG, *made]]
    outcome, asked = edited([WRONG], [], remarks, made, Rules(LAB, updates=5))
    assert (outcome.fate, outcome.reason) == ("dropped", "updates")
    assert sum(isinstance(ask, Rewrite) for ask in asked) == 5


def test_a_teacher_that_does_not_answer_is_no_drop_but_a_failure() -> None:
    lost = Unusable("HTTP 500", failed=True)
    outcome, _ = edited([WRONG], [], [lost])
    assert (outcome.failed, outcome.reason) == (True, "HTTP 500")
    outcome, _ = edited([WRONG], [], [SECOND], [lost])
    assert outcome.failed
    outcome, _ = edited([WRONG], [], [SECOND], [Unusable("improvement_malformed")])
    assert (outcome.failed, outcome.reason) == (False, "improvement_malformed")


def test_many_editings_are_asked_together_and_do_not_mix() -> None:
    rounds: list[int] = []

    def judge(asks):  # type: ignore[no-untyped-def]
        rounds.append(len(asks))
        return [CONFIRMS if ask.draft.right else SECOND for ask in asks]

    def rewrite(asks):  # type: ignore[no-untyped-def]
        rounds.append(len(asks))
        return [draft(RIGHT) for _ in asks]

    editings = [edit([draft(text)], [], Rules(LAB)) for text in (WRONG, RIGHT, WRONG)]
    outcomes = edit_all(editings, Modules(judge, rewrite))
    assert [one.fate for one in outcomes] == ["edited", "kept", "edited"]
    assert rounds == [3, 2, 2]
