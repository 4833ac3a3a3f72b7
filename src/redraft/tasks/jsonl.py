"""The user's own problems: a file with a question and a gold answer in each row."""

from pathlib import Path

from redraft.errors import UserError
from redraft.grading import StagedGrader
from redraft.tasks.dataset import DatasetTask, Posed
from redraft.tasks.rows import Row

NAME = "jsonl"
DESCRIPTION = "your own file (--data FILE): rows with a question and a gold answer"
QUESTION_FIELDS = ("question", "problem", "prompt")
GOLD_FIELDS = ("gold", "answer")


def jsonl(
    data: Path | None,
    grader: StagedGrader,
    question_field: str | None = None,
    gold_field: str | None = None,
) -> DatasetTask:
    """The task. A row's other fields are kept as the problem's metadata; `id`, if any, names it.

    Raises:
        UserError: `data` is None: there is nothing to read.
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
            row.text(*question_fields),
            row.text(*gold_fields),
            rest,
            None if identity is None else str(identity),
        )

    return DatasetTask(NAME, DESCRIPTION, grader, read, {}, data)
