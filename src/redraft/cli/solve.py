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
from redraft.evaluation.strategies_solve import SolveSettings

if TYPE_CHECKING:
    from redraft.evaluation.strategies_play import Attempt, Trial

Json = Annotated[bool, Parameter(help="Print everything as one JSON list.", negative=())]
Question = Annotated[
    str | None, Parameter(help="The question; or give --file.", allow_leading_hyphen=True)
]

LONGEST = 4_000
"""Characters of a text that are shown."""


def _solve(config: SolveSettings, question: Question = None, /, *, json: Json = False) -> int:
    from redraft.evaluation.strategies_solve import as_json, solve

    trials = solve(config, question, progress=terminal_progress())
    if json:
        print_json([as_json(trial, config) for trial in trials])
    else:
        for trial in trials:
            console().print(_panel(trial, config))
    return int(any(trial.failed is not None for trial in trials))


def _panel(trial: "Trial", config: SolveSettings) -> Panel:
    parts: list[Text] = [Text(_cut(trial.problem.question), style="bold")]
    for number, attempt in enumerate(trial.attempts, start=1):
        parts += [Text(), Text(_heading(trial, attempt, number), style="cyan")]
        parts.append(Text(_cut(attempt.turn.attempt.strip()) or "(nothing)"))
        if attempt.kind == "program":
            parts += [Text("output", style="dim"), Text(_cut(attempt.turn.feedback or "(none)"))]
    parts += [Text(), Text(_outcome(trial, config), style="bold green")]
    return Panel(Group(*parts), title=Text(config.strategy), title_align="left")


def _heading(trial: "Trial", attempt: "Attempt", number: int) -> str:
    from redraft.evaluation.strategies_solve import refined_chain

    place = refined_chain(trial, attempt)
    after = "" if place is None else f" after attempt {place + 1}"
    cut = ", cut at the length limit" if attempt.turn.truncated else ""
    said = "no answer" if attempt.answer is None else f"answer {printable(attempt.answer)}"
    return f"attempt {number}, {attempt.kind}{after}: {said} ({attempt.tokens} tokens{cut})"


def _outcome(trial: "Trial", config: SolveSettings) -> str:
    from redraft.evaluation.strategies import uses_oracle

    if trial.failed is not None:
        return f"not solved: {printable(trial.failed)}"
    chosen = trial.answered
    answer = "none" if chosen is None or chosen.answer is None else printable(chosen.answer)
    if trial.problem.gold and chosen is not None:
        answer += " (right)" if chosen.correct else " (wrong)"
    if uses_oracle(config.strategy, config):
        answer += ", selected by the gold answer"
    tokens = sum(attempt.tokens for attempt in trial.usable)
    runs = sum(attempt.executions for attempt in trial.usable)
    return f"answer: {answer}; {len(trial.usable)} samples, {tokens} tokens, {runs} programs run"


def _cut(text: str) -> str:
    shown = printable(text[:LONGEST])
    return shown if len(text) <= LONGEST else f"{shown} … ({len(text):,} characters)"


solve = command(SolveSettings, _solve)
