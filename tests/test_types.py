"""Records: what an episode knows of itself, and that files of the first format are still read."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from episodes import MESSAGES, Answer, episode
from redraft.storage import read_jsonl, to_jsonl
from redraft.types import (
    Episode,
    Grade,
    Message,
    Turn,
    same_problem_groups,
    without_failed,
)

FIRST_FORMAT = Path(__file__).parent / "data" / "first_format"

THREE = episode(
    Answer(text="a", shown=[1, 2], made=[3]),
    Answer(text="b", said_before="No.", shown=[4], made=[5, 6]),
    Answer(text="c", said_before="No!", shown=[7], made=[8], correct=True),
)
LAST_TWO = THREE.model_copy(
    update={
        "turns": [
            turn.model_copy(update={"history": {3: 0, 4: 2}.get(index, 0)})
            for index, turn in enumerate(THREE.turns)
        ]
    }
)
"""The third response saw the second only."""


def contents(messages: list[Message]) -> list[str]:
    return [message.content for message in messages]


def test_an_episode_is_the_opening_and_its_turns() -> None:
    assert [turn.text for turn in THREE.responses] == ["a", "b", "c"]
    assert THREE.correct == [False, False, True]
    assert THREE.scores == [0.0, 0.0, 1.0]
    assert [THREE.said_after(i) for i in (0, 1, 2, -1)] == ["No.", "No!", None, None]
    assert THREE.tokens == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_was_shown_before_a_turn() -> None:
    assert contents(THREE.shown(0)) == ["?"]
    assert contents(THREE.shown(4)) == ["?", "a", "No.", "b", "No!"]
    assert [m.role for m in THREE.shown(4)] == ["user", "assistant", "user", "assistant", "user"]
    assert contents(THREE.shown(5)) == ["?", "a", "No.", "b", "No!", "c"]
    assert [THREE.context(i) for i in (0, 2, 4)] == [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]


def test_what_was_hidden_is_not_shown() -> None:
    assert contents(LAST_TWO.shown(4)) == ["?", "b", "No!"]
    assert contents(LAST_TWO.shown(5)) == ["?", "b", "No!", "c"]
    assert LAST_TWO.context(4) == [1, 2, 5, 6, 7]
    assert LAST_TWO.context(2) == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="not one sequence"):
        _ = LAST_TWO.tokens


def test_an_empty_episode() -> None:
    empty = episode()
    assert (empty.responses, empty.answers, empty.correct, empty.tokens) == ([], [], [], [])
    assert empty.shown(0) == MESSAGES
    failed = empty.failed("closed")
    assert (failed.outcome, failed.note) == ("failed", "closed")
    assert Episode.model_validate_json(failed.model_dump_json()) == failed


def test_only_graded_responses_are_answers() -> None:
    critique = Turn(author="policy", text="Looks fine.")
    said = Turn(author="environment", text="Check.")
    mixed = THREE.model_copy(update={"turns": [*THREE.turns, said, critique]})
    assert len(mixed.responses) == 4
    assert mixed.answers == THREE.responses
    assert mixed.grades == THREE.grades


def test_a_turn_has_a_logprob_for_each_sampled_token_or_none() -> None:
    assert Turn(author="teacher", text="a", tokens=[1, 2]).sampled is False
    assert Turn(author="policy", text="a", tokens=[1, 2], logprobs=[-1.0, -2.0]).sampled
    with pytest.raises(ValidationError, match="2 logprobs for 1 tokens"):
        Turn(author="policy", text="a", tokens=[1], logprobs=[-1.0, -2.0])
    begun = Turn(author="policy", text="a", tokens=[1, 2, 3], logprobs=[-1.0])
    assert (begun.given, begun.generated) == (2, 1)
    assert Turn(author="teacher", text="a", tokens=[1, 2]).given == 0


def test_tokens_of_a_response_are_counted_by_its_engine_if_it_says_so() -> None:
    assert Turn(author="policy", text="a", tokens=[1, 2]).generated == 2
    assert Turn(author="policy", text="a", completion_tokens=7).generated == 7


@pytest.mark.parametrize("wrong", [{"score": 2}, {"score": -0.1}, {"status": "late"}])
def test_a_grade_has_a_score_from_0_to_1_and_a_known_status(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Grade(**{"score": 0, "decided_by": "string", **wrong})


def test_partial_credit_is_not_correct() -> None:
    assert not Grade(score=0.5, decided_by="mine").correct
    assert Grade(score=1, decided_by="mine").correct


def test_the_episodes_of_one_problem_are_found_wherever_they_are() -> None:
    ids = ["b", "a", "b", "c", "a"]
    assert same_problem_groups([episode(problem=i) for i in ids]) == [[0, 2], [1, 4], [3]]


def test_a_problem_with_a_failed_or_undecided_episode_does_not_count() -> None:
    undecided = Grade(score=0, status="undecided", decided_by="program", reason="no sandbox")
    episodes = [
        episode(Answer(correct=True), problem="fine"),
        episode(Answer(), problem="failed"),
        episode(problem="failed").failed("closed"),
        episode(Answer(fields={"grade": undecided}), problem="undecided"),
        episode(problem="long", outcome="truncated", note="too long"),
    ]
    kept, failed = without_failed(episodes)
    assert [one.problem.id for one in kept] == ["fine", "long"]
    assert failed == {"failed": "closed", "undecided": "no sandbox"}


# Files of the first format, written by its code


def first_format(name: str) -> list[Episode]:
    """The episodes of a fixture, read as they are and again after writing them anew."""
    read = read_jsonl(FIRST_FORMAT / f"{name}.jsonl", Episode)
    written = to_jsonl(read).splitlines()
    assert [Episode.model_validate_json(line) for line in written] == read
    return read


def authors(one: Episode) -> list[str]:
    return [turn.author for turn in one.turns]


def test_a_training_episode_of_the_first_format() -> None:
    [one] = first_format("score")
    assert authors(one) == ["policy", "environment", "policy"]
    assert (one.protocol, one.outcome, one.tags) == ("intrinsic", "finished", {})
    assert one.said_after(0) == "Please correct any error."
    assert [len(turn.tokens) for turn in one.turns] == [7, 8, 7]
    assert [len(turn.logprobs) for turn in one.turns] == [7, 0, 7]
    assert len(one.prompt_tokens) == 10
    assert len(one.tokens) == 10 + 7 + 8 + 7
    assert one.tokens[:10] == one.prompt_tokens
    assert one.correct == [False, False]
    assert {(grade.status, grade.decided_by) for grade in one.grades} == {("graded", "string")}
    assert [turn.history for turn in one.turns] == [0, 0, 0]


def test_episodes_of_unequal_length_of_the_first_format() -> None:
    unsolved, solved = first_format("oracle")
    assert (unsolved.correct, solved.correct) == ([False] * 3, [True])
    assert authors(unsolved) == ["policy", "environment"] * 2 + ["policy"]
    assert (unsolved.sample, solved.sample) == (0, 1)
    assert unsolved.problem == solved.problem


def test_a_window_of_the_first_format_becomes_history_and_its_prompts_contexts() -> None:
    """Each attempt had its whole prompt: the opening and, with a window of 2, one attempt."""
    [one] = first_format("window")
    assert authors(one) == ["policy", "environment"] * 3 + ["policy"]
    assert [turn.history for turn in one.responses] == [0, 0, 2, 4]
    bridge = one.turns[1].tokens
    assert len(bridge) == 8
    assert [turn.tokens for turn in one.turns[1::2]] == [bridge] * 3
    for place in (2, 4, 6):
        before = one.turns[place - 2]
        assert one.context(place) == [*one.prompt_tokens, *before.tokens, *bridge]
        assert contents(one.shown(place))[1:] == [before.text, "Please correct any error."]
    with pytest.raises(ValueError, match="not one sequence"):
        _ = one.tokens


def test_a_self_improvement_of_the_first_format_has_the_models_critiques() -> None:
    [one] = first_format("self_improve")
    assert authors(one) == ["policy"] * 5
    assert [turn.grade is not None for turn in one.turns] == [True, False] * 2 + [True]
    assert [turn.history for turn in one.turns] == [0, 0, 0, 2, 2]
    assert one.turns[1].text.startswith(" arrow camel cat circle dinner")
    assert one.correct == [False] * 3


def test_a_trajectory_of_the_first_format_has_tags() -> None:
    edited, kept = first_format("tripost")
    assert (edited.tags, kept.tags) == ({"tripost": "edited"}, {"tripost": "kept"})
    assert authors(edited) == ["policy", "teacher", "teacher", "teacher"]
    assert [turn.source for turn in edited.turns] == ["", "feedback", "script", "feedback"]
    assert [turn.grade is not None for turn in edited.turns] == [True, False, True, False]
    assert edited.correct == [False, True]
    assert [turn.history for turn in edited.turns] == [0, 0, 0, 2]
    assert edited.turns[0].sampled
    assert not any(turn.sampled for turn in edited.turns[1:])
    assert edited.turns[1].tokens
    old = edited.model_dump() | {"protocol": "tripost/dropped/too_long"}
    del old["tags"]
    old["turns"] = [{"attempt": "a", "finish": "stop", "grade": _OLD_GRADE}]
    assert Episode(**old).tags == {"tripost": "dropped", "reason": "too_long"}


_OLD_GRADE = {"correct": False, "decided_by": "feedback"}


def test_a_program_of_the_first_format_is_followed_by_its_output() -> None:
    [one] = first_format("cap")
    assert authors(one) == ["policy", "environment", "policy", "environment"]
    assert one.said_after(0) == "Write a program."
    assert one.said_after(1) == one.grades[1].answer == "-9"
    assert one.correct == [True, True]
    assert one.turns[0].source == "policy"
    assert one.context(2) == [*one.prompt_tokens, *one.turns[0].tokens, *one.turns[1].tokens]


def test_an_endpoints_episode_of_the_first_format_has_no_tokens() -> None:
    [one] = first_format("endpoint")
    assert one.tokens == []
    assert [turn.generated for turn in one.responses] == [5, 5]
    assert one.correct == [False, True]
    assert one.grades[0].reason == "12 is not 2"


def test_grades_of_the_first_format_get_a_status() -> None:
    found = [(e.grades[0].status, e.grades[0].decided_by) for e in first_format("grades")]
    assert found == [
        ("error", "program"),
        ("timeout", "program"),
        ("no_answer", "program"),
        ("memory", "program"),
        ("output", "program"),
        ("graded", "string"),
        ("truncated", "none"),
        ("undecided", "program"),
        ("timeout", "timeout"),
        ("graded", "math-verify"),
    ]
    assert Grade.model_validate({"correct": True, "decided_by": "string"}).score == 1.0
    nothing = Grade.model_validate({"correct": False, "decided_by": "none", "timed_out": False})
    assert (nothing.status, nothing.score) == ("no_answer", 0.0)
    assert without_failed(first_format("grades"))[1] == {
        "undecided": "the sandbox could not be started"
    }
