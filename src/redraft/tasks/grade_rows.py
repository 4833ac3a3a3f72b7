"""Grading a file of answers: what `redraft grade` does, line by line."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TextIO

from redraft.errors import UserError
from redraft.grading import StagedGrader, grade_all
from redraft.tasks.base import Task
from redraft.tasks.dataset import DatasetTask
from redraft.tasks.rows import Row, parse_lines
from redraft.types import Grade, Problem

CHUNK = 256
"""Lines graded together: enough to keep every worker busy, few enough that output flows."""

ONLY = ""
"""The name of the one system in rows that hold a single `pred`."""


@dataclass
class GradeCounts:
    """Verdicts of one system."""

    graded: int = 0
    correct: int = 0
    timed_out: int = 0
    unanswered: int = 0
    undecided: int = 0
    """Answers that the sandbox failed to run, which are not among the graded."""
    accuracy: float = 0.0
    """Share of the graded answers that are correct, in percent."""

    def add(self, grade: Grade) -> None:
        """Count one verdict, or that there is none."""
        if grade.status == "undecided":
            self.undecided += 1
            return
        self.graded += 1
        self.correct += grade.correct
        self.timed_out += grade.status == "timeout"
        self.unanswered += grade.answer is None and grade.status != "timeout"
        self.accuracy = 100 * self.correct / self.graded


@dataclass
class GradeSummary:
    """What was graded: lines read, rows whose gold cannot be used, and counts per system.

    Rows with one answer each are the system named "".
    """

    rows: int = 0
    ungraded: int = 0
    systems: dict[str, GradeCounts] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The summary for a person, one line per system."""
        for name, tally in self.systems.items():
            label = f"{name}: " if name else ""
            extras = [
                f"{count} {what}"
                for count, what in (
                    (tally.unanswered, "without an answer"),
                    (tally.timed_out, "timed out"),
                    (tally.undecided, "not graded: the sandbox failed"),
                )
                if count
            ]
            note = f" ({', '.join(extras)})" if extras else ""
            yield f"{label}{tally.accuracy:.2f} % correct, {tally.correct} of {tally.graded}{note}"
        if self.ungraded:
            yield f"{self.ungraded} of {self.rows} rows not graded: their gold cannot be parsed"


@dataclass(frozen=True)
class _Answers:
    """One row: golds any of which is right, and the answer of each system (None: no answer)."""

    golds: list[Problem]
    answers: dict[str, str | None]


def grade_rows(
    lines: Iterable[tuple[int, str]], task: Task, out: TextIO, source: str
) -> GradeSummary:
    """Grade JSON Lines; write one JSON line to `out` for each line read, in order.

    A row holds `gold` and `pred`, or the task's own fields and `pred`, or for code the problem's
    `task_id` and `pred`; instead of `pred` it may hold several systems, each a field with an object
    that has a `solution` (as in the GSM8K transcripts). `gold` may be a list of which any is right;
    `pred` may be null. Lines out have `correct`, `answer`, `decided_by` (and `score`, `reason`,
    `timed_out` where there is something to say), under `systems` by name where a row has several.
    `correct` is null where the gold cannot be parsed, or the sandbox failed to run the answer. What
    is no valid Unicode in an answer is graded and written as its escape sequence.

    Args:
        lines: number and text of each line.
        task: gives the grader and reads the task's own fields.
        out: where the verdicts go.
        source: the file's name, for messages.

    Raises:
        UserError: a line is not a JSON object or lacks a field. All lines before it have been
            graded and written.
    """
    summary = GradeSummary()
    written = ((n, line) for n, line in lines if line.strip())
    rows = parse_lines(written, source, surrogates=True)
    while True:
        chunk: list[_Answers] = []
        broken: UserError | None = None
        try:
            for row in islice(rows, CHUNK):
                chunk.append(_Answers(_golds(row, task), _answers(row)))  # noqa: PERF401
        except UserError as error:
            broken = error
        _grade_chunk(chunk, task, out, summary)
        if broken:
            raise broken
        if not chunk:
            return summary


