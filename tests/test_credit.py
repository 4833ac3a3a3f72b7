"""Credit by turn: hand-worked values, RLOO against TRL's formula, and what must never happen."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from redraft.credit.turns import (
    Rewards,
    last_reward,
    leave_one_out,
    return_to_go,
    rewards_by_turn,
    to_streams,
    with_progress_bonus,
)
from redraft.episode import Episode, Grade, Message, Problem, Turn

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""


def turn(correct: bool, prompt: list[int], attempt: list[int], *, on_policy: bool = True) -> Turn:
    return Turn(
        attempt="",
        finish="stop",
        grade=Grade(correct=correct, decided_by="string"),
        prompt_tokens=prompt,
        attempt_tokens=attempt,
        logprobs=[-0.5 * token for token in attempt],
        on_policy=on_policy,
    )


def episode(*turns: Turn, problem: str = "p") -> Episode:
    return Episode(
        problem=Problem(id=problem, task="t", question="?", gold="1"),
        messages=[Message(role="user", content="?")],
        turns=list(turns),
        protocol="intrinsic",
    )


@st.composite
def groups_of_rewards(draw: st.DrawFn) -> tuple[Rewards, list[list[int]]]:
    """0/1 rewards [episodes, turns] and a shuffled partition of the episodes into groups of 2+."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=4))
    turns = draw(st.integers(1, 4))
    order = draw(st.permutations(range(sum(sizes))))
    ends = np.cumsum(sizes)
    groups = [list(order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    values = draw(arrays(np.float64, (sum(sizes), turns), elements=st.sampled_from([0.0, 1.0])))
    return values, groups


# Rewards


def test_rewards_are_one_for_right_and_zero_for_wrong() -> None:
    first = episode(turn(False, [1], [2]), turn(True, [3], [4]))
    second = episode(turn(True, [1], [2]), turn(True, [3], [4]))
    np.testing.assert_array_equal(rewards_by_turn([first, second]), [[0, 1], [1, 1]])


def test_episodes_of_different_lengths_have_no_common_baseline() -> None:
    one, two = turn(False, [1], [2]), turn(True, [3], [4])
    with pytest.raises(ValueError, match=r"different numbers of turns: \[1, 2\]"):
        rewards_by_turn([episode(one), episode(one, two)])


# Shaping


def test_progress_bonus_by_hand() -> None:
    rewards = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    shaped = with_progress_bonus(rewards, 10)
    np.testing.assert_array_equal(shaped, [[0, 11], [1, -10], [1, 1], [0, 0]])


def test_progress_bonus_of_three_attempts_is_between_neighbours() -> None:
    shaped = with_progress_bonus(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]), 2)
    np.testing.assert_array_equal(shaped, [[0, 3, -2], [1, -2, 3]])


@unhurried
@given(groups_of_rewards(), st.floats(0, 100))
def test_the_bonus_never_touches_the_first_turn(
    drawn: tuple[Rewards, list[list[int]]], alpha: float
) -> None:
    rewards, groups = drawn
    before = rewards.copy()
    shaped = with_progress_bonus(rewards, alpha)
    np.testing.assert_array_equal(shaped[:, 0], before[:, 0])
    np.testing.assert_array_equal(rewards, before)  # nor the caller's array
    plain = leave_one_out(before, groups)[:, 0]
    np.testing.assert_array_equal(leave_one_out(shaped, groups)[:, 0], plain)


def test_return_to_go_and_last_reward_by_hand() -> None:
    rewards = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(return_to_go(rewards), [[2, 2, 1], [1, 0, 0]])
    np.testing.assert_array_equal(last_reward(rewards), [[1, 1, 1], [0, 0, 0]])


@unhurried
@given(groups_of_rewards())
def test_return_to_go_loses_an_attempts_own_reward_at_every_turn(
    drawn: tuple[Rewards, list[list[int]]],
) -> None:
    rewards, _ = drawn
    returns = return_to_go(rewards)
    np.testing.assert_array_equal(returns[:, :-1] - returns[:, 1:], rewards[:, :-1])
    np.testing.assert_array_equal(returns[:, 0], rewards.sum(axis=1))


# Leave-one-out


def test_leave_one_out_by_hand() -> None:
    values = np.array([[1.0, 11.0], [0.0, 0.0], [0.0, -10.0], [5.0, 0.0], [3.0, 0.0]])
    found = leave_one_out(values, [[0, 1, 2], [3, 4]])
    expected = [[1, 16], [-0.5, -0.5], [-0.5, -15.5], [2, 0], [-2, 0]]
    np.testing.assert_allclose(found, expected)


