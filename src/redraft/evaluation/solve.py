"""A strategy on questions of the user's own (`redraft solve`), with all that was sampled."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redraft.engines.base import Engine, Watch
from redraft.errors import UserError
from redraft.evaluation.opening import open_engine, open_samplers
from redraft.evaluation.settings import ANY_TASK, STRATEGIES, AnswerSettings, SolveSettings
from redraft.evaluation.strategies import (
    SELF,
    FollowTrial,
    Sample,
    Sampler,
    Strategy,
    Trial,
    play_strategy,
)
from redraft.models import MODELS
from redraft.progress import Progress, Seen, Silent
from redraft.storage import complete_lines
from redraft.tasks.rows import parse_lines
from redraft.types import Problem
from redraft.workers import set_workers

AT_ONCE = 64
"""Questions that are solved together."""


@dataclass
class Solver:
    """A strategy with its model, opened once for any number of questions."""

    config: AnswerSettings
    engine: Engine
    source: str
    writer: Engine | None
    """The engine of `source`, where that is another model."""
    samplers: dict[str, Sampler] = field(default_factory=dict)
    """By task: how its questions are posed and answers read."""

    @classmethod
    def open(cls, config: AnswerSettings, progress: Progress | None = None) -> "Solver":
        """Load the model.

        Raises:
            UserError: whatever cannot work in the settings, the model or the sandbox.
        """
        config.confinement()
        set_workers(config.workers)
        _posed(config, config.task).open_prompts()  # a mistake is reported before a model is loaded
        [source] = config.source_names
        engine = open_engine(config, config.model, progress=progress)
        writer = None if source == SELF else open_engine(config, source, progress=progress)
        return cls(config, engine, source, writer)

    @property
    def strategy(self) -> Strategy:
        """The strategy that the settings name."""
        return STRATEGIES[self.config.strategy]

    def task_of(self, question: str) -> str:
        """The task that says how a question is posed: that of the settings, or the model's own,
        where it knows the texts of a few tasks only."""
        task, model = self.config.task, self.config.model
        task_for = MODELS[model].task_for if model in MODELS else None
        return task if task != ANY_TASK or task_for is None else task_for(question)

    def sampler(self, task: str) -> Sampler:
        """What the strategy draws its samples from, for questions of a task.

        Raises:
            UserError: there are no such prompts, or a grader that does not fit the task.
        """
        if task not in self.samplers:
            posed = _posed(self.config, task).model_copy(update={"sources": SELF})
            [sampler] = open_samplers(
                posed, posed, posed.open_task(), self.engine, posed.open_prompts()
            )
            self.samplers[task] = replace(sampler, source=self.source, writer=self.writer)
        return self.samplers[task]


def solve(
    config: SolveSettings,
    question: str | None,
    progress: Progress | None = None,
    follow: FollowTrial | None = None,
    watch: Watch | None = None,
) -> list[Trial]:
    """Play the strategy on one question, or on those of `config.file`.

    Args:
        config: the settings.
        question: the one question.
        progress: is told how far it is.
        follow: is shown the responses as they are written, and `watch` their tokens, in place of
            progress.
        watch: see `follow`.

    Raises:
        UserError: no question or two sources of them, an oracle without gold answers, or whatever
            cannot work in the settings, the model or the sandbox.
    """
    problems, progress = read_questions(config, question), progress or Silent()
    if STRATEGIES[config.strategy].uses_oracle(config) and not all(p.gold for p in problems):
        raise UserError(
            "--select oracle needs the gold answer of every question; give a --file of JSON Lines "
            "with `gold`, or select by agreement or vote"
        )
    solver = Solver.open(config, progress)
    strategy, sampler = solver.strategy, solver.sampler(solver.task_of(problems[0].question))
    samples = strategy.most_samples(config)
    trials: list[Trial] = []
    shown = Silent() if follow else progress
    if watch is not None:
        watch(0, 0)  # the model is loaded
    with shown.phase("solving", len(problems) * samples, config.max_tokens) as bar:
        for begin in range(0, len(problems), AT_ONCE):
            chunk = problems[begin : begin + AT_ONCE]
            seen = Seen(watch or bar.watch)
            watched = replace(sampler, follow=follow, watch=seen.watch)
            trials += play_strategy(strategy, watched, chunk, config)
            bar.advance(len(chunk) * samples - seen.responses)  # what was not needed
    return trials


def _posed(config: AnswerSettings, task: str) -> AnswerSettings:
    """The settings for questions of a task; those of no task are themselves its rows."""
    data = Path("-") if task == ANY_TASK else config.data
    return config.model_copy(update={"task": task, "data": data})


def read_questions(config: SolveSettings, question: str | None) -> list[Problem]:
    """The questions as problems; their gold is empty where it is not known.

    Raises:
        UserError: none or too many sources, or a file that cannot be read.
    """
    if (question is None) == (config.file is None):
        raise UserError("solve: give one question, or --file with questions (and not both)")
    if question is not None:
        if not question.strip():
            raise UserError("solve: the question is empty")
        asked = [(question, "")]
    else:
        assert config.file is not None
        lines = complete_lines(config.file)
        if config.file.suffix != ".jsonl":
            asked = [(text.strip(), "") for _, text in lines]
        else:
            field, gold = config.question_field or "question", config.gold_field or "gold"
            rows = list(parse_lines(lines, str(config.file)))
            asked = [(r.text(field), r.text(gold) if gold in r.fields else "") for r in rows]
        if not asked:
            raise UserError(f"--file {config.file}: holds no question")
    return [
        Problem(id=f"question/{number}", task=config.task, question=text, gold=gold)
        for number, (text, gold) in enumerate(asked)
    ]


def as_json(trial: Trial, config: AnswerSettings) -> dict[str, Any]:
    """A trial as `redraft solve --json` prints it; verdicts where the gold answer is known."""
    chosen = trial.answered
    known = bool(trial.problem.gold)
    return {
        "id": trial.problem.id,
        "question": trial.problem.question,
        "strategy": config.strategy,
        "upper_bound": STRATEGIES[config.strategy].uses_oracle(config),
        "answer": None if chosen is None else chosen.answer,
        "chosen": None if chosen is None else trial.samples.index(chosen),
        **({"correct": chosen is not None and chosen.correct} if known else {}),
        "samples": len(trial.usable),
        "tokens": sum(sample.tokens for sample in trial.usable),
        "executions": sum(sample.executions for sample in trial.usable),
        "failed": trial.failed,
        "attempts": [sample_json(trial, sample, known) for sample in trial.samples],
    }


def refined_chain(trial: Trial, sample: Sample) -> int | None:
    """Place of the chain that a program refines among the trial's samples."""
    if sample.chain is None:
        return None
    texts = [one.turn.text if one.kind == "chain" else None for one in trial.samples]
    return texts.index(sample.chain.text)


def output_of(sample: Sample) -> str:
    """What a program printed, or why it did not come to its end."""
    return (sample.turn.grade and sample.turn.grade.output) or ""


def sample_json(trial: Trial, sample: Sample, known: bool) -> dict[str, Any]:
    """A sample as JSON; its verdict where the gold answer is `known`."""
    ran = {"output": output_of(sample), "refines": refined_chain(trial, sample)}
    return {
        "kind": sample.kind,
        "text": sample.turn.text,
        **(ran if sample.kind == "program" else {"source": sample.turn.source}),
        "answer": sample.answer,
        **({"correct": sample.correct} if known else {}),
        "truncated": sample.turn.truncated,
        "tokens": sample.tokens,
    }
