"""Credit: what each response of an episode is worth to reinforcement learning.

Pure functions on arrays of shape [episodes, answers]. Episodes may have different numbers of
answers: NaN stands where an episode has ended. `advantage_rows` makes training rows of the result.

The order matters where a policy decides itself when to stop: returns first, baseline second. A
baseline may depend on the *other* episodes only, and it is subtracted once from the whole return.
Centring each turn's rewards and adding up what is left over is biased: stopping then avoids the
later turns' baselines, so that arms of equal return get unequal gradients (`tests/learning/
test_credit.py` has the two-armed example).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft.learning.rows import TrainingRow, sequences
from redraft.types import Episode

Rewards = npt.NDArray[np.float64]
"""[episodes, answers]; NaN where an episode has no such answer."""


def rewards_by_answer(episodes: Sequence[Episode], answers: int) -> Rewards:
    """Reward of the first `answers` answers of each episode, shape [episodes, answers]: the turn's
    `reward` where it has one, else its grade's score; NaN where an episode has ended."""
    rewards = np.full((len(episodes), answers), np.nan)
    for row, episode in zip(rewards, episodes, strict=True):
        for index, (turn, score) in enumerate(
            zip(episode.answers[:answers], episode.scores, strict=False)
        ):
            row[index] = score if turn.reward is None else turn.reward
    return rewards


def with_progress_bonus(rewards: Rewards, alpha: float) -> Rewards:
    """r_t + α (r_t - r_{t-1}) for every answer after the first; arXiv 2409.12917, section 5.2.

    The first answer's reward is left alone: a bonus that reached it would pay the policy for
    failing first.
    """
    shaped = rewards.copy()
    shaped[:, 1:] += alpha * (rewards[:, 1:] - rewards[:, :-1])
    return shaped


def return_to_go(rewards: Rewards, discount: float = 1.0) -> Rewards:
    """Σ_{u ≥ t} γ^{u-t} r_u of each answer t, over the answers that the episode has; γ is
    `discount`."""
    returns = np.nan_to_num(rewards)
    for turn in range(returns.shape[1] - 2, -1, -1):
        returns[:, turn] += discount * returns[:, turn + 1]
    return np.where(np.isnan(rewards), np.nan, returns)


def last_reward(rewards: Rewards) -> Rewards:
    """The episode's last reward, given to every answer."""
    made = ~np.isnan(rewards)
    ends = np.maximum(made.sum(axis=1) - 1, 0)
    last = np.take_along_axis(rewards, ends[:, None], axis=1)
    return np.where(made, last, np.nan)


def leave_one_out(values: Rewards, groups: Sequence[Sequence[int]]) -> Rewards:
    """Each value minus the mean of the others in its group, answer by answer (RLOO, arXiv
    2402.14740).

    The baseline of an answer is the mean over the other episodes of the problem that have such an
    answer, or 0 where none has: it does not depend on the episode itself, so the gradient stays
    unbiased even where the policy decides how long episodes are. Where an episode has no answer
    the advantage is 0.

    Args:
        values: whole returns or single rewards, never centred before.
        groups: the indices of the episodes of each problem.

    Raises:
        ValueError: a group of one, which nothing can be compared to.
    """
    made = ~np.isnan(values)
    known = np.where(made, values, 0.0)
    advantages = np.zeros_like(known)
    for group in groups:
        if len(group) < 2:
            raise ValueError("leave-one-out needs at least 2 episodes of each problem")
        index = list(group)
        total, count = known[index].sum(axis=0), made[index].sum(axis=0)
        others = count - made[index]  # [group, answers]
        baseline = (total - known[index]) / np.maximum(others, 1)
        advantages[index] = np.where(made[index], known[index] - baseline, 0.0)
    return advantages


def advantage_rows(
    episodes: Sequence[Episode], advantages: Rewards, kl_weights: Sequence[float]
) -> list[TrainingRow]:
    """Training rows, one per sequence of each episode (one per episode where nothing was hidden).

    Every token of answer t carries the episode's advantage of answer t and `kl_weights[t]`, so that
    in a sum over tokens the advantage multiplies the response's log-probability (no answer sees
    another's reward unless `advantages` says so). Responses that the policy did not sample,
    critiques, and the tokens that a response was given are context: turn 0, no advantage, no KL.
    Episodes without turns give no row.

    Args:
        episodes: with token ids and log-probabilities.
        advantages: shape [episodes, answers]; 0 where an answer is not reinforced.
        kl_weights: β of each answer.
    """
    return [
        _row(episode, prompt, turns, advantage, kl_weights)
        for episode, advantage in zip(episodes, advantages, strict=True)
        for prompt, turns in sequences(episode)
    ]


def with_credit(episodes: Sequence[Episode], rows: Sequence[TrainingRow]) -> list[Episode]:
    """The episodes with the advantage of each response that is learned from and, where the rows
    have been given any, its log-probabilities under the reference.

    Args:
        episodes: those that `advantage_rows` made the rows of.
        rows: all of them, in their order.
    """
    rest, found = iter(rows), []
    for episode in episodes:
        turns = list(episode.turns)
        for (prompt, shown), row in zip(sequences(episode), rest, strict=False):
            end = len(prompt)
            for index, written in shown:
                start, end = end + turns[index].given, end + len(turns[index].tokens)
                if written and start < end and row.turn[start] and row.advantage is not None:
                    credit: dict[str, Any] = {"advantage": round(float(row.advantage[start]), 6)}
                    if row.ref_logprob is not None:
                        credit["ref_logprobs"] = row.ref_logprob[start:end].round(6).tolist()
                    turns[index] = turns[index].model_copy(update=credit)
        found.append(episode.model_copy(update={"turns": turns}))
    return found


def _row(
    episode: Episode,
    prompt: Sequence[int],
    turns: Sequence[tuple[int, bool]],
    advantages: npt.NDArray[np.float64],
    kl_weights: Sequence[float],
) -> TrainingRow:
    """One sequence of an episode; see `rows.sequences` for `prompt` and `turns`."""
    answers = [index for index, turn in enumerate(episode.turns) if turn.grade is not None]
    tokens = list(prompt)
    numbers, advantage, kl_weight, old = ([0.0] * len(prompt) for _ in range(4))
    for index, written in turns:
        turn = episode.turns[index]
        learned = written and turn.sampled and index in answers
        number = answers.index(index) if learned else 0
        sampled = [0.0] * turn.given + [float(learned)] * (len(turn.tokens) - turn.given)
        tokens += turn.tokens
        numbers += [on * (number + 1) for on in sampled]
        advantage += [on * float(advantages[number]) for on in sampled]
        kl_weight += [on * kl_weights[number] for on in sampled]
        old += [0.0] * turn.given + (turn.logprobs if turn.sampled else [0.0] * len(sampled))
    return TrainingRow(tokens, numbers, advantage=advantage, kl_weight=kl_weight, old_logprob=old)
