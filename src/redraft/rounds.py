"""Self-improvement round by round, until the model says that it is right.

    round 1   problem, attempt 1, feedback 1, attempt 2
    round 2   problem, attempt 2, feedback 2, attempt 3        a dialogue of its own
    ...

A round is an ordinary episode (`protocols.self_improve`), played by `rollout` or `rollout_chat`.
Whether there is another one is decided here, from the texts alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal
from typing import Protocol as Interface

from redraft.chat_rollout import Played
from redraft.episode import Episode, Message, Problem, Turn
from redraft.protocols import Protocol
from redraft.protocols.intrinsic import Intrinsic
from redraft.protocols.self_improve import SelfImprove

Stop = Literal["confirmed", "updates", "unchanged", "repetitive", "truncated", "oracle"]
"""Why no further update was made: the model said that it was right, it had no updates left, its
last update changed nothing, went in circles or was cut off, or an oracle stopped it."""

STEP_LIMIT = 15
"""A step with a number above this is taken for a loop (the paper's rule)."""
TAIL = 50
"""Characters at the end of an attempt that are looked at for loops (the paper's number)."""

_LABEL = re.compile(r"^\s*\((\d{1,6})[.)]", re.MULTILINE)


@dataclass
class Improvement:
    """One problem's attempts with the model's own feedback on them.

    `remarks[i]` is the feedback on `attempts[i]`; the last attempt has none unless it was asked.
    """

    problem: Problem
    sample: int
    opening: list[Message]
    attempts: list[Turn]
    remarks: list[Turn] = field(default_factory=list)
    stopped: Stop | None = None

    def episode(self, protocol: str, policy: str = "") -> Episode:
        """The attempts as an episode, feedback as what was said after each.

        It has a window of two: attempt i was made in a dialogue that showed attempt i - 1 only.
        `prompt_tokens` are those of the whole dialogue, with the request for feedback and for the
        update, which stand nowhere else.
        """
        said: list[str | None] = [remark.attempt for remark in self.remarks]
        said += [None] * (len(self.attempts) - len(said))
        return Episode(
            problem=self.problem,
            messages=self.opening,
            turns=[
                turn.model_copy(update={"feedback": text})
                for turn, text in zip(self.attempts, said, strict=True)
            ],
            protocol=protocol,
            policy=policy,
            sample=self.sample,
            window=2,
        )


class Play(Interface):
    """Plays episodes: a rollout with everything but these arguments filled in."""

    def __call__(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int,
        number: int,
        given: Sequence[Sequence[Turn]] | None,
    ) -> Played:
        """`number` counts the rounds from 1: each must have random numbers of its own."""
        ...


def play_rounds(
    problems: Sequence[Problem],
    protocol: SelfImprove,
    updates: int,
    play: Play,
    *,
    samples: int = 1,
) -> tuple[list[Improvement], dict[str, str]]:
    """Play `samples` self-improvements of every problem, with at most `updates` updates each.

    Returns:
        Those of the problems that were played to the end, in order, and by problem why others
        were not.
    """
    first: Protocol = protocol if updates else Intrinsic(protocol.prompts, 1)
    played = play(problems, first, samples=samples, number=1, given=None)
    failed = dict(played.failed)
    made = []
    for episode in played.episodes:
        one = Improvement(episode.problem, episode.sample, episode.messages, [episode.turns[0]])
        _take_in(one, episode, updates)
        made.append(one)
    number = 1
    while active := [one for one in made if one.stopped is None and one.problem.id not in failed]:
        number += 1
        played = play(
            [one.problem for one in active],
            protocol,
            samples=1,
            number=number,
            given=[[one.attempts[-1]] for one in active],
        )
        failed |= played.failed  # a problem counts with all of its samples or not at all
        going_on = [one for one in active if one.problem.id not in failed]
        rounds = [episode for episode in played.episodes if episode.problem.id not in failed]
        for one, episode in zip(going_on, rounds, strict=True):
            _take_in(one, episode, updates)
    return [one for one in made if one.problem.id not in failed], failed


def _take_in(one: Improvement, played: Episode, updates: int) -> None:
    """Add what a round has brought: feedback on the latest attempt, and an update."""
    turns = [_with_whole_prompt(played, index) for index in range(1, len(played.turns))]
    one.remarks += turns[:1]
    one.attempts += turns[1:]
    if not updates:
        one.stopped = "updates"
    elif not turns:
        one.stopped = "oracle"
    elif len(turns) == 1:
        one.stopped = "confirmed"
    else:
        one.stopped = stuck(*one.attempts[-2:])
        if one.stopped is None and len(one.attempts) > updates:
            one.stopped = "updates"


def _with_whole_prompt(played: Episode, index: int) -> Turn:
    """A turn of a round with all the tokens that it was made after."""
    before = [(turn.prompt_tokens, turn.attempt_tokens) for turn in played.turns[:index]]
    tokens = [*chain.from_iterable(chain.from_iterable(before))]
    turn = played.turns[index]
    return turn.model_copy(update={"prompt_tokens": [*tokens, *turn.prompt_tokens]})


def stuck(before: Turn, after: Turn) -> Stop | None:
    """Why a model that has updated `before` to `after` should not go on; None if it may.

    As in the paper's code an update makes no progress if its last line is the one that was there,
    and goes in circles if a step's number is above 15, its last 50 characters repeat a piece of at
    most ten, or its last five words are one. They also do where they hold no white space; the
    paper's rule, fewer than five words, would stop lists of long words.
    """
    if after.truncated:
        return "truncated"
    if _last_line(before.attempt) == _last_line(after.attempt):
        return "unchanged"
    return "repetitive" if in_circles(after.attempt) else None


def in_circles(text: str) -> bool:
    """Whether a text looks like the output of a model that has lost its way."""
    if any(int(number) > STEP_LIMIT for number in _LABEL.findall(text)):
        return True
    words = text.split()[-5:]
    if len(words) == 5 and len(set(words)) == 1:
        return True
    tail = text.strip()[-TAIL:]
    if len(tail) < TAIL:
        return False
    periodic = any(tail[period:] == tail[:-period] for period in range(1, 11))
    return periodic or len(tail.split()) == 1


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
