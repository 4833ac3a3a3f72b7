"""Which attempts are imitated and how much: RISE's weights by hand, and the rows they make."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from episodes import Answer, episode
from redraft.learning.config import LearnerConfig
from redraft.learning.imitation import (
    Example,
    accepted,
    defect,
    rewards,
    to_rows,
    weigh,
    without_duplicates,
)
from redraft.learning.learner import Learner
from redraft.learning.rows import TrainingRow
from tiny_models import tiny_llama
from training_rows import step_and_gradient


def attempt(
    text: str = "1", correct: bool = False, *, answer: str | None = "1", **fields: Any
) -> Answer:
    """An answer that was shown the tokens `shown` and has the tokens `made`."""
    return Answer(correct, text, answer=answer, **fields)


# Weights


def test_the_papers_weights() -> None:
    """exp(r / 0.4): 0.082 for -1, 1 for 0, 12.18 for 1 (papers and released code agree)."""
    [[unparsable, wrong, right]] = weigh([[-1.0, 0.0, 1.0]], 0.4)
    assert unparsable == pytest.approx(0.0821, abs=5e-5)
    assert wrong == 1
    assert right == pytest.approx(12.1825, abs=5e-5)


def test_another_temperature_by_hand() -> None:
    assert weigh([[1.0], [0.0, 2.0]], 1.0) == [
        [pytest.approx(math.e)],
        [1.0, pytest.approx(math.e**2)],
    ]


def test_centring_by_hand() -> None:
    """Mean of 1, 1 and 12.18 over the problem's attempts is 4.73: wrong ones would get -3.73."""
    right = math.exp(2.5)
    mean = (1 + 1 + right) / 3
    centred = weigh([[0.0, 1.0], [0.0]], 0.4, centred=True)
    assert centred == [[0.0, pytest.approx(right - mean)], [0.0]]
    assert right - mean == pytest.approx(7.455, abs=1e-3)


def test_centring_leaves_nothing_where_all_attempts_are_alike() -> None:
    assert weigh([[1.0], [1.0]], 0.4, centred=True) == [[0.0], [0.0]]
    assert weigh([[0.0, 0.0]], 0.4, centred=True) == [[0.0, 0.0]]
    for count in range(1, 64):  # whatever the rounding of the mean
        assert weigh([[1.0]] * count, 0.4, centred=True) == [[0.0]] * count


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=4), min_size=1),
    st.floats(0.2, 5),
)
def test_centred_weights_are_those_above_the_mean_less_the_mean(
    worth: list[list[float]], temperature: float
) -> None:
    plain, centred = weigh(worth, temperature), weigh(worth, temperature, centred=True)
    assert [len(one) for one in centred] == [len(one) for one in worth]
    mean = np.mean([w for one in plain for w in one])
    for before, after in zip(plain, centred, strict=True):
        assert after == pytest.approx([max(0.0, w - mean) for w in before])


def test_rewards_of_right_wrong_and_unparsable_attempts() -> None:
    turns = attempt(correct=True), attempt(), attempt(answer=None)
    assert rewards(episode(*turns)) == [1.0, 0.0, 0.0]
    assert rewards(episode(*turns), unparsable=-1.0) == [1.0, 0.0, -1.0]


# Criteria


@pytest.mark.parametrize(
    ("criterion", "kept"),
    [
        ("all", [True, True, True, True, True, True]),
        ("better", [True, False, True, False, False, True]),  # above the attempt before
        ("best", [True, False, True, False, False, True]),  # not below any before
        ("success", [False, False, False, False, False, True]),
    ],
)
def test_criteria_by_hand(criterion: Any, kept: list[bool]) -> None:
    assert accepted([0.0, -1.0, 0.0, -1.0, -1.0, 1.0], criterion) == kept


def test_where_better_and_best_differ() -> None:
    assert accepted([0.0, 0.0, -1.0, 0.0], "better") == [True, False, False, True]
    assert accepted([0.0, 0.0, -1.0, 0.0], "best") == [True, True, False, True]
    assert accepted([1.0, -1.0, 0.0], "better") == [True, False, True]
    assert accepted([1.0, -1.0, 0.0], "best") == [True, False, False]


@pytest.mark.parametrize("criterion", ["all", "better", "best"])
def test_a_first_attempt_is_taken_however_bad(criterion: Any) -> None:
    assert accepted([-1.0], criterion) == [True]
    assert accepted([-1.0], "success") == [False]


# What is unfit


