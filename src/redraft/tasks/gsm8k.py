"""GSM8K: grade-school word problems with integer answers (arXiv 2110.14168)."""

from pathlib import Path

from redraft.chat.prompts import SCORE_MATH
from redraft.grading import NumberGrader
from redraft.grading.extract import extract_answer
from redraft.tasks.base import Posed, TaskEntry
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.rows import Hub, Row

NAME = "gsm8k"
HUB = {split: Hub("openai/gsm8k", "main", split) for split in ("train", "test")}


def read(row: Row) -> Posed:
    """A row with `question` and a worked `answer` that ends in "#### GOLD".

    The transcripts of the GSM8K repository call the worked answer `ground_truth` and end it in
    "A: GOLD"; they are read too. A gold keeps its thousands separators as written ("1,600").
    """
    solution = row.text("answer", "ground_truth", null="")
    return Posed(row.text("question"), extract_answer(solution) or "", {"solution": solution})


def gsm8k(data: Path | None = None) -> DatasetTask:
    """The task, from the hub or a local copy."""
    return DatasetTask(
        name=NAME, grader=NumberGrader(), prompts=SCORE_MATH, read=read, hub=HUB, data=data
    )


TASK = TaskEntry(NAME, "grade-school word problems with number answers (openai/gsm8k)", gsm8k)
