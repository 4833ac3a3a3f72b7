"""`redraft locate`: the first wrong step of worked solutions given as JSON Lines."""

import json as json_format
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

from cyclopts import Parameter

from redraft.errors import UserError
from redraft.storage import complete_lines, numbered_lines
from redraft.tasks import get_task
from redraft.tasks.base import TASKS
from redraft.tasks.rows import Row, parse_lines
from redraft.tasks.steps import StepFormat, StepVerdict

CHUNK = 256
"""Rows checked together."""


def locate(
    file: Annotated[
        Path | None,
        Parameter(
            help="JSON Lines; `-` or nothing reads them from stdin.", allow_leading_hyphen=True
        ),
    ] = None,
    /,
    *,
    task: Annotated[
        str,
        Parameter(
            help="A task with a script that checks steps, such as bbh/multistep_arithmetic or "
            "bbh/word_sorting (`bbh/` may be left out)."
        ),
    ],
    json: Annotated[
        bool, Parameter(help="Print the summary, too, as JSON (on stderr).", negative=())
    ] = False,
) -> None:
    """Verdicts to stdout, their agreement with labels to stderr."""
    steps = checked_steps(task)
    if file is None or str(file) == "-":
        source, lines = "stdin", numbered_lines(sys.stdin.buffer, "stdin")
    else:
        source, lines = str(file), complete_lines(file)
    summary = locate_rows(lines, steps, sys.stdout, source)
    if summary.rows == 0:
        raise UserError(f"{source}: no rows to check; expected a JSON object on each line")
    if json:
        print(json_format.dumps(asdict(summary)), file=sys.stderr)
    else:
        for line in summary.lines():
            print(line, file=sys.stderr)


def checked_steps(task: str) -> StepFormat:
    """The step format of a task, whose name may lack its `bbh/`.

    Raises:
        UserError: there is no such task, or no script that checks its steps.
    """
    made = get_task(f"bbh/{task}" if f"bbh/{task}" in TASKS else task)
    if made.steps is None or made.steps.script is None:
        raise UserError(
            f"task {task!r} has no script that checks steps; bbh/multistep_arithmetic and "
            "bbh/word_sorting have one"
        )
    return made.steps


@dataclass
class LocateSummary:
    """How many rows there were, what was found, and how often labels agree.

    An unreadable row agrees with no label.
    """

    rows: int = 0
    wrong: int = 0
    unreadable: int = 0
    labelled: int = 0
    agreeing: int = 0

    def lines(self) -> Iterator[str]:
        """The summary for a person."""
        yield (
            f"{self.rows} rows: {self.wrong} with a wrong step, "
            f"{self.rows - self.wrong - self.unreadable} without, {self.unreadable} unreadable"
        )
        if self.labelled:
            share = 100 * self.agreeing / self.labelled
            yield f"agreement with labels: {share:.2f} %, {self.agreeing} of {self.labelled}"


@dataclass(frozen=True)
class _Solution:
    """A row that holds a worked solution, and the label that it brought, if any."""

    fields: dict[str, Any]
    question: str
    steps: list[str]
    is_labelled: bool
    label: int | None


def locate_rows(
    lines: Iterable[tuple[int, str]], steps: StepFormat, out: TextIO, source: str
) -> LocateSummary:
    """Check JSON Lines of worked solutions; write each row to `out` with its verdict, in order.

    A row holds `input` and `steps`, a list of text. It comes back with `mistake_index` (0-based,
    null for none), `span`, `reason`, `check` and `readable`. A `mistake_index` that it brings is a
    label and comes back as `label` (in rows that this command wrote, `label` is kept).

    Args:
        lines: number and text of each line.
        steps: whose script decides.
        out: where the rows go.
        source: the file's name, for messages.

    Raises:
        UserError: a line is not a JSON object, lacks a field or has one of another type. All rows
            before it have been checked and written.
    """
    summary = LocateSummary()
    written = ((n, line) for n, line in lines if line.strip())
    rows = parse_lines(written, source, surrogates=True)
    while True:
        chunk: list[_Solution] = []
        broken: UserError | None = None
        try:
            for row in islice(rows, CHUNK):
                chunk.append(_solution(row))  # noqa: PERF401 (what was read before an error counts)
        except UserError as error:
            broken = error
        verdicts = steps.check([(row.question, row.steps) for row in chunk])
        for solution, verdict in zip(chunk, verdicts, strict=True):
            _count(summary, solution, verdict)
            out.write(json_format.dumps(_written(solution, verdict)) + "\n")
        out.flush()
        if broken:
            raise broken
        if not chunk:
            return summary


def _solution(row: Row) -> _Solution:
    steps = row.fields.get("steps")
    question = row.text("input")
    if steps is None:
        row.text("steps")  # says that the field is missing
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise UserError(f"{row.where}: field 'steps' is not a list of text; expected one per step")
    is_ours = "readable" in row.fields and "mistake_index" in row.fields
    field = "label" if is_ours else "mistake_index"
    label = row.fields.get(field)
    if isinstance(label, bool) or not isinstance(label, int | None) or (label or 0) < 0:
        raise UserError(
            f"{row.where}: field {field!r} is {json_format.dumps(label)[:40]}; "
            "expected the 0-based number of a step, or null for no mistake"
        )
    return _Solution(dict(row.fields), question, steps, field in row.fields, label)


def _written(solution: _Solution, verdict: StepVerdict) -> dict[str, Any]:
    found = asdict(verdict)
    label = {"label": solution.label} if solution.is_labelled else {}
    return solution.fields | label | {"mistake_index": found.pop("step"), **found}


def _count(summary: LocateSummary, solution: _Solution, verdict: StepVerdict) -> None:
    summary.rows += 1
    summary.wrong += verdict.step is not None
    summary.unreadable += not verdict.readable
    summary.labelled += solution.is_labelled
    summary.agreeing += solution.is_labelled and verdict.readable and verdict.step == solution.label
