"""HumanEval: functions to complete, graded by hidden tests (arXiv 2107.03374)."""

from pathlib import Path

from redraft.chat.prompts import SCORE_CODE
from redraft.grading.code import CodeGrader
from redraft.tasks.base import Posed, TaskEntry
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.rows import Hub, Row

NAME = "humaneval"
HUB = {"test": Hub("openai/openai_humaneval", None, "test")}


def read(row: Row) -> Posed:
    """A row with `prompt`, `test` (which defines `check`), `entry_point` and `task_id`.

    The gold is the canonical solution as a whole program; the tests stay in the metadata and are
    never shown.
    """
    prompt, entry_point = row.text("prompt"), row.text("entry_point")
    metadata = {
        "prompt": prompt,
        "entry_point": entry_point,
        "tests": f"{row.text('test')}\n\ncheck({entry_point})\n",
    }
    gold = prompt + str(row.fields.get("canonical_solution") or "")
    return Posed(prompt, gold, metadata, row.text("task_id"))


def humaneval(data: Path | None = None) -> DatasetTask:
    """The task, from the hub or a local copy."""
    return DatasetTask(
        name=NAME,
        grader=CodeGrader(),
        prompts=SCORE_CODE,
        read=read,
        hub=HUB,
        data=data,
        id_field="task_id",
    )


TASK = TaskEntry(
    NAME,
    "Python functions to complete, graded by hidden tests (openai/openai_humaneval)",
    humaneval,
)
