"""HumanEval and MBPP: reading rows, finding programs in answers, grading by tests."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from failing_sandbox import FailingOn
from redraft.cli import main
from redraft.cli import run as redraft
from redraft.errors import UserError
from redraft.grading import grade_all
from redraft.grading.code import LIMITS, CodeGrader
from redraft.sandbox import Level, Limits, Wanted, level
from redraft.settings import AttemptSettings
from redraft.tasks import get_task, grade_rows
from redraft.types import Problem

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
        "     return sum(x)",
        "    return sum(x)\n```\n\nThis works",
        "~~~python\ndef add(x):\n    return sum(x)\n~~~",
        "```python\r\ndef add(x):\r\n    return sum(x)\r\n```\r\n",
        "```py\nimport math\n```\nthen\n```py\ndef add(x):\n    return int(math.fsum(x))\n```",
        "```python\ndef add(x):\n    return sum(x)\n```\nOutput:\n```\n3\n```",
        "    total = (0 +\n             sum(x))\n    return total  # don't mutate\n",
        "```python\ndef add(x):\n    return sum(x)\n```\nIt's the sum\n```",
        "Sure: ```python\ndef add(x):\n    return sum(x)\n```",
        "```python\ndef add(x):\n    return sum(x)\n```\n</think>\nThe code is above.",
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


def test_helpers_of_a_prompt_are_not_the_programs() -> None:
    prompt = "import math\n\ndef encode(s):\n    return s[1:] + s[:1]\n\ndef decode(s):\n    pass\n"
    tests = "for s in ('ab', 'abc'):\n    assert decode(encode(s)) == s"
    metadata = {"prompt": prompt, "entry_point": "decode", "tests": tests}
    problem = ADD.model_copy(update={"question": prompt, "metadata": metadata})
    right, forged = "    return s[-1:] + s[:-1]", "def encode(s): return s\ndef decode(s): return s"
    assert CodeGrader()(problem, right).correct
    assert not CodeGrader()(problem, f"```python\n{forged}\n```").correct


def test_a_function_may_have_the_name_of_a_builtin() -> None:
    metadata = {"entry_point": "sum", "tests": "assert sum(10, 15) == 6\nassert abs(-1) == 1"}
    problem = ADD.model_copy(update={"metadata": metadata})
    program = "def abs(x): return x\ndef sum(a, b): return {}"
    assert CodeGrader()(problem, program.format(6)).correct
    assert not CodeGrader()(problem, program.format(5)).correct


def test_a_program_that_sleeps_does_not_hold_a_worker_for_minutes() -> None:
    assert LIMITS.wall_s <= 30


def test_a_program_without_end_is_timed_out() -> None:
    grade = CodeGrader(Limits(wall_s=0.5))(ADD, "def add(x):\n    while True: pass")
    assert (grade.correct, grade.status) == (False, "timeout")


def test_a_problem_without_tests_is_refused() -> None:
    problem = ADD.model_copy(update={"metadata": {}})
    with pytest.raises(UserError, match="T/0 has no tests"):
        CodeGrader()(problem, "x")


def test_where_the_sandbox_fails_there_is_no_verdict() -> None:
    with FailingOn("sum", times=1) as pool:
        assert CodeGrader(pool=pool)(ADD, "    return sum(x)").correct  # the second try
    with FailingOn("sum") as pool:
        grades = grade_all(CodeGrader(pool=pool), [(ADD, "    return sum(x)"), (ADD, "add = len")])
    assert [grade.status for grade in grades] == ["undecided", "graded"]
    assert "no worker" in grades[0].reason


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


def test_ids_of_every_split_of_a_folder_are_known(shared_data: Path) -> None:
    folder, rows = shared_data / "mbpp", []
    for split in ("prompt", "train", "validation", "test"):
        first = json.loads((folder / f"{split}.jsonl").read_text("utf-8").split("\n")[0])
        rows.append({"task_id": first["task_id"], "pred": first["code"]})
    assert all(line["correct"] for line in graded(rows, "mbpp", folder))


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


def test_an_answer_that_the_sandbox_failed_on_is_counted_apart(
    humaneval_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = "    return sum(x)", "    return sum(x) + 0"
    rows = [{"task_id": "HumanEval/7", "pred": pred} for pred in (good, bad, "    return 0")]
    lines = [(number, json.dumps(row)) for number, row in enumerate(rows, 1)]
    out = io.StringIO()
    with FailingOn("+ 0") as pool:
        monkeypatch.setattr("redraft.grading.code.shared_pool", lambda: pool)
        summary = grade_rows(lines, get_task("humaneval", humaneval_file), out, "rows")
    verdicts = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [verdict["correct"] for verdict in verdicts] == [True, None, False]
    assert "no worker" in verdicts[1]["reason"]
    [tally] = summary.systems.values()
    assert (tally.graded, tally.correct, tally.undecided, tally.accuracy) == (2, 1, 1, 50.0)
    assert "1 not graded: the sandbox failed" in next(summary.lines())


SURROGATE = "\ud800"


def test_what_is_no_valid_unicode_is_graded_and_written(
    humaneval_file: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    rows = tmp_path / "rows.jsonl"
    preds = [f"    return sum(x)  # {SURROGATE}", f"    raise ValueError('{SURROGATE}')", "x"]
    systems = {f"a{SURROGATE}": {"solution": f"{SURROGATE} = 1"}, "b": {"solution": "add = sum"}}
    texts = [json.dumps({"task_id": "HumanEval/7", "pred": pred}) for pred in preds]
    rows.write_text("\n".join([*texts, json.dumps({"task_id": "HumanEval/7", **systems})]) + "\n")
    assert redraft(["grade", str(rows), "--task", "humaneval", "--data", str(humaneval_file)]) == 0
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.decode().splitlines()]
    assert [line["correct"] for line in lines[:3]] == [True, False, False]
    verdicts = lines[3]["systems"]
    assert [verdict["correct"] for verdict in verdicts.values()] == [False, True]


def test_such_text_in_other_tasks(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    rows = tmp_path / "rows.jsonl"
    given = [("6", f"{SURROGATE} 6"), (SURROGATE, SURROGATE), ("6", "6")]
    rows.write_text("".join(json.dumps({"gold": g, "pred": p}) + "\n" for g, p in given))
    for grader in ("exact", "number", "math"):
        command = ["grade", str(rows), "--task", "jsonl", "--grader", grader]
        assert redraft(command) == 0
        lines = capfdbinary.readouterr().out.decode().splitlines()
        assert len(lines) == 3
        assert json.loads(lines[2])["correct"] is True


# ---- how programs were confined ----


@pytest.fixture
def plain_limits(monkeypatch: pytest.MonkeyPatch) -> Level:
    """A machine that has nothing but limits."""
    bare = level(Wanted(namespaces=False, landlock=False, seccomp=False))
    monkeypatch.setattr("redraft.grading.confinement.level", lambda: bare)
    return bare


def test_grade_says_how_programs_were_confined(
    humaneval_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], plain_limits: Level
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"task_id": "HumanEval/7", "pred": "    return sum(x)"}) + "\n")
    command = ["grade", str(rows), "--task", "humaneval", "--data", str(humaneval_file)]
    assert redraft([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().err)
    assert told["sandbox"]["mechanisms"] == plain_limits.mechanisms
    assert redraft([*command, "--sandbox", "strict"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sandbox strict: on this machine a program could" in captured.err


def test_grade_of_other_tasks_has_no_use_for_a_sandbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plain_limits: Level
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"gold": "6", "pred": "6"}) + "\n")
    command = ["grade", str(rows), "--task", "gsm8k", "--json", "--sandbox", "strict"]
    assert redraft(command) == 0
    assert "sandbox" not in json.loads(capsys.readouterr().err)


def test_the_mbpp_prompt_shows_the_papers_three_problems_with_their_solutions(
    shared_data: Path,
) -> None:
    settings = AttemptSettings(task="mbpp", data=shared_data / "mbpp")
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
    alone = AttemptSettings(task="mbpp", data=shared_data / "mbpp" / "test.jsonl")
    with pytest.raises(UserError, match="MBPP problem 2, which the prompt shows as an example"):
        alone.open_prompts()
    other = AttemptSettings(task="humaneval", data=shared_data, prompts="score-mbpp")
    with pytest.raises(UserError, match="shows worked examples, which task 'humaneval' does not"):
        other.open_prompts()
