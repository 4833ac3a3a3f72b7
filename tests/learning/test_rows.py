"""Token streams, and how rows become micro-batches."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.learning.batching import collate, split
from redraft.learning.rows import TrainingRow


def test_a_stream_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="advantage has 2 entries for 3 tokens"):
        TrainingRow([5, 6, 7], [0, 1, 1], advantage=[0.0, 1.0])
    with pytest.raises(ValueError, match="turn has 2 entries for 3 tokens"):
        TrainingRow([5, 6, 7], [0, 1])


@pytest.mark.parametrize("stream", ["advantage", "kl_weight"])
def test_text_the_policy_did_not_write_is_not_reinforced(stream: str) -> None:
    with pytest.raises(ValueError, match=f"{stream} is not 0 on a token the policy did not write"):
        TrainingRow([5, 6, 7], [0, 0, 1], **{stream: [0.0, 0.5, 1.0]})


def test_values_must_be_finite_and_rows_not_empty() -> None:
    with pytest.raises(ValueError, match="old_logprob has a value that is not finite"):
        TrainingRow([5, 6], [0, 1], old_logprob=[0.0, float("-inf")])
    with pytest.raises(ValueError, match="non-empty"):
        TrainingRow([], [])


def test_the_first_token_is_never_learned_from() -> None:
    row = TrainingRow([5, 6], [1, 1], loss_weight=[1, 1], advantage=[1, 0], kl_weight=[1, 0])
    assert row.imitated.tolist() == [False, True]
    assert row.reinforced.tolist() == [False, True]
    assert not row.has_kl


def test_attempts_without_credit_are_not_reinforced() -> None:
    assert not TrainingRow([5, 6], [0, 1], loss_weight=[0, 1]).reinforced.any()
    assert TrainingRow([5, 6], [0, 1], advantage=[0, 0]).reinforced.tolist() == [False, True]


def test_a_row_survives_json() -> None:
    row = TrainingRow([5, 6], [0, 1], kl_weight=[0, 0.5], old_logprob=[0, -1.5])
    again = TrainingRow(**json.loads(json.dumps(row.as_json())))
    assert again.as_json() == row.as_json()
    assert again.kl_weight is not None
    assert again.kl_weight.dtype == np.float32


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_groups_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = split(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_rows_of_like_length_share_a_micro_batch() -> None:
    assert split([3, 10, 4, 9], budget=20) == [[1, 3], [2, 0]]


def test_collation_points_at_the_hidden_state_before_each_chosen_token() -> None:
    rows = [
        TrainingRow([5, 6, 7], [0, 1, 1], advantage=[0, 2, 3], old_logprob=[0, -1, -2]),
        TrainingRow([8, 9], [0, 0], loss_weight=[1, 1]),
    ]
    batch = collate(rows, [row.reinforced | row.imitated for row in rows])
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.positions.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [6, 7, 9]
    assert batch.turn.tolist() == [1, 1, 0]
    assert batch.advantage.tolist() == [2, 3, 0]
    assert batch.loss_weight.tolist() == [0, 0, 1]
    assert batch.sampled.tolist() == [True, True, False]
    assert batch.reinforced.tolist() == [True, True, False]
