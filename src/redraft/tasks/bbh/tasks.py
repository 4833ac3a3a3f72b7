"""BIG-Bench Hard from the hub, or from a local copy: a file, or a folder with a file a subtask.

Rows have `input` and `target`. The problems are a benchmark: the hub has a test split only, and
training problems are generated (`generated_sorting` and its kin) or the user's own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from redraft.errors import UserError
from redraft.grading import StagedGrader
from redraft.grading.options import OptionGrader
from redraft.tasks.base import Posed, TaskEntry
from redraft.tasks.bbh.formats import ARITHMETIC, DATES, DEDUCTION, SORTING
from redraft.tasks.bbh.generated_arithmetic import CELLS
from redraft.tasks.bbh.steps.sorting import question_words
from redraft.tasks.bbh.sums import SumGrader
from redraft.tasks.bbh.word_list import WordListGrader
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.rows import SUFFIXES, Hub, Row, hub_rows, local_rows
from redraft.tasks.steps import StepFormat

HUB = "SaylorTwift/bbh"
"""BIG-Bench Hard as parquet files, one configuration a subtask; `test` is its only split."""

_OPTION = re.compile(r"^\([A-Z]\)", re.MULTILINE)
_BRACKETS = re.compile(r"[()]")


def _arithmetic(question: str) -> dict[str, Any]:
    """`depth`: levels of brackets, without one that holds all others; `length`: operands of the
    longest innermost bracket; `cell`: the paper's, where the question has the shape of one."""
    brackets = "".join(_BRACKETS.findall(question))
    innermost = re.findall(r"\(([^()]*)\)", question) or [question]
    lengths = [len(re.findall(r"\d+", part)) for part in innermost]
    for cell in CELLS.values():
        if brackets == cell.brackets and set(lengths) == {cell.length}:
            return cell.metadata
    levels = list(accumulate(1 if bracket == "(" else -1 for bracket in brackets))
    depth = max(levels) - (0 not in levels[:-1]) if levels else 0
    length = max(lengths)
    return {"length": length, "depth": depth, "seen": length <= 4 and depth <= 2}


def _sorting(question: str) -> dict[str, Any]:
    words = len(question_words(question))
    return {"words": words, "cell": sorting_cell(words), "seen": words <= 7}


def sorting_cell(words: int) -> str:
    """The paper's difficulty cell for a number of words."""
    for most, cell in ((7, "2-7"), (10, "8-10"), (15, "11-15")):
        if words <= most:
            return cell
    return "16+"


def _options(question: str) -> dict[str, Any]:
    return {"options": len(_OPTION.findall(question))}


def _objects(question: str) -> dict[str, Any]:
    objects = len(_OPTION.findall(question))
    return {"objects": objects, "seen": objects <= 5}


@dataclass(frozen=True, kw_only=True)
class BigBenchHard(DatasetTask):
    """A dataset task whose rows are those of one or more subtasks (`configs`), in order."""

    configs: tuple[str, ...] = ()

    def _rows(self, split: str) -> list[Row]:
        if self.data is None:
            if split not in self.hub:
                return super()._rows(split)
            sources = (Hub(HUB, config, split) for config in self.configs)
            return [row for source in sources for row in hub_rows(source)]
        files = [_subtask_file(self.data, config) for config in self.configs]
        if not any(files):
            rows = local_rows(self.data, split)
        else:
            rows = [row for file in files if file is not None for row in local_rows(file, split)]
        rows = [example for row in rows for example in _examples(row)]
        if not rows:
            raise UserError(f"data {str(self.data)!r} has no rows for split {split!r}")
        return rows


def _subtask_file(folder: Path, config: str) -> Path | None:
    """The file or folder of a subtask in a folder of several, if it is there."""
    candidates = [folder / config, *(folder / f"{config}{suffix}" for suffix in SUFFIXES)]
    return next((path for path in candidates if path.exists()), None)


def _examples(row: Row) -> list[Row]:
    """The rows of a file in the benchmark's own layout: one object with `examples`."""
    examples = row.fields.get("examples")
    if not isinstance(examples, list):
        return [row]
    for index, fields in enumerate(examples):
        if not isinstance(fields, dict):
            raise UserError(f"{row.where}: example {index} is not an object with named fields")
    return [Row(f"{row.where}:{index}", fields) for index, fields in enumerate(examples)]


def _task(
    description: str,
    grader: StagedGrader,
    metadata: Callable[[str], dict[str, Any]],
    steps: StepFormat,
    *configs: str,
) -> TaskEntry:
    """A task of one or more subtasks; `metadata` is what a question says of its difficulty."""
    name = f"bbh/{steps.name}"

    def read(row: Row) -> Posed:
        question = row.text("input", "question")
        return Posed(question, row.text("target", "answer"), metadata(question))

    make = partial(
        BigBenchHard,
        name=name,
        grader=grader,
        steps=steps,
        read=read,
        hub={"test": Hub(HUB, configs[0], "test")},
        configs=configs,
    )
    return TaskEntry(name, description, make)


TASKS = [
    _task(
        "nested sums of small numbers (BIG-Bench Hard)",
        SumGrader(),
        _arithmetic,
        ARITHMETIC,
        "multistep_arithmetic_two",
    ),
    _task(
        "words to put into alphabetical order (BIG-Bench Hard)",
        WordListGrader(),
        _sorting,
        SORTING,
        "word_sorting",
    ),
    _task(
        "which date it is, multiple choice (BIG-Bench Hard)",
        OptionGrader(),
        _options,
        DATES,
        "date_understanding",
    ),
    _task(
        "the order of three, five or seven objects, multiple choice (BIG-Bench Hard)",
        OptionGrader(),
        _objects,
        DEDUCTION,
        *(f"logical_deduction_{count}_objects" for count in ("three", "five", "seven")),
    ),
]
