"""The user's own problems: a file with a question and a gold answer in each row."""

from pathlib import Path

from redraft.errors import UserError
from redraft.grading import named_grader
from redraft.tasks.base import Posed, TaskEntry
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.rows import Row

NAME = "jsonl"
QUESTION_FIELDS = ("question", "problem", "prompt")
GOLD_FIELDS = ("gold", "answer")
GRADER = "math"
"""What grades where no grader is named."""


def jsonl(
    data: Path | None = None,
    grader: str = GRADER,
    question_field: str | None = None,
    gold_field: str | None = None,
) -> DatasetTask:
    """The task. A row's other fields are kept as the problem's metadata; `id`, if any, names it.

    Raises:
        UserError: `data` is None, so that there is nothing to read, or there is no such grader.
    """
    if data is None:
        raise UserError("task 'jsonl' reads your own file; name it with --data PATH")
    question_fields = (question_field,) if question_field else QUESTION_FIELDS
    gold_fields = (gold_field,) if gold_field else GOLD_FIELDS

    def read(row: Row) -> Posed:
        used = {*question_fields, *gold_fields, "id"}
        rest = {name: value for name, value in row.fields.items() if name not in used}
        identity = row.fields.get("id")
        return Posed(
            row.text(*question_fields, flag="--question-field"),
            row.text(*gold_fields, null="", flag="--gold-field"),
            rest,
            None if identity is None else str(identity),
        )

    return DatasetTask(name=NAME, grader=named_grader(grader), read=read, data=data)


TASK = TaskEntry(
    NAME,
    "your own file (--data FILE): rows with a question and a gold answer",
    jsonl,
    takes=("data", "grader", "question_field", "gold_field"),
)
