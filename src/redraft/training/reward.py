"""A reward of the user's own: `module:function`, called in worker processes beside the grader."""

import math
from collections.abc import Sequence
from typing import Any

from redraft.errors import UserError
from redraft.grading.pool import Reply, shared_pool
from redraft.types import Episode

LIMIT_S = 30.0
"""Seconds that the function has for one episode."""


def check_reward(target: str) -> None:
    """Import the function in a worker now.

    Raises:
        UserError: it cannot be imported or is not a function.
    """
    try:
        shared_pool(target, LIMIT_S).start()
    except UserError as error:
        raise UserError(f"--reward {error}") from None


def with_rewards(target: str, episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes with a reward of the user's at every answer; grades stay as they are.

    The function is called once for each episode, with keywords: `question` and `gold`;
    `responses`, the texts of the episode's answers in order; `scores`, their grades' scores; and
    `metadata`, the other fields of the problem. It returns a list of finite numbers, one for each
    response.

    Raises:
        UserError: it failed, took too long, or returned something else.
    """
    calls = [
        {
            "question": episode.problem.question,
            "gold": episode.problem.gold,
            "responses": [turn.text for turn in episode.answers],
            "scores": episode.scores,
            "metadata": episode.problem.metadata,
        }
        for episode in episodes
    ]
    replies = shared_pool(target, LIMIT_S).call_all(calls)
    return [
        _rewarded(episode, _rewards(target, episode, reply))
        for episode, reply in zip(episodes, replies, strict=True)
    ]


def _rewards(target: str, episode: Episode, reply: Reply) -> list[float]:
    where, expected = f"--reward {target}: on problem {episode.problem.id}", len(episode.answers)
    if reply.status != "ok":
        late = f"no answer after {LIMIT_S:g} s"
        raise UserError(f"{where} it failed ({late if reply.status == 'timeout' else reply.error})")
    value = reply.value
    if not isinstance(value, list) or len(value) != expected or not all(map(_is_number, value)):
        raise UserError(
            f"{where} it returned {str(value)[:60]}; expected a list of {expected} finite numbers, "
            "one for each response"
        )
    return [float(number) for number in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _rewarded(episode: Episode, rewards: Sequence[float]) -> Episode:
    left = iter(rewards)
    turns = [
        turn if turn.grade is None else turn.model_copy(update={"reward": next(left)})
        for turn in episode.turns
    ]
    return episode.model_copy(update={"turns": turns})
