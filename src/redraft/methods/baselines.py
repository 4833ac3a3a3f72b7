"""What RISE and SCoRe are compared with: supervised methods on the same loop.

`star` and `pair-sft` are SCoRe's baselines (arXiv 2409.12917, section 6 and appendix), each as D
and, with `plus`, as D+; `bon-sft` is RISE's data without its weights; `off-policy-sft` learns from
a teacher's traces; `lmsi` from the policy's own majority. In all of them but `bon-sft` an example's
last attempt carries the loss, and what comes before it is context.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redraft.credit.imitation import Example, defect
from redraft.episode import Episode, Problem, Turn, same_problem_groups
from redraft.errors import UserError
from redraft.evaluation.voting import majority_group
from redraft.methods.baselines_config import (
    BASELINES,
    LmsiConfig,
    OffPolicyConfig,
    PairSftConfig,
    StarConfig,
)
from redraft.methods.rise import Rise, first_attempts, needed_teacher, taught
from redraft.methods.supervised import (
    Chosen,
    Collected,
    Recipe,
    SupervisedSession,
)
from redraft.methods.supervised import train as train_supervised
from redraft.methods.supervised_config import SupervisedConfig
from redraft.methods.teacher import Teacher, open_teacher
from redraft.progress import Progress, Silent
from redraft.protocols import Intrinsic
from redraft.runs import Run


class Star:
    """Second attempts that are right, after first ones that were not (D+: or that were)."""

    def collect(
        self, session: SupervisedSession[StarConfig], problems: Sequence[Problem]
    ) -> Collected:
        """Two attempts at a time."""
        protocol, config = Intrinsic(session.prompts, 2), session.config
        samples = config.samples
        return Collected(session.sample(problems, protocol, samples=samples, window=config.window))

    def choose(self, session: SupervisedSession[StarConfig], episodes: Sequence[Episode]) -> Chosen:
        """Traces from wrong to right, and with `plus` from right to right."""
        wanted = {(False, True), (True, True)} if session.config.plus else {(False, True)}
        chosen = [
            Example(episode=episode, weights=[0.0, 1.0])
            for episode in episodes
            if tuple(episode.correct) in wanted and not defect(episode.turns[-1])
        ]
        return Chosen(chosen, _by_kind(chosen))


class PairSft:
    """A wrong attempt and a right one at the same problem, drawn from all that were made."""

    def collect(
        self, session: SupervisedSession[PairSftConfig], problems: Sequence[Problem]
    ) -> Collected:
        """Two attempts at a time: first and second ones go into one pool."""
        protocol = Intrinsic(session.prompts, 2)
        return Collected(session.sample(problems, protocol, samples=session.config.samples))

    def choose(
        self, session: SupervisedSession[PairSftConfig], episodes: Sequence[Episode]
    ) -> Chosen:
        """One synthetic trace a problem, or two with `plus`, as far as its pool goes.

        The two attempts of a trace are different samples. Two right ones may still read alike: what
        is known of the paper says nothing about it, so a sample with another text is drawn if there
        is one, and the same text again if there is not.
        """
        rng = np.random.default_rng([session.config.seed, session.iteration])
        problems: list[Problem] = []
        traces: list[list[Turn]] = []
        for group in same_problem_groups(episodes):
            pool = [turn for i in group for turn in episodes[i].turns if not defect(turn)]
            wrong = [turn for turn in pool if not turn.grade.correct]
            right = [turn for turn in pool if turn.grade.correct]
            befores = [wrong, right] if session.config.plus else [wrong]
            for before in befores:
                if trace := _trace(before, right, rng):
                    traces.append(trace)
                    problems.append(episodes[group[0]].problem)
        laid_out = session.sample(
            problems,
            Intrinsic(session.prompts, 2),
            samples=1,
            given=traces,
            window=session.config.window,
        )
        chosen = [Example(episode=episode, weights=[0.0, 1.0]) for episode in laid_out]
        return Chosen(chosen, _by_kind(chosen))


def _trace(
    before: Sequence[Turn], after: Sequence[Turn], rng: np.random.Generator
) -> list[Turn] | None:
    """An attempt from each, not the same one and if possible of another text."""
    if not before:
        return None
    first = before[int(rng.integers(len(before)))]
    others = [turn for turn in after if turn is not first]
    seconds = [turn for turn in others if turn.attempt != first.attempt] or others
    return [first, seconds[int(rng.integers(len(seconds)))]] if seconds else None


@dataclass
class OffPolicy:
    """The teacher's traces, up to its first right attempt."""

    teacher: Teacher

    def collect(
        self, session: SupervisedSession[OffPolicyConfig], problems: Sequence[Problem]
    ) -> Collected:
        """First attempts, then again and again where they were wrong."""
        made = first_attempts(session, self.teacher, problems)
        done, failed = made.episodes, made.failed
        for _ in range(session.config.attempts - 1):
            wrong = [episode for episode in done if not episode.correct[-1]]
            more = taught(session, self.teacher, wrong)
            done = [episode for episode in done if episode.correct[-1]] + more.episodes
            failed |= more.failed
        return Collected(done, failed)

    def choose(
        self, session: SupervisedSession[OffPolicyConfig], episodes: Sequence[Episode]
    ) -> Chosen:
        """The traces that end right; the last attempt is learned from."""
        right = [e for e in episodes if e.correct[-1] and not defect(e.turns[-1])]
        chosen = [Example(episode=e, weights=[*[0.0] * (len(e.turns) - 1), 1.0]) for e in right]
        return Chosen(chosen, _by_kind(chosen))


