"""Grading: agreement with other projects' verdicts, and speed, against bare math-verify.

Both graders see the same rows in one run. Agreement is counted on the pairs that have a verdict
which is about equality (`expected` set, `convention` not); bare math-verify parses each side (bare
answers between dollar signs, as it asks for) and verifies. Speed is measured on boxed integers (the
simplest answers; half of them right), on the GSM8K transcripts (one system) and on MATH-500
solutions, half of them right, half the solution of another problem. Time is that of this process's
processor, so that what else the machine does matters little.

    python benchmarks/grading.py [--data ../shared/data]

prints the numbers and writes docs/results/grading-math-disagreements.md.
"""

import argparse
import io
import json
import logging
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import math_verify

from redraft.grading import grade_all
from redraft.storage import complete_lines
from redraft.tasks import get_task, grade_rows
from redraft.types import Problem

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "results" / "grading-math-disagreements.md"
SPEED_ROWS = 400
SIMPLE_ROWS = 5000

# Why we differ, by (gold, pred) as they stand in the data.
NEWLINE = (
    "Upstream's regular expression allows no newline in inline math; 9 is 9 however it is set."
)
ROUNDED = (
    "Upstream's tolerance is its own. Here a decimal beside an integer or another decimal must be "
    "exact, but for floating point's last digits."
)
PRECISION = "Upstream passes a precision for this row, 10 % of the gold; no task of ours has one."
UNREADABLE = (
    "This gold cannot be read, so no other notation could be judged fairly: the row is "
    "reported as not graded (and a problem with such a gold is dropped when a task is loaded)."
)
REASONS = {
    ("$9$", "Answer \\( \n 9 \n \\)"): NEWLINE,
    ("42", "<answer>42.0000001</answer>"): ROUNDED,
    ("3.14", "<answer>3.1400001</answer>"): ROUNDED,
    ("$f(x)$", "$f(y)$"): (
        "Upstream has this pair twice with both verdicts, under two options. Names of variables "
        "matter here."
    ),
    ("1/2", "50%"): (
        "Upstream deletes percent signs. Here 50 % is 50 or 0.5, as golds of both kinds exist; "
        "another suite in the same data holds 0.335 equal to 33.5 %."
    ),
    ("42", "<answer>42.0001</answer>"): ROUNDED,
    ("3.14", "<answer>3.141</answer>"): ROUNDED,
    ("7 \\times 10^{35}", "7.1 \\cdot 10^{35}"): PRECISION,
    ("7 \\times 10^{35}, 0.002", "0.001, 7.1 \\cdot 10^{35}"): PRECISION,
}


def bare(golds: Sequence[Any], answer: Any, kind: str) -> bool:
    """math-verify alone, with its own defaults."""
    mark = "$" if kind == "answer" else ""
    parsed = math_verify.parse(f"{mark}{answer}{mark}")
    return any(
        math_verify.verify(math_verify.parse(f"{mark}{gold}{mark}"), parsed) for gold in golds
    )


def agreement(path: Path) -> str:
    """Count agreements on the pairs, print both graders', and return the report on ours."""
    rows = [json.loads(line) for _, line in complete_lines(path)]
    out = io.StringIO()
    grade_rows(complete_lines(path), get_task("math"), out, str(path))
    grades = [json.loads(line) for line in out.getvalue().splitlines()]
    wanted = [
        (number, row, grade)
        for number, (row, grade) in enumerate(zip(rows, grades, strict=True), start=1)
        if row["expected"] is not None and not row.get("convention")
    ]
    differ = [entry for entry in wanted if entry[1]["expected"] != entry[2]["correct"]]
    alone = 0
    for _, row, _ in wanted:
        golds = row["gold"] if isinstance(row["gold"], list) else [row["gold"]]
        alone += bare(golds, row["pred"], row["kind"]) == row["expected"]
    ours = f"{len(wanted) - len(differ)} of {len(wanted)} ({1 - len(differ) / len(wanted):.2%})"
    theirs = f"{alone} of {len(wanted)} ({alone / len(wanted):.2%})"
    print(f"agreement with upstream verdicts: redraft {ours}, bare math-verify {theirs}")
    table = "\n".join(_table_row(number, row, grade) for number, row, grade in differ)
    return f"""# Where `redraft grade --task math` differs from other projects

`python benchmarks/grading.py` writes this page. The pairs come from the test suites of nineteen
public projects; the verdict is each suite's own. On the {len(wanted)} pairs that have a verdict
about equality, Redraft agrees on {ours}; math-verify {version("math-verify")} alone
agrees on {theirs} in the same run (bare answers between dollar signs, everything
else by its defaults).

The rest, with the reason for each (line in `pairs.jsonl`):

| line | gold | answer | upstream | ours | decided by | why |
|---|---|---|---|---|---|---|
{table}
"""


