"""MATH and its 500-problem test subset: competition mathematics (arXiv 2103.03874, 2305.20050)."""

from pathlib import Path

from redraft.chat.prompts import SCORE_MATH
from redraft.grading import MathGrader
from redraft.grading.extract import extract_answer
from redraft.tasks.base import Posed, TaskEntry
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.rows import Hub, Row

NAME = "math"
HUB = {
    "train": Hub("DigitalLearningGmbH/MATH-lighteval", None, "train"),
    "test": Hub("HuggingFaceH4/MATH-500", None, "test"),
}
KEPT = ("subject", "type", "level")


def read(row: Row) -> Posed:
    r"""A row with `problem` and its gold: the `answer` field, else the last box of `solution`."""
    gold = row.text("answer", "solution", null="")
    if row.fields.get("answer") is None:
        gold = extract_answer(gold) or ""
    metadata = {name: row.fields[name] for name in KEPT if row.fields.get(name) is not None}
    unique_id = row.fields.get("unique_id")
    return Posed(row.text("problem"), gold, metadata, str(unique_id) if unique_id else None)


def math(data: Path | None = None) -> DatasetTask:
    """The task, from the hub or a local copy."""
    return DatasetTask(
        name=NAME, grader=MathGrader(), prompts=SCORE_MATH, read=read, hub=HUB, data=data
    )


TASK = TaskEntry(NAME, "competition mathematics: MATH's training problems, MATH-500 as test", math)