class Lmsi:
    """First attempts that agree with the majority of their problem's."""

    def collect(
        self, session: SupervisedSession[LmsiConfig], problems: Sequence[Problem]
    ) -> Collected:
        """Many first attempts."""
        protocol = Intrinsic(session.prompts, 1)
        return Collected(session.sample(problems, protocol, samples=session.config.samples))

    def choose(self, session: SupervisedSession[LmsiConfig], episodes: Sequence[Episode]) -> Chosen:
        """Distinct attempts whose answer won their problem's vote; gold answers play no part."""
        chosen = []
        for group in same_problem_groups(episodes):
            members = [episodes[index] for index in group]
            agreeing = majority_group([episode.turns[0].grade.answer for episode in members])
            if len(agreeing) < session.config.agreement * len(members):
                continue
            said: set[str] = set()
            for index in agreeing:
                turn = members[index].turns[0]
                if not defect(turn) and turn.attempt not in said:
                    said.add(turn.attempt)
                    chosen.append(Example(episode=members[index], weights=[1.0]))
        right = sum(example.episode.correct[0] for example in chosen)
        return Chosen(chosen, {"attempts_right": right})


def _off_policy(session: SupervisedSession[OffPolicyConfig]) -> OffPolicy:
    return OffPolicy(open_teacher(session.config, session.teacher_folder, session.progress))


RECIPES: dict[str, Callable[[SupervisedSession[Any]], Recipe[Any]]] = {
    "star": lambda session: Star(),
    "pair-sft": lambda session: PairSft(),
    "bon-sft": lambda session: Rise(needed_teacher(session)),
    "off-policy-sft": _off_policy,
    "lmsi": lambda session: Lmsi(),
}
"""The recipe of every supervised baseline by the name of its command."""


def train(name: str, config: SupervisedConfig, progress: Progress | None = None) -> Path:
    """Train baseline `name` from the beginning; returns the run's folder.

    Raises:
        UserError: anything in the configuration, the model or the data that cannot work.
    """
    session = SupervisedSession.create(config, f"train {name}", progress or Silent())
    return train_supervised(session, RECIPES[name](session))


def resume(folder: Path, progress: Progress | None = None) -> Path:
    """Go on with a run from its newest complete checkpoint.

    Raises:
        UserError: the folder is not such a run's.
    """
    name = Run.open(folder).command.removeprefix("train ")
    if name not in BASELINES:
        raise UserError(f"{folder}: not a run of {', '.join(BASELINES)}")
    session = SupervisedSession.reopen(folder, BASELINES[name], progress or Silent())
    return train_supervised(session, RECIPES[name](session))


def _by_kind(examples: Sequence[Example]) -> dict[str, float]:
    """How many examples correct something and how many confirm it."""
    corrected = sum(not all(example.episode.correct[:-1]) for example in examples)
    return {"corrections": corrected, "confirmations": len(examples) - corrected}
