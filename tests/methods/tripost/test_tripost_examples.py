"""Post-processing by hand: slices, duplicates, balance and weights."""

import numpy as np
import pytest

from redraft.learning.imitation import Example
from redraft.methods.tripost.editing import OUT_OF_FORM
from redraft.methods.tripost.examples import (
    KIND,
    balanced,
    ratio_of,
    said,
    slices,
    without_duplicates,
)
from redraft.types import Episode
from tripost_trajectories import PROBLEM, RIGHT, SECOND, WORST, WRONG, answer, texts, trajectory


def made(*said: str, tag: str = "edited", reason: str = "") -> Episode:
    """An edited trajectory of alternating answers and critiques."""
    tags = {"tripost": tag, "reason": reason}
    return trajectory(
        said[::2], said[1::2], **{name: value for name, value in tags.items() if value}
    )


def numbered(kind: str, count: int) -> list[Example]:
    """Distinct examples of a kind."""
    found = []
    for number in range(count):
        answers = [WRONG, answer(f"{kind} {number}", True)] if kind == "improve" else [RIGHT]
        critique = "said" if kind == "improve" else f"{kind} {number}"
        episode = trajectory(answers, [critique], **{KIND: kind})
        found.append(Example(episode=episode, weights=[1.0] * len(episode.responses)))
    return found


def kinds(chosen: list[Example]) -> tuple[int, int, int]:
    found = [example.episode.tags[KIND] for example in chosen]
    return found.count("improve"), found.count("confirm"), found.count("gold")


def test_a_trajectory_is_cut_into_conversations_of_their_own() -> None:
    episode = made(WORST, "step 1", WRONG, SECOND.text, RIGHT, "right")
    found = slices(episode)
    assert [texts(example) for example in found] == [
        [WORST, "step 1", WRONG],
        [WRONG, SECOND.text, RIGHT],
        [RIGHT, "right"],
    ]
    assert kinds(found) == (2, 1, 0)
    for example, begin in zip(found, (0, 4, 8), strict=True):
        turns = example.episode.turns
        assert turns[1:] == [
            turn.model_copy(update={"history": 0})
            for turn in episode.turns[begin + 1 : begin + len(turns)]
        ], "requests included"


def test_no_example_has_a_critique_where_an_answer_belongs() -> None:
    """A turn that ends on negative feedback: the paper's code re-prompts with that as the answer.

    Here the critique of a trajectory that breaks off after it stays a critique.
    """
    [only] = slices(made(WRONG, SECOND.text, tag="first_feedback"))
    assert kinds([only]) == (0, 1, 0)
    assert texts(only) == [WRONG, SECOND.text]
    assert [turn.grade is None for turn in only.episode.responses] == [False, True]


@pytest.mark.parametrize("tag", ["worse", "dropped"])
def test_what_is_of_no_use_gives_no_examples(tag: str) -> None:
    assert slices(made(RIGHT, SECOND.text, WRONG, "right", tag=tag)) == []


def test_of_critiques_out_of_form_only_what_comes_after_them_is_learned_from() -> None:
    found = slices(made(WRONG, "12 - 110", RIGHT, "right", tag="kept", reason=OUT_OF_FORM))
    assert [texts(example) for example in found] == [[RIGHT, "right"]]


def test_updates_of_right_answers_are_never_learned_from() -> None:
    flips = made(RIGHT, "step 1", WRONG, SECOND.text, RIGHT, "right", tag="kept")
    assert [texts(example)[0] for example in slices(flips)] == [WRONG, RIGHT]


def test_what_says_the_same_counts_once() -> None:
    twice = [*slices(made(WRONG, "a", RIGHT, "right")), *slices(made(WRONG, "b", RIGHT, "right"))]
    assert [texts(example)[1] for example in without_duplicates(twice)] == ["a", "right", "b"]
    spaced = slices(made(f" {RIGHT}", "right", tag="kept"))
    plain = slices(made(RIGHT, "right", tag="kept"))
    assert without_duplicates([*spaced, *plain]) == spaced


