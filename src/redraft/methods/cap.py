"""CaP (arXiv 2412.16871): refining a chain of thought with a program that really runs.

    sample       n_C chains of each question, from the policy or from other models
                 n_P programs after each chain, from the policy; run in the sandbox, labelled
    fine-tune    (question, chain) → right program; nothing else carries loss
    prefer       right over copied, wrong and broken programs, on the same question and chain

The two training stages are the paper's; labels, pair types and all numbers are this project's
(`docs/methods/cap.md`). The variant `pot` is the baseline: question → program, no chain.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from redraft.credit.imitation import Example
from redraft.credit.pairs import Label, sft_examples
from redraft.engines import Failed
from redraft.episode import Episode, Problem, Turn
from redraft.evaluation.refinement import label_of, program_of
from redraft.grading import grade_all
from redraft.grading.program import ProgramGrader
from redraft.methods.cap_config import POLICY, CapConfig
from redraft.methods.cap_preference import prefer
from redraft.methods.rise import by_teacher
from redraft.methods.supervised import Chosen, Collected, SupervisedSession, iterate
from redraft.methods.teacher import Teacher, open_teacher
from redraft.progress import Progress, Silent
from redraft.protocols import ChainToProgram, Intrinsic, ProgramAlone, program_prompts_for

__all__ = ["Cap", "CapConfig", "resume", "train"]

CapSession = SupervisedSession[CapConfig]


def train(config: CapConfig, progress: Progress | None = None) -> Path:
    """Train from the beginning; returns the run's folder.

    Raises:
        UserError: anything in the configuration, the model, the data or the sandbox that cannot
            work; a sandbox below `strict`, if that is asked for, before anything is sampled.
    """
    return _train(SupervisedSession.create(config, "train cap", progress or Silent()))


def resume(folder: Path, progress: Progress | None = None) -> Path:
    """Go on with a run from its newest complete checkpoint.

    Raises:
        UserError: the folder is not such a run's; and as `train`.
    """
    return _train(SupervisedSession.reopen(folder, CapConfig, progress or Silent()))


def _train(session: CapSession) -> Path:
    config = session.config
    recipe = Cap(session)
    iterate(session, recipe)
    if config.preference is not None and session.iteration == config.iterations + 1:
        prefer(session, recipe, config.preference)
    return session.finish()


class Cap:
    """The recipe: what an iteration plays, and which programs are imitated."""

    def __init__(self, session: CapSession) -> None:
        config = session.config
        self.programs = program_prompts_for(config.task, config.program_prompts)
        self.grader = ProgramGrader(session.task.grader, config.limits)
        self.teachers: dict[str, Teacher] = {
            name: open_teacher(
                config.teacher_of(name),
                session.run.folder / "sources" / f"{number}",
                session.progress,
                flag="--sources",
            )
            for number, name in enumerate(config.source_names)
            if name != POLICY and config.variant == "cap"
        }

    def collect(self, session: CapSession, problems: Sequence[Problem]) -> Collected:
        """Chains, and programs after each; or programs after the question alone."""
        config = session.config
        if config.variant == "pot":
            played = session.sample(
                problems,
                ProgramAlone(self.programs),
                samples=config.chains * config.programs,
                grader=self.grader,
            )
            return Collected(self._with_output(played))
        chains, failed = self._chains(session, problems)
        played = session.sample(
            [problem for problem, _ in chains],
            ChainToProgram(session.prompts, self.programs),
            samples=config.programs,
            stream=1,
            given=[[chain] for _, chain in chains for _ in range(config.programs)],
            grader=self.grader,
        )
        return Collected(self._with_output(played), failed)

    def choose(self, session: CapSession, episodes: Sequence[Episode]) -> Chosen:
        """Right programs, as many after right chains as after wrong ones, none twice."""
        config = session.config
        programs = [program_of(episode) for episode in episodes]
        of = {id(program): e for program, e in zip(programs, episodes, strict=True)}
        right = sft_examples(
            programs, ratio=config.ratio, per_question=config.examples_per_question
        )
        examples = [
            Example(episode=of[id(p)], weights=[*[0.0] * (len(of[id(p)].turns) - 1), 1.0])
            for p in right
        ]
        after_right = sum(program.chain.correct for program in right)
        counts = {**count_by_label(episodes), "after_right_chain": after_right}
        return Chosen(examples, {**counts, "after_wrong_chain": len(right) - after_right})

    def _chains(
        self, session: CapSession, problems: Sequence[Problem]
    ) -> tuple[list[tuple[Problem, Turn]], dict[str, str]]:
        """Graded chains of every source, by problem; and why a source has none for a problem."""
        made: list[tuple[Problem, Turn]] = []
        failed: dict[str, str] = {}
        for name in session.config.source_names:
            if name == POLICY:
                alone = Intrinsic(session.prompts, 1)
                played = session.sample(problems, alone, samples=session.config.chains)
                made += [(e.problem, _by(POLICY, e.turns[0])) for e in played]
            else:
                theirs, missing = self._of_source(session, name, problems)
                made += theirs
                failed |= missing
        place = {problem.id: index for index, problem in enumerate(problems)}
        return sorted(made, key=lambda pair: place[pair[0].id]), failed

    def _of_source(
        self, session: CapSession, name: str, problems: Sequence[Problem]
    ) -> tuple[list[tuple[Problem, Turn]], dict[str, str]]:
        """Chains of another model."""
        number = session.config.source_names.index(name)
        key = [session.config.seed, session.step, session.part, number]
        key.append(session.accelerator.process_index)
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        teacher = self.teachers[name]
        sampling = replace(teacher.sampling, seed=seed, stop=session.prompts.stop)
        asked = [problem for problem in problems for _ in range(session.config.chains)]
        answers = replace(teacher, sampling=sampling).answer(
            [[m.model_dump() for m in session.prompts.opening(problem)] for problem in asked]
        )
        pairs = list(zip(asked, answers, strict=True))
        failed = {p.id: f"{name}: {a.reason}" for p, a in pairs if isinstance(a, Failed)}
        had = [(problem, a) for problem, a in pairs if not isinstance(a, Failed)]
        grades = grade_all(
            session.task.grader,
            [(problem, answer.text) for problem, answer in had],
            [answer.finish == "length" for _, answer in had],
        )
        turns = [
            (problem, by_teacher(answer, grade, session.dialogue.attempt(answer.text)))
            for (problem, answer), grade in zip(had, grades, strict=True)
        ]
        return [(problem, _by(name, turn)) for problem, turn in turns], failed

    def _with_output(self, played: Sequence[Episode]) -> list[Episode]:
        """The episodes numbered by problem, with what each program put out."""
        number: Counter[str] = Counter()
        episodes = []
        for episode in played:
            last = episode.turns[-1]
            said = "" if last.truncated else self.grader.output(last.attempt)
            turns = [*episode.turns[:-1], last.model_copy(update={"feedback": said})]
            sample = number[episode.problem.id]
            number[episode.problem.id] += 1
            episodes.append(episode.model_copy(update={"turns": turns, "sample": sample}))
        return episodes


def count_by_label(episodes: Sequence[Episode]) -> dict[str, float]:
    """Programs by label, every label named; and those after a wrong chain."""
    counts = Counter(label_of(episode) for episode in episodes)
    named: dict[str, float] = {name: counts[name] for name in get_args(Label)}
    named["wrong_chains"] = sum(
        len(episode.turns) == 2 and not episode.turns[0].grade.correct for episode in episodes
    )
    return named


def _by(source: str, turn: Turn) -> Turn:
    return turn.model_copy(update={"source": source})
