"""RISE (arXiv 2407.18219): iterative, reward-weighted fine-tuning on the model's own turns.

    for k in 1..K
        roll-in      the policy tries each problem up to k times at T = 1, until it is right
        improvement  at the state reached: a teacher's attempt, or the best of N of its own
        weighting    w_t = exp(r_t / τ) for every attempt of the episode
        fine-tuning  Σ_t w_t · (-log π(y_t | s_t)), then the next iteration

`docs/methods/rise.md` maps the paper to functions and says what was not disclosed.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from redraft.credit.imitation import (
    Example,
    accepted,
    defect,
    rewards,
    weigh,
    without_duplicates,
)
from redraft.engines import Failed, Messages, Sample
from redraft.episode import Episode, Grade, Problem, Turn, same_problem_groups
from redraft.grading import grade_all
from redraft.methods.rise_config import RiseConfig
from redraft.methods.supervised import Chosen, Collected, SupervisedSession
from redraft.methods.supervised import train as train_supervised
from redraft.methods.teacher import Teacher, open_teacher
from redraft.progress import Progress, Silent
from redraft.protocols import Oracle

__all__ = ["Rise", "RiseConfig", "resume", "train"]

RiseSession = SupervisedSession[RiseConfig]
TeachingSession = SupervisedSession[Any]


def train(config: RiseConfig, progress: Progress | None = None) -> Path:
    """Train from the beginning; returns the run's folder.

    Raises:
        UserError: anything in the configuration, the model or the data that cannot work.
    """
    return _train(SupervisedSession.create(config, "train rise", progress or Silent()))


def resume(folder: Path, progress: Progress | None = None) -> Path:
    """Go on with a run from its newest complete checkpoint.

    Raises:
        UserError: the folder is not such a run's.
    """
    return _train(SupervisedSession.reopen(folder, RiseConfig, progress or Silent()))


def _train(session: RiseSession) -> Path:
    return train_supervised(session, Rise(needed_teacher(session)))


def needed_teacher(session: RiseSession) -> Teacher | None:
    """The teacher, if the run has a use for one."""
    config = session.config
    if config.improve == "teacher" or config.boost_epochs:
        return open_teacher(config, session.teacher_folder, session.progress)
    return None


class Rise:
    """The recipe: what an iteration plays, and what it learns from."""

    def __init__(self, teacher: Teacher | None = None) -> None:
        self.teacher = teacher

    def collect(self, session: RiseSession, problems: Sequence[Problem]) -> Collected:
        """Roll-in, and where it did not succeed one improved attempt more."""
        config = session.config
        if session.iteration == 0:
            assert self.teacher is not None
            return first_attempts(session, self.teacher, problems)
        rolled = session.rolled(
            problems,
            lambda: session.sample(
                problems,
                Oracle(session.prompts, session.iteration),
                samples=config.samples,
                window=config.window,
            ),
        )
        solved = [episode for episode in rolled if episode.correct[-1]]
        unsolved = [episode for episode in rolled if not episode.correct[-1]]
        if config.improve == "self":
            return Collected(solved + best_of_own(session, unsolved))
        assert self.teacher is not None
        improved = taught(session, self.teacher, unsolved, session.had)
        return Collected(solved + improved.episodes, improved.failed)

    def choose(self, session: RiseSession, episodes: Sequence[Episode]) -> Chosen:
        """Weights of all attempts; those that are unfit, repeated or not accepted get none."""
        config = session.config
        if session.iteration == 0:
            right = [e for e in episodes if e.correct[0] and not defect(e.turns[0])]
            boosting = [Example(episode=episode, weights=[1.0]) for episode in right]
            counts = {"not_accepted": len(episodes) - len(right), **_of_teacher(episodes)}
            return Chosen(boosting, counts)
        dropped: Counter[str] = Counter()
        examples = []
        for group in same_problem_groups(episodes):
            worth = [rewards(episodes[index], config.unparsable_reward) for index in group]
            weights = weigh(worth, config.reward_temperature, centred=config.centred)
            for index, reward, weight in zip(group, worth, weights, strict=True):
                kept = _filter(episodes[index], reward, config, dropped)
                chosen = [w if keep else 0.0 for w, keep in zip(weight, kept, strict=True)]
                if below := sum(kept) - sum(w > 0 for w in chosen):
                    dropped["below_mean"] += below
                if any(chosen):
                    examples.append(Example(episode=episodes[index], weights=chosen))
        used = [weight for example in examples for weight in example.weights if weight]
        if config.normalize_weights and used:
            mean = float(np.mean(used))
            examples = [
                Example(episode=e.episode, weights=[w / mean for w in e.weights]) for e in examples
            ]
        answered = _of_teacher(episodes) if config.improve == "teacher" else {}
        return Chosen(examples, {**_measures(examples), **answered, **dropped})


def best_of_own(session: RiseSession, episodes: Sequence[Episode]) -> list[Episode]:
    """Each episode with the best of N further attempts of the policy: the first of the right ones,
    or the first of all where none is right."""
    if not episodes:
        return []
    config, size = session.config, session.config.best_of
    made = session.sample(
        [episode.problem for episode in episodes],
        Oracle(session.prompts, session.iteration + 1),
        samples=size,
        stream=1,
        given=[episode.turns for episode in episodes for _ in range(size)],
        window=config.window,
    )
    best = []
    for place, episode in enumerate(episodes):
        tried = made[place * size : (place + 1) * size]
        worth = [rewards(one, config.unparsable_reward)[-1] for one in tried]
        chosen = tried[int(np.argmax(worth))]
        best.append(chosen.model_copy(update={"sample": episode.sample}))
    return best


def first_attempts(
    session: TeachingSession, teacher: Teacher, problems: Sequence[Problem]
) -> Collected:
    """The teacher's own first attempts."""
    openings = [session.prompts.opening(problem) for problem in problems]
    answers = teacher.answer([[m.model_dump() for m in one] for one in openings])
    return with_attempts(session, problems, [[] for _ in problems], answers)


