"""Rollout with an engine that answers messages: an endpoint, or whoever else gives only text.

The endpoint's own template and tokenisation count, so the episodes have no tokens to train on. What
is said, graded and written down is the same as in `rollout`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from redraft.engines import ChatEngine, Failed, Sample, Sampling
from redraft.episode import Episode, Message, Problem, Turn, seen
from redraft.grading import Grader, grade_all, why_undecided
from redraft.protocols import Protocol


@dataclass
class Played:
    """Episodes that were played to their end and judged, and by problem why others were not."""

    episodes: list[Episode]
    failed: dict[str, str]

    @classmethod
    def judged(cls, episodes: Sequence[Episode]) -> Self:
        """The episodes of the problems all of whose attempts have a verdict: a problem counts with
        all of its samples or not at all, because those that need no verdict are the bad ones."""
        failed = {e.problem.id: why for e in episodes if (why := why_undecided(e)) is not None}
        return cls([episode for episode in episodes if episode.problem.id not in failed], failed)


def rollout_chat(
    problems: Sequence[Problem],
    protocol: Protocol,
    engine: ChatEngine,
    grader: Grader,
    sampling: Sampling,
    *,
    samples: int = 1,
    policy: str = "",
    given: Sequence[Sequence[Turn]] | None = None,
    window: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Played:
    """Play `samples` episodes of every problem, all of them turn by turn.

    An episode with an attempt that the engine could not get is left out, and all episodes of a
    problem with an attempt that could not be judged. See `rollout` for the arguments.
    """
    plays = [
        _Play(problem, protocol.opening(problem), sample)
        for problem in problems
        for sample in range(samples)
    ]
    active = [
        play
        for play, turns in zip(plays, given or [()] * len(plays), strict=True)
        if _begin(play, turns, protocol)
    ]
    while active:
        dialogues = [seen(play.opening, play.turns, window) for play in active]
        answers = engine.chat(
            [[message.model_dump() for message in dialogue] for dialogue in dialogues],
            sampling,
            progress,
        )
        active = _take_in(active, answers, protocol, grader)
    played = Played.judged(
        [
            Episode(
                problem=play.problem,
                messages=play.opening,
                turns=play.turns,
                protocol=protocol.name,
                policy=policy,
                sample=play.sample,
                window=window,
            )
            for play in plays
            if play.failed is None
        ]
    )
    unheard = {play.problem.id: play.failed for play in plays if play.failed is not None}
    return Played(played.episodes, played.failed | unheard)


@dataclass
class _Play:
    """One episode while it is played."""

    problem: Problem
    opening: list[Message]
    sample: int
    turns: list[Turn] = field(default_factory=list)
    failed: str | None = None


def _begin(play: _Play, turns: Sequence[Turn], protocol: Protocol) -> bool:
    """Begin a play with the turns it was given; whether there is an attempt left to make."""
    goes_on = True
    for turn in turns:
        goes_on = _add(play, turn, protocol)
    return goes_on


def _add(play: _Play, turn: Turn, protocol: Protocol) -> bool:
    """Add a turn, with what the protocol says after it; whether it asks for another."""
    turns = [*play.turns, turn]
    shown = [made.grade for made in turns] if protocol.uses_grades else []
    said = protocol.feedback(play.problem, [made.attempt for made in turns], shown)
    play.turns.append(turn.model_copy(update={"feedback": said}))
    return said is not None


def _take_in(
    plays: Sequence[_Play],
    answers: Sequence[Sample | Failed],
    protocol: Protocol,
    grader: Grader,
) -> list[_Play]:
    """Add a turn to every play that got an attempt; returns those that go on."""
    answered = []
    for play, answer in zip(plays, answers, strict=True):
        if isinstance(answer, Failed):
            play.failed = answer.reason
        else:
            answered.append((play, answer))
    grades = grade_all(
        grader,
        [(play.problem, answer.text) for play, answer in answered],
        [answer.finish == "length" for _, answer in answered],
    )
    going_on = []
    for (play, answer), grade in zip(answered, grades, strict=True):
        turn = Turn(
            attempt=answer.text,
            finish=answer.finish,
            grade=grade,
            completion_tokens=answer.completion_tokens,
        )
        if _add(play, turn, protocol):
            going_on.append(play)
    return going_on