def _grade_chunk(chunk: list[_Answers], task: Task, out: TextIO, summary: GradeSummary) -> None:
    faults = _gold_faults(chunk, task)
    attempts = [
        (gold, answer)
        for row in chunk
        for answer in row.answers.values()
        for gold in row.golds
        if answer is not None and faults[gold.gold] is None
    ]
    grades = iter(grade_all(task.grader, attempts))
    for row in chunk:
        usable = [gold for gold in row.golds if faults[gold.gold] is None]
        verdicts: dict[str, dict[str, Any]] = {}
        for name, answer in row.answers.items():
            if not usable:
                verdicts[name] = _ungraded(faults[row.golds[0].gold] or "")
                continue
            alternatives = [_NO_ANSWER] if answer is None else list(islice(grades, len(usable)))
            grade = max(alternatives, key=lambda g: g.score)  # the first of the best
            summary.systems.setdefault(name, GradeCounts()).add(grade)
            verdicts[name] = _verdict(grade)
        summary.rows += 1
        summary.ungraded += not usable
        line = verdicts[ONLY] if list(verdicts) == [ONLY] else {"systems": verdicts}
        out.write(_writable(json.dumps(line, ensure_ascii=False)) + "\n")
    out.flush()


_NO_ANSWER = Grade(score=0, status="no_answer", decided_by="none", reason="no answer given")


def _gold_faults(chunk: list[_Answers], task: Task) -> dict[str, str | None]:
    """Why each gold of the chunk cannot be used, by gold; None where it can."""
    golds = list(dict.fromkeys(gold.gold for row in chunk for gold in row.golds))
    if not isinstance(task.grader, StagedGrader):
        return dict.fromkeys(golds)
    return dict(zip(golds, task.grader.gold_faults(golds), strict=True))


def _ungraded(reason: str, by: str = "none") -> dict[str, Any]:
    return {"correct": None, "answer": None, "decided_by": by, "reason": reason}


def _writable(text: str) -> str:
    """Text that is valid UTF-8: a surrogate without its other half becomes `\\udXXX`."""
    return text.encode("utf-8", "backslashreplace").decode()


def _verdict(grade: Grade) -> dict[str, Any]:
    if grade.status == "undecided":
        return _ungraded(grade.reason, grade.decided_by)
    line: dict[str, Any] = {
        "correct": grade.correct,
        "answer": grade.answer,
        "decided_by": grade.decided_by,
    }
    if 0 < grade.score < 1:
        line["score"] = grade.score
    if grade.reason:
        line["reason"] = grade.reason
    if grade.status == "timeout":
        line["timed_out"] = True
    return line


def _golds(row: Row, task: Task) -> list[Problem]:
    if isinstance(task, DatasetTask) and task.id_field is not None:
        return [_by_tests(row, task)]
    if "gold" in row.fields or not isinstance(task, DatasetTask):
        gold = row.fields.get("gold")
        question = str(row.fields.get("question", ""))
        values = gold if isinstance(gold, list) else [gold]
        if "gold" not in row.fields:
            row.text("gold")  # says that the field is missing
        if not values:
            raise UserError(f"{row.where}: field 'gold' is an empty list; expected an answer in it")
        golds = ["" if value is None else str(value) for value in values]
    else:
        posed = task.read(row)
        question, golds = posed.question, [posed.gold]
    return [Problem(id=row.where, task=task.name, question=question, gold=g) for g in golds]


def _by_tests(row: Row, task: DatasetTask) -> Problem:
    """The problem of a row that holds the task's own fields, else of one that names it."""
    try:
        posed = task.read(row)
    except UserError:
        return task.named(row)
    return Problem(
        id=posed.id or row.where,
        task=task.name,
        question=posed.question,
        gold=posed.gold,
        metadata=posed.metadata,
    )


def _answers(row: Row) -> dict[str, str | None]:
    if "pred" in row.fields:
        pred = row.fields["pred"]
        return {ONLY: None if pred is None else _writable(str(pred))}
    systems = {
        name: _writable(str(value["solution"]))
        for name, value in row.fields.items()
        if isinstance(value, dict) and "solution" in value
    }
    if not systems:
        row.text("pred")  # says that the field is missing
    return dict(systems)
