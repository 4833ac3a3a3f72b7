"""Credit: hand-worked values, RLOO against TRL's formula, unequal lengths, what must never be."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from episodes import Answer, episode
from redraft.learning.credit import (
    Rewards,
    advantage_rows,
    last_reward,
    leave_one_out,
    return_to_go,
    rewards_by_answer,
    with_credit,
    with_progress_bonus,
)
from redraft.types import Turn

nan = np.nan

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""


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


def test_rewards_are_scores_by_answer_and_nan_where_an_episode_has_ended() -> None:
    both = episode(Answer(False, made=[2]), Answer(True, made=[4]))
    one = episode(Answer(True, made=[2]))
    np.testing.assert_array_equal(rewards_by_answer([both, one], 2), [[0, 1], [1, nan]])
    np.testing.assert_array_equal(rewards_by_answer([both, one], 1), [[0], [1]])


def test_a_turns_own_reward_goes_before_its_score() -> None:
    given_one = episode(Answer(True, made=[2], fields={"reward": -1.5}))
    np.testing.assert_array_equal(rewards_by_answer([given_one], 1), [[-1.5]])


def test_critiques_and_the_environment_have_no_reward() -> None:
    played = episode(Answer(False, made=[2]), Answer(True, made=[4]))
    critique = Turn(author="policy", text="wrong", tokens=[5], logprobs=[-1.0])
    asked = Turn(author="environment", text="?", tokens=[6])
    turns = [played.turns[0], asked, critique, *played.turns[1:]]
    with_critique = played.model_copy(update={"turns": turns})
    np.testing.assert_array_equal(rewards_by_answer([with_critique], 2), [[0, 1]])


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


# Unequal lengths


def test_unequal_lengths_by_hand() -> None:
    """Two answers, one, and two: the second answer is compared with the only other one there is."""
    rewards = np.array([[0.0, 1.0], [1.0, nan], [0.0, 0.0]])
    np.testing.assert_array_equal(return_to_go(rewards), [[1, 1], [1, nan], [0, 0]])
    np.testing.assert_array_equal(last_reward(rewards), [[1, 1], [1, nan], [0, 0]])
    found = leave_one_out(return_to_go(rewards), [[0, 1, 2]])
    np.testing.assert_allclose(found, [[0.5, 1], [0.5, 0], [-1, -1]])
    np.testing.assert_array_equal(with_progress_bonus(rewards, 2)[:, 1], [3, nan, 0])


def test_an_answer_that_no_other_episode_has_keeps_its_whole_return() -> None:
    found = leave_one_out(np.array([[0.0, 1.0], [1.0, nan]]), [[0, 1]])
    np.testing.assert_array_equal(found, [[-1, 1], [1, 0]])


STOP, GO_ON = [1.0, nan], [0.0, 1.0]
"""Rewards of the two arms of a policy that decides when to stop: both return 1 in all."""


def expected_gradient(advantage_of: Callable[[Rewards], Rewards], samples: int = 4) -> float:
    """Expected policy gradient with respect to the logit of stopping at the first answer, at
    probability one half, worked out over all outcomes of a group of episodes."""
    total = 0.0
    for arms in product([True, False], repeat=samples):
        rewards = np.array([STOP if stops else GO_ON for stops in arms])
        score = np.array([0.5 if stops else -0.5 for stops in arms])  # d log pi / d logit
        total += float((advantage_of(rewards)[:, 0] * score).mean()) / 2**samples
    return total


def centred_then_added(rewards: Rewards, *, survivors: bool) -> Rewards:
    """The biased forms: each turn's rewards are centred, and what is left is added up. The
    baseline of a turn is over those that have it, or over all with 0 for those that have ended."""
    known = rewards if survivors else np.where(np.isnan(rewards), 0.0, rewards)
    centred = leave_one_out(known, [range(len(rewards))])
    return return_to_go(np.where(np.isnan(rewards), nan, centred))


def test_arms_of_equal_return_get_no_gradient() -> None:
    def ours(rewards: Rewards) -> Rewards:
        return leave_one_out(return_to_go(rewards), [range(len(rewards))])

    assert expected_gradient(ours) == pytest.approx(0, abs=1e-12)
    for survivors in (True, False):
        biased = expected_gradient(lambda r, s=survivors: centred_then_added(r, survivors=s))
        assert abs(biased) > 0.05, "the example no longer tells the forms apart"


# Rows


def test_rows_by_hand() -> None:
    played = episode(
        Answer(False, shown=[9, 8], made=[1, 2]), Answer(True, shown=[7], made=[3, 4, 5])
    )
    [row] = advantage_rows([played], np.array([[-1.0, 2.0]]), [0.25, 0.5])
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
    one = episode(Answer(False, shown=[9], made=[1]), Answer(True, shown=[7], made=[3]))
    rows = advantage_rows([one, one], np.array([[1.0, 2.0], [3.0, 4.0]]), [0, 0])
    found = [row.advantage.tolist() for row in rows if row.advantage is not None]
    assert found == [[0, 1, 0, 2], [0, 3, 0, 4]]


def test_an_answer_that_was_not_shown_what_came_before_is_a_sequence_of_its_own() -> None:
    """The second answer saw the opening alone: two rows, each with its own context."""
    first = Answer(False, shown=[9], made=[1])
    alone = episode(first, Answer(True, shown=[7], made=[3], history=2))
    rows = advantage_rows([alone], np.array([[1.0, 2.0]]), [0, 0])
    assert [row.tokens.tolist() for row in rows] == [[9, 1], [9, 3]]
    assert [row.turn.tolist() for row in rows] == [[0, 1], [0, 2]]


def test_episodes_are_given_back_what_their_rows_say() -> None:
    """Also where the second answer is a row of its own, and where a turn is a teacher's."""
    one = episode(Answer(False, shown=[9, 8], made=[1, 2]), Answer(True, shown=[7], made=[3]))
    hidden = Answer(True, shown=[7], made=[4, 5], history=2)
    two = episode(Answer(False, shown=[9], made=[1], author="teacher"), hidden)
    rows = advantage_rows([one, episode(), two], np.array([[1, 2], [0, 0], [3, 4]]), [0.1, 0.1])
    rows = [replace(row, ref_logprob=-row.tokens.astype(np.float32)) for row in rows]
    first, empty, second = with_credit([one, episode(), two], rows)
    assert [turn.advantage for turn in first.answers] == [1, 2]
    assert [turn.ref_logprobs for turn in first.answers] == [[-1, -2], [-3]]
    assert empty == episode()
    assert [turn.advantage for turn in second.answers] == [None, 4]
    assert [turn.ref_logprobs for turn in second.answers] == [[], [-4, -5]]
    assert [turn.text for turn in first.turns] == [turn.text for turn in one.turns]


