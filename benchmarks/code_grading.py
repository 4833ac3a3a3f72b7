"""Code grading against published data: `python benchmarks/code_grading.py DATA`.

DATA is a folder with `humaneval/test.jsonl`, `mbpp/*.jsonl` and `transcripts/*_seed_*.jsonl`, whose
rows hold a `solution` and upstream's `is_solved`. Writes docs/results/code-grading.md: reference
solutions, empty answers, and every verdict that differs from upstream's with the runs that show
why. Takes minutes.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redraft.grading import grade_all
from redraft.grading.code import LIMITS
from redraft.grading.program_text import extract_program
from redraft.sandbox import level, shared_pool
from redraft.tasks import get_task
from redraft.types import Grade, Problem

PAGE = Path(__file__).parents[1] / "docs" / "results" / "code-grading.md"
HEADER = "import math, re\n"
MBPP_FILES = ("test", "train", "validation", "prompt", "sanitized")


def graded(task: str, file: Path, answers: Sequence[str] | None) -> list[tuple[Problem, Grade]]:
    """Every problem of a file with the grade of its answer; None grades the gold programs."""
    source = get_task(task, file)
    problems = source.load("test").problems
    texts = [problem.gold for problem in problems] if answers is None else answers
    pairs = list(zip(problems, texts, strict=True))
    return list(zip(problems, grade_all(source.grader, pairs), strict=True))


def passed(program: str, tests: str) -> bool:
    """Whether a program passes tests, with nothing added."""
    return shared_pool().submit(program, tests=tests, limits=LIMITS).result().finished


def why(row: dict[str, Any], problem: Problem, ours: bool) -> str:
    """What further runs of the same program show about a difference."""
    tests, program = problem.metadata["tests"], row["solution"]
    own_test = f"{row['test']}\ncheck({row['entry_point']})\n"
    if ours and "```" in program and passed(extract_program(program), tests):
        return "Ends with a closing fence, which upstream ran as code; without it, right"
    if ours and not passed(program, tests):
        return "The tests call a function of the prompt, which upstream did not run; with it, right"
    if ours and passed(program, own_test):
        return "Passes the row's own tests as well: upstream's flag does not follow from this row"
    if not ours and passed(HEADER + program, tests):
        return f"Uses a module that it does not import; right after `{HEADER.strip()}`"
    if not ours and not passed(HEADER + program, own_test):
        return "Fails the row's own tests too: upstream's flag does not follow from this row"
    return "Not explained"


def references(data: Path) -> list[str]:
    """Lines on reference solutions and empty answers."""
    file = data / "humaneval" / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    sets = {
        "HumanEval, canonical solutions as completions": graded(
            "humaneval", file, [row["canonical_solution"] for row in rows]
        ),
        "HumanEval, canonical solutions as programs": graded("humaneval", file, None),
        "HumanEval, empty bodies (`pass`)": graded("humaneval", file, ["    pass\n"] * len(rows)),
        "HumanEval, empty answers": graded("humaneval", file, [""] * len(rows)),
    }
    for name in MBPP_FILES:
        sets[f"MBPP {name}, its own code"] = graded("mbpp", data / "mbpp" / f"{name}.jsonl", None)
    return [
        f"| {name} | {sum(grade.correct for _, grade in grades)} of {len(grades)} |"
        for name, grades in sets.items()
    ]


def differences(task: str, data: Path) -> tuple[str, list[str]]:
    """How many verdicts on the transcripts agree, and a line on each that does not."""
    (file,) = (data / "transcripts").glob(f"{task}_seed_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    source = get_task(task, data / task / "test.jsonl")
    problems = {problem.id: problem for problem in source.load("test").problems}
    pairs = [(problems[row["task_id"]], row["solution"]) for row in rows]
    grades = grade_all(source.grader, pairs)
    lines = [
        f"| {row['task_id']} | {verdict(row['is_solved'])} | {verdict(grade.correct)} "
        f"| {grade.reason} | {why(row, problem, grade.correct)}. |"
        for row, (problem, _), grade in zip(rows, pairs, grades, strict=True)
        if grade.correct != row["is_solved"]
    ]
    return f"| `{file.name}` | {len(rows) - len(lines)} of {len(rows)} |", lines


def verdict(correct: bool) -> str:
    """A verdict in a word."""
    return "right" if correct else "wrong"


def main() -> None:
    """Grade everything, write the page."""
    data = Path(sys.argv[1])
    agreement, explained = [], []
    for task in ("humaneval", "mbpp"):
        line, lines = differences(task, data)
        agreement.append(line)
        explained += lines
    page = f"""# Code grading against published data

Made by `python benchmarks/code_grading.py DATA`. Sandbox: {level().mechanisms}.

| answers | pass |
|---|---|
{chr(10).join(references(data))}

Verdicts on first attempts of gpt-3.5-turbo-0613 (FloridSleeves/LLMDebugger, Apache-2.0) against
upstream's `is_solved`:

| transcripts | agree |
|---|---|
{chr(10).join(agreement)}

Each verdict that differs, with what a further run of the same program showed:

| problem | upstream | ours | error | why |
|---|---|---|---|---|
{chr(10).join(explained)}

A program has to import what it uses: a user who copies it has no other imports either. What a
HumanEval prompt imports and defines is part of the answer, for completions and whole programs
alike, because the prompt says so.
"""
    PAGE.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
