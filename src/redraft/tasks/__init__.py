"""Tasks: where problems come from and how answers to them are graded.

`get_task` is the registry. One file holds each dataset family; the lab's tasks come from
`redraft.lab.tasks` and are no different once they are made.
"""

from pathlib import Path

from redraft.errors import UserError
from redraft.grading import named_grader
from redraft.tasks import gsm8k, humaneval, jsonl, math, mbpp
from redraft.tasks.bbh import DESCRIPTIONS as BBH_DESCRIPTIONS
from redraft.tasks.bbh import bbh_task
from redraft.tasks.bbh.cells import CELL_TASKS
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.grade_rows import GradeSummary, grade_rows
from redraft.tasks.task import Loaded, Split, Task

__all__ = [
    "DatasetTask",
    "GradeSummary",
    "Loaded",
    "Split",
    "Task",
    "get_task",
    "grade_rows",
    "task_descriptions",
]


def get_task(
    name: str,
    data: str | Path | None = None,
    *,
    grader: str | None = None,
    question_field: str | None = None,
    gold_field: str | None = None,
) -> Task:
    """The task called `name`.

    Args:
        name: one of `task_descriptions()`.
        data: a local file or folder to read it from instead of the hub.
        grader: for `jsonl` only, the grader's name (`redraft.grading.named_grader`); default
            `math`.
        question_field: for `jsonl` only, the field with the question.
        gold_field: for `jsonl` only, the field with the gold answer.

    Raises:
        UserError: no such task or grader, or an option that the task does not take.
    """
    path = None if data is None else Path(data)
    if name == jsonl.NAME:
        return jsonl.jsonl(path, named_grader(grader or "math"), question_field, gold_field)
    options = {
        "--grader": grader,
        "--question-field": question_field,
        "--gold-field": gold_field,
    }
    for option, value in options.items():
        if value is not None:
            raise UserError(f"task {name!r} takes no {option} (given {value!r}); 'jsonl' does")
    if name == gsm8k.NAME:
        return gsm8k.gsm8k(path)
    if name == math.NAME:
        return math.math(path)
    if name == humaneval.NAME:
        return humaneval.humaneval(path)
    if name == mbpp.NAME:
        return mbpp.mbpp(path)
    if name in BBH_DESCRIPTIONS:
        return bbh_task(name, path)
    generated = {**CELL_TASKS, **_lab_tasks()}
    if name not in generated:
        known = ", ".join(task_descriptions())
        raise UserError(f"unknown task {name!r}; expected one of: {known}")
    if path is not None:
        raise UserError(f"task {name!r} generates its problems; it takes no --data ({str(path)!r})")
    return generated[name]


def task_descriptions() -> dict[str, str]:
    """Name and one-line description of every task, for `redraft tasks`."""
    descriptions = {
        module.NAME: module.DESCRIPTION for module in (gsm8k, math, humaneval, mbpp, jsonl)
    }
    descriptions |= BBH_DESCRIPTIONS
    descriptions |= {name: task.description for name, task in CELL_TASKS.items()}
    return descriptions | {name: task.description for name, task in _lab_tasks().items()}


def _lab_tasks() -> dict[str, Task]:
    from redraft.lab.tasks import lab_tasks  # imported here: the lab is made of tasks itself

    return lab_tasks()