@pytest.mark.parametrize(
    ("p", "ratio"), [(3 / 7, 1.5), (0.5, 2.0), (1 / 3, 1.0), (0.0, 0.0), (0.2, 0.5)]
)
def test_ratio_of_a_share(p: float, ratio: float) -> None:
    assert ratio_of(p) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("p", "have", "expected"),
    [
        (3 / 7, (15, 30, 50), (15, 10, 10)),  # the paper's 1.5 : 1 : 1
        (3 / 7, (10, 30, 50), (10, 7, 7)),  # ceil(10 / 1.5)
        (3 / 7, (15, 4, 50), (15, 4, 4)),  # x_T is never sampled up
        (3 / 7, (15, 30, 6), (15, 10, 6)),  # gold only as far as there is any
        (0.0, (15, 30, 50), (0, 30, 30)),
        (1.0, (15, 30, 50), (15, 0, 0)),
        (0.2, (10, 30, 50), (10, 20, 20)),
        (3 / 7, (0, 30, 50), (0, 30, 30)),  # a policy that is always right
    ],
)
def test_balance(p: float, have: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    improving, confirming, gold = map(numbered, ("improve", "confirm", "gold"), have)
    chosen = balanced([*improving, *confirming], gold, p, np.random.default_rng(0))
    assert kinds(chosen) == expected
    assert len(set(map(said, chosen))) == len(chosen), "without replacement"


def test_no_more_than_a_quota() -> None:
    pool = [*numbered("improve", 90), *numbered("confirm", 90)]
    gold = numbered("gold", 90)
    chosen = balanced(pool, gold, 3 / 7, np.random.default_rng(0), most=70)
    assert kinds(chosen) == (30, 20, 20)
    assert kinds(balanced(pool, gold, 0.0, np.random.default_rng(0), most=70)) == (0, 35, 35)
    always_right = numbered("confirm", 90)
    chosen = balanced(always_right, gold, 3 / 7, np.random.default_rng(0), most=70)
    assert kinds(chosen) == (0, 35, 35)


def test_gold_does_not_repeat_what_the_policy_said() -> None:
    confirming, others = numbered("confirm", 4), numbered("gold", 2)
    same = [
        Example(
            episode=one.episode.model_copy(update={"tags": {KIND: "gold"}}), weights=one.weights
        )
        for one in confirming
    ]
    chosen = balanced(confirming, [*same, *others], 0.0, np.random.default_rng(0))
    assert kinds(chosen) == (0, 4, 2)
    assert len(set(map(said, chosen))) == 6


def test_weights_begin_at_the_critique() -> None:
    episode = made(WRONG, SECOND.text, RIGHT, "right")
    improve, confirm = slices(episode, 1.5)
    assert (improve.weights, confirm.weights) == ([1.0, 1.5, 1.5], [1.0, 1.5])
    improve, confirm = slices(episode, 1.5, train_attempt=False)
    assert improve.weights == [0.0, 1.5, 1.5]
    assert confirm.weights == [1.0, 1.5], "a right answer is no mistake"


def test_trajectories_without_the_teacher_count_one() -> None:
    for example in slices(made(WRONG, SECOND.text, RIGHT, "right", tag="kept"), 1.5):
        assert set(example.weights) == {1.0}


def test_a_negative_critique_alone_masks_its_answer_too() -> None:
    [only] = slices(made(WRONG, SECOND.text, tag="first_feedback"), 1.5, train_attempt=False)
    assert only.weights == [0.0, 1.5]


def test_trajectories_of_the_first_file_format_have_tags() -> None:
    old = {
        "problem": PROBLEM.model_dump(),
        "messages": [],
        "protocol": "tripost/dropped/too_long",
        "turns": [
            {
                "attempt": RIGHT,
                "finish": "stop",
                "grade": {"correct": True, "answer": "-9", "decided_by": "string"},
            }
        ],
    }
    episode = Episode.model_validate(old)
    assert episode.tags == {"tripost": "dropped", "reason": "too_long"}
    assert slices(episode) == []
