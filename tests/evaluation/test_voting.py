"""Votes by hand, and what must hold of every vote."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from redraft.evaluation.voting import answer_groups, majority_group, same_answer, vote
from redraft.types import Grade

unhurried = settings(  # a busy machine is not a failure
    deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
answers = st.lists(st.sampled_from(["1", "2", "3.0", "3", "x+1", None]), max_size=9)


def grade(answer, correct=False, reason=""):
    return Grade(score=float(correct), answer=answer, decided_by="string", reason=reason)


def test_the_most_frequent_answer_wins():
    assert majority_group(["7", "8", "8"]) == [1, 2]
    assert vote([grade("7", True), grade("8"), grade("8")]).correct is False
    assert vote([grade("7"), grade("8", True), grade("8", True)]).correct is True


def test_the_earliest_of_equally_frequent_answers_wins():
    assert majority_group(["7", "8", "8", "7"]) == [0, 3]
    assert majority_group(["9", "8", "7", "8", "7"]) == [1, 3]
    assert majority_group(["5", "6"]) == [0]


def test_attempts_without_an_answer_abstain():
    assert majority_group([None, None, None, "4"]) == [3]
    assert vote([grade(None), grade(None), grade("4", True)]).correct is True
    # An abstention does not even break a tie: "8" came before "7" among the answers.
    assert majority_group([None, "8", "7"]) == [1]


@pytest.mark.parametrize("grades", [[], [grade(None)], [grade(None), grade(None)]])
def test_a_vote_from_which_all_abstain_is_wrong(grades):
    verdict = vote(grades)
    assert verdict.correct is False
    assert verdict.answer is None
    assert "abstained" in verdict.reason


@pytest.mark.parametrize(
    "same",
    [
        ["1/2", "0.5", r"\frac12", r"$\dfrac{1}{2}$", ".50"],
        ["1,600", "1600", "$1600", "1600.00", "1600 dollars"],
        ["12.5%", "12.5", r"12.5\%"],
        ["5 apples", "5"],
        ["7 km", "7 kilometers", "7"],
        [r"\left(1, 2\right)", "(1,2)", "$(1, 2)$"],
        ["North West", "north  west"],
        ["(C)", "C", r"\text{C}"],
    ],
)
def test_one_answer_written_differently(same):
    assert answer_groups(same) == [list(range(len(same)))]


@pytest.mark.parametrize(
    "different",
    [
        ["1/2", "0.51"],
        ["0.333333", "1/3"],  # rounding is forgiven by graders, and groups nothing
        ["0.125", "12.5%"],
        ["(1,2)", "(2,1)"],
        ["x", "X"],
        ["5", "-5"],
        ["apple", "pear"],
        ["9" * 5000 + "x", "9" * 5000 + "X"],
    ],
)
def test_different_answers(different):
    assert answer_groups(different) == [[0], [1]]


def test_a_unit_separates_only_what_names_another():
    assert answer_groups(["5 m", "5", "5 m"]) == [[0, 1, 2]]
    assert answer_groups(["5", "5 m", "5 cm", "5", "5 metres"]) == [[0, 3], [1, 4], [2]]
    assert answer_groups(["5 m", "6 cm", "5"]) == [[0, 2], [1]]  # of another value: no conflict


def test_the_verdict_is_the_grade_of_the_earliest_winner():
    # The grader wanted the text "0.5" and nothing else, the vote counts both spellings as one.
    strict = [grade("3"), grade("1/2", False, "second"), grade("0.5", True, "third")]
    assert vote(strict).reason == "second"
    assert vote([strict[0], strict[2], strict[1]]).reason == "third"


@unhurried
@given(answers)
def test_groups_part_the_answers(given_answers):
    groups = answer_groups(given_answers)
    voted = [index for index, answer in enumerate(given_answers) if answer is not None]
    assert sorted(index for group in groups for index in group) == voted
    assert all(group == sorted(group) for group in groups)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)


@unhurried
@given(answers, st.randoms(use_true_random=False))
def test_order_matters_to_ties_only(given_answers, random):
    sizes = sorted(len(group) for group in answer_groups(given_answers))
    assume(sizes and (len(sizes) == 1 or sizes[-1] > sizes[-2]))
    shuffled = random.sample(given_answers, len(given_answers))

    def winning(voters):
        return {voters[index] for index in majority_group(voters)}

    assert winning(shuffled) == winning(given_answers)


@unhurried
@given(answers, st.integers(0, 9))
def test_abstentions_change_nothing(given_answers, at):
    more = [*given_answers[:at], None, *given_answers[at:]]
    before = [given_answers[index] for index in majority_group(given_answers)]
    assert [more[index] for index in majority_group(more)] == before


@unhurried
@given(answers)
def test_a_vote_more_for_the_winner_leaves_it_the_winner(given_answers):
    winners = majority_group(given_answers)
    assume(winners)
    assert majority_group([*given_answers, given_answers[winners[0]]])[:-1] == winners


@unhurried
@given(st.lists(st.tuples(st.sampled_from("1234"), st.booleans()), min_size=1, max_size=7))
def test_verdicts_that_agree_need_no_vote(attempts):
    right = [grade(answer, True) for answer, _ in attempts]
    assert vote(right).correct is True
    assert vote([grade(answer) for answer, _ in attempts]).correct is False


@unhurried
@given(st.lists(st.text(max_size=30), max_size=6))
def test_any_text_can_vote(texts):
    assert len(majority_group(texts)) >= (1 if texts else 0)


def test_the_same_answer_is_what_would_be_one_in_a_vote() -> None:
    assert same_answer("1/2", "0.5")
    assert same_answer("$1,600", "1600")
    assert not same_answer("5", "6")
    assert not same_answer(None, None)
