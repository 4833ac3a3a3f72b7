"""`redraft grade`: verdicts on answers given as JSON Lines."""

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from redraft.episode import complete_lines, numbered_lines
from redraft.errors import UserError
from redraft.tasks import get_task, grade_rows


def grade(
    file: Annotated[
        Path | None,
        Parameter(
            help="JSON Lines; `-` or nothing reads them from stdin.", allow_leading_hyphen=True
        ),
    ] = None,
    /,
    *,
    task: Annotated[str, Parameter(help="Whose grader decides; `redraft tasks` lists them.")],
    data: Annotated[
        Path | None, Parameter(help="Where the task's own problems are, if the rows need them.")
    ] = None,
    grader: Annotated[
        str | None,
        Parameter(help="For --task jsonl: exact, number, math, choice, or `module:function`."),
    ] = None,
    json: Annotated[
        bool, Parameter(help="Print the accuracy, too, as JSON (on stderr).", negative=())
    ] = False,
) -> None:
    """Verdicts to stdout, the accuracy to stderr."""
    if file is None or str(file) == "-":
        source, lines = "stdin", numbered_lines(sys.stdin.buffer, "stdin")
    else:
        source, lines = str(file), complete_lines(file)
    if data is None and task == "jsonl":
        data = Path("-")  # this task must be told where its problems are; rows bring their own
    summary = grade_rows(lines, get_task(task, data, grader=grader), sys.stdout, source)
    if summary.rows == 0:
        raise UserError(f"{source}: no rows to grade; expected a JSON object on each line")
    if json:
        print(json_format.dumps(asdict(summary)), file=sys.stderr)
    else:
        for line in summary.lines():
            print(line, file=sys.stderr)
