"""Tasks: where problems come from and everything that belongs to them.

One file or folder holds each family of datasets and registers its tasks as entry points of the
group `redraft.tasks`, as any other package can.
"""

from pathlib import Path

from redraft.tasks.base import TASKS, Loaded, Posed, Split, Task, TaskEntry
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.generated import GeneratedTask
from redraft.tasks.grade_rows import GradeSummary, grade_rows

__all__ = [
    "DatasetTask",
    "GeneratedTask",
    "GradeSummary",
    "Loaded",
    "Posed",
    "Split",
    "Task",
    "TaskEntry",
    "get_task",
    "grade_rows",
]


def get_task(
    name: str,
    data: str | Path | None = None,
    *,
    grader: str | None = None,
    question_field: str | None = None,
    gold_field: str | None = None,
) -> Task:
    """The registered task called `name`.

    Args:
        name: as `redraft tasks` lists them.
        data: a local file or folder to read it from instead of the hub.
        grader: for `jsonl` only, the grader's name (`redraft.grading.named_grader`); default
            `math`.
        question_field: for `jsonl` only, the field with the question.
        gold_field: for `jsonl` only, the field with the gold answer.

    Raises:
        UserError: no such task or grader, or an option that the task does not take.
    """
    return TASKS[name].open(
        {
            "data": None if data is None else Path(data),
            "grader": grader,
            "question_field": question_field,
            "gold_field": gold_field,
        }
    )
