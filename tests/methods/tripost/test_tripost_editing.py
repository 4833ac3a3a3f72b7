"""Editing trajectories: which are kept, where the teacher takes over, what is dropped and why."""

from collections.abc import Sequence

import pytest

from redraft.methods.tripost.editing import (
    OUT_OF_FORM,
    Judge,
    Rewrite,
    Rules,
    Unusable,
    edit,
    edit_all,
    regressed,
    update_fault,
)
from redraft.methods.tripost.modules import Script
from redraft.tasks import get_task
from redraft.tasks.steps import LINES, Critique, pointed
from redraft.types import Turn
from tripost_trajectories import (
    CONFIRMS,
    FIRST,
    LAB,
    LATER,
    RIGHT,
    SECOND,
    THIRD,
    WORST,
    WRONG,
    answer,
    critique,
    edited,
    format_of,
    outcome,
    texts,
    trajectory,
)

# What the policy did


def test_a_right_answer_is_kept_and_confirmed() -> None:
    found, _ = edited(trajectory([RIGHT]), [CONFIRMS])
    assert outcome(found) == ("kept", "")
    assert texts(found) == [RIGHT, CONFIRMS.text]
    assert [turn.author for turn in found.turns] == ["policy", "environment", "teacher"]


def test_a_trajectory_that_ends_right_is_kept_as_the_policy_wrote_it() -> None:
    own = trajectory([WRONG, RIGHT], ["step 2 wrong because nothing", "right"])
    found, asked = edited(own, [CONFIRMS])
    assert outcome(found) == ("kept", "")
    assert found.turns == own.turns
    assert len(asked) == 1, "only the last answer is looked at"


def test_a_critique_without_a_form_is_no_example() -> None:
    found, _ = edited(trajectory([WRONG, RIGHT], ["12 - 110"]), [CONFIRMS])
    assert outcome(found) == ("kept", OUT_OF_FORM)
    assert texts(found) == [WRONG, "12 - 110", RIGHT, CONFIRMS.text], "nothing is lost"


def test_a_critique_that_was_cut_off_is_no_example() -> None:
    cut = critique("step 2 wrong because nothing", finish="length")
    found, _ = edited(trajectory([WRONG, RIGHT], [cut]), [CONFIRMS])
    assert outcome(found) == ("kept", OUT_OF_FORM)
    confirming = critique(CONFIRMS.text, finish="length")
    found, _ = edited(trajectory([RIGHT], [confirming]), [CONFIRMS])
    assert found.turns[-1].author == "teacher", "the script's, which was not cut off"
    agreeing = critique(SECOND.text, finish="length")
    found, _ = edited(trajectory([WRONG], [agreeing]), [SECOND, CONFIRMS], [RIGHT])
    assert [turn.author for turn in found.responses] == ["policy", *["teacher"] * 3]


def test_an_answer_that_its_steps_do_not_give_is_dropped() -> None:
    for said in (SECOND, Unusable("unreadable")):
        found, _ = edited(trajectory([RIGHT]), [said])
        assert outcome(found) == ("dropped", "inconsistent")


@pytest.mark.parametrize(
    ("task", "attempt", "tag"),
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
    task: str, attempt: str, tag: str
) -> None:
    """The paper's checks; the teacher is not asked about right answers."""
    form = format_of(task)
    right = trajectory([answer(attempt, right=True)], form=form)
    found, asked = edited(right, rules=Rules(form, critic="some-model"))
    assert outcome(found) == (tag, "" if tag == "kept" else "inconsistent")
    assert not asked


def test_what_ends_cut_off_after_it_was_right_is_put_aside() -> None:
    cut = answer(WRONG, finish="length")
    found, _ = edited(trajectory([RIGHT, cut], ["step 2 wrong because nothing"]))
    assert outcome(found) == ("worse", "")


@pytest.mark.parametrize("attempts", [[RIGHT, WRONG], [WRONG, RIGHT, WORST]])
def test_what_ends_worse_than_it_was_is_put_aside(attempts: list[str]) -> None:
    own = ["step 1 wrong because 9"] * (len(attempts) - 1)
    found, asked = edited(trajectory(attempts, own))
    assert outcome(found) == ("worse", "")
    assert texts(found)[::2] == attempts
    assert not asked


def test_cut_off_empty_and_endless_answers_are_dropped() -> None:
    for attempt, form, reason in (
        (answer(WRONG, finish="length"), LAB, "truncated"),
        (answer(""), LINES, "empty"),
        (answer("word " * 513), LAB, "too_long"),
    ):
        found, _ = edited(trajectory([attempt]), rules=Rules(form))
        assert outcome(found) == ("dropped", reason)


def test_a_problem_that_outgrew_the_context_window_is_dropped() -> None:
    """Rollout ends such an episode without an answer."""
    found, asked = edited(trajectory([]))
    assert outcome(found) == ("dropped", "truncated")
    assert not asked


# The first disagreement


