"""`redraft solve`: answer one question, or a file of them, and show how."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import console, print_json
from redraft.evaluation.examples import printable
from redraft.evaluation.settings import STRATEGIES, SolveSettings

if TYPE_CHECKING:
    from redraft.evaluation.strategies import Sample, Trial

Json = Annotated[bool, Parameter(help="Print everything as one JSON list.", negative=())]
Question = Annotated[
    str | None, Parameter(help="The question; or give --file.", allow_leading_hyphen=True)
]

LONGEST = 4_000
"""Characters of a text that are shown."""


def _solve(config: SolveSettings, question: Question = None, /, *, json: Json = False) -> int:
    from redraft.evaluation.solve import as_json, solve

    trials = solve(config, question, progress=terminal_progress())
    if json:
        print_json([as_json(trial, config) for trial in trials])
    else:
        for trial in trials:
            console().print(_panel(trial, config))
    return int(any(trial.failed is not None for trial in trials))


def _panel(trial: "Trial", config: SolveSettings) -> Panel:
    from redraft.evaluation.solve import output_of

    parts: list[Text] = [Text(_cut(trial.problem.question), style="bold")]
    for number, sample in enumerate(trial.samples, start=1):
        parts += [Text(), Text(_heading(trial, sample, number), style="cyan")]
        parts.append(Text(_cut(sample.turn.text.strip()) or "(nothing)"))
        if sample.kind == "program":
            parts += [Text("output", style="dim"), Text(_cut(output_of(sample) or "(none)"))]
    parts += [Text(), Text(_outcome(trial, config), style="bold green")]
    return Panel(Group(*parts), title=Text(config.strategy), title_align="left")


def _heading(trial: "Trial", sample: "Sample", number: int) -> str:
    from redraft.evaluation.solve import refined_chain

    place = refined_chain(trial, sample)
    after = "" if place is None else f" after sample {place + 1}"
    cut = ", cut at the length limit" if sample.turn.truncated else ""
    said = "no answer" if sample.answer is None else f"answer {printable(sample.answer)}"
    return f"sample {number}, {sample.kind}{after}: {said} ({sample.tokens} tokens{cut})"


def _outcome(trial: "Trial", config: SolveSettings) -> str:
    if trial.failed is not None:
        return f"not solved: {printable(trial.failed)}"
    chosen = trial.answered
    answer = "none" if chosen is None or chosen.answer is None else printable(chosen.answer)
    if trial.problem.gold and chosen is not None:
        answer += " (right)" if chosen.correct else " (wrong)"
    if STRATEGIES[config.strategy].uses_oracle(config):
        answer += ", selected by the gold answer"
    tokens = sum(sample.tokens for sample in trial.usable)
    runs = sum(sample.executions for sample in trial.usable)
    return f"answer: {answer}; {len(trial.usable)} samples, {tokens} tokens, {runs} programs run"


def _cut(text: str) -> str:
    shown = printable(text[:LONGEST])
    return shown if len(text) <= LONGEST else f"{shown} … ({len(text):,} characters)"


solve = command(SolveSettings, _solve)
