"""Metrics by hand and by property."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_episodes import critique, episode, episodes_from, turn
from redraft.errors import UserError
from redraft.evaluation.metrics import edit_distance_ratio, measure, self_correction_metrics
from redraft.types import Turn

R, W = True, False

# Verdicts by problem, sample and turn; episodes may stop early.
worlds = st.lists(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=3),
    min_size=1,
    max_size=6,
)


def test_two_turns_by_hand():
    # right→right, wrong→right twice, right→wrong, wrong→wrong: t1 2/5, t2 3/5.
    metrics = self_correction_metrics(episodes_from([[[R, R], [W, R]], [[R, W], [W, W], [W, R]]]))
    assert metrics["n_problems"] == 2
    assert metrics["n_samples"] == 5
    assert metrics["accuracy"] == pytest.approx([0.4, 0.6])
    assert metrics["delta_t1_t2"] == pytest.approx(0.2)
    assert metrics["i_to_c"] == pytest.approx(2 / 5)
    assert metrics["c_to_i"] == pytest.approx(1 / 5)
    assert metrics["confidence_level"] == pytest.approx(1 / 2)
    assert metrics["critique_score"] == pytest.approx(2 / 3)
    assert metrics["changed"] == pytest.approx(3 / 5)
    assert metrics["attempted"] == [1.0, 1.0]
    assert metrics["attempt_tokens"] == [None, None]  # these turns carry no tokens


def test_what_describes_an_attempt():
    episodes = [
        episode(
            "a",
            [
                turn(W, "abcd", answer=None, tokens=4, finish="length"),
                turn(W, "abcd", answer=None, tokens=4, finish="length", status="timeout"),
            ],
        ),
        episode(
            "b",
            [
                turn(W, "x = 1", answer="1", tokens=10, author="teacher"),
                turn(R, "x = 2", answer="2", tokens=20),
            ],
        ),
    ]
    metrics = self_correction_metrics(episodes)
    assert metrics["truncated"] == [0.5, 0.5]
    assert metrics["no_answer"] == [0.5, 0.5]
    assert metrics["timed_out"] == [0.0, 0.5]
    assert metrics["off_policy"] == [0.5, 0.0]
    assert metrics["attempt_tokens"] == [7.0, 12.0]
    assert metrics["verbatim_copy"] == 0.5
    assert metrics["changed"] == 0.5  # no answer twice is no change
    # "abcd" twice: 0; "x = 1" to "x = 2": one deletion and one insertion over ten characters.
    assert metrics["edit_distance_ratio"] == pytest.approx((0 + 2 / 10) / 2)


def test_an_answer_that_appears_or_disappears_is_a_change():
    appears = episode("a", [turn(W, "a", answer=None), turn(W, "b", answer="1")])
    disappears = episode("b", [turn(W, "b", answer="1"), turn(W, "a", answer=None)])
    assert self_correction_metrics([appears, disappears])["changed"] == 1.0


def test_episodes_that_stop_early_keep_their_verdict():
    # An oracle stops the first at once; the second is repaired in turn 2, the third in turn 3.
    metrics = self_correction_metrics(episodes_from([[[R]], [[W, R]], [[W, W, R]]]))
    assert metrics["accuracy"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert metrics["attempted"] == pytest.approx([1, 2 / 3, 1 / 3])
    assert metrics["delta_t1_t2"] == pytest.approx(1 / 3)
    assert metrics["delta_t2_t3"] == pytest.approx(1 / 3)
    assert metrics["delta_t1_t3"] == pytest.approx(2 / 3)
    assert metrics["confidence_level"] is None  # no right attempt was tried again
    assert metrics["critique_score"] == pytest.approx(1 / 2)
    assert metrics["changed"] == pytest.approx(1 / 2)  # of the two second attempts made
    assert metrics["no_answer"] == [0.0, 0.0, 0.0]


def test_critiques_are_no_turns_of_the_metrics():
    criticised = episode("a", [W, critique("step 2 is wrong", tokens=5), R])
    assert self_correction_metrics([criticised])["accuracy"] == [0.0, 1.0]
    confirmed = episode("a", [R, critique("it is correct")])
    assert self_correction_metrics([confirmed], 2)["accuracy"] == [1.0, 1.0]
    assert self_correction_metrics([confirmed], 2)["attempted"] == [1.0, 0.0]


def test_a_problem_that_fills_the_context_is_a_response_that_was_cut_off():
    outgrown = episode("a", []).model_copy(update={"outcome": "truncated", "note": "too long"})
    metrics = self_correction_metrics([outgrown, episode("b", [R, R])])
    assert metrics["accuracy"] == [0.5, 0.5]
    assert metrics["truncated"] == [0.5, 0.0]
    assert metrics["no_answer"] == [0.5, 0.0]
    assert metrics["attempted"] == [1.0, 0.5]


def test_scores_may_be_fractions():
    """Accuracy and its differences are means of scores; flips are of full scores."""

    def scored(problem, *scores):
        graded = [turn(W).model_copy(update={"grade": grade(score)}) for score in scores]
        return episode(problem, graded)

    def grade(score):
        return turn(W).grade.model_copy(update={"score": score})

    metrics = self_correction_metrics([scored("a", 0.25, 0.75), scored("b", 0.5, 1.0)])
    assert metrics["accuracy"] == [0.375, 0.875]
    assert metrics["delta_t1_t2"] == 0.5
    assert (metrics["i_to_c"], metrics["c_to_i"]) == (0.5, 0.0)


def test_one_turn_defines_no_second_attempt():
    metrics = self_correction_metrics(episodes_from([[[R]], [[W]]]))
    assert metrics["accuracy"] == [0.5]
    undefined = {name for name, value in metrics.items() if value is None}
    assert undefined == {
        "delta_t1_t2",
        "delta_t1_t2_complete",
        "i_to_c",
        "c_to_i",
        "confidence_level",
        "critique_score",
        "changed",
        "verbatim_copy",
        "edit_distance_ratio",
    }


def test_a_wrong_answer_given_again_counts_among_wrong_answers_after_a_wrong_one():
    again = [turn(W, answer="1/2"), turn(W, answer="3"), turn(W, answer="1/2")]
    another = [turn(W, answer="4"), turn(W, answer="5"), turn(R, answer="6")]
    spoiled = [turn(R, answer="6"), turn(W, answer="7"), turn(W, answer="7")]
    unread = [turn(W, answer=None), turn(W, answer=None), turn(W, answer="8")]
    rows = [again, another, spoiled, unread]
    metrics = self_correction_metrics([episode(f"p{n}", row) for n, row in enumerate(rows)])
    # Turn 2: 3 and 5 after another wrong one, 7 after a right one. Turn 3: 1/2 and 7 again.
    assert metrics["repeated_wrong"] == [None, 0.0, 1.0]


def test_delta_over_complete_first_answers_leaves_out_what_a_second_may_have_finished():
    finished = [turn(W, finish="length"), turn(R)]
    rows = [finished] * 3 + [[R, R]] * 3 + [[W, R]] + [[R, W]] * 2
    metrics = self_correction_metrics([episode(f"p{n}", row) for n, row in enumerate(rows)])
    assert metrics["delta_t1_t2"] == pytest.approx(2 / 9)
    assert metrics["delta_t1_t2_complete"] == pytest.approx(-1 / 6)


def test_a_reopened_response_is_compared_by_what_was_added():
    first = turn(W, "7 then 8", answer="8")
    word = Turn(author="environment", text=" Wait")
    kept = turn(W, "7 then 8 Wait 7 then 8", answer="8")
    other = turn(R, "7 then 8 Wait 9", answer="9")
    reopened = [
        episode(name, [first, word, second]).model_copy(update={"protocol": "wait"})
        for name, second in (("a", kept), ("b", other))
    ]
    metrics = self_correction_metrics(reopened)
    assert metrics["verbatim_copy"] == 0.5
    assert metrics["changed"] == 0.5
    # "7 then 8" to "9": nine signs are in one only.
    assert metrics["edit_distance_ratio"] == pytest.approx((0 + 9 / 9) / 2)


def test_no_episodes_is_the_users_mistake():
    with pytest.raises(UserError, match="no episodes"):
        self_correction_metrics([])


def test_flat_names():
    values = measure(episodes_from([[[W, R]], [[W, W]]]))
    assert values["accuracy/turn1"] == 0.0
    assert values["accuracy/turn2"] == 0.5
    assert values["delta_t1_t2"] == 0.5
    assert values["n_samples"] == 2
    assert "confidence_level" not in values  # undefined: no first attempt was right
    assert not any(name.startswith("attempt_tokens") for name in values)
    assert all(isinstance(value, int | float) for value in values.values())


@given(worlds)
def test_delta_is_what_was_gained_less_what_was_lost(verdicts):
    metrics = self_correction_metrics(episodes_from(verdicts))
    accuracy = metrics["accuracy"]
    if len(accuracy) == 1:
        assert metrics["delta_t1_t2"] is None
        return
    assert metrics["delta_t1_t2"] == pytest.approx(accuracy[1] - accuracy[0])
    assert metrics["delta_t1_t2"] == pytest.approx(metrics["i_to_c"] - metrics["c_to_i"])
    for k in range(1, len(accuracy)):
        assert metrics[f"delta_t{k}_t{k + 1}"] == pytest.approx(accuracy[k] - accuracy[k - 1])


@given(worlds)
def test_metrics_are_shares_and_plain_json(verdicts):
    metrics = self_correction_metrics(episodes_from(verdicts))
    json.dumps(metrics, allow_nan=False)
    for name, value in measure(episodes_from(verdicts)).items():
        low = -1 if name.startswith("delta") else 0
        assert name.startswith("n_") or low <= value <= 1


@given(worlds)
def test_order_of_episodes_does_not_matter(verdicts):
    episodes = episodes_from(verdicts)
    assert measure(episodes[::-1]) == pytest.approx(measure(episodes))


@given(st.lists(st.tuples(st.text("ab c", max_size=9), st.text("ab c", max_size=9)), min_size=1))
def test_edit_distance_is_insertions_and_deletions_over_both_lengths(pairs):
    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        rows = list(range(len(b) + 1))
        for i, left in enumerate(a, start=1):
            above, rows[0] = rows[0], i
            for j, right in enumerate(b, start=1):
                best = above if left == right else 1 + min(rows[j], rows[j - 1])
                above, rows[j] = rows[j], best
        return rows[-1]

    expected = [distance(a, b) / max(1, len(a) + len(b)) for a, b in pairs]
    found = edit_distance_ratio([a for a, _ in pairs], [b for _, b in pairs])
    assert found.shape == (len(pairs),)
    np.testing.assert_allclose(found, expected)


def test_edit_distance_spans_zero_to_one():
    assert edit_distance_ratio(["", "same", "abc"], ["", "same", "xyz"]).tolist() == [0, 0, 1]
