"""Many episodes at once: a protocol says what, an engine says how, a grader says whether.

    problems --opening--> tokens --engine--> attempts --grader--> episodes
                             ^                   |
                             +--bridge--feedback-+      (until the protocol ends the episode)

The token sequence of an episode only ever grows: what was sampled is what is trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from redraft.dialogue import Dialogue
from redraft.engines import Engine, Sample, Sampling
from redraft.episode import Episode, Grade, Message, Problem, Turn
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
    first_turns: Sequence[Turn | None] | None = None,
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
        first_turns: for each of the problems x samples episodes a first turn that somebody else
            made (None: the policy makes it); it is kept as it is, with `on_policy` False.
        progress: called with the number of attempts just made.

    Returns:
        problems x samples episodes, in order.
    """
    openings = [protocol.opening(problem) for problem in problems]
    starts = [dialogue.start([message.model_dump() for message in opening]) for opening in openings]
    plays = [
        _Play(problem, opening, sample, prompts=[start])
        for problem, opening, start in zip(problems, openings, starts, strict=True)
        for sample in range(samples)
    ]
    for play, turn in zip(plays, first_turns or [None] * len(plays), strict=True):
        if turn is not None:
            sample = Sample(turn.attempt_tokens, turn.logprobs, turn.attempt, turn.finish)
            play.attempts.append(sample)
            play.given = 1

    def proceed(play: _Play) -> list[int] | None:
        """Tokens that lead to the play's next attempt; None when the episode is over."""
        if protocol.uses_grades:
            play.grades += grade_all(grader, [play.latest], [play.attempts[-1].finish == "length"])
        said = protocol.feedback(play.problem, [a.text for a in play.attempts], play.grades)
        if said is None:
            return None
        play.feedback.append(said)
        play.prompts.append(dialogue.bridge(play.attempts[-1].tokens, said))
        return play.prompts[-1]

    active = [play for play in plays if not play.given or proceed(play) is not None]

    def reply(row: int, made: list[Sample]) -> list[int] | None:
        play = active[row]
        play.attempts.append(replace(made[-1], text=dialogue.decode(made[-1].tokens)))
        return proceed(play)

    engine.converse(
        [play.sequence for play in active],
        reply,
        replace(
            sampling,
            stop=(*sampling.stop, *dialogue.stop),
            stop_token_ids=(*sampling.stop_token_ids, *dialogue.stop_token_ids),
        ),
        progress,
    )
    _grade_rest(plays, grader)
    return [play.episode(protocol.name, policy) for play in plays]


@dataclass
class _Play:
    """One episode while it is played."""

    problem: Problem
    opening: list[Message]
    sample: int
    prompts: list[list[int]]  # tokens added before each attempt
    attempts: list[Sample] = field(default_factory=list)
    grades: list[Grade] = field(default_factory=list)
    feedback: list[str] = field(default_factory=list)  # said after each attempt but the last
    given: int = 0  # attempts that the policy did not make

    @property
    def sequence(self) -> list[int]:
        """All tokens up to where the policy goes on."""
        shown = [
            token
            for prompt, attempt in zip(self.prompts, self.attempts, strict=False)
            for token in (*prompt, *attempt.tokens)
        ]
        return [*shown, *self.prompts[-1]]

    @property
    def latest(self) -> tuple[Problem, str]:
        """The last attempt as graders take it."""
        return self.problem, self.attempts[-1].text

    def episode(self, protocol: str, policy: str) -> Episode:
        """The finished record."""
        feedback = [*self.feedback, *[None] * (len(self.attempts) - len(self.feedback))]
        return Episode(
            problem=self.problem,
            messages=self.opening,
            protocol=protocol,
            policy=policy,
            sample=self.sample,
            turns=[
                Turn(
                    attempt=attempt.text,
                    finish=attempt.finish,
                    grade=grade,
                    feedback=said,
                    prompt_tokens=prompt,
                    attempt_tokens=attempt.tokens,
                    logprobs=attempt.logprobs,
                    on_policy=index >= self.given,
                )
                for index, (attempt, grade, said, prompt) in enumerate(
                    zip(self.attempts, self.grades, feedback, self.prompts, strict=True)
                )
            ],
        )


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