def test_an_episode_without_turns_has_no_row() -> None:
    assert advantage_rows([episode()], np.zeros((1, 2)), [0, 0]) == []


token_lists = st.lists(st.integers(0, 50), min_size=1, max_size=6)
played_answers = st.builds(
    lambda shown, made, given: Answer(
        True, shown=shown, made=made, author="teacher" if given else "policy"
    ),
    token_lists,
    token_lists,
    st.booleans(),
)


@unhurried
@given(st.lists(played_answers, min_size=1, max_size=4), st.data())
def test_only_the_policys_own_tokens_carry_anything(
    played: list[Answer], data: st.DataObject
) -> None:
    whole = episode(*played)
    worth = data.draw(arrays(np.float64, len(played), elements=st.floats(0.5, 5)))
    betas = data.draw(st.lists(st.floats(0.5, 1), min_size=len(played), max_size=len(played)))
    [row] = advantage_rows([whole], worth[None], betas)
    assert row.tokens.tolist() == whole.tokens
    assert row.advantage is not None
    assert row.kl_weight is not None
    at = 0
    for number, one in enumerate(played, start=1):
        shown = slice(at, at + len(one.shown))
        made = slice(shown.stop, shown.stop + len(one.made))
        at = made.stop
        own = one.author == "policy"
        for values in (row.turn, row.advantage, row.kl_weight):
            assert not values[shown].any()
            assert own or not values[made].any()
        if own:
            assert (row.turn[made] == number).all()
            np.testing.assert_allclose(row.advantage[made], worth[number - 1], rtol=1e-6)
            np.testing.assert_allclose(row.kl_weight[made], betas[number - 1], rtol=1e-6)
    assert at == len(row)
