"""Programs in place of answers: run in the real sandbox, and graded by what they print."""

import gc
import weakref
from pathlib import Path

import pytest

from failing_sandbox import FailingOn
from redraft.grading import ExactGrader, FunctionGrader, MathGrader, NumberGrader, grade_all, pool
from redraft.grading.program import SHOWN, ProgramGrader
from redraft.sandbox import Limits, Pool, Result
from redraft.sandbox.pool import TRIES
from redraft.types import Grade, Problem

SIX = Problem(id="six", task="t", question="2*3?", gold="6")
BRIEF = Limits(wall_s=1.0, cpu_s=1.0, output_kib=4)
GRADER = ProgramGrader(NumberGrader(), BRIEF)


@pytest.mark.parametrize(
    ("attempt", "correct", "answer", "decided_by"),
    [
        ("print(2 * 3)", True, "6", "number"),
        ("2 * 3", True, "6", "number"),  # the value of its last expression
        ("'6'", True, "6", "number"),
        ("from fractions import Fraction\nFraction(6, 1)", True, "6", "number"),
        ("from fractions import Fraction\nFraction(1, 6)", False, "1/6", "number"),
        ("from decimal import Decimal\nDecimal('6.0')", True, "6.0", "number"),
        ("```python\nprint(2 * 4)\n```\nOutput:\n```\n6\n```", False, "8", "number"),
        ("Here it is.\n```python\nprint(2 * 3)\n```\nDone.", True, "6", "number"),
        ("six = 6\nprint(six)  # that's it", True, "6", "number"),
        ("```python\nprint(6)\n```\nThe answer is 7\n```", True, "6", "number"),
        ("Answer: ```python\nprint(6)\n```", True, "6", "number"),
        ("print('x is', 7)", False, "7", "number"),
        ("print('none to be found')", False, "none to be found", "none"),
    ],
)
def test_what_a_program_prints_is_graded_like_any_answer(
    attempt: str, correct: bool, answer: str | None, decided_by: str
) -> None:
    grade = GRADER(SIX, attempt)
    assert (grade.correct, grade.answer, grade.decided_by) == (correct, answer, decided_by)
    assert grade.status == "graded"


@pytest.mark.parametrize(
    ("attempt", "status"),
    [
        ("print(6)\nraise ValueError('no')", "error"),
        ("def f(:", "error"),
        ("while True: pass", "timeout"),
        ("print('6' * 100_000)", "output"),
        ("bytearray(2**40)", "memory"),
        ("x = 6", "no_answer"),
        ("", "no_answer"),
    ],
)
def test_how_a_run_without_an_answer_ended_is_the_status(attempt: str, status: str) -> None:
    grade = GRADER(SIX, attempt)
    assert (grade.score, grade.status, grade.decided_by) == (0, status, "program")
    assert grade.answer is None
    assert grade.reason


def test_many_programs_are_graded_in_order_and_a_truncated_one_is_not_run() -> None:
    attempts = [(SIX, f"print({number})") for number in (5, 6, 7, 6)]
    grades = grade_all(GRADER, attempts, [False, False, False, True])
    assert [grade.correct for grade in grades] == [False, True, False, False]
    assert [grade.status for grade in grades] == ["graded", "graded", "graded", "truncated"]
    assert [grade.output for grade in grades] == ["5", "6", "7", None]


def test_the_grade_has_what_a_program_put_out() -> None:
    for attempt, output in (
        ("print('a'); print('b')", "a\nb"),
        ("print('a'); 1/0", "a\nZeroDivisionError: division by zero"),
        ("'value'", "value"),
        ("x = 1", ""),
        ("print('1' * 3000)", "1" * SHOWN),
    ):
        assert GRADER(SIX, attempt).output == output


def test_equal_programs_are_run_once_and_nothing_is_kept_of_them() -> None:
    class Counting(Pool):
        runs: list["weakref.ref[Result]"]

        def _try(self, request: dict[str, object]) -> Result:
            result = super()._try(request)
            self.runs.append(weakref.ref(result))
            return result

    with Counting(workers=2) as pool:
        pool.runs = []
        grader = ProgramGrader(NumberGrader(), pool=pool)
        seven = Problem(id="seven", task="t", question="?", gold="7")
        grades = grade_all(
            grader, [(SIX, "print(6)"), (seven, "```\nprint(6)\n```"), (SIX, "print(7)")]
        )
        assert [grade.correct for grade in grades] == [True, False, False]
        assert len(pool.runs) == 2
        gc.collect()
        assert [run() for run in pool.runs] == [None, None]


def test_a_failure_of_the_sandbox_is_tried_again_and_is_no_mistake() -> None:
    with FailingOn("6", times=TRIES - 1) as pool:
        assert ProgramGrader(NumberGrader(), pool=pool)(SIX, "print(6)").correct
    with FailingOn("6") as pool:
        grade = ProgramGrader(NumberGrader(), pool=pool)(SIX, "print(6)")
    assert (grade.status, grade.decided_by, grade.answer) == ("undecided", "program", None)
    assert grade.reason == "the sandbox failed 6 times: no worker"


def test_a_program_that_the_sandbox_failed_on_is_run_afresh_when_graded_again() -> None:
    with FailingOn("6", times=TRIES) as pool:
        grader = ProgramGrader(NumberGrader(), pool=pool)
        assert grader(SIX, "print(6)").status == "undecided"
        assert grader(SIX, "print(6)").correct


def test_a_grader_that_extracts_nothing_takes_all_that_was_printed() -> None:
    def users(problem: Problem, attempt: str) -> Grade:
        return Grade(score=attempt == "6", decided_by="mine")

    assert ProgramGrader(users)(SIX, "print(' 6 ')").answer == "6"
    assert ProgramGrader(users)(SIX, "print(5)").answer == "5"


def test_exact_answers_are_printed_too() -> None:
    words = Problem(id="w", task="lab/sorting", question="Sort b a", gold="a b")
    assert ProgramGrader(ExactGrader())(words, 'print(*sorted(" b a".split()))').correct
    assert not ProgramGrader(ExactGrader())(words, 'print(" b a")').correct


def test_what_is_printed_may_be_an_expression() -> None:
    root = Problem(id="root", task="t", question="?", gold=r"\sqrt{8}")
    attempts = [(root, r"print(r'\boxed{2\sqrt{2}}')"), (root, r"print(r'\boxed{2\sqrt{3}}')")]
    grades = grade_all(ProgramGrader(MathGrader()), attempts)
    assert [grade.correct for grade in grades] == [True, False]
    assert {grade.decided_by for grade in grades} == {"expression"}


def test_printed_answers_go_to_the_workers_of_the_task_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A slow grader of the user's has all printed answers before the first verdict is there."""
    (tmp_path / "slow_grader.py").write_text(
        "import time\n\ndef grade(question, gold, response):\n"
        "    time.sleep(0.5)\n    return response == gold\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    slow = FunctionGrader("slow_grader:grade")
    submitted: list[str] = []
    submit = pool.Pool.submit
    monkeypatch.setattr(
        pool.Pool, "submit", lambda self, *asked: submitted.append(asked[2]) or submit(self, *asked)
    )
    problem = Problem(id="p", task="t", question="?", gold="2")
    seen: list[int] = []
    grades = grade_all(
        ProgramGrader(slow),
        [(problem, f"```python\nprint({number})\n```") for number in range(4)],
        progress=lambda count: seen.append(len(submitted)),
    )
    assert [grade.correct for grade in grades] == [False, False, True, False]
    assert [grade.output for grade in grades] == ["0", "1", "2", "3"]
    assert seen == [4, 4, 4, 4]
