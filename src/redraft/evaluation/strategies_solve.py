"""`redraft solve`: a strategy on questions of the user's own, with all that was sampled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from redraft.engines.http_settings import HttpSettings
from redraft.episode import Problem, complete_lines
from redraft.errors import UserError
from redraft.evaluation.settings import RolloutSettings
from redraft.evaluation.strategies import PLAYED, uses_oracle
from redraft.evaluation.strategies_play import Attempt, Trial, open_tables
from redraft.evaluation.strategies_settings import (
    StrategyChoice,
    StrategyName,
    check_strategies,
    runs_programs,
)
from redraft.models import LAB
from redraft.progress import Progress, Silent
from redraft.settings import AttemptSettings
from redraft.tasks.jsonl import NAME as ANY
from redraft.tasks.rows import parse_lines

AT_ONCE = 64
"""Questions that are solved together."""


class SolveSettings(AttemptSettings, StrategyChoice):
    """Which model answers which questions, and how."""

    task: str = ANY
    """Task that says how questions are posed and answers read; by default any question, with
    --grader (math)."""
    file: Path | None = None
    """Questions: JSON Lines with `question` and, if known, `gold`, or a text with one a line."""
    strategy: StrategyName = "cap"
    """chain, program, cap (a chain, then a program that refines it), majority-chains,
    majority-programs, majority-mix, best-chains, best-programs, best-cap, bonbon or adaptive."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of strategies that draw several samples."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest attempt."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling."""
    http: HttpSettings = HttpSettings()
    """How a model behind HTTP is asked."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto is float32 on a CPU and bfloat16 on a GPU."""

    @model_validator(mode="after")
    def _can_be_played(self) -> Self:
        check_strategies([self.strategy], self, self.temperature)
        if self.runs_programs and self.task != ANY:
            self.check_answers_are_printed()
        if "," in self.sources:
            raise ValueError(f"--sources {self.sources}: a question has one source of chains")
        return self

    @property
    def runs_programs(self) -> bool:
        """Whether the strategy runs programs; questions bring no tests that would."""
        return runs_programs(self.strategy, self)

    def rollout(self, questions: Sequence[Problem]) -> RolloutSettings:
        """The settings that models and graders are opened with.

        The lab's model knows the texts of the lab's tasks only: a question for it belongs to one of
        them unless told otherwise.
        """
        shared = set(RolloutSettings.model_fields)
        settings = RolloutSettings(**self.model_dump(include=shared))
        if self.task != ANY:
            return settings
        if self.model == LAB:
            kind = "sorting" if questions[0].question.startswith("Sort ") else "arithmetic"
            return settings.model_copy(update={"task": f"lab/{kind}"})
        return settings.model_copy(update={"data": Path("-")})  # rows bring what the task lacks


def solve(
    config: SolveSettings, question: str | None, progress: Progress | None = None
) -> list[Trial]:
    """Play the strategy on one question, or on those of `config.file`.

    Raises:
        UserError: no question or two sources of them, an oracle without gold answers, or whatever
            cannot work in the settings, the model or the sandbox.
    """
    problems = read_questions(config, question)
    if uses_oracle(config.strategy, config) and not all(problem.gold for problem in problems):
        raise UserError(
            "--select oracle needs the gold answer of every question; give a --file of JSON Lines "
            "with `gold`, or select by agreement or vote"
        )
    config.confinement()
    progress = progress or Silent()
    [table] = open_tables(config.rollout(problems), config, None, progress)
    trials = [Trial(problem, config) for problem in problems]
    with progress.phase("solving", len(trials)) as bar:
        for begin in range(0, len(trials), AT_ONCE):
            table.key, table.calls = [begin], 0
            chunk = trials[begin : begin + AT_ONCE]
            PLAYED[config.strategy](table, chunk, config)
            bar.advance(len(chunk))
    return trials


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
        return [_problem(config, 0, question, "")]
    assert config.file is not None
    lines = complete_lines(config.file)
    if config.file.suffix != ".jsonl":
        asked = [(text.strip(), "") for _, text in lines]
    else:
        field, gold = config.question_field or "question", config.gold_field or "gold"
        rows = list(parse_lines(lines, str(config.file)))
        asked = [(row.text(field), row.text(gold) if gold in row.fields else "") for row in rows]
    if not asked:
        raise UserError(f"--file {config.file}: holds no question")
    return [_problem(config, number, *one) for number, one in enumerate(asked)]


def as_json(trial: Trial, config: SolveSettings) -> dict[str, Any]:
    """A trial as `redraft solve --json` prints it; verdicts where the gold answer is known."""
    chosen = trial.answered
    known = bool(trial.problem.gold)
    return {
        "id": trial.problem.id,
        "question": trial.problem.question,
        "strategy": config.strategy,
        "upper_bound": uses_oracle(config.strategy, config),
        "answer": None if chosen is None else chosen.answer,
        "chosen": None if chosen is None else trial.attempts.index(chosen),
        **({"correct": chosen is not None and chosen.correct} if known else {}),
        "samples": len(trial.usable),
        "tokens": sum(attempt.tokens for attempt in trial.usable),
        "executions": sum(attempt.executions for attempt in trial.usable),
        "failed": trial.failed,
        "attempts": [_attempt_json(trial, attempt, known) for attempt in trial.attempts],
    }


def refined_chain(trial: Trial, attempt: Attempt) -> int | None:
    """Place of the chain that a program refines among the trial's attempts."""
    if attempt.chain is None:
        return None
    text = attempt.chain.attempt
    return next(
        number
        for number, other in enumerate(trial.attempts)
        if other.kind == "chain" and other.turn.attempt == text
    )


def _attempt_json(trial: Trial, attempt: Attempt, known: bool) -> dict[str, Any]:
    grade = attempt.turn.grade
    ran = {"output": attempt.turn.feedback, "refines": refined_chain(trial, attempt)}
    return {
        "kind": attempt.kind,
        "text": attempt.turn.attempt,
        **(ran if attempt.kind == "program" else {"source": attempt.turn.source}),
        "answer": attempt.answer,
        **({"correct": grade.correct} if known else {}),
        "truncated": attempt.turn.truncated,
        "tokens": attempt.tokens,
    }


def _problem(config: SolveSettings, number: int, question: str, gold: str) -> Problem:
    return Problem(id=f"question/{number}", task=config.task, question=question, gold=gold)