@pytest.mark.parametrize(
    ("text", "finish", "why"),
    [
        ("", "stop", "empty"),
        (" \n\t", "stop", "empty"),
        ("1", "length", "truncated"),
        ("so " * 151, "stop", "repetitive"),
        ("so " * 150 + "that is it", "stop", None),
        ("Word by word " * 149 + "so", "stop", None),
        ("see " + "x" * 301, "stop", "unbroken"),
        ("see " + "x" * 300 + " " + "y" * 300, "stop", None),
        ("a fine answer: 1", "stop", None),
    ],
)
def test_attempts_unfit_to_be_imitated(text: str, finish: Any, why: str | None) -> None:
    assert defect(attempt(text, finish=finish).turn) == why


def test_exact_duplicates_in_an_episode_count_once() -> None:
    """All of them: the released code removes from the list it walks over, and so skips some."""
    texts = ["1", "1", "1", "2", "1 ", "2", "1"]
    fresh = without_duplicates(episode(*map(attempt, texts)))
    assert fresh == [True, False, False, True, True, False, False]


def test_an_example_has_a_weight_for_every_attempt() -> None:
    with pytest.raises(ValueError, match="1 weights for 2 responses"):
        Example(episode=episode(attempt(), attempt("2")), weights=[1.0])


# Rows

FIRST = attempt("a", shown=[11, 12, 13], made=[31, 32, 33])
SECOND = attempt("b", shown=[14, 15], made=[34, 35])
THIRD = attempt("c", correct=True, shown=[16], made=[36, 37, 38, 39])


def test_one_sequence_is_one_row_with_loss_on_the_weighted_attempts_alone() -> None:
    [row] = to_rows([Example(episode=episode(FIRST, SECOND, THIRD), weights=[0.5, 0.0, 2.0])])
    assert row.tokens.tolist() == [11, 12, 13, 31, 32, 33, 14, 15, 34, 35, 16, 36, 37, 38, 39]
    assert row.turn.tolist() == [0] * 3 + [1] * 3 + [0] * 2 + [2] * 2 + [0] + [3] * 4
    assert row.loss_weight is not None
    assert row.loss_weight.tolist() == [0] * 3 + [0.5] * 3 + [0] * 5 + [2.0] * 4
    assert row.advantage is None
    assert row.kl_weight is None


def test_responses_that_saw_different_histories_are_rows_of_their_own() -> None:
    """A history of two interactions: the third response does not see the first."""
    apart = replace(THIRD, history=2)
    rows = to_rows([Example(episode=episode(FIRST, SECOND, apart), weights=[1.0, 0.0, 2.0])])
    assert [row.tokens.tolist() for row in rows] == [
        [11, 12, 13, 31, 32, 33, 14, 15, 34, 35],
        [11, 12, 13, 34, 35, 16, 36, 37, 38, 39],
    ]
    assert [row.loss_weight.tolist() for row in rows if row.loss_weight is not None] == [
        [0] * 3 + [1.0] * 3 + [0] * 4,
        [0] * 6 + [2.0] * 4,
    ]
    assert [row.turn.tolist() for row in rows] == [
        [0] * 3 + [1] * 3 + [0] * 2 + [2] * 2,
        [0] * 6 + [3] * 4,
    ]


def test_an_example_without_weights_makes_no_row() -> None:
    nothing = Example(episode=episode(FIRST), weights=[0.0])
    assert to_rows([nothing]) == []
    assert to_rows([]) == []


def test_context_of_no_tokens_does_no_harm() -> None:
    """A text that encodes to nothing can stand before an attempt that is learned from."""
    silent = attempt("", shown=[11, 12], made=[])
    [row] = to_rows([Example(episode=episode(silent, SECOND), weights=[0.0, 1.0])])
    assert row.turn.tolist() == [0, 0, 0, 0, 2, 2]


# The loss of rows, on a real model


def learned(rows: list[TrainingRow], **how: Any) -> tuple[float, dict[str, torch.Tensor]]:
    learner = Learner(tiny_llama(seed=3), LearnerConfig(max_grad_norm=None, **how))
    metrics, gradient = step_and_gradient(learner, rows)
    return metrics["loss"], gradient


def token_losses(tokens: Sequence[int]) -> torch.Tensor:
    """-log π of every token but the first, straight from the model, [time - 1]."""
    ids = torch.tensor([list(tokens)])
    logits = tiny_llama(seed=3)(ids).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").detach()


@pytest.mark.parametrize("mean", ["token", "attempt"])
def test_attempts_packed_in_one_row_are_learned_as_one_row_per_prefix(mean: str) -> None:
    weights = [0.5, 1.0, 12.18]
    turns = [FIRST, SECOND, THIRD]
    packed = to_rows([Example(episode=episode(*turns), weights=weights)])
    prefixes = to_rows(
        [
            Example(episode=episode(*turns[: index + 1]), weights=[0.0] * index + [weights[index]])
            for index in range(3)
        ]
    )
    assert (len(packed), len(prefixes)) == (1, 3)
    (loss, gradient), (expected, by_prefix) = (
        learned(rows, loss_mean=mean) for rows in (packed, prefixes)
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradient.keys() == by_prefix.keys()
    for name, value in by_prefix.items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-3, atol=1e-5)
    assert max(value.abs().max() for value in gradient.values()) > 1e-2