@unhurried
@given(groups_of_rewards())
def test_leave_one_out_is_rloo_of_trl(drawn: tuple[Rewards, list[list[int]]]) -> None:
    """The lines of `trl.trainer.rloo_trainer` (1.16), for groups of one size, turn by turn."""
    values, groups = drawn
    size = min(map(len, groups))
    groups = [group[:size] for group in groups]
    found = leave_one_out(values, groups)
    for column in range(values.shape[1]):
        rewards = torch.from_numpy(values[np.concatenate(groups), column])
        grouped_rewards = rewards.view(-1, size)
        grouped_sum = torch.nansum(grouped_rewards, dim=1, keepdim=True)
        baselines = ((grouped_sum - grouped_rewards) / (size - 1)).view(-1)
        theirs = (rewards - baselines).numpy()
        np.testing.assert_allclose(found[np.concatenate(groups), column], theirs, atol=1e-12)


@unhurried
@given(groups_of_rewards())
def test_leave_one_out_sums_to_zero_in_every_group(
    drawn: tuple[Rewards, list[list[int]]],
) -> None:
    values, groups = drawn
    found = leave_one_out(values, groups)
    for group in groups:
        np.testing.assert_allclose(found[group].sum(axis=0), 0, atol=1e-12)
        # It is the deviation from the group's mean, times G / (G - 1).
        size = len(group)
        deviation = values[group] - values[group].mean(axis=0)
        np.testing.assert_allclose(found[group], deviation * size / (size - 1), atol=1e-12)


def test_leave_one_out_needs_somebody_to_compare_with() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(np.ones((3, 2)), [[0, 1], [2]])


# Streams


def test_streams_by_hand() -> None:
    played = episode(turn(False, [9, 8], [1, 2]), turn(True, [7], [3, 4, 5]))
    [row] = to_streams([played], np.array([[-1.0, 2.0]]), [0.25, 0.5])
    assert row.tokens.tolist() == [9, 8, 1, 2, 7, 3, 4, 5]
    assert row.turn.tolist() == [0, 0, 1, 1, 0, 2, 2, 2]
    assert row.advantage is not None
    assert row.kl_weight is not None
    assert row.old_logprob is not None
    assert row.advantage.tolist() == [0, 0, -1, -1, 0, 2, 2, 2]
    assert row.kl_weight.tolist() == [0, 0, 0.25, 0.25, 0, 0.5, 0.5, 0.5]
    assert row.old_logprob.tolist() == [0, 0, -0.5, -1, 0, -1.5, -2, -2.5]
    assert row.loss_weight is None


def test_a_row_per_episode_with_its_own_advantages() -> None:
    one = episode(turn(False, [9], [1]), turn(True, [7], [3]))
    rows = to_streams([one, one], np.array([[1.0, 2.0], [3.0, 4.0]]), [0, 0])
    found = [row.advantage.tolist() for row in rows if row.advantage is not None]
    assert found == [[0, 1, 0, 2], [0, 3, 0, 4]]


token_lists = st.lists(st.integers(0, 50), max_size=6)
turns = st.builds(
    lambda prompt, attempt, given: turn(True, prompt, attempt, on_policy=not given),
    token_lists,
    token_lists,
    st.booleans(),
)


@unhurried
@given(st.lists(turns, min_size=1, max_size=4), st.data())
def test_only_the_policys_own_tokens_carry_anything(
    played: list[Turn], data: st.DataObject
) -> None:
    first = played[0].model_copy(update={"prompt_tokens": [0, *played[0].prompt_tokens]})
    whole = episode(first, *played[1:])
    worth = data.draw(arrays(np.float64, len(played), elements=st.floats(0.5, 5)))
    betas = data.draw(st.lists(st.floats(0.5, 1), min_size=len(played), max_size=len(played)))
    [row] = to_streams([whole], worth[None], betas)
    assert row.tokens.tolist() == whole.tokens
    assert row.advantage is not None
    assert row.kl_weight is not None
    at = 0
    for number, one in enumerate(whole.turns, start=1):
        prompt = slice(at, at + len(one.prompt_tokens))
        attempt = slice(prompt.stop, prompt.stop + len(one.attempt_tokens))
        at = attempt.stop
        for stream in (row.turn, row.advantage, row.kl_weight):
            assert not stream[prompt].any()
            assert one.on_policy or not stream[attempt].any()
        if one.on_policy:
            assert (row.turn[attempt] == number).all()
            np.testing.assert_allclose(row.advantage[attempt], worth[number - 1], rtol=1e-6)
            np.testing.assert_allclose(row.kl_weight[attempt], betas[number - 1], rtol=1e-6)
    assert at == len(row)
