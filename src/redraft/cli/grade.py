"""`redraft grade`: verdicts on answers given as JSON Lines."""

import json as json_format
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from redraft.episode import complete_lines
from redraft.errors import UserError
from redraft.tasks import get_task, grade_rows


def grade(
    file: Annotated[
        Path | None, Parameter(help="JSON Lines; by default they are read from stdin.")
    ] = None,
    /,
    *,
    task: Annotated[str, Parameter(help="Whose grader decides; `redraft tasks` lists them.")],
    grader: Annotated[
        str | None,
        Parameter(help="For --task jsonl: exact, number, math, choice, or `module:function`."),
    ] = None,
    json: Annotated[
        bool, Parameter(help="Print the accuracy, too, as JSON (on stderr).", negative=())
    ] = False,
) -> None:
    """Verdicts to stdout, the accuracy to stderr."""
    if file is None:
        source, lines = "stdin", _stdin()
    else:
        source, lines = str(file), complete_lines(file)
    summary = grade_rows(lines, get_task(task, _no_data(task), grader=grader), sys.stdout, source)
    if json:
        print(json_format.dumps(asdict(summary)), file=sys.stderr)
    else:
        for line in summary.lines():
            print(line, file=sys.stderr)


def _no_data(task: str) -> Path | None:
    """The user's own task wants to be told where its problems are; graded rows bring their own."""
    return Path("-") if task == "jsonl" else None


def _stdin() -> Iterable[tuple[int, str]]:
    try:
        yield from enumerate(sys.stdin, start=1)
    except UnicodeDecodeError as error:
        raise UserError(
            f"stdin: not UTF-8 text (byte {error.start}); expected JSON Lines"
        ) from None
