"""Credit by turn: rewards of attempts, their shaping, baselines, and the streams they become.

All of it is pure: episodes and numbers in, arrays and token streams out. Arrays have the shape
[episodes, turns].
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from redraft.episode import Episode
from redraft.learning.streams import TokenStreams

Rewards = npt.NDArray[np.float64]


def rewards_by_turn(episodes: Sequence[Episode]) -> Rewards:
    """Reward of every attempt, 1 if right and 0 if not, shape [episodes, turns].

    Raises:
        ValueError: episodes of different lengths, whose turns have no common baseline.
    """
    lengths = {len(episode.turns) for episode in episodes}
    if len(lengths) != 1:
        raise ValueError(f"episodes have different numbers of turns: {sorted(lengths)}")
    return np.array([episode.correct for episode in episodes], dtype=np.float64)


def with_progress_bonus(rewards: Rewards, alpha: float) -> Rewards:
    """r_t + α (r_t - r_{t-1}) for every turn after the first; arXiv 2409.12917, section 5.2.

    The first turn's reward is left alone: a bonus that reached it would pay the policy for failing
    first.
    """
    shaped = rewards.copy()
    shaped[:, 1:] += alpha * (rewards[:, 1:] - rewards[:, :-1])
    return shaped


def return_to_go(rewards: Rewards) -> Rewards:
    """Sum of the rewards from each turn to the last, undiscounted."""
    return np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]


def last_reward(rewards: Rewards) -> Rewards:
    """The last turn's reward, given to every turn."""
    return np.repeat(rewards[:, -1:], rewards.shape[1], axis=1)


def leave_one_out(values: Rewards, groups: Sequence[Sequence[int]]) -> Rewards:
    """Each value minus the mean of the others in its group, turn by turn (RLOO, arXiv 2402.14740).

    `groups` are the indices of the episodes of each problem.

    Raises:
        ValueError: a group of one, which has nobody to be compared to.
    """
    advantages = np.empty_like(values)
    for group in groups:
        if len(group) < 2:
            raise ValueError("leave-one-out needs at least 2 episodes of each problem")
        members = values[list(group)]
        others = (members.sum(axis=0) - members) / (len(group) - 1)
        advantages[list(group)] = members - others
    return advantages


def to_streams(
    episodes: Sequence[Episode], advantages: Rewards, kl_weights: Sequence[float]
) -> list[TokenStreams]:
    """One training row per episode.

    Every token of attempt t carries the episode's advantage of turn t and `kl_weights[t]`, so that
    in a sum over tokens the advantage multiplies the attempt's log-probability (γ = 0: no turn sees
    another's reward unless `advantages` says so). Attempts of somebody else (`on_policy` False) are
    context: turn 0, no advantage, no KL.

    Args:
        episodes: with token ids and log-probabilities.
        advantages: shape [episodes, turns]; 0 where a turn is not reinforced.
        kl_weights: β of each turn.
    """
    return [
        _row(episode, advantage, kl_weights)
        for episode, advantage in zip(episodes, advantages, strict=True)
    ]


def _row(episode: Episode, advantages: npt.ArrayLike, kl_weights: Sequence[float]) -> TokenStreams:
    number, advantage, kl_weight, old_logprob = [], [], [], []
    by_turn = zip(episode.turns, np.asarray(advantages), kl_weights, strict=True)
    for index, (turn, worth, beta) in enumerate(by_turn, start=1):
        policy = float(turn.on_policy)
        shown, made = np.zeros(len(turn.prompt_tokens)), np.full(len(turn.attempt_tokens), policy)
        number += [shown, made * index]
        advantage += [shown, made * worth]
        kl_weight += [shown, made * beta]
        old_logprob += [shown, np.asarray(turn.logprobs or 0 * made, dtype=np.float64)]
    return TokenStreams(
        tokens=episode.tokens,
        turn=np.concatenate(number),
        advantage=np.concatenate(advantage),
        kl_weight=np.concatenate(kl_weight),
        old_logprob=np.concatenate(old_logprob),
    )