def _table_row(number: int, row: dict[str, Any], grade: dict[str, Any]) -> str:
    if grade["correct"] is None:
        why, ours = UNREADABLE, "not graded"
    else:
        ours = _verdict(grade["correct"])
        why = REASONS[row["gold"], row["pred"]]
    cells = (
        str(number),
        _code(row["gold"]),
        _code(row["pred"]),
        _verdict(row["expected"]),
        ours,
        grade["decided_by"],
        why,
    )
    return "| " + " | ".join(cells) + " |"


def _verdict(correct: bool) -> str:
    return "right" if correct else "wrong"


def _code(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return f"`{line if len(line) <= 70 else line[:67] + '...'}`"


def speed(name: str, task: str, attempts: Sequence[tuple[Problem, str]]) -> None:
    """Print verdicts per second of both graders on the same attempts, and their ratio."""
    grader = get_task(task).grader
    grade_all(grader, [(Problem(id="", task="", question="", gold="\\pi"), "\\boxed{2\\pi}")])
    ours = _rate(len(attempts), lambda: grade_all(grader, attempts))
    theirs = _rate(
        len(attempts),
        lambda: [
            math_verify.verify(math_verify.parse(f"${problem.gold}$"), math_verify.parse(attempt))
            for problem, attempt in attempts
        ],
    )
    print(
        f"{name}: redraft {ours:.0f} verdicts/s, bare math-verify {theirs:.0f} verdicts/s, "
        f"ratio {ours / theirs:.1f}"
    )


def _rate(count: int, work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return count / (time.process_time() - start)


def boxed_integers() -> list[tuple[Problem, str]]:
    """Different integers in a sentence, every other one off by one."""
    return [
        (
            Problem(id=str(n), task="math", question="?", gold=str(7 * n)),
            rf"So the answer is $\boxed{{{7 * n + n % 2}}}$.",
        )
        for n in range(SIMPLE_ROWS)
    ]


def gsm8k_attempts(data: Path) -> list[tuple[Problem, str]]:
    """Real attempts of one system of Cobbe et al. (2021)."""
    path = data / "transcripts" / "gsm8k_test_openai_6b_175b.jsonl"
    rows = [json.loads(line) for _, line in complete_lines(path)][:SPEED_ROWS]
    return [
        (
            Problem(
                id=str(index),
                task="gsm8k",
                question=row["question"],
                gold=row["ground_truth"].rpartition("A: ")[2],
            ),
            row["175b_verification"]["solution"],
        )
        for index, row in enumerate(rows)
    ]


def math_attempts(data: Path) -> list[tuple[Problem, str]]:
    """MATH-500 problems with their own solution and with that of the next problem, by turns."""
    rows = [json.loads(line) for _, line in complete_lines(data / "math" / "math500.jsonl")]
    rows = rows[:SPEED_ROWS]
    return [
        (
            Problem(id=str(index), task="math", question=row["problem"], gold=row["answer"]),
            rows[(index + index % 2) % len(rows)]["solution"],
        )
        for index, row in enumerate(rows)
    ]


def main() -> None:
    """Run all three comparisons."""
    parser = argparse.ArgumentParser(description="Grading against bare math-verify.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    data: Path = parser.parse_args().data
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    report = agreement(data / "grading" / "pairs.jsonl")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(report, encoding="utf-8")
    print(f"wrote {REPORT.relative_to(ROOT)}")
    speed("boxed integers", "math", boxed_integers())
    speed("GSM8K transcripts", "gsm8k", gsm8k_attempts(data))
    speed("MATH-500", "math", math_attempts(data))


if __name__ == "__main__":
    main()
