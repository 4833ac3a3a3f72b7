"""Grading: agreement with the right verdicts on situations from public bug reports.

    python benchmarks/field_reports.py [--data ../shared/data]

grades every row of `field_reports/cases.jsonl` with its task's grader, prints the agreement by task
and writes docs/results/field-reports.md, which lists the rest with the readings and the rule.
Wrong answers that are graded right are counted apart: a policy that is trained on them learns to
write more of them.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redraft.grading import grade_all
from redraft.storage import complete_lines
from redraft.tasks import get_task
from redraft.types import Grade, Problem

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "results" / "field-reports.md"
OPTIONS = "Which?\nOptions:\n(A) 12/24/1937\n(B) 12/25/1937\n(C) 12/25/2006"
"""The question that the multiple-choice rows belong to; their file holds the answers alone."""

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for _, line in complete_lines(path)]


def problem_of(row: Row, code: dict[str, Row]) -> Problem:
    """The problem of a row: a gold answer, or the tests of the code problem that it names."""
    if row["area"] != "code":
        question = OPTIONS if row["task"] == "bbh/date_understanding" else "?"
        return Problem(id="", task=row["task"], question=question, gold=row["gold"])
    given = code[row["task_id"]]
    tests = f"{given['test']}\ncheck({given['entry_point']})"
    metadata = {"tests": tests, "entry_point": given["entry_point"], "prompt": given["prompt"]}
    question = given["prompt"]
    return Problem(id="", task=row["task"], question=question, gold="", metadata=metadata)


def grades_of(rows: Sequence[Row], code: dict[str, Row]) -> list[Grade]:
    """The grade of every row, in order."""
    grades: dict[int, Grade] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        places = [place for place, row in enumerate(rows) if row["task"] == task]
        pairs = [(problem_of(rows[place], code), rows[place]["pred"]) for place in places]
        grades |= zip(places, grade_all(get_task(task).grader, pairs), strict=True)
    return [grades[place] for place in range(len(rows))]


def report(rows: Sequence[Row], grades: Sequence[Grade]) -> str:
    """The page."""
    judged = list(zip(rows, grades, strict=True))
    differ = [(row, grade) for row, grade in judged if grade.correct != row["expected"]]
    fooled = sum(grade.correct for _, grade in differ)
    agreed = len(rows) - len(differ)
    lines = [
        "# Situations from public bug reports",
        "",
        "`python benchmarks/field_reports.py` writes this page. Each row is an answer in a",
        "situation that somebody reported to another project, with the verdict that would be",
        "right; the other half of the reports is kept for checking.",
        "",
        f"Redraft agrees on {agreed} of {len(rows)} ({agreed / len(rows):.1%}).",
        f"Wrong answers graded right: {fooled}. Right ones graded wrong: {len(differ) - fooled}.",
        "",
        "| task | rows | agreed |",
        "|---|---|---|",
    ]
    for task in dict.fromkeys(row["task"] for row in rows):
        same = [grade.correct == row["expected"] for row, grade in judged if row["task"] == task]
        lines.append(f"| `{task}` | {len(same)} | {sum(same)} |")
    if differ:
        lines += ["", "The rest:", "", "| gold | answer | right verdict | rule | readings |"]
        lines.append("|---|---|---|---|---|")
        for row, grade in differ:
            gold, answer = (_code(str(row.get(name, ""))) for name in ("gold", "pred"))
            verdict = "right" if row["expected"] else "wrong"
            lines.append(
                f"| {gold} | {answer} | {verdict} | {grade.decided_by} | {_code(grade.reason)} |"
            )
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return f"`{line if len(line) <= 70 else line[:67] + '...'}`"


def main() -> None:
    """Grade all rows, print the agreement and write the page."""
    parser = argparse.ArgumentParser(description="Grading on situations from bug reports.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    folder: Path = parser.parse_args().data / "field_reports"
    rows = read_rows(folder / "cases.jsonl")
    code = {row["task_id"]: row for row in read_rows(folder / "code_problems.jsonl")}
    grades = grades_of(rows, code)
    for row, grade in zip(rows, grades, strict=True):
        if grade.correct != row["expected"]:
            kind = "wrong, graded right" if grade.correct else "right, graded wrong"
            print(f"{kind}: {row['task']} gold {row.get('gold')!r} answer {row['pred']!r}")
            print(f"    {grade.decided_by}: {grade.reason}")
    page = report(rows, grades)
    REPORT.write_text(page, encoding="utf-8")
    print(page.split("\n\n")[2])
    print(f"wrote {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