def test_an_answer_without_critique_counts_as_confirmed_so_the_teacher_overrules_it() -> None:
    found, asked = edited(trajectory([WRONG]), [SECOND, CONFIRMS], [RIGHT])
    assert outcome(found) == ("edited", "")
    assert texts(found) == [WRONG, SECOND.text, RIGHT, CONFIRMS.text]
    assert isinstance(asked[1], Rewrite)
    assert asked[1].critique == SECOND


def test_a_critique_that_agrees_stays_the_policys_and_the_next_one_is_replaced() -> None:
    own = [SECOND.text, "step 1 wrong because 1 + 2 = 5"]
    found, _ = edited(trajectory([WRONG, LATER], own), [SECOND, THIRD, CONFIRMS], [RIGHT])
    assert outcome(found) == ("edited", "")
    assert texts(found) == [WRONG, SECOND.text, LATER, THIRD.text, RIGHT, CONFIRMS.text]
    assert [turn.author for turn in found.responses] == [*["policy"] * 3, *["teacher"] * 3]


def test_an_edited_trajectory_has_the_requests_and_the_history_of_a_rollout() -> None:
    """A critique sees the latest answer, an update that and its critique."""
    own = [SECOND.text, "step 1 wrong because 1 + 2 = 5"]
    found, _ = edited(trajectory([WRONG, LATER], own), [SECOND, THIRD, CONFIRMS], [RIGHT])
    said = [turn.text for turn in found.turns if turn.author == "environment"]
    assert said == [LAB.prompts.feedback, LAB.prompts.update] * 2 + [LAB.prompts.feedback]
    for place in (2, 4, 6, 8, 10):
        latest = 4 * ((place - 1) // 4)
        assert [message.content for message in found.shown(place)] == [
            turn.text for turn in found.turns[latest:place]
        ]


def test_what_came_after_the_edit_point_is_gone() -> None:
    own = trajectory([WRONG, WORST], ["right", "right"])
    found, _ = edited(own, [SECOND, CONFIRMS], [RIGHT])
    assert texts(found) == [WRONG, SECOND.text, RIGHT, CONFIRMS.text]


def test_where_all_critiques_agree_the_teacher_has_nothing_to_add() -> None:
    found, _ = edited(trajectory([WRONG, LATER], [SECOND.text, THIRD.text]), [SECOND, THIRD])
    assert outcome(found) == ("dropped", "feedback_agrees")


def test_a_critique_that_confirms_a_wrong_answer_drops_it() -> None:
    found, _ = edited(trajectory([WRONG]), [CONFIRMS])
    assert outcome(found) == ("dropped", "confirmed_but_wrong")


def test_the_papers_rule_of_agreement() -> None:
    """Same step, and one quoted part contains the other."""
    own = 'Step (1) is correct. In step (2) the part "A = 3 + 4 = 8" is incorrect. This is because'
    assert pointed(own) == (1, "A = 3 + 4 = 8")
    for other, agree in (
        (Critique("", 1, "3 + 4 = 8"), True),
        (Critique("", 1, "Let's calculate A = 3 + 4 = 8."), True),
        (Critique("", 1, "B = 2"), False),
        (Critique("", 2, "3 + 4 = 8"), False),
        (LINES.confirmation([]), False),
    ):
        assert LINES.agree(own, other) is agree
    assert LINES.agree(None, LINES.confirmation([]))
    assert LINES.agree("All steps are correct. The final response is also correct.", CONFIRMS)
    assert not LINES.agree("I am not sure.", Critique("", 1, "3 + 4 = 8"))


# The teacher's updates


@pytest.mark.parametrize(
    ("before", "said", "after", "fault"),
    [
        (WRONG, SECOND, RIGHT, None),
        (WRONG, SECOND, "1 + 2 = 4 ; 3 * 4 = 12 ; 4 - 12 = -8", "earlier_steps_changed"),
        (WRONG, SECOND, "1 + 2 = 3 ; 3 * 4 = 13 ; 3 - 13 = -9", "step_unchanged"),
        (WRONG, Critique("", 1, "4 = 13"), "1 + 2 = 3 ; 9 + 4 = 13 ; 3 - 9 = -6", "span_kept"),
        (WRONG, SECOND, "1 + 2 = 3 ; so it is 12", "no_final_response"),
        ("1 + 2 = 3", Critique("", 1), RIGHT, None),
        ("1 + 2 = 3", Critique("", 1), "1 + 2 = 3", "step_unchanged"),
        (f"{RIGHT} ; 1 + 1 = 2", Critique("", 3, "1 + 1 = 2"), RIGHT, None),
    ],
)
def test_filters_of_updates(before: str, said: Critique, after: str, fault: str | None) -> None:
    assert update_fault(before, said, after, LAB) == fault


def test_a_word_of_a_list_may_stand_elsewhere() -> None:
    """The wrong part of a sorting step is a word, which its correction has too."""
    form = format_of("bbh/word_sorting")
    said = Critique("", 0, '"chair"')
    end = "(Final response) So the answer is: cable chair."
    before = f'(1) We have "chair" < "cable".\n{end}'
    moved = f'(1) We have "cable" < "chair".\n{end}'
    stays = f'(1) We have "chair" < "cable" .\n{end}'
    assert update_fault(before, said, moved, form) is None
    assert update_fault(before, said, stays, form) == "span_kept"


@pytest.mark.parametrize(
    ("task", "old", "new"),
    [
        (
            "bbh/multistep_arithmetic-cells",
            "(Final response) So the answer is ",
            "(Final response) So the answer is 1",
        ),
        ("bbh/word_sorting-cells", "(2) We now have: (", "(2) We now have: (1"),
    ],
)
def test_scripts_finish_solutions_in_the_papers_lines(task: str, old: str, new: str) -> None:
    """A worked solution with a planted mistake, edited by the real checker and script."""
    form, source = format_of(task), get_task(task)
    [problem] = source.load("train", 1).problems
    [worked] = form.solve([problem.question])
    assert worked is not None
    spoiled = answer(form.join(worked).replace(old, new), right=False)
    wrong = trajectory([spoiled], form=form).model_copy(update={"problem": problem})
    script = Script(form, source.grader)
    [found] = edit_all([edit(wrong, Rules(form))], script.judge, script.rewrite)
    assert outcome(found) == ("edited", "")
    first, said, last, confirmation = found.responses
    place = pointed(said.text)
    assert place is not None
    assert last.grade is not None
    assert last.grade.correct
    assert form.split(last.text)[: place[0]] == form.split(first.text)[: place[0]]
    assert confirmation.text == form.confirmation(form.split(last.text)).text


def test_an_update_that_breaks_a_rule_ends_the_editing() -> None:
    found, asked = edited(trajectory([WRONG]), [SECOND], [WORST])
    assert outcome(found) == ("dropped", "earlier_steps_changed")
    assert len(asked) == 2


def test_a_final_response_is_needed_in_the_papers_lines() -> None:
    before, said = "(1) A = 2\n(2) A = 3", Critique("", 1, "A = 3")
    good = "(1) A = 2\n(2) A = 4\n(Final response) So the answer is 4."
    assert update_fault(before, said, good, LINES) is None
    assert update_fault(before, said, "(1) A = 2\n(2) A = 4", LINES) == "no_final_response"


def test_going_backwards_leaves_the_answer_and_the_first_critique() -> None:
    middle = "1 + 2 = 3 ; 3 * 4 = 14 ; 3 - 14 = -11"
    again = Critique("step 2 wrong because 3 * 4 = 12", 1, "3 * 4 = 13")
    found, _ = edited(trajectory([WRONG]), [SECOND, again, CONFIRMS], [middle, RIGHT])
    assert outcome(found) == ("first_feedback", "")
    assert texts(found) == [WRONG, SECOND.text]


def test_progress_is_a_later_step_or_another_part_of_the_same() -> None:
    assert not regressed([FIRST, SECOND, THIRD, CONFIRMS])
    assert not regressed([SECOND, Critique("", 1, "something else"), CONFIRMS])
    assert regressed([SECOND, FIRST, CONFIRMS])
    assert regressed([SECOND, SECOND, CONFIRMS])


def test_no_more_than_so_many_updates() -> None:
    made = [f"1 + 2 = 3 ; 3 * 4 = {n} ; 3 - {n} = {3 - n}" for n in range(20, 30)]
    said = [Critique("step 2", 1, step.split(" ; ")[1]) for step in [WRONG, *made]]
    found, asked = edited(trajectory([WRONG]), said, made, Rules(LAB, updates=5))
    assert outcome(found) == ("dropped", "updates")
    assert sum(isinstance(ask, Rewrite) for ask in asked) == 5


def test_a_teacher_that_does_not_answer_is_no_drop_but_a_failure() -> None:
    lost = Unusable("HTTP 500", failed=True)
    for replies in (([lost],), ([SECOND], [lost])):
        found, _ = edited(trajectory([WRONG]), *replies)
        assert (found.outcome, found.note) == ("failed", "HTTP 500")
    found, _ = edited(trajectory([WRONG]), [SECOND], [Unusable("improvement_malformed")])
    assert found.outcome == "finished"
    assert outcome(found) == ("dropped", "improvement_malformed")


def test_many_editings_are_asked_together_and_do_not_mix() -> None:
    rounds: list[int] = []

    def judge(asks: Sequence[Judge]) -> list[Critique]:
        rounds.append(len(asks))
        return [CONFIRMS if ask.answer.text == RIGHT else SECOND for ask in asks]

    def rewrite(asks: Sequence[Rewrite]) -> list[Turn]:
        rounds.append(len(asks))
        return [answer(RIGHT, by="teacher") for _ in asks]

    editings = [edit(trajectory([text]), Rules(LAB)) for text in (WRONG, RIGHT, WRONG)]
    found = edit_all(editings, judge, rewrite)
    assert [outcome(one)[0] for one in found] == ["edited", "kept", "edited"]
    assert rounds == [3, 2, 2]