def taught(
    session: TeachingSession,
    teacher: Teacher,
    episodes: Sequence[Episode],
    had: Sequence[Episode] = (),
) -> Collected:
    """Each episode with an attempt that the teacher makes at the state the policy has reached.

    Those that are among `had` with an attempt more are taken from there. They are not asked for,
    but count where equal states are told apart by number.
    """
    known = {_name(episode, len(episode.turns) - 1): episode for episode in had}
    names = [_name(episode, len(episode.turns)) for episode in episodes]
    found = [known[name] for name in names if name in known]
    states: list[Messages] = []
    numbers: list[int] = []
    asked: list[Episode] = []
    posed: Counter[str] = Counter()
    for name, episode in zip(names, episodes, strict=True):
        again = session.prompts.again(episode.problem)
        last = episode.turns[-1].model_copy(update={"feedback": again})
        seen = episode.model_copy(update={"turns": [*episode.turns[:-1], last]})
        state = [message.model_dump() for message in seen.seen(len(episode.turns))]
        number = posed[key := json.dumps(state)]
        posed[key] += 1
        if name not in known:
            states.append(state)
            numbers.append(number)
            asked.append(episode)
    problems, turns = [e.problem for e in asked], [e.turns for e in asked]
    made = with_attempts(session, problems, turns, teacher.answer(states, numbers))
    return Collected([*found, *made.episodes], made.failed)


def with_attempts(
    session: TeachingSession,
    problems: Sequence[Problem],
    turns: Sequence[Sequence[Turn]],
    answers: Sequence[Sample | Failed],
) -> Collected:
    """Episodes on `problems` that begin with `turns` and end with the teacher's `answers`."""
    failed = {
        problem.id: answer.reason
        for problem, answer in zip(problems, answers, strict=True)
        if isinstance(answer, Failed)
    }
    had = [
        (problem, before, answer)
        for problem, before, answer in zip(problems, turns, answers, strict=True)
        if isinstance(answer, Sample)
    ]
    grades = grade_all(
        session.task.grader,
        [(problem, answer.text) for problem, _, answer in had],
        [answer.finish == "length" for _, _, answer in had],
    )
    given = [
        [*before, by_teacher(answer, grade, session.dialogue.attempt(answer.text))]
        for (_, before, answer), grade in zip(had, grades, strict=True)
    ]
    # Rollout with nothing left to play lays the tokens out as it does for the policy's attempts.
    protocol = Oracle(session.prompts, max(map(len, given), default=1))
    episodes = session.sample(
        [problem for problem, _, _ in had],
        protocol,
        samples=1,
        given=given,
        window=session.config.window,
    )
    return Collected(episodes, failed)


def by_teacher(answer: Sample, grade: Grade, tokens: list[int]) -> Turn:
    """A teacher's attempt as a turn; `tokens` are the policy's own for its text."""
    return Turn(
        attempt=answer.text,
        finish=answer.finish,
        grade=grade,
        attempt_tokens=tokens,
        on_policy=False,
        completion_tokens=answer.completion_tokens,
    )


def _name(episode: Episode, turns: int) -> tuple[str, int, tuple[str, ...]]:
    """Which episode it is, as far as its first `turns` attempts go."""
    return episode.problem.id, episode.sample, tuple(t.attempt for t in episode.turns[:turns])


def _filter(
    episode: Episode, reward: Sequence[float], config: RiseConfig, dropped: Counter[str]
) -> list[bool]:
    """Which attempts are learned from; counts why others are not."""
    if config.only_solved and not episode.correct[-1]:
        dropped["unsolved"] += 1
        return [False] * len(reward)
    fresh = without_duplicates(episode)
    wanted = accepted(reward, config.criterion)
    kept = []
    for turn, is_fresh, is_wanted in zip(episode.turns, fresh, wanted, strict=True):
        why = defect(turn) or (None if is_fresh else "duplicate")
        why = why or (None if is_wanted else "not_accepted")
        if why:
            dropped[why] += 1
        kept.append(why is None)
    return kept


def _of_teacher(episodes: Sequence[Episode]) -> dict[str, float]:
    """How often the teacher is right, over all that it has answered."""
    turns = [turn for episode in episodes for turn in episode.turns if not turn.on_policy]
    right = sum(turn.grade.correct for turn in turns)
    return {"teacher_attempts": len(turns), "teacher_right": right}


def _measures(examples: Sequence[Example]) -> dict[str, float]:
    """How much of what is learned from is right."""
    pairs = [
        (weight, turn)
        for example in examples
        for turn, weight in zip(example.episode.turns, example.weights, strict=True)
        if weight
    ]
    right = sum(weight for weight, turn in pairs if turn.grade.correct)
    total = sum(weight for weight, _ in pairs)
    return {
        "attempts": len(pairs),
        "attempts_right": sum(turn.grade.correct for _, turn in pairs),
        "weight_right": right / total if total else 0.0,
    }
