"""`redraft grade`: verdicts on answers given as JSON Lines."""

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from redraft.episode import complete_lines, numbered_lines
from redraft.errors import UserError
from redraft.grading import runs_programs
from redraft.grading.confinement import SandboxNeed, check_sandbox
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
    sandbox: Annotated[
        SandboxNeed,
        Parameter(
            help="For tasks whose answers are programs, `best`: run them as well confined as this "
            "machine can; `strict`: refuse where one could reach the network, connect to a service "
            "of this machine, or write outside its folder."
        ),
    ] = "best",
    json: Annotated[
        bool,
        Parameter(
            help="Print the accuracy, too, as JSON (on stderr), and how programs were confined.",
            negative=(),
        ),
    ] = False,
) -> None:
    """Verdicts to stdout, the accuracy to stderr."""
    if file is None or str(file) == "-":
        source, lines = "stdin", numbered_lines(sys.stdin.buffer, "stdin")
    else:
        source, lines = str(file), complete_lines(file)
    if data is None and task == "jsonl":
        data = Path("-")  # this task must be told where its problems are; rows bring their own
    chosen = get_task(task, data, grader=grader)
    confinement = check_sandbox(sandbox) if runs_programs(chosen.grader) else None
    summary = grade_rows(lines, chosen, sys.stdout, source)
    if summary.rows == 0:
        raise UserError(f"{source}: no rows to grade; expected a JSON object on each line")
    if json:
        told = asdict(summary) | ({} if confinement is None else {"sandbox": confinement})
        print(json_format.dumps(told), file=sys.stderr)
    else:
        for line in summary.lines():
            print(line, file=sys.stderr)
