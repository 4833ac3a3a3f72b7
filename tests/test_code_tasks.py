"""HumanEval and MBPP: reading rows, finding programs in answers, grading by tests."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from redraft.cli import main
from redraft.episode import Problem
from redraft.errors import UserError
from redraft.evaluation.settings import EvaluationSettings
from redraft.grading import grade_all
from redraft.grading.code import CodeGrader, extract_program
from redraft.tasks import get_task, grade_rows

PROMPT = 'from typing import List\n\n\ndef add(x: List[int]) -> int:\n    """Sum."""\n'
TESTS = "def check(f):\n    assert f([1, 2]) == 3\n\ncheck(add)\n"
ADD = Problem(
    id="T/0",
    task="humaneval",
    question=PROMPT,
    gold="",
    metadata={"prompt": PROMPT, "entry_point": "add", "tests": TESTS},
)


@pytest.mark.parametrize(
    "answer",
    [
        "    return sum(x)\n",
        "return sum(x)",
        "total = 0\n    for y in x:\n        total += y\n    return total",
        "total = 0\nfor y in x:\n    total += y\nreturn total",
        "for y in x:\n    pass\nreturn sum(x)",
        "for y in x:\n        pass\n    return sum(x)",
        "def add(x: List[int]) -> int:\n    return sum(x)",
        "add = sum",
        "async_ = 1\nadd = lambda x: sum(x)",
        "Here it is:\n```python\ndef add(x):\n    return sum(x)\n```\nIt adds.",
        "```\n    return sum(x)\n```",
        "```python\ndef add(x):\n    return sum(x)",
        "```python\ndef add(x):\n    return sum(x)\n```\nFor example:\n```python\nadd([1])\n```",
        "```python\ndef add(x): return 0\n```\nBetter:\n```\ndef add(x): return sum(x)\n```",
        "1. So:\n   ```python\n   def add(x):\n       return sum(x)\n   ```",
        "[BEGIN]\ndef add(x):\n    return sum(x)\n[DONE]\nand more",
        "from __future__ import annotations\ndef add(x): return sum(x)",
        " def add(x):\n    return sum(x)",
        " import math\ndef add(x):\n    return int(math.fsum(x))",
        "\n    return sum(x)",
    ],
)
def test_answers_that_are_right(answer: str) -> None:
    grade = CodeGrader()(ADD, answer)
    assert (grade.correct, grade.decided_by) == (True, "tests"), grade


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "AssertionError"),
        ("    pass\n", "AssertionError"),
        ("def add(x):\n    return 0", "AssertionError"),
        ("def add(x:", "SyntaxError"),
        ("I do not know.", "SyntaxError"),
        ("import os\nos._exit(0)\ndef add(x): pass", "half-way"),
        ("def add(x):\n    raise SystemExit(0)", "SystemExit"),
        ('print(\'{"status": "finished"}\')\ndef add(x): return None', "AssertionError"),
        ("def check(f): pass\ndef add(x): return 0", "AssertionError"),
    ],
)
def test_answers_that_are_wrong(answer: str, reason: str) -> None:
    grade = CodeGrader()(ADD, answer)
    assert not grade.correct
    assert reason in grade.reason


def test_a_program_without_end_is_timed_out() -> None:
    from redraft.sandbox import Limits

    grade = CodeGrader(Limits(wall_s=0.5))(ADD, "def add(x):\n    while True: pass")
    assert (grade.correct, grade.timed_out, grade.decided_by) == (False, True, "timeout")


def test_of_several_blocks_the_last_without_a_name_to_look_for() -> None:
    assert extract_program("```\na = 1\n```\n```\nb = 2\n```") == "b = 2"


@pytest.mark.parametrize(
    "answer",
    [" a = 1\nb = 2", "  a = 1\n  b = 2", "\n\n a = 1\nb = 2", "```\n  a = 1\n  b = 2\n```"],
)
def test_a_program_begins_at_the_margin(answer: str) -> None:
    assert extract_program(answer) == "a = 1\nb = 2"


def test_a_problem_without_tests_is_refused() -> None:
    problem = ADD.model_copy(update={"metadata": {}})
    with pytest.raises(UserError, match="T/0 has no tests"):
        CodeGrader()(problem, "x")


def test_some_of_humaneval(shared_data: Path) -> None:
    file = shared_data / "humaneval" / "test.jsonl"
    task = get_task("humaneval", file)
    problems = task.load("test", limit=12).problems
    solutions = {
        row["task_id"]: row["canonical_solution"]
        for row in map(json.loads, file.read_text().splitlines())
    }
    completions = [(problem, solutions[problem.id]) for problem in problems]
    programs = [(problem, problem.gold) for problem in problems]
    empty = [(problem, "    pass\n") for problem in problems]
    grades = grade_all(task.grader, [*completions, *programs, *empty])
    assert [grade.correct for grade in grades] == [True] * 24 + [False] * 12


@pytest.mark.parametrize("name", ["test", "sanitized", "prompt"])
def test_some_of_mbpp(shared_data: Path, name: str) -> None:
    task = get_task("mbpp", shared_data / "mbpp" / f"{name}.jsonl")
    problems = task.load("test", limit=8).problems
    grades = grade_all(task.grader, [(problem, problem.gold) for problem in problems])
    wrong = grade_all(task.grader, [(problem, "x = 1") for problem in problems])
    assert [grade.correct for grade in grades] == [True] * len(problems)
    assert not any(grade.correct for grade in wrong)
    assert "Your code should pass these tests:\n\nassert " in problems[0].question


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_all_reference_solutions(shared_data: Path, name: str) -> None:
    task = get_task(name, shared_data / name / "test.jsonl")
    problems = task.load("test").problems
    grades = grade_all(task.grader, [(problem, problem.gold) for problem in problems])
    assert [p.id for p, grade in zip(problems, grades, strict=True) if not grade.correct] == []
    empty = grade_all(task.grader, [(problem, "") for problem in problems])
    assert not any(grade.correct for grade in empty)


@pytest.fixture
def humaneval_file(tmp_path: Path) -> Path:
    row = {
        "task_id": "HumanEval/7",
        "prompt": PROMPT,
        "entry_point": "add",
        "canonical_solution": "    return sum(x)\n",
        "test": "def check(f):\n    assert f([1, 2]) == 3\n",
    }
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(row) + "\n")
    return file


def graded(rows: list[dict[str, Any]], task: str, data: Path | None) -> list[dict[str, Any]]:
    out = io.StringIO()
    lines = [(number, json.dumps(row)) for number, row in enumerate(rows, 1)]
    grade_rows(lines, get_task(task, data), out, "rows")
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_rows_name_their_problem_or_bring_it(humaneval_file: Path) -> None:
    problem = json.loads(humaneval_file.read_text())
    rows = [
        {"task_id": "HumanEval/7", "pred": "    return sum(x)"},
        {"task_id": "HumanEval/7", "pred": "    return 0"},
        {"task_id": "HumanEval/7", "pred": None},
        {**problem, "task_id": "mine", "pred": "    return sum(x)"},
    ]
    verdicts = [line["correct"] for line in graded(rows, "humaneval", humaneval_file)]
    assert verdicts == [True, False, False, True]


def test_mbpp_ids_are_numbers_or_names(shared_data: Path) -> None:
    code = "def remove_Occ(s, c):\n    return s.replace(c, '', 1)[::-1].replace(c, '', 1)[::-1]"
    rows = [{"task_id": 11, "pred": code}, {"task_id": "MBPP/11", "pred": code}]
    lines = graded(rows, "mbpp", shared_data / "mbpp" / "test.jsonl")
    assert [line["correct"] for line in lines] == [True, True]


def test_an_unknown_id_is_refused(humaneval_file: Path) -> None:
    with pytest.raises(UserError, match="rows:1: task_id 'HumanEval/8' is none of"):
        graded([{"task_id": "HumanEval/8", "pred": "x"}], "humaneval", humaneval_file)


def test_the_command(humaneval_file: Path, tmp_path: Path, capsys: Any) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"task_id": "HumanEval/7", "pred": "    return sum(x)"}) + "\n")
    with pytest.raises(SystemExit) as ending:
        main(["grade", str(rows), "--task", "humaneval", "--data", str(humaneval_file)])
    assert ending.value.code == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["correct"] is True
    assert "100.00 % correct, 1 of 1" in captured.err


def test_the_mbpp_prompt_shows_the_papers_three_problems_with_their_solutions(
    shared_data: Path,
) -> None:
    settings = EvaluationSettings(task="mbpp", data=shared_data / "mbpp")
    [problem] = settings.open_task().load("test", 1).problems
    [message] = settings.open_prompts().opening(problem)
    *examples, asked = message.content.split("[DONE]")
    names = ["similar_elements", "is_not_prime", "heap_queue_largest"]
    assert len(examples) == 3
    for name, example in zip(names, examples, strict=True):
        task, _, solution = example.partition("[BEGIN]")
        assert "You are an expert Python programmer, and here is your task: " in task
        assert "Your code should pass these tests:" in task
        assert f"assert {name}(" in task or f"assert set({name}(" in task
        assert f"def {name}(" in solution
    assert asked.endswith(f"{problem.question}\n[BEGIN]\n")


def test_worked_examples_that_are_not_there(shared_data: Path) -> None:
    alone = EvaluationSettings(task="mbpp", data=shared_data / "mbpp" / "test.jsonl")
    with pytest.raises(UserError, match="MBPP problem 2, which the prompt shows as an example"):
        alone.open_prompts()
    other = EvaluationSettings(task="humaneval", data=shared_data, prompts="score-mbpp")
    with pytest.raises(UserError, match="shows worked examples, which task 'humaneval' does not"):
        other.open_prompts()
