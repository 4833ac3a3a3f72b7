"""`redraft grade`: verdicts on answers given as JSON Lines."""

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from redraft.errors import UserError
from redraft.grading import StagedGrader, runs_programs
from redraft.grading.confinement import SandboxNeed, check_sandbox
from redraft.storage import complete_lines, numbered_lines
from redraft.tasks import get_task, grade_rows
from redraft.tasks.base import Task
from redraft.types import Problem


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
    explain: Annotated[
        tuple[str, str] | None,
        Parameter(
            help="Two texts, a gold answer and a response: say how both are read, which rule "
            "compares them, and the verdict. No file is read.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    json: Annotated[
        bool,
        Parameter(
            help="Print the accuracy, too, as JSON (on stderr), and how programs were confined.",
            negative=(),
        ),
    ] = False,
) -> None:
    """Verdicts to stdout, the accuracy to stderr."""
    if explain is not None:
        _explain(get_task(task, data or Path("-"), grader=grader), *explain, as_json=json)
        return
    if file is None or str(file) == "-":
        source, lines = "stdin", numbered_lines(sys.stdin.buffer, "stdin")
    else:
        source, lines = str(file), complete_lines(file)
    if data is None and task == "jsonl":
        data = Path("-")  # this task needs to know where its problems are; rows bring their own
    chosen = get_task(task, data, grader=grader)
    confinement = check_sandbox(sandbox) if runs_programs(chosen.grader) else None
    summary = grade_rows(lines, chosen, sys.stdout, source)
    if summary.rows == 0:
        raise UserError(f"{source}: no rows to grade; expected a JSON object on each line")
    if json:
        report = asdict(summary) | ({} if confinement is None else {"sandbox": confinement})
        print(json_format.dumps(report), file=sys.stderr)
    else:
        for line in summary.lines():
            print(line, file=sys.stderr)


def _explain(task: Task, gold: str, response: str, as_json: bool) -> None:
    """Print how a response is read and compared with a gold answer."""
    if runs_programs(task.grader):
        raise UserError(
            f"--explain compares answers; programs of task {task.name!r} are judged by their tests"
        )
    if isinstance(task.grader, StagedGrader) and (fault := task.grader.gold_faults([gold])[0]):
        raise UserError(fault)
    problem = Problem(id="", task=task.name, question="", gold=gold)
    grade = task.grader(problem, response)
    if as_json:
        print(json_format.dumps({"gold": gold, **grade.model_dump(), "correct": grade.correct}))
        return
    print(f"gold      {gold}")
    print(f"answer    {'none' if grade.answer is None else grade.answer}")
    print(f"readings  {grade.reason or '-'}")
    print(f"rule      {grade.decided_by}")
    print(f"verdict   {'right' if grade.correct else 'wrong'}")
