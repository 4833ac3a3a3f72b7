"""Post-processing by hand: segments, duplicates, balance and weights."""

from dataclasses import replace

import numpy as np
import pytest

from redraft.episode import Episode
from redraft.methods.editing import OUT_OF_FORM
from redraft.methods.trajectory import (
    Segment,
    balanced,
    confirmed,
    fate_of,
    ratio_of,
    segments,
    trajectory,
    without_duplicates,
)
from tripost_drafts import PROBLEM, RIGHT, SECOND, WORSE, WRONG, turn


def made(*said: str, fate: str = "edited", reason: str = "") -> Episode:
    """A trajectory of alternating attempts and feedback."""
    turns = [turn(text, right=text.strip() == RIGHT) for text in said]
    return trajectory(PROBLEM, [], turns, fate, reason)  # type: ignore[arg-type]


def numbered(kind: str, count: int) -> list[Segment]:
    """Distinct segments of a kind."""
    first = WRONG if kind == "improve" else RIGHT
    turns = [turn(first, kind != "improve"), turn("said")]
    more = [turn(RIGHT, True)] if kind == "improve" else []
    return [
        Segment(PROBLEM, (*turns, *more, turn(f"{kind} {number}")), kind)  # type: ignore[arg-type]
        for number in range(count)
    ]


def kinds(chosen: list[Segment]) -> tuple[int, int, int]:
    found = [segment.kind for segment in chosen]
    return found.count("improve"), found.count("confirm"), found.count("gold")


def test_the_fate_is_written_down() -> None:
    assert fate_of(made(RIGHT, "right", fate="kept")) == ("kept", "")
    assert fate_of(made(WRONG, fate="dropped", reason="too_long")) == ("dropped", "too_long")


def test_a_trajectory_is_cut_into_dialogues_of_their_own() -> None:
    found = segments(made(WORSE, "step 1", WRONG, SECOND.text, RIGHT, "right"))
    assert [segment.text[1:] for segment in found] == [
        (WORSE, "step 1", WRONG),
        (WRONG, SECOND.text, RIGHT),
        (RIGHT, "right"),
    ]
    assert [segment.kind for segment in found] == ["improve", "improve", "confirm"]
    assert all(segment.edited for segment in found)


def test_no_segment_has_feedback_where_an_attempt_belongs() -> None:
    """A turn that ends on negative feedback: the paper's code re-prompts with that as the answer.

    Here the feedback of a trajectory that breaks off after it stays feedback.
    """
    [only] = segments(made(WRONG, SECOND.text, fate="first_feedback"))
    assert only.kind == "confirm"
    assert [turn.attempt for turn in only.turns] == [WRONG, SECOND.text]


def test_of_feedback_out_of_form_only_what_comes_after_it_is_learned_from() -> None:
    found = segments(made(WRONG, "12 - 110", RIGHT, "right", fate="kept", reason=OUT_OF_FORM))
    assert [segment.text[1:] for segment in found] == [(RIGHT, "right")]


def test_updates_of_right_attempts_are_never_learned_from() -> None:
    flips = made(RIGHT, "step 1", WRONG, SECOND.text, RIGHT, "right", fate="kept")
    assert [segment.text[1] for segment in segments(flips)] == [WRONG, RIGHT]


def test_what_says_the_same_counts_once() -> None:
    twice = [
        *segments(made(WRONG, "a", RIGHT, "right")),
        *segments(made(WRONG, "b", RIGHT, "right")),
    ]
    assert [segment.text[2] for segment in without_duplicates(twice)] == ["a", "right", "b"]
    spaced = segments(made(f" {RIGHT}", "right", fate="kept"))
    plain = segments(made(RIGHT, "right", fate="kept"))
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
    assert len({segment.text for segment in chosen}) == len(chosen), "without replacement"


def test_no_more_than_a_quota() -> None:
    pool = [*numbered("improve", 90), *numbered("confirm", 90)]
    gold = numbered("gold", 90)
    chosen = balanced(pool, gold, 3 / 7, np.random.default_rng(0), most=70)
    assert kinds(chosen) == (30, 20, 20)
    assert kinds(balanced(pool, gold, 0.0, np.random.default_rng(0), most=70)) == (0, 35, 35)
    always_right = [segment for segment in pool if segment.kind == "confirm"]
    chosen = balanced(always_right, gold, 3 / 7, np.random.default_rng(0), most=70)
    assert kinds(chosen) == (0, 35, 35)


def test_gold_does_not_repeat_what_the_policy_said() -> None:
    confirming = numbered("confirm", 4)
    same = [replace(one, kind="gold") for one in confirming]
    chosen = balanced(confirming, [*same, *numbered("gold", 2)], 0.0, np.random.default_rng(0))
    assert kinds(chosen) == (0, 4, 2)
    assert len({segment.text for segment in chosen}) == 6


def test_weights_begin_at_the_feedback() -> None:
    improve, confirm = segments(made(WRONG, SECOND.text, RIGHT, "right"))
    assert improve.weights(1.5, train_attempt=True) == [1.0, 1.5, 1.5]
    assert improve.weights(1.5, train_attempt=False) == [0.0, 1.5, 1.5]
    assert confirm.weights(1.5, train_attempt=False) == [1.0, 1.5], "a right attempt is no mistake"


def test_unedited_trajectories_and_gold_count_one() -> None:
    for segment in segments(made(WRONG, SECOND.text, RIGHT, "right", fate="kept")):
        assert set(segment.weights(1.5, True)) == {1.0}
    gold = confirmed(PROBLEM, turn(RIGHT, True), turn("right"))
    assert gold.weights(1.5, True) == [1.0, 1.0]


def test_a_negative_remark_alone_masks_its_attempt_too() -> None:
    [only] = segments(made(WRONG, SECOND.text, fate="first_feedback"))
    assert only.weights(1.5, train_attempt=False) == [0.0, 1.5]
