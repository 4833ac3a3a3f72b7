"""`redraft solve`: answer one question, or a file of them, and show how."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Self

from cyclopts import Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import console, print_json
from redraft.evaluation.examples import printable
from redraft.evaluation.settings import STRATEGIES, SolveSettings
from redraft.progress import Forecast

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

    progress = terminal_progress()
    if question is not None and not json and sys.stdout.isatty():
        with _Transcript(console()) as shown:
            trials = solve(
                config, question, progress=progress, follow=shown.follow, watch=shown.watch
            )
        console().print(Group(*_parts(trials[0], config, texts=False)))
    else:
        trials = solve(config, question, progress=progress)
        if json:
            print_json([as_json(trial, config) for trial in trials])
        for trial in [] if json else trials:
            parts = Group(*_parts(trial, config))
            console().print(Panel(parts, title=Text(config.strategy), title_align="left"))
    return int(any(trial.failed is not None for trial in trials))


class _Transcript:
    """The responses to one question on a terminal, as they are written.

    Of responses that are written side by side one is shown at a time, in the order of the samples:
    a later one from its beginning, when those before it are whole. Below it stands how many tokens
    there are of all, and how many come in a second.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, refresh_per_second=8)
        self._forecast = Forecast(None)  # begun anew when the model is loaded
        self._texts: dict[int, str] = {}
        self._whole: set[int] = set()
        self._current = 0
        self._begun = False  # whether the current text has its heading
        self._shown = 0  # characters of it that are shown
        self._line = ""  # the last of them, which are no whole line yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._live.stop()
        if self._forecast.tokens and failed is None:
            self._console.print(Text(f"{self._speed()}\n", style="dim"))

    def watch(self, tokens: int, responses: int) -> None:
        """See `redraft.engines.base.Watch`."""
        if not self._live.is_started:
            self._forecast = Forecast(None)
            self._live.start()
        self._forecast.add(tokens, responses)
        self._refresh()

    def follow(self, trial: "Trial", sample: int, read: Callable[[], str], whole: bool) -> bool:
        """See `redraft.evaluation.strategies.FollowTrial`."""
        self._texts[sample] = read()
        self._whole |= {sample} if whole else set()
        while self._current in self._texts:
            self._write()
            if self._current not in self._whole:
                break
            self._current, self._begun, self._shown = self._current + 1, False, 0
        self._refresh()
        return True

    def _write(self) -> None:
        """Print what is new of the current text, but for a line that is not whole."""
        if not self._begun:
            self._begun = True
            self._console.print(Text(f"\nsample {self._current + 1}", style="cyan"))
        text = self._texts[self._current].lstrip()
        self._line += printable(text[self._shown :])
        self._shown = len(text)
        *lines, self._line = self._line.split("\n")
        words = self._line.rstrip(" ")
        wrapped = Text(words).wrap(self._console, self._console.width)
        if len(wrapped) > 1:
            lines += [line.plain for line in wrapped[:-1]]
            self._line = wrapped[-1].plain + self._line[len(words) :]
        if self._current in self._whole:
            lines, self._line = [*lines, self._line], ""
        for line in lines:
            self._console.print(Text(line))

    def _refresh(self) -> None:
        self._live.update(Group(Text(self._line), Text(self._speed(), style="dim")))

    def _speed(self) -> str:
        return f"{self._forecast.tokens:,} tokens, {self._forecast.rate:,.1f} a second"


def _parts(trial: "Trial", config: SolveSettings, texts: bool = True) -> list[Text]:
    """The question, every response and the outcome; without `texts`, what belongs to those that
    were shown."""
    from redraft.evaluation.solve import output_of

    parts = [Text(_cut(trial.problem.question), style="bold")] if texts else []
    for number, sample in enumerate(trial.samples, start=1):
        parts += [Text()] if texts else []
        parts.append(Text(_heading(trial, sample, number), style="cyan"))
        if texts:
            parts.append(Text(_cut(sample.turn.text.strip()) or "(nothing)"))
        if sample.kind == "program":
            parts += [Text("output", style="dim"), Text(_cut(output_of(sample) or "(none)"))]
    return [*parts, Text(), Text(_outcome(trial, config), style="bold green")]


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
