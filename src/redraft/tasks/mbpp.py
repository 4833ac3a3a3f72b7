"""MBPP: short Python problems with three tests each, which are part of the question.

arXiv 2108.07732. Both layouts are read: the full set's (`text`, `test_setup_code`) and the
sanitised one's (`prompt`, `test_imports`).
"""

import re
from pathlib import Path
from typing import Any

from redraft.chat.prompts import SCORE_MBPP
from redraft.errors import UserError
from redraft.grading.code import CodeGrader
from redraft.tasks.base import Posed, TaskEntry
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.rows import Hub, Row, hub_rows, local_rows

NAME = "mbpp"
HUB = {
    split: Hub("google-research-datasets/mbpp", "full", split)
    for split in ("train", "test", "validation", "prompt")
}


def read(row: Row) -> Posed:
    """A row with `text` or `prompt`, `test_list` and `task_id`.

    The question is worded as in the paper: the task, then "Your code should pass these tests:". The
    gold is the row's own `code`.
    """
    tests, imports = _lines(row, "test_list"), _lines(row, "test_imports", optional=True)
    setup = str(row.fields.get("test_setup_code") or "")
    gold = str(row.fields.get("code") or "").replace("\r\n", "\n")
    metadata = {
        "tests": "\n".join([*imports, setup, *tests]) + "\n",
        "entry_point": _entry_point(gold, tests),
    }
    shown = "\n".join(tests)
    question = f"{row.text('text', 'prompt')} Your code should pass these tests:\n\n{shown}"
    return Posed(question, gold, metadata, f"MBPP/{row.text('task_id').removeprefix('MBPP/')}")


WORKED = ("2", "3", "4")
"""Problems that the paper's prompt shows with their solutions: `similar_elements`, `is_not_prime`
and `heap_queue_largest`."""


class Mbpp(DatasetTask):
    """MBPP, whose split `prompt` has problems to be shown with their solutions."""

    def examples(self) -> list[tuple[str, str]]:
        """Question and solution of the three problems of the paper's prompt.

        Raises:
            UserError: the data has no such problems.
        """
        rows = hub_rows(HUB["prompt"]) if self.data is None else local_rows(self.data, "prompt")
        by_id = {row.text("task_id").removeprefix("MBPP/"): row for row in rows}
        if missing := [name for name in WORKED if name not in by_id]:
            raise UserError(
                f"data {str(self.data)!r}: MBPP problem {missing[0]}, which the prompt shows as an "
                "example, is missing; name a folder with prompt.jsonl, or give --prompts score-code"
            )
        posed = [read(by_id[name]) for name in WORKED]
        return [(one.question, one.gold) for one in posed]


def mbpp(data: Path | None = None) -> Mbpp:
    """The task, from the hub or a local copy."""
    return Mbpp(
        name=NAME,
        grader=CodeGrader(),
        prompts=SCORE_MBPP,
        read=read,
        hub=HUB,
        data=data,
        id_field="task_id",
    )


TASK = TaskEntry(
    NAME,
    "short Python problems, graded by the tests they show (google-research-datasets/mbpp)",
    mbpp,
)


def _lines(row: Row, name: str, optional: bool = False) -> list[str]:
    value: Any = row.fields.get(name)
    if value is None and optional:
        return []
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise UserError(f"{row.where}: field {name!r} is missing or not a list of texts")
    return value


def _entry_point(code: str, tests: list[str]) -> str:
    """The function that the tests call, to recognise it among several blocks of code."""
    called = "\n".join(tests)
    for name in re.findall(r"^def\s+(\w+)", code, re.MULTILINE):
        if re.search(rf"\b{name}\s*\(", called):
            return str(name)
    return ""