def test_a_response_in_a_sequence_of_its_own_is_learned_as_in_one() -> None:
    """A second row with the same tokens before the response: nothing but the layout differs."""
    alone = episode(Answer(shown=[*FIRST.shown, *FIRST.made, 14, 15], made=SECOND.made))
    rows = [
        to_rows([Example(episode=episode(FIRST, SECOND), weights=[1.0, 3.0])]),
        to_rows(
            [
                Example(episode=episode(FIRST), weights=[1.0]),
                Example(episode=alone, weights=[3.0]),
            ]
        ),
    ]
    assert [len(each) for each in rows] == [1, 2]
    (loss, _), (expected, _) = map(learned, rows)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_weighted_loss_by_hand_is_rises() -> None:
    """Mean over examples of the weight times the mean cross-entropy of the attempt's tokens."""
    examples = [
        Example(episode=episode(FIRST), weights=[1.0]),
        Example(episode=episode(THIRD), weights=[math.exp(2.5)]),
    ]
    loss, _ = learned(to_rows(examples), loss_mean="attempt")
    by_token = [token_losses([*one.shown, *one.made]) for one in (FIRST, THIRD)]
    means = by_token[0][2:].mean(), by_token[1].mean()
    assert loss == pytest.approx(((means[0] + math.exp(2.5) * means[1]) / 2).item(), rel=1e-4)


def of_lengths(*lengths: int) -> list[TrainingRow]:
    """Rows of one attempt each, of these lengths and weight 2."""
    random = np.random.default_rng(0)
    turns = [attempt(shown=[1, 2], made=random.integers(3, 40, size)) for size in lengths]
    return to_rows([Example(episode=episode(turn), weights=[2.0]) for turn in turns])


@pytest.mark.parametrize("lengths", [(10, 10), (40, 40), (10, 40), (3, 10, 40, 40)])
@pytest.mark.parametrize("budget", [1, 84, 16384])
def test_every_attempt_of_a_batch_counts_the_same_whatever_its_length(
    lengths: tuple[int, ...], budget: int
) -> None:
    """Nor do the lengths in other batches matter, or how the batch is cut."""
    rows = of_lengths(*lengths)
    means = [token_losses(row.tokens.tolist())[1:].mean().item() for row in rows]
    loss, _ = learned(rows, loss_mean="attempt", tokens_per_microbatch=budget)
    assert loss == pytest.approx(2 * float(np.mean(means)), rel=1e-4)


def test_the_weighted_loss_by_hand_over_tokens() -> None:
    examples = [
        Example(episode=episode(FIRST), weights=[1.0]),
        Example(episode=episode(THIRD), weights=[12.0]),
    ]
    loss, _ = learned(to_rows(examples))
    by_token = [token_losses([*one.shown, *one.made]) for one in (FIRST, THIRD)]
    total = by_token[0][2:].sum() + 12 * by_token[1].sum()
    assert loss == pytest.approx(total.item() / 7, rel=1e-4)


@pytest.mark.parametrize("budget", [1, 64])
def test_padding_changes_nothing(budget: int) -> None:
    """Rows of different lengths in one micro-batch, or each alone: the same loss."""
    examples = [
        Example(episode=episode(FIRST), weights=[1.0]),
        Example(episode=episode(FIRST, SECOND, THIRD), weights=[1.0, 0.0, 12.18]),
        Example(episode=episode(THIRD), weights=[12.18]),
    ]
    rows = to_rows(examples)
    learner = Learner(tiny_llama(seed=3), LearnerConfig(tokens_per_microbatch=budget))
    metrics = learner.step(rows)
    alone = [
        token_losses(row.tokens.tolist()) @ torch.tensor(row.loss_weight[1:])
        for row in rows
        if row.loss_weight is not None
    ]
    assert metrics["loss"] == pytest.approx(sum(map(float, alone)) / 14, rel=1e-4)
    assert (metrics["padding_share"] > 0) is (budget == 64)


@pytest.mark.parametrize("pad", [None, 0, 1, 35])
def test_the_pad_token_changes_nothing(pad: int | None) -> None:
    """Not even one that is an ordinary token of the attempts."""
    model = tiny_llama(seed=3)
    model.config.pad_token_id = pad
    examples = [
        Example(episode=episode(FIRST, SECOND), weights=[1.0, 12.18]),
        Example(episode=episode(THIRD), weights=[1.0]),
    ]
    learner = Learner(model, LearnerConfig(max_grad_norm=None))
    metrics, _ = step_and_gradient(learner, to_rows(examples))
    assert metrics["loss"] == pytest.approx(learned(to_rows(examples))[0], rel=1e-5)
