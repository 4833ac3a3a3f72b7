"""Many episodes at once: a protocol says what, an engine says how, a grader says whether.

    problems --opening--> tokens --engine--> attempts --grader--> episodes
                             ^                   |
                             +--bridge--feedback-+      (until the protocol ends the episode)

The token sequence of an episode only ever grows: what was sampled is what is trained on. With a
window it starts anew for every attempt, from the same tokens: the problem and the latest attempts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from redraft.dialogue import Dialogue
from redraft.engines import ContextTooLongError, Engine, Reply, Sample, Sampling
from redraft.episode import Episode, Grade, Message, Problem, Turn
from redraft.errors import UserError
from redraft.grading import Grader, grade_all
from redraft.protocols import Protocol


def rollout(
    problems: Sequence[Problem],
    protocol: Protocol,
    engine: Engine,
    dialogue: Dialogue,
    grader: Grader,
    sampling: Sampling,
    *,
    samples: int = 1,
    policy: str = "",
    given: Sequence[Sequence[Turn]] | None = None,
    window: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Episode]:
    """Play `samples` episodes of every problem.

    Args:
        problems: each is played `samples` times; the episodes of one problem are neighbours.
        protocol: what is said before and between attempts.
        engine: samples the attempts.
        dialogue: the engine's tokenizer seen as a conversation; its stops are added to `sampling`.
        grader: judges the attempts; truncated ones are wrong without being asked.
        sampling: how tokens are drawn, the length limit of an attempt, and the seed.
        samples: episodes per problem, G.
        policy: name of the weights, written into the episodes.
        given: for each of the problems x samples episodes the turns it begins with, made before or
            by somebody else; attempt, grade and `on_policy` are kept as they are.
        window: how many interactions the policy sees at most, the one in progress included: the
            problem and the latest `window - 1` attempts with what was said about them. None: all.
        progress: called with the number of attempts just made.

    Returns:
        problems x samples episodes, in order.
    """
    openings = [protocol.opening(problem) for problem in problems]
    starts = [dialogue.start([message.model_dump() for message in opening]) for opening in openings]
    plays = [
        _Play(problem, opening, sample, start, window)
        for problem, opening, start in zip(problems, openings, starts, strict=True)
        for sample in range(samples)
    ]
    table = _Table(protocol, engine, dialogue, grader, progress)
    active = [
        play
        for play, turns in zip(plays, given or [()] * len(plays), strict=True)
        if table.seat(play, turns)
    ]
    sampling = replace(
        sampling,
        stop=(*sampling.stop, *dialogue.stop),
        stop_token_ids=(*sampling.stop_token_ids, *dialogue.stop_token_ids),
    )
    if window is None:
        table.play_through(active, sampling)
    else:
        table.play_by_rounds(active, sampling)
    _grade_rest(plays, grader)
    return [play.episode(protocol.name, policy) for play in plays]


@dataclass
class _Play:
    """One episode while it is played."""

    problem: Problem
    opening: list[Message]
    sample: int
    start: list[int]  # tokens of the opening
    window: int | None
    attempts: list[Sample] = field(default_factory=list)
    bridges: list[list[int]] = field(default_factory=list)  # tokens after each attempt but the last
    grades: list[Grade] = field(default_factory=list)
    feedback: list[str] = field(default_factory=list)  # said after each attempt but the last
    given: Sequence[Turn] = ()  # the first turns, which were there before this play

    def seen(self, turn: int) -> list[int]:
        """All tokens the policy sees when it makes attempt `turn` (0-based)."""
        first = 0 if self.window is None else max(0, turn - self.window + 1)
        pairs = zip(self.attempts[first:turn], self.bridges[first:turn], strict=True)
        return [*self.start, *chain.from_iterable((*a.tokens, *bridge) for a, bridge in pairs)]

    def prompt(self, turn: int) -> list[int]:
        """The tokens of `seen` that were added for attempt `turn`; with a window, all of them."""
        if self.window is not None or turn == 0:
            return self.seen(turn)
        return self.bridges[turn - 1]

    def episode(self, protocol: str, policy: str) -> Episode:
        """The finished record."""
        feedback = [*self.feedback, *[None] * (len(self.attempts) - len(self.feedback))]
        return Episode(
            problem=self.problem,
            messages=self.opening,
            protocol=protocol,
            policy=policy,
            sample=self.sample,
            window=self.window,
            turns=[
                self._turn(turn).model_copy(
                    update={"feedback": said, "prompt_tokens": self.prompt(turn)}
                )
                for turn, said in enumerate(feedback)
            ],
        )

    def _turn(self, turn: int) -> Turn:
        """A turn (0-based) by itself: as it was given, or as the policy made it."""
        if turn < len(self.given):
            return self.given[turn]
        made = self.attempts[turn]
        return Turn(
            attempt=made.text,
            finish=made.finish,
            grade=self.grades[turn],
            attempt_tokens=made.tokens,
            logprobs=made.logprobs,
        )


@dataclass(frozen=True)
class _Table:
    """Where plays meet the protocol and the engine."""

    protocol: Protocol
    engine: Engine
    dialogue: Dialogue
    grader: Grader
    progress: Callable[[int], None] | None

    def seat(self, play: _Play, turns: Sequence[Turn]) -> bool:
        """Begin a play with the turns it was given; whether there is an attempt left to make."""
        goes_on = True
        play.given = turns
        for turn in turns:
            sample = Sample(turn.attempt_tokens, turn.logprobs, turn.attempt, turn.finish)
            play.grades.append(turn.grade)
            goes_on = self.proceed(play, sample)
        return goes_on

    def proceed(self, play: _Play, made: Sample) -> bool:
        """Take an attempt in; whether the protocol asks for another."""
        play.attempts.append(made)
        if self.protocol.uses_grades and len(play.grades) < len(play.attempts):
            latest = [(play.problem, made.text)]
            play.grades += grade_all(self.grader, latest, [made.finish == "length"])
        texts = [attempt.text for attempt in play.attempts]
        shown = play.grades if self.protocol.uses_grades else []
        said = self.protocol.feedback(play.problem, texts, shown)
        if said is None:
            return False
        play.feedback.append(said)
        play.bridges.append(self.dialogue.bridge(made.tokens, said))
        return True

    def play_through(self, plays: list[_Play], sampling: Sampling) -> None:
        """Each play goes on as soon as its last attempt has ended, on the same sequence."""

        def reply(row: int, made: list[Sample]) -> list[int] | None:
            play, sample = plays[row], made[-1]
            text = self.dialogue.decode(sample.tokens)
            return play.bridges[-1] if self.proceed(play, replace(sample, text=text)) else None

        self._converse(plays, reply, sampling)

    def play_by_rounds(self, plays: list[_Play], sampling: Sampling) -> None:
        """All plays make their next attempt together, each from what its window shows."""
        number = 0
        while plays:
            seed = int(np.random.SeedSequence([sampling.seed, number]).generate_state(1)[0])
            made = self._converse(plays, lambda row, samples: None, replace(sampling, seed=seed))
            plays = [
                play
                for play, [sample] in zip(plays, made, strict=True)
                if self.proceed(play, replace(sample, text=self.dialogue.decode(sample.tokens)))
            ]
            number += 1

    def _converse(self, plays: list[_Play], reply: Reply, sampling: Sampling) -> list[list[Sample]]:
        sequences = [play.seen(len(play.attempts)) for play in plays]
        try:
            return self.engine.converse(sequences, reply, sampling, self.progress)
        except ContextTooLongError as error:
            raise UserError(f"problem {plays[error.row].problem.id}: {error}") from None


def _grade_rest(plays: list[_Play], grader: Grader) -> None:
    """Grade, all together, the attempts that the protocol did not need graded on the way."""
    waiting = [(play, attempt) for play in plays for attempt in play.attempts[len(play.grades) :]]
    grades = grade_all(
        grader,
        [(play.problem, attempt.text) for play, attempt in waiting],
        [attempt.finish == "length" for _, attempt in waiting],
    )
    for (play, _), grade in zip(waiting, grades, strict=True):
        play.grades.append(grade)
