"""`redraft solve`: a strategy on questions of the user's own, with all that was sampled."""

from pathlib import Path
from typing import Any

from redraft.errors import UserError
from redraft.evaluation.opening import open_engine, open_samplers
from redraft.evaluation.settings import ANY_TASK, STRATEGIES, SolveSettings
from redraft.evaluation.strategies import Sample, Trial, play_strategy
from redraft.models import MODELS
from redraft.progress import Progress, Silent
from redraft.storage import complete_lines
from redraft.tasks.rows import parse_lines
from redraft.types import Problem
from redraft.workers import set_workers

AT_ONCE = 64
"""Questions that are solved together."""


def solve(
    config: SolveSettings, question: str | None, progress: Progress | None = None
) -> list[Trial]:
    """Play the strategy on one question, or on those of `config.file`.

    Raises:
        UserError: no question or two sources of them, an oracle without gold answers, or whatever
            cannot work in the settings, the model or the sandbox.
    """
    problems, progress = read_questions(config, question), progress or Silent()
    strategy = STRATEGIES[config.strategy]
    if strategy.uses_oracle(config) and not all(problem.gold for problem in problems):
        raise UserError(
            "--select oracle needs the gold answer of every question; give a --file of JSON Lines "
            "with `gold`, or select by agreement or vote"
        )
    config.confinement()
    set_workers(config.workers)
    posed = _posed(config, problems)
    task, prompts = posed.open_task(), posed.open_prompts()
    engine = open_engine(posed, posed.model, prompts, progress=progress)
    [sampler] = open_samplers(posed, posed, task, engine, prompts, progress=progress)
    trials: list[Trial] = []
    with progress.phase("solving", len(problems)) as bar:
        for begin in range(0, len(problems), AT_ONCE):
            chunk = problems[begin : begin + AT_ONCE]
            trials += play_strategy(strategy, sampler, chunk, config)
            bar.advance(len(chunk))
    return trials


def _posed(config: SolveSettings, problems: list[Problem]) -> SolveSettings:
    """The settings with the task that says how the questions are posed: the model's own, where it
    knows the texts of a few tasks only."""
    if config.task != ANY_TASK:
        return config
    task_for = MODELS[config.model].task_for if config.model in MODELS else None
    if task_for is not None:
        return config.model_copy(update={"task": task_for(problems[0].question)})
    return config.model_copy(update={"data": Path("-")})  # the questions are its rows


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


def as_json(trial: Trial, config: SolveSettings) -> dict[str, Any]:
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
        "attempts": [_sample_json(trial, sample, known) for sample in trial.samples],
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


def _sample_json(trial: Trial, sample: Sample, known: bool) -> dict[str, Any]:
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
